"""Waiting for descriptors of any number: a process with many clients has more than 1023."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl import trainer
from lifl.functions.aggregator import Runtime
from lifl.functions.waiting import readable
from lifl.placement.pool import Pool, Process

ROOT = Path(__file__).parents[2]
HIGH = 1024  # the first that select(2) does not take

Move = Callable[[int], int]


@pytest.fixture
def high() -> Iterator[Move]:
    """Gives a descriptor a number that is too high for select(2)."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * HIGH:
        pytest.skip(f"no descriptor has a number above {hard} here (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    moved = []

    def move(fd: int) -> int:
        moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH))
        os.close(fd)
        return moved[-1]

    yield move
    for fd in moved:
        try:
            os.close(fd)
        except OSError:
            continue  # the test has
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_can_be_read_or_has_ended_is_named_whatever_its_number(high: Move) -> None:
    (quiet, quiet_end), (full, full_end), (ended, ended_end) = (os.pipe() for _ in range(3))
    quiet, full = high(quiet), high(full)
    sources: list[Any] = [quiet, SimpleNamespace(fileno=lambda: full), ended]
    try:
        assert readable(sources, 0) == []
        assert readable([], 0) == []
        os.write(full_end, b".")
        assert readable(sources) == [sources[1]]
        os.close(ended_end)
        assert readable(sources, 0.0001) == sources[1:]
    finally:
        for fd in (quiet_end, full_end, ended):
            os.close(fd)


def test_a_pool_ends_processes_whatever_their_numbers(tmp_path: Path, high: Move) -> None:
    pool = Pool("n1", tmp_path, [])
    sleeper = subprocess.Popen(["sleep", "60"])
    pool.processes[sleeper.pid] = Process("runtime", sleeper.pid, high(os.pidfd_open(sleeper.pid)))
    pool.end()
    assert not Path(f"/proc/{sleeper.pid}").exists()
    assert pool.processes == {}


@pytest.mark.parametrize("passes", [True, False])
def test_trainers_hear_of_the_trial_whatever_the_number(high: Move, passes: bool) -> None:
    nothing: Any = None
    trial = trainer.Trial(nothing, nothing)
    trial._outcome = high(trial._outcome)
    if passes:
        os.write(trial._passed, b"+")
    assert trial.is_passed() is passes


def test_an_aggregator_hears_its_agent_whatever_the_number(high: Move) -> None:
    line, other = os.pipe()
    line = high(line)
    control = SimpleNamespace(fileno=lambda: line)
    runtime: Any = SimpleNamespace(control=control, held=None, _report_in_s=lambda: None)
    os.close(other)
    assert Runtime._wait(runtime) == [control]


def test_nobody_else_takes_select() -> None:
    """But who has few descriptors for sure, and has to wait for less than a millisecond."""
    found = [
        str(path.relative_to(ROOT))
        for folder in ("lifl", "shm", "proxy_ebpf", "functions", "placement")
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
        and re.search(r"\bselect\.select\(", path.read_text())
    ]
    assert found == ["placement/delay.py"]
