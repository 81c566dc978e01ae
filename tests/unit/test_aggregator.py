"""A runtime that is asked to give its role up if nothing is to be done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.functions.aggregator import Held, Runtime
from lifl.functions.steps import Work
from lifl.proxy_ebpf.port import make_pair

JOB, ENDPOINT = 7, 3


class Role:
    """A role that may leave or not, as it is told, look by look."""

    def __init__(self, *may: bool) -> None:
        self.role = SimpleNamespace(endpoint=ENDPOINT, kind="leaf")
        self.work = Work()
        self.port: Any = None
        self.looks = list(may)
        self.advanced = 0

    def advance(self) -> None:
        self.advanced += 1

    def may_leave(self) -> bool:
        return self.looks.pop(0)


class Control:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        self.said.append(message | {"fds": len(fds)})


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path / "agent.sock")
    control: Any = Control()
    runtime.control, runtime.proxy = control, "unix"
    yield runtime
    if runtime.held is not None:
        runtime.held.near.close()
        runtime.held.far.close()
        for fd in runtime.held.files:
            os.close(fd)


def asked(runtime: Runtime, *may: bool) -> list[dict[str, Any]]:
    """What it says after it was asked to leave if it is idle."""
    role: Any = Role(*may)
    near, far = make_pair("unix")
    inputs, sums, locks = (os.memfd_create(name) for name in ("inputs", "sums", "locks"))
    runtime.held = Held(JOB, role, near, far, (inputs, sums, locks))
    runtime._obey({"t": "leave", "if_idle": True}, [])
    assert role.advanced, "what can be done is done first"
    control: Any = runtime.control
    said: list[dict[str, Any]] = control.said
    return said


def test_it_leaves_where_nothing_is_to_be_done(runtime: Runtime) -> None:
    said = asked(runtime, True, True)
    assert said == [{"t": "left", "job": JOB, "endpoint": ENDPOINT, "fds": 0}]
    assert runtime.held is None


@pytest.mark.parametrize("looks", [(False,), (True, False)])
def test_it_registers_again_and_stays_where_something_is(
    runtime: Runtime, looks: tuple[bool, ...]
) -> None:
    """Also where an update came between the two looks: its socket was out of the map by then."""
    said = asked(runtime, *looks)
    assert said == [{"t": "join", "job": JOB, "endpoint": ENDPOINT, "fds": 2}]
    assert runtime.held is not None
    assert not runtime.held.leaving, "the next wake-up is no reason to go"


def test_without_a_role_there_is_nothing_to_leave(runtime: Runtime) -> None:
    runtime._obey({"t": "leave", "if_idle": True}, [])
    control: Any = runtime.control
    assert control.said == []
