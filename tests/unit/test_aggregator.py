"""A runtime that is asked to give its role up if nothing is to be done, and what it reports."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lifl.functions import aggregator
from lifl.functions.aggregator import REPORT_S, Held, Runtime
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


def held(runtime: Runtime, *may: bool) -> Any:
    """The role that it has got."""
    role: Any = Role(*may)
    near, far = make_pair("unix")
    inputs, sums, locks = (os.memfd_create(name) for name in ("inputs", "sums", "locks"))
    runtime.held = Held(JOB, role, near, far, (inputs, sums, locks))
    return role


def asked(runtime: Runtime, *may: bool) -> list[dict[str, Any]]:
    """What it says after it was asked to leave if it is idle."""
    role = held(runtime, *may)
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


def test_what_was_done_is_told_now_and_then_and_at_once_when_a_sum_is_on_its_way(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(aggregator, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    role, control = held(runtime), cast(Any, runtime.control)
    assert runtime._report_in_s() is None
    role.work.spans.append((1, 999.0, 1000.0))
    assert runtime._report_in_s() == 0, "the first after a while"
    runtime._report()
    assert [(each["t"], each["spans"]) for each in control.said] == [("work", [(1, 999.0, 1000.0)])]
    assert runtime._report_in_s() is None
    clock.now_s += REPORT_S / 4
    role.work.spans.append((1, 1000.0, 1000.0))
    assert runtime._report_in_s() == pytest.approx(REPORT_S * 3 / 4)
    role.work.has_sealed = True
    assert runtime._report_in_s() == 0


def test_what_was_done_is_told_before_it_leaves(runtime: Runtime) -> None:
    role, control = held(runtime, True), cast(Any, runtime.control)
    role.work.spans.append((1, 0.0, 1.0))
    runtime.reported_at = time.monotonic() + 60
    runtime._obey({"t": "leave", "if_idle": False, "over": False}, [])
    assert [each["t"] for each in control.said] == ["work", "left"]
