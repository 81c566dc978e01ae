"""Clients as users write them: virtual, from outside, for asyncio, with and without updates."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import HERE, PROXY, Run, Runner
from leftovers import MARKER

import lifl

EXAMPLES = HERE.parent.parent / "examples"


def example(runner: Runner, name: str, **changes: object) -> Path:
    """A copy of an example, with a spec that differs in some fields."""
    from lifl.api.source import read

    data = read(EXAMPLES / name / "job.yaml").data
    for field, value in changes.items():
        section, _, key = field.rpartition("__")
        (data["spec"][section] if section else data["spec"])[key] = value
    for file in (EXAMPLES / name).glob("*.py"):
        (runner.folder / file.name).write_text(file.read_text())
    path = runner.folder / "job.json"
    path.write_text(json.dumps(data))
    return path


# ---------------------------------------------------------------- virtual clients


def test_a_thousand_virtual_clients(runner: Runner) -> None:
    """A few rounds with fifty of them each; who was drawn before is known to the same process."""
    path = example(runner, "05-virtual", stop={"metric": "accuracy", "atLeast": 0.85})
    run = runner.finish(runner.start(path, "--proxy", PROXY))
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert {row["clients"] for row in run.rows} == {50}
    assert run.summary["accuracy"] > 0.8
    assert re.fullmatch(r"accuracy was 0\.\d+ in round \d+; the goal is at least 0.85",
                        run.summary["stopped"])  # fmt: skip
    assert run.summary["rounds"] == len(run.rows) < 20
    assert [row["metrics"]["times_drawn"] for row in run.rows] == sorted(
        row["metrics"]["times_drawn"] for row in run.rows
    )
    assert run.rows[0]["metrics"]["times_drawn"] == 1
    assert len(list(run.rows[0]["tree"]["node-0"])) == 2  # two at once need one leaf
    assert not list((run.run_dir / "clients").iterdir())  # nor a key or a file each


def test_all_of_a_thousand_in_one_round(runner: Runner) -> None:
    path = example(runner, "05-virtual", clients__fraction=1.0, rounds=1, nodes=2)
    run = runner.finish(runner.start(path, "--proxy", PROXY))
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert [row["clients"] for row in run.rows] == [1000]
    assert run.rows[0]["metrics"]["times_drawn"] == 1  # every one of them, once


VIRTUAL = """
import os, signal
import lifl, toy

def fit(client, round):
    model, weight = toy.update(client.index, round.number)
    if os.environ.get("SIT_OUT") and client.index % 2:
        return                                   # sits out
    if os.environ.get("REPORT") and client.index % 3 == 0:
        round.report(weight=2.0, metrics={"seen": client.index})
        return
    if os.environ.get("FAIL") and client.index == 3:
        raise ValueError("no such data")
    assert round.send(model, weight=weight, metrics={"rate": round.settings["rate"]})
    if client.index == 0 and round.number > 1:
        toy.keep(round.number - 1, round.model)

def train(client):
    for round in client.rounds():
        fit(client, round)

def nobody(client, round):
    round.report(metrics={"seen": 1.0})
"""


def virtual(runner: Runner, *, env: dict[str, str] | None = None, nodes: int = 1,
            entrypoint: str = "virtual:fit", **spec: object) -> Run:  # fmt: skip
    path = runner.job_file(
        **{"rounds": 2, "trainers": 6, "memory": {"inputSlots": 2}, **spec},
        trainer={"entrypoint": entrypoint, "clients": 6, "workers": 2, "args": {"rate": 1},
                 "schedule": [{"fromRound": 2, "args": {"rate": 3}}]},
    )  # fmt: skip
    (runner.folder / "virtual.py").write_text(VIRTUAL)
    return runner.finish(
        runner.start(path, "--proxy", PROXY, "--liveness", "1", "--nodes", str(nodes), env=env)
    )


@pytest.mark.parametrize("fault", ["", "gateway:gateway_payload_partial:kill:3"])
def test_virtual_updates_count_once(runner: Runner, fault: str) -> None:
    from test_runs import check

    run = virtual(
        runner, env={"LIFL_FAULT": fault, "TOY_SIZE": "300000"}, nodes=2 if not fault else 1
    )
    check(run, rounds=2, clients=6)
    assert bool(run.fired) == bool(fault)
    assert [row["metrics"] for row in run.rows] == [{"rate": 1}, {"rate": 3}]


def test_who_sits_out_or_reports_is_not_waited_for(runner: Runner) -> None:
    run = virtual(runner, env={"SIT_OUT": "1", "REPORT": "1"})
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert [row["clients"] for row in run.rows] == [2, 2]  # 2 and 4 send, 0 reports
    assert [row["metrics"] for row in run.rows] == [
        {"rate": 1, "seen": 0}, {"rate": 3, "seen": 0},
    ]  # fmt: skip
    updates = [toy.update(index, 2) for index in (2, 4)]
    mean = sum(w * m["double"] for m, w in updates) / sum(w for _, w in updates)
    np.testing.assert_allclose(run.models[max(run.models)]["double"], mean)


def test_a_round_in_which_nobody_sends(runner: Runner) -> None:
    run = virtual(runner, entrypoint="virtual:nobody")
    assert run.status == 1
    assert "0 of them sent an update" in run.of("failed")[0]["error"]


def test_a_virtual_client_that_fails_ends_the_run(runner: Runner) -> None:
    run = virtual(runner, env={"FAIL": "1"})
    assert run.status == 1
    assert "ValueError: no such data" in run.of("failed")[0]["error"]


# ---------------------------------------------------------------- from outside


def test_the_readme_of_the_outside_example(runner: Runner) -> None:
    """Each command as it stands there, in a process of its own."""
    text = (EXAMPLES / "03-outside" / "README.md").read_text()
    job, *clients = re.findall(r"```\n(.*?)\n```", text, re.DOTALL)
    assert len(clients) == 2
    (runner.folder / "examples").symlink_to(EXAMPLES)
    (runner.folder / ".venv").symlink_to(sys.prefix)

    def start(command: str) -> subprocess.Popen[str]:
        words = shlex.split(command)
        extra = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        extra |= {MARKER: runner.mark, "XDG_RUNTIME_DIR": str(runner.runtime_dir)}
        return subprocess.Popen(
            [word for word in words if not re.match(r"[A-Z_]+=", word)],
            cwd=runner.folder, env=os.environ | extra,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    run = start(job)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("in other terminals:"):
            break
    files = sorted(path.name for path in (runner.folder / "runs/latest/clients").iterdir())
    assert files == [f"client-{index}.json" for index in range(4)]  # clients.max
    started = [start(command) for command in clients]
    for index, client in enumerate(started):
        out, _ = client.communicate(timeout=60)
        assert client.returncode == 0, out
        assert f"client {index}: round 5" in out
    out, _ = run.communicate(timeout=60)
    assert run.returncode == 0, out
    assert "done" in out
    summary = json.loads((runner.folder / "runs/latest/summary.json").read_text())
    assert summary["updates"] == 10
    assert summary["metrics"]["error"] < 0.1


# ---------------------------------------------------------------- asyncio, reconnecting


def wait_for_clients(runner: Runner, process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "endpoint":
            return runner.folder / "runs" / "latest" / "clients"
    raise AssertionError("the run ended early")


def outside(runner: Runner, *, env: dict[str, str] | None = None, **spec: object) -> Path:
    """A job that waits for one client from outside; returns the file of that client."""
    path = runner.job_file(**{"rounds": 4, "trainers": 1, **spec}, trainer=None)
    process = runner.start(path, "--proxy", PROXY, "--liveness", "1", env=env)
    runner.process = process  # type: ignore[attr-defined]
    return wait_for_clients(runner, process) / "client-0.json"


@pytest.mark.parametrize("insecure", [False, True])
def test_gateways_at_another_address(runner: Runner, insecure: bool) -> None:
    """Client files name it, and both ports are there and nowhere else."""
    path = runner.job_file(trainer=None, trainers=1, rounds=2, insecure=insecure)
    arguments = ("--proxy", PROXY, "--nodes", "2", "--host", "127.0.0.2")
    process = runner.start(path, *arguments, env={"TOY_SIZE": "100000"})
    file = wait_for_clients(runner, process) / "client-0.json"
    assert json.loads(file.read_text())["endpoint"].startswith("tcp://127.0.0.2:")
    with lifl.Client.connect({"LIFL_CLIENT": str(file)}) as client:
        for round_ in client.rounds():
            assert round_.send(round_.model, weight=1.0)
            assert set(listened_at(runner.processes("lifl.functions.gateway"))) == {"127.0.0.2"}
    assert runner.finish(process).status == 0


def test_a_run_keeps_its_address_unless_told_another(runner: Runner) -> None:
    """Before its first round, too."""
    run_dir = runner.folder / "runs" / "latest"
    on = ("--resume", str(run_dir))
    path = runner.job_file(trainer=None, trainers=1)

    def started(path: Path | None, *arguments: str) -> str:
        process = runner.start(path, *arguments)
        file = wait_for_clients(runner, process) / "client-0.json"
        process.send_signal(signal.SIGINT)
        assert runner.finish(process).status == 130
        return str(json.loads(file.read_text())["endpoint"])

    first = started(path, "--proxy", PROXY, "--host", "127.0.0.2")
    assert first.startswith("tcp://127.0.0.2:")
    assert started(None, *on) == first
    assert started(None, *on, "--host", "127.0.0.3").startswith("tcp://127.0.0.3:")
    assert started(None, *on).startswith("tcp://127.0.0.3:")


def listened_at(pids: list[int]) -> Iterator[str]:
    """Addresses at which these processes listen for TCP."""
    for pid in pids:
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
            local, _, state, *_, inode = line.split()[1:10]
            if state == "0A" and f"socket:[{inode}]" in held:
                yield socket.inet_ntoa(bytes.fromhex(local.partition(":")[0])[::-1])


def test_two_programs_with_one_client_file(runner: Runner) -> None:
    """The newer one counts, and the one before it hears so instead of waiting for ever."""
    environment = {"LIFL_CLIENT": str(outside(runner))}
    numbers = []
    with lifl.Client.connect(environment) as first:
        mine = first.rounds()
        assert next(mine).number == 1
        with lifl.Client.connect(environment) as second:
            for round_ in second.rounds():
                if not numbers:
                    with pytest.raises(lifl.Refused, match="program for each client file") as said:
                        next(mine)
                    assert said.value.code == "displaced"
                    assert "client client-0" in str(said.value)
                numbers.append(round_.number)
                assert round_.send(round_.model, weight=1.0)
    assert numbers == [1, 2, 3, 4]
    run = runner.finish(runner.process)  # type: ignore[attr-defined]
    assert run.status == 0
    assert [row["clients"] for row in run.rows] == [1] * 4


def test_asyncio(runner: Runner) -> None:
    """Cancelled while it waits, while it sends, and closed: nothing is lost, no thread is left."""
    file = outside(runner, env={"TOY_SIZE": "700001"})
    before = threading.active_count()
    told: list[tuple[int, int]] = []

    async def train() -> list[int]:
        numbers = []
        async with lifl.AsyncClient.connect({"LIFL_CLIENT": str(file)}) as client:
            rounds = client.rounds()
            with pytest.raises(TimeoutError):  # at once, most likely before any round is here
                await asyncio.wait_for(anext(rounds), 0)
            async for round_ in rounds:
                numbers.append(round_.number)
                size = round_.model["weight"].size
                model = {name: np.ones_like(value) for name, value in round_.model.items()}
                assert size == 700_001
                sending = asyncio.create_task(round_.send(model, weight=1.0))
                await asyncio.sleep(0)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                assert await round_.send(
                    model, weight=1.0, progress=lambda sent, total: told.append((sent, total))
                )
                assert (await client.settings()) == {}
        return numbers

    assert asyncio.run(train()) == [1, 2, 3, 4]
    assert threading.active_count() == before
    total = told[-1][1]
    assert total > 2_800_000
    assert told.count((total, total)) >= 4
    run = runner.finish(runner.process)  # type: ignore[attr-defined]
    assert run.status == 0
    assert [row["clients"] for row in run.rows] == [1] * 4


@pytest.mark.parametrize("fault", ["", "gateway:gateway_payload_partial:kill:2"])
def test_a_gateway_dies_between_rounds_or_in_mid_upload(runner: Runner, fault: str) -> None:
    file = outside(runner, env={"TOY_SIZE": "700001", "LIFL_FAULT": fault})
    back = []
    with lifl.Client.connect({"LIFL_CLIENT": str(file)}) as client:
        for round_ in client.rounds():
            if round_.number == 3 and not fault:
                os.kill(runner.processes("lifl.functions.gateway")[0], signal.SIGKILL)
            last = 0

            def progress(sent: int, total: int) -> None:
                nonlocal last
                if sent < last:
                    back.append(sent)
                last = sent

            model = {name: np.ones_like(value) for name, value in round_.model.items()}
            assert round_.send(model, weight=1.0, progress=progress)
    assert back or not fault  # what the dead one had is sent again
    run = runner.finish(runner.process)  # type: ignore[attr-defined]
    assert run.status == 0
    assert any("gateway" in event["what"] for event in run.of("restart")) or not fault
    assert [row["clients"] for row in run.rows] == [1] * 4
