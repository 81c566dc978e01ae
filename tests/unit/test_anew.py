"""A node that several jobs lose is emptied once, and what the others had there is told to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifl.placement.anew import HEARD_S, Anew
from tests.clock import Clock


class Rig:
    def __init__(self, folder: Path) -> None:
        self.node, self.clock = folder / "node-1", Clock()
        self.anew = Anew(folder, self.clock)
        self.node.mkdir()
        for name in ("job-1", "job-2", "job-3", "processes.json", "gateway"):
            (self.node / name).touch()

    def begins(self, job: int) -> bool:
        return self.anew.begins("node-1", job)

    def ends(self) -> bool:
        return self.anew.agent_ended("node-1", [1, 2, 3])

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.node.iterdir()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_other_jobs_had_is_left_for_the_next_agent_to_tell_them(rig: Rig) -> None:
    assert rig.begins(1)
    assert rig.ends()
    assert rig.files == {"job-2", "job-3", "gateway"}


def test_jobs_that_lose_it_meanwhile_lose_it_with_the_first(rig: Rig) -> None:
    assert rig.begins(1)
    assert not rig.begins(3)
    assert rig.ends()
    assert rig.files == {"job-2", "gateway"}


def test_the_next_agent_is_not_killed_for_what_the_first_loss_took(rig: Rig) -> None:
    rig.begins(1)
    rig.ends()
    assert not rig.begins(2)
    assert not rig.begins(3)
    assert rig.begins(2), "a second loss is one of its own"


def test_the_job_that_lost_it_may_lose_it_again(rig: Rig) -> None:
    rig.begins(1)
    rig.ends()
    assert rig.begins(1)


def test_a_loss_long_after_is_another(rig: Rig) -> None:
    rig.begins(1)
    rig.clock.now += 100.0
    rig.ends()
    rig.clock.now += HEARD_S
    assert rig.begins(2)


def test_an_agent_that_ended_by_itself_leaves_everything(rig: Rig) -> None:
    assert not rig.ends()
    assert len(rig.files) == 5
