"""Clients in Python and in Go in one job: every round's model is FedAvg over all of them.

Needs the Go client built: `make test-interop` builds it and says where it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixed
import numpy as np
import pytest
from conftest import HERE, PROXY, Run, Runner, wait_until
from leftovers import MARKER

GO = os.environ.get("LIFL_GO_CLIENT", "")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        not GO, reason="LIFL_GO_CLIENT does not name the Go client: use `make test-interop`"
    ),
]
CLIENTS = 6  # 0, 2 and 4 in Python, 1, 3 and 5 in Go
SIZES = {"20 KB": 2500, "300 KB": 45_000, "12 MB": 2_000_000}


@dataclass
class Client:
    process: subprocess.Popen[str]
    log: Path


def clients(runner: Runner, files: Path, env: dict[str, str]) -> list[Client]:
    started = []
    for index in range(CLIENTS):
        go = [GO], {}
        python = [sys.executable, str(runner.folder / "mixed.py")], {"PYTHONPATH": str(HERE)}
        command, more = go if index % 2 else python
        log = runner.folder / f"client-{index}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, text=True,
                env=os.environ | env | more
                | {MARKER: runner.mark, "LIFL_CLIENT": str(files / f"client-{index}.json"),
                   "TOY_MODELS": str(runner.folder / "models")},
            )  # fmt: skip
        started.append(Client(process, log))
    return started


def written(folder: Path) -> bool:
    """Whether all client files are there and whole."""
    with contextlib.suppress(OSError, json.JSONDecodeError):
        return all(
            json.loads((folder / f"client-{index}.json").read_text()) for index in range(CLIENTS)
        )
    return False


def mixed_run(
    runner: Runner, *arguments: str, env: dict[str, str], **spec: Any
) -> tuple[Run, list[str]]:
    """A job with clients from outside; and what the Go clients said."""
    (runner.folder / "mixed.py").write_text((HERE / "mixed.py").read_text())
    path = runner.job_file(
        trainer=None, clients={"min": CLIENTS, **spec.pop("clients", {})}, rounds=3,
        model={"initial": "mixed:initial_model"}, aggregation={"fanIn": 2}, **spec,
    )  # fmt: skip
    process = runner.start(path, "--proxy", PROXY, *arguments, env=env)
    started: list[Client] = []
    try:
        files = runner.folder / "runs" / "latest" / "clients"
        wait_until(lambda: written(files), lambda: f"no client files in {files}", limit_s=30)
        started = clients(runner, files, env)
        run = runner.finish(process)
        wait_until(
            lambda: all(client.process.poll() is not None for client in started),
            lambda: f"still there: {[c.process.args for c in started if c.process.poll() is None]}",
        )
    finally:
        for client in started:
            client.process.kill()
            client.process.wait()
        if process.poll() is None:
            process.kill()
            process.wait()
    said = [client.log.read_text() for client in started]
    assert [client.process.returncode for client in started] == [0] * CLIENTS, said
    return run, said[1::2]


def check(run: Run, size: int) -> None:
    """Every model follows from the one before, with every client's update in it once."""
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [row["clients"] for row in run.rows] == [CLIENTS] * 3
    assert sorted(run.models) == [1, 2, 3]
    before = mixed.initial_model(size)
    for number in (1, 2, 3):
        updates = [mixed.update(before, index) for index in range(CLIENTS)]
        total = sum(weight for _, weight in updates)
        for name, array in before.items():
            mean = sum(w * np.asarray(u[name], np.float64) for u, w in updates) / total
            if array.dtype == bool:
                mean = mean >= 0.5
            elif array.dtype.kind in "iu":
                mean = np.rint(mean)
            bits = {"half": 10, "brain": 7, "double": 50}.get(name, 22)
            got = run.models[number][name]
            np.testing.assert_allclose(
                got, np.asarray(mean, np.float64), rtol=2.0**-bits, err_msg=f"{name}, {number}"
            )
            before[name] = got.astype(array.dtype)


@pytest.mark.parametrize("lane", ["fast", "zmq"])
@pytest.mark.parametrize("size", SIZES)
def test_python_and_go(runner: Runner, size: str, lane: str) -> None:
    slots = 1 if size == "20 KB" else 3  # one: whose update does not fit in is told to wait
    run, said = mixed_run(
        runner, "--nodes", "2", env={"TOY_SIZE": str(SIZES[size])},
        memory={"inputSlots": slots}, clients={"lane": lane},
    )  # fmt: skip
    check(run, SIZES[size])
    assert all("done after round 3" in text for text in said), said


@pytest.mark.parametrize("point", ["gateway_payload_partial:kill:3", "gateway_accepted:kill:4"])
def test_the_gateway_is_killed(runner: Runner, point: str) -> None:
    """In mid-round, with some updates in: clients come back and nothing counts twice."""
    run, said = mixed_run(
        runner, "--nodes", "2", memory={"inputSlots": 3},
        env={"TOY_SIZE": str(SIZES["12 MB"]), "LIFL_FAULT": f"gateway:{point}"},
    )  # fmt: skip
    assert run.fired
    assert any("gateway" in event["what"] for event in run.of("restart"))
    check(run, SIZES["12 MB"])
    assert any("lost the gateway" in text for text in said), said
