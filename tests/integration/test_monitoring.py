"""What a running job says of itself: its endpoints, its phases, and who reads them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import PROXY, Runner, wait_until
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from test_nothing_stays import until_round

from lifl.cli.top import look, screen

Samples = dict[tuple[str, ...], float]


def scrape(url: str) -> Samples:
    """(name, values of labels in the order of their names) -> value."""
    page = urllib.request.urlopen(url, timeout=5).read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def where(runner: Runner) -> dict[str, Any]:
    path = runner.folder / "runs" / "latest" / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def lifl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lifl", *arguments], capture_output=True, text=True, check=False
    )


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_metrics_of_a_running_job(runner: Runner) -> None:
    path = runner.job_file(
        rounds=100_000, trainers=4, aggregation={"fanIn": 2}, memory={"inputSlots": 1}
    )
    process = runner.start(path, "--proxy", PROXY, "--nodes", "2")
    until_round(process, 3)
    os.kill(runner.processes("lifl.functions.aggregator")[0], signal.SIGKILL)
    until_round(process, 20)
    urls = where(runner)
    assert sorted(urls["nodes"]) == ["node-0", "node-1"]

    job = scrape(urls["coordinator"])
    assert job["lifl_rounds_total",] >= 20
    assert job["lifl_clients_connected",] == 4
    assert job["lifl_nodes",] == 2
    assert sum(value for key, value in job.items() if key[0] == "lifl_restarts_total") >= 1
    phases = sum(value for key, value in job.items() if key[0] == "lifl_round_phase_seconds_total")
    assert 0 < phases <= job["lifl_round_seconds_sum",] * 1.001  # the newest may still be open

    found: list[Samples] = []

    def complete() -> bool:
        found[:] = [scrape(url) for url in urls["nodes"].values()]
        return all(
            sum(v for k, v in node.items() if k[0] == "lifl_updates_total") for node in found
        )

    wait_until(complete, lambda: f"no updates in {found}")
    for node in found:
        assert node["lifl_handoffs_total", "toy", PROXY] > 0
        assert node["lifl_update_bytes_total", "toy"] > 1000 * node["lifl_updates_total", "toy"]
        assert node["lifl_folded_inputs_total", "toy"] >= node["lifl_updates_total", "toy"]
        assert node["lifl_slots", "toy"] == 1
        assert node["lifl_starts_total", "warm"] > node["lifl_starts_total", "zygote"] > 0
        assert node["lifl_starts_total", "cold"] == 0
        assert node["lifl_runtimes_started_total", "zygote"] > 0
        assert node["lifl_runtime_start_seconds_total", "zygote"] > 0
        assert node["lifl_descriptors_quarantined_total", "toy"] == 0
        assert any(key[:2] == ("lifl_node_job_info", "toy") for key in node)
    assert sum(node.get(("lifl_slot_waits_total", "toy"), 0) for node in found) > 0

    run = runner.folder / "runs" / "latest"
    before = look(run)
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(screen(run, look(run), before, 80, 24))
    shown = console.export_text()
    assert "of 100000" in shown
    assert re.search(r"node-1 +[\d.]+ .* 0?/?\d/1 ", shown)
    assert len(shown.splitlines()) <= 24

    arenas = json.loads(lifl("shm", "ls", "--json").stdout)
    inputs = [a for a in arenas if set(a["pids"]) & set(runner.processes("lifl.placement.agent"))]
    assert len(inputs) == 6  # inputs, sums and locks of two nodes
    for arena in inputs:
        if arena["part"] == "inputs":
            assert sum(arena["slots"].values()) == 2  # one for updates, one for a model
        assert (arena["slots"] is None) == (arena["part"] == "locks")
    interrupt(process)
    ended = lifl("top", str(run))
    assert ended.returncode == 1
    assert "lifl run JOB.yaml" in ended.stderr


def test_phases_and_a_report_of_a_finished_run(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, "--nodes", "2", rounds=3, trainers=4, memory={"inputSlots": 2},
        env={"TOY_SIZE": "400000"},
    )  # fmt: skip
    assert all(len(row["tree"]) == 2 for row in run.rows)
    assert run.status == 0
    assert [Path(event["path"]) for event in run.of("report")] == [
        (run.run_dir / "report.html").resolve()
    ]
    assert "node-1" in (run.run_dir / "report.html").read_text()
    for row in run.rows:
        assert sum(row["phases"].values()) == pytest.approx(row["seconds"], abs=1e-5)
        assert row["phases"]["ingest"] > 0
        assert row["phases"]["fold"] > 0
        assert row["phases"]["publish"] > 0
    assert [event["nodes"].keys() for event in run.of("metrics_at")] == [{"node-0", "node-1"}]
    assert not (run.run_dir / "metrics.json").exists()


def test_a_metrics_port_in_use_ends_the_run_with_a_sentence(runner: Runner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = runner("--metrics-port", str(port), "--proxy", PROXY)
    assert run.status == 1
    assert f"127.0.0.1:{port}" in run.of("failed")[0]["error"]


def test_a_metrics_port_of_one_of_two_nodes_in_use_ends_the_run_as_well(runner: Runner) -> None:
    """Without it the other would wait for clients that nobody starts."""
    with _taken_after_free() as taken:
        port = taken.getsockname()[1]
        run = runner(
            "--metrics-port", str(port - 1), "--nodes", "2", "--proxy", PROXY, trainers=2
        )  # fmt: skip
    assert run.status == 1
    (failed,) = run.of("failed")
    assert failed["error"].startswith("node-0: the agent ended with status 1: metrics cannot be")
    assert f"127.0.0.1:{port}" in failed["error"]
    assert "--metrics-port" in failed["error"]
    assert not run.of("node_lost")


def _taken_after_free() -> socket.socket:
    """Listens at a port; the one before it is free, and so is the one after it."""
    for _ in range(100):
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with contextlib.suppress(OSError, OverflowError):
            for beside in (port - 1, port + 1):
                socket.create_server(("127.0.0.1", beside)).close()
            return taken
        taken.close()
    raise AssertionError("no port is free beside another")


def test_a_full_disk_at_the_report_does_not_undo_the_run(runner: Runner) -> None:
    process = runner.start(runner.job_file(rounds=60, trainers=2), "--proxy", PROXY)
    until_round(process, 2)
    (runner.folder / "runs" / "latest" / "report.html.new").symlink_to("/dev/full")
    run = runner.finish(process)
    assert run.status == 0
    assert run.summary["rounds"] == 60
    said = " ".join(event["text"] for event in run.of("warning"))
    assert re.search(r"report\.html was not written \(No space left.*lifl report", said)
