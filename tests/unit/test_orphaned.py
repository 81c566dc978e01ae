"""Who waits for an agent waits for as long as somebody could start one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from lifl.functions.orphaned import LOOK_S, LOST_S, Orphaned


class Watched:
    """A process without an agent, in a run's directory, with a clock of the test's."""

    def __init__(self, run: Path) -> None:
        self.now = 100.0
        self.orphaned = Orphaned(run / "node-0" / "agent.sock", lambda: self.now)

    def over_within(self, seconds: float) -> bool:
        """It looks every 20 ms, as both do."""
        until = self.now + seconds
        while self.now < until:
            if self.orphaned.is_over():
                return True
            self.now += 0.02
        return False


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "lifl-0a1b2c3d"
    (run / "node-0").mkdir(parents=True)
    (run / "engine.json").touch()
    return run


def test_while_the_command_lives_an_agent_may_come_back(run: Path) -> None:
    fd = os.open(run, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert not Watched(run).over_within(10 * LOST_S)
    os.close(fd)


def test_without_agent_and_command_it_is_over_and_nothing_stays(run: Path) -> None:
    first, second = Watched(run), Watched(run)
    assert not first.over_within(LOST_S - LOOK_S)
    assert run.exists()
    assert first.over_within(3 * LOOK_S)
    assert not run.exists()
    assert second.orphaned.is_over()  # what others see at once


def test_an_agent_that_was_there_meanwhile_starts_the_time_again(run: Path) -> None:
    watched = Watched(run)
    assert not watched.over_within(LOST_S - 5)
    watched.now += LOST_S + 5  # connected, so that nobody looked
    assert not watched.over_within(LOST_S - 2)
    assert watched.over_within(5)


def test_a_node_of_no_local_run_waits(run: Path) -> None:
    (run / "engine.json").unlink()
    assert not Watched(run).over_within(10 * LOST_S)
    assert run.exists()


def test_it_ends_with_its_agents_directory(run: Path) -> None:
    (run / "node-0").rmdir()
    assert Watched(run).orphaned.is_over()
