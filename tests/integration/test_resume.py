"""A run whose processes were all killed goes on, to the model of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import PROXY, Run, Runner, wait_until
from leftovers import ours
from outsider import command
from test_nothing_stays import until_round
from test_runs import check

import lifl
from lifl.placement.record import load_model

FOUR = {"trainers": 4, "aggregation": {"fanIn": 2}}


def kill_all(runner: Runner, process: subprocess.Popen[str]) -> None:
    """SIGKILL to every process of the run, until none is left."""
    until = time.monotonic() + 10
    while pids := [pid for pid, command in ours(runner.mark) if "lifl" in command]:
        assert time.monotonic() < until
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    process.communicate(timeout=30)
    for left in runner.runtime_dir.iterdir():  # of an engine that could not remove it
        subprocess.run(["rm", "-rf", str(left)], check=True)


def resume(runner: Runner, *arguments: str, env: dict[str, str] | None = None) -> Run:
    run_dir = runner.folder / "runs" / "latest"
    return runner.finish(runner.start(None, "--resume", str(run_dir), *arguments, env=env))


def test_everything_is_killed_twice(runner: Runner) -> None:
    path = runner.job_file(rounds=60, checkpoint={"every": 1}, **FOUR)
    process = runner.start(path, "--proxy", PROXY, "--nodes", "2", env={"TOY_SLOW": "0.2"})
    until_round(process, 7)
    kill_all(runner, process)
    keys = [p.read_text() for p in sorted((runner.folder / "runs/latest/clients").iterdir())]
    run_dir = runner.folder / "runs" / "latest"
    process = runner.start(None, "--resume", str(run_dir), env={"TOY_SLOW": "0.2"})
    until_round(process, 15)
    kill_all(runner, process)
    run = resume(runner)
    check(run, rounds=60, clients=4)
    assert run.summary["updates"] == 240
    assert run.summary["starts"] == 3
    assert run.summary["wall_s"] > sum(row["seconds"] for row in run.rows)  # of three starts
    (starting,) = run.of("starting")
    first = run.of("round_started")[0]["round"]
    assert first > 7
    assert starting["goes_on"]["round"] == first
    assert keys == [p.read_text() for p in sorted((run_dir / "clients").iterdir())]
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize("path", [None, "kept", "file://{}/kept"], ids=["run", "path", "url"])
def test_momentum_survives(runner: Runner, path: str | None) -> None:
    """The server's velocity is half of what the next model comes from."""
    where = {"path": path.format(runner.folder)} if path else {}
    spec = {
        "rounds": 12, "trainers": 2, "checkpoint": {"every": 2, "keep": 3, **where},
        "aggregation": {"algorithm": "fedavgm", "serverMomentum": 0.5},
    }  # fmt: skip
    process = runner.start(
        runner.job_file(**spec), "--proxy", PROXY, env={"TOY_SLOW": "0.1"}
    )
    until_round(process, 7)
    kill_all(runner, process)
    run = resume(runner)
    assert run.status == 0, run.stderr
    assert [row["round"] for row in run.rows] == list(range(1, 13))
    assert run.of("round_started")[0]["round"] in (5, 7, 9)
    plans = [(event["epoch"], event["unplaced"]) for event in run.of("round_started")]
    assert plans == sorted(plans)
    assert plans[0][0] > 0
    assert plans[-1][1] == 0
    model, velocity = 0.0, 0.0
    for number in range(1, 13):
        mean = ((1 + 100 * number) * 1 + (2 + 100 * number) * 2) / 3
        velocity = 0.5 * velocity + (mean - model)
        model += velocity
    np.testing.assert_allclose(run.models[12]["double"], model, rtol=1e-12)
    if path:
        kept = runner.folder / "kept" / run.run_dir.resolve().name
        names = sorted(p.name for p in kept.iterdir())
        assert len(names) == 6
        assert names[-2:] == ["round-000012.safetensors", "round-000012.server.safetensors"]
        assert load_model(kept / names[-2])["double"].tolist() == [model] * 2
        said = run.of("checkpoint")[-1]
        assert (said["round"], Path(said["place"]).name) == (12, names[-2])


def test_an_own_client_was_revoked_meanwhile(runner: Runner) -> None:
    """The first round of the new start does not wait for it, and says that it is not there."""
    spec = {"rounds": 12, "trainers": 3, "checkpoint": {"every": 1}, "clients": {"min": 2}}
    process = runner.start(runner.job_file(**spec), "--proxy", PROXY, env={"TOY_SLOW": "0.05"})
    until_round(process, 3)
    kill_all(runner, process)
    run_dir = str(runner.folder / "runs" / "latest")
    assert command("keys", "revoke", "client-1", "--run", run_dir).returncode == 0
    run = resume(runner)
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert run.rows[-1]["clients"] == 2
    assert "client-1 is revoked: its trainer is not started" in [
        event["text"] for event in run.of("warning")
    ]


def test_too_few_have_rights_to_go_on(runner: Runner) -> None:
    spec = {"rounds": 100, "trainers": 2, "checkpoint": {"every": 1}}
    process = runner.start(runner.job_file(**spec), "--proxy", PROXY, env={"TOY_SLOW": "0.05"})
    until_round(process, 2)
    kill_all(runner, process)
    run_dir = str(runner.folder / "runs" / "latest")
    assert command("keys", "revoke", "client-1", "--run", run_dir).returncode == 0
    run = resume(runner)
    assert run.status == 1
    (failed,) = run.of("failed")
    assert failed["error"] == "1 client is left, and a round needs 2 (spec.clients.min)"


def test_what_cannot_be_resumed(runner: Runner, tmp_path: Path) -> None:
    path = runner.job_file(rounds=2, trainers=1)
    nowhere = runner.finish(runner.start(None, "--resume", str(tmp_path)))
    assert nowhere.status == 2
    assert "is not the directory of a run" in nowhere.stderr
    process = runner.start(runner.job_file(rounds=100_000, trainers=1), "--proxy", PROXY)
    until_round(process, 2)
    run_dir = runner.folder / "runs" / "latest"
    twice = runner.start(None, "--resume", str(run_dir))
    assert "has not ended" in twice.communicate(timeout=60)[1]
    assert twice.returncode == 1
    kill_all(runner, process)
    job = json.loads(path.read_text())
    job["spec"]["rounds"] = 3
    path.write_text(json.dumps(job))
    changed = resume(runner)
    assert changed.status == 2
    assert "spec.rounds was 100000 and is 3" in changed.stderr
    job["spec"]["rounds"] = 100_000
    path.write_text(json.dumps(job))
    process = runner.start(None, "--resume", str(run_dir))
    until_round(process, 4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    wait_until(lambda: not runner.processes("lifl.placement.engine"), lambda: "the engine stays")


def test_a_client_from_outside_takes_part_again(runner: Runner) -> None:
    """It was not killed: it calls where it called before, with the key that it had."""
    path = runner.job_file(rounds=30, trainers=1, trainer=None, checkpoint={"every": 3})
    process = runner.start(path, "--proxy", PROXY)
    assert process.stdout is not None
    assert any('"endpoint"' in line for line in process.stdout)
    seen: list[int] = []
    run_dir = (runner.folder / "runs" / "latest").resolve()

    def take_part() -> None:
        with lifl.Client.connect({"LIFL_CLIENT": str(run_dir / "clients/client-0.json")}) as client:
            for round_ in client.rounds():
                seen.append(round_.number)
                model, weight = toy.update(0, round_.number)
                round_.send(model, weight=weight)
                if round_.number == 30:
                    return

    client = threading.Thread(target=take_part, daemon=True)
    client.start()
    until_round(process, 7)
    kill_all(runner, process)
    run = resume(runner)
    client.join(30)
    assert not client.is_alive()
    assert run.status == 0, run.stderr
    assert [row["round"] for row in run.rows] == list(range(1, 31))
    assert [row["clients"] for row in run.rows] == [1] * 30
    assert load_model(run_dir / "model.safetensors")["double"].tolist() == [1 + 100 * 30] * 2
    first = run.of("round_started")[0]["round"]
    again = seen.index(first, seen.index(first) + 1) if seen.count(first) > 1 else seen.index(first)
    assert seen[again:] == list(range(first, 31))


@pytest.mark.parametrize(
    ("lane", "changes"), [("zmq", False), ("zmq", True), ("fast", False), ("fast", True)]
)
def test_the_round_that_was_under_way_counts_once(
    runner: Runner, lane: str, *, changes: bool
) -> None:
    """Everything is killed when one of two clients has heard that its update counts.

    The checkpoint is of the round before: both send what they have to the new start, which comes
    to the model of a run that nobody killed.  What was sealed where it lies, and changed since by
    its client, is trained again.
    """
    under_way, last = 2, 4  # the first checkpoint: none before it can have it skipped
    path = runner.job_file(
        rounds=last, trainers=2, trainer=None, clients={"min": 2, "lane": lane},
        checkpoint={"every": 1},
    )  # fmt: skip
    env = {"TOY_SIZE": "100000"}  # more than goes with a message
    process = runner.start(path, "--proxy", PROXY, env=env)
    assert process.stdout is not None
    assert any('"endpoint"' in line for line in process.stdout)
    run_dir = (runner.folder / "runs" / "latest").resolve()
    told: dict[int, list[tuple[int, bool]]] = {0: [], 1: []}
    has_sent, goes_on = threading.Event(), threading.Event()

    def take_part(index: int) -> None:
        file = str(run_dir / f"clients/client-{index}.json")
        with lifl.Client.connect({"LIFL_CLIENT": file}) as client:
            for round_ in client.rounds():
                if (index, round_.number) == (1, under_way):
                    assert goes_on.wait(60)
                value = 1 + index + 100 * round_.number
                model = {
                    name: np.full_like(was, value % 2 if was.dtype == bool else value)
                    for name, was in round_.model.items()
                }
                counts = round_.send(model, weight=1.0 + index)
                told[index].append((round_.number, counts))
                if (index, round_.number) == (0, under_way) and not has_sent.is_set():
                    if changes:
                        model["double"][-1] = -1.0
                    has_sent.set()
                if round_.number == last:
                    return

    clients = [threading.Thread(target=take_part, args=(n,), daemon=True) for n in told]
    for client in clients:
        client.start()
    assert any(
        '"checkpoint"' in line and f'"round": {under_way - 1},' in line for line in process.stdout
    )
    assert has_sent.wait(60)
    kill_all(runner, process)
    process = runner.start(None, "--resume", str(run_dir), env=env)
    goes_on.set()
    run = runner.finish(process)
    for client in clients:
        client.join(30)
        assert not client.is_alive()
    assert run.status == 0, run.stderr
    assert run.of("round_started")[0]["round"] == under_way
    once = [(number, True) for number in range(1, last + 1)]
    again = [(under_way, True)] if lane == "fast" and changes else []
    assert told == {0: once[:under_way] + again + once[under_way:], 1: once}
    assert [row["clients"] for row in run.rows] == [2] * last
    values = [(1 + 100 * last, 1.0), (2 + 100 * last, 2.0)]
    mean = sum(value * weight for value, weight in values) / 3
    np.testing.assert_allclose(
        load_model(run_dir / "model.safetensors")["double"], mean, rtol=1e-12
    )


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for some small files."""
    where = tmp_path / "little"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "little", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted: run the tests as root")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_full_disk_costs_the_checkpoint_and_not_the_round(
    runner: Runner, little_disk: Path
) -> None:
    run = runner(
        "--proxy", PROXY, trainers=2, checkpoint={"path": str(little_disk), "every": 1},
        env={"TOY_SIZE": "300001"},
    )  # fmt: skip
    check(run, rounds=2, clients=2)
    (warning,) = run.of("warning")
    assert str(little_disk) in warning["text"]
    assert "No space left on device; make room there or name another" in warning["text"]
    assert run.summary["checkpoints"]["failed"] >= 1
    assert not list(little_disk.glob("**/*.safetensors*"))


def test_a_full_disk_at_the_end_costs_no_round(runner: Runner, little_disk: Path) -> None:
    """The last model does not fit; the rows are there, and with room the run goes on."""
    path = runner.job_file(rounds=2, trainers=2, checkpoint={"path": "kept", "every": 1})
    big = {"TOY_SIZE": "300001"}
    run = runner.finish(
        runner.start(path, "--proxy", PROXY, "--out", str(little_disk), env=big)
    )
    assert run.status == 1
    (failed,) = run.of("failed")
    assert "No space left on device" in failed["error"]
    assert "model.safetensors" in failed["error"]
    (run_dir,) = (p for p in little_disk.iterdir() if p.is_dir() and not p.is_symlink())
    assert len((run_dir / "rounds.jsonl").read_text().splitlines()) == 2
    remount = ["mount", "-o", "remount,size=16m", str(little_disk)]
    subprocess.run(remount, check=True)
    assert failed["error"].rstrip().endswith(f"lifl run --resume {run_dir}")
    again = runner.finish(runner.start(None, "--resume", str(run_dir), env=big))
    assert again.status == 0, again.stderr
    assert (run_dir / "model.safetensors").stat().st_size > 1 << 20


def test_a_complete_run_is_not_resumed(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=1, rounds=1)
    check(run, rounds=1, clients=1)
    again = resume(runner)
    assert again.status == 2
    assert "is complete" in again.stderr
