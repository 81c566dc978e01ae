"""`lifl doctor` on this machine: leftovers of a killed run go, a living run stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from conftest import PROXY, Runner, wait_until
from test_nothing_stays import until_round

MODULES = (
    "lifl.placement.engine",
    "lifl.placement.coordinator",
    "lifl.trainer",
    "lifl.placement.agent",
    "lifl.functions.gateway",
    "lifl.functions.aggregator",
    "lifl.functions.zygote",
)


POWERLESS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


def doctor(
    runner: Runner, *arguments: str, through: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*through, sys.executable, "-m", "lifl", "doctor", "--json", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runner.runtime_dir)},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_what_this_machine_has() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lifl", "doctor"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1)
    assert {line[:4] for line in done.stdout.splitlines()} <= {"ok  ", "note", "lack", "    "}
    if PROXY == "ebpf":
        assert "ok    eBPF proxy     loaded, attached and removed again" in done.stdout


@pytest.mark.parametrize("nobody_is_told", [False, True])
def test_a_killed_run_is_cleaned_away_and_a_living_one_goes_on(
    runner: Runner, nobody_is_told: bool
) -> None:
    """The engine is stopped, so that it cannot tidy up; or killed with the agents, so that
    gateway and aggregators wait for an agent that will never come."""
    runner.job_file(rounds=100_000, trainers=2)
    path = runner.folder / "job.json"
    first = runner.start(path, "--proxy", PROXY)
    until_round(first, 2)
    doomed = {module: runner.processes(module) for module in MODULES}
    assert all(doomed.values())
    second = runner.start(path, "--proxy", PROXY)
    until_round(second, 2)
    first_directory = next(p for p in runner.runtime_dir.iterdir() if str(p) in command(doomed))

    pids = {pid for found in doomed.values() for pid in found}
    for through in [(), POWERLESS] if nobody_is_told and os.geteuid() == 0 else [()]:
        before = doctor(runner, through=through)[1]["leftovers"]
        assert not pids & {process["pid"] for process in before["processes"]}
        assert not [path for path in before["directories"] if str(runner.runtime_dir) in path]

    engine = doomed["lifl.placement.engine"][0]
    os.kill(engine, signal.SIGSTOP)
    first.kill()
    first.wait(10)
    if nobody_is_told:
        for module in ("lifl.placement.agent", "lifl.placement.engine"):
            os.kill(doomed[module][0], signal.SIGKILL)
    left = doctor(runner)[1]["leftovers"]
    assert doomed["lifl.functions.gateway"][0] in {process["pid"] for process in left["processes"]}
    assert any(name.startswith("lifl-toy-") for name in left["memfds"])

    removed = doctor(runner, "--clean")[1]["removed"]
    assert doomed["lifl.functions.gateway"][0] in {p["pid"] for p in removed["processes"]}
    wait_until(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids),
        lambda: f"still there: {[pid for pid in pids if os.path.exists(f'/proc/{pid}')]}",
    )
    assert not first_directory.exists()
    rows = (runner.folder / "runs" / "latest" / "rounds.jsonl").read_text().count("\n")
    until_round(second, rows + 3)  # it goes on, beyond what it had said by now
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=30)
    assert second.returncode == 130
    for stream in (first.stdout, first.stderr):
        assert stream is not None
        stream.close()


def command(doomed: dict[str, list[int]]) -> str:
    pid = doomed["lifl.placement.engine"][0]
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read()
