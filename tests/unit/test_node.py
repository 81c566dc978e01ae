"""A node that carries out plans: what it remembers, and in which order it says and writes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.placement.hosted import saved_jobs
from lifl.placement.node import Node
from lifl.placement.pool import Process

JOB = 3
GEOMETRY = {"inputs": 3, "sums": 6, "roster": 64, "input_bytes": 64, "sum_bytes": 64}
LEAF = {"endpoint": 1, "kind": "leaf", "parent": 2, "expected": 2, "lazy": False}
TOP = {"endpoint": 2, "kind": "top", "parent": 0, "expected": 2, "lazy": False}


def plan(*roles: dict[str, Any]) -> dict[str, Any]:
    scaling = {"leaves": "roster", "keep_alive_s": 60.0}
    return {"t": "plan", "job": JOB, "name": "digits", "epoch": 1, "round": 1, "slots": 2,
            "roles": [*roles], "scaling": scaling, "geometry": GEOMETRY,
            "limit_bytes": 0}  # fmt: skip


class Died(Exception):
    """The agent is killed."""


class Control:
    """Of the gateway: keeps what it is sent, and whether the agent outlives it."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.kills = False

    def send(self, message: dict[str, Any], fds: list[int]) -> None:
        self.said.append(message)
        if self.kills:
            raise Died

    def close(self) -> None:
        pass


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder, self.control = folder, Control()
        control: Any = self.control
        self.gateway = Process("gateway", 1, -1, control=control)
        router: Any = SimpleNamespace(
            name="unix", route=lambda *_: None, reset_credit=lambda _: None, poke=lambda *_: None,
            forget=lambda _: None,
        )  # fmt: skip
        pool: Any = SimpleNamespace(
            gateway=self.gateway, processes={}, holder=lambda *_: None, idle=lambda **_: None,
            starting=lambda: 99,
        )  # fmt: skip
        self.reported: list[dict[str, Any]] = []
        self.node = Node(
            name="n", directory=folder, router=router, pool=pool, kernels="native",
            budget_bytes=0, report=self.reported.append,
        )  # fmt: skip

    def said(self, what: str) -> int:
        return sum(message["t"] == what for message in self.control.said)


@pytest.fixture
def rig(tmp_path: Path) -> Any:
    rig = Rig(tmp_path)
    yield rig
    for job in rig.node.jobs.values():
        if job.files is not None:
            job.files.close()


def test_a_node_without_a_part_remembers_nothing_and_has_nothing_to_look_at(rig: Rig) -> None:
    rig.node.carry_out(plan())
    assert rig.node.jobs == {}
    assert rig.node.look_at_idle() is None
    rig.node.carry_out(plan(LEAF, TOP))
    assert [*rig.node.jobs] == [JOB], "it is one of the nodes as soon as it has a part"
    rig.node.carry_out(plan())
    assert [*rig.node.jobs] == [JOB], "its memory is there, until the job is over or it is drained"
    rig.node.drop(JOB)
    assert rig.node.jobs == {}
    assert rig.reported[-1] == {"t": "dropped", "job": "digits"}


def test_a_plan_whose_roles_are_there_leaves_the_job_as_quiet_as_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.node.carry_out(plan(LEAF, TOP))
    job = rig.node.jobs[JOB]
    job.idling.round_over(0.0, 1)
    rig.node.carry_out(plan(LEAF, TOP))
    assert rig.node.look_at_idle() is None, "its roles are waited for"
    member: Any = SimpleNamespace(joined=True)
    monkeypatch.setattr(rig.node.pool, "holder", lambda *_: member)
    job.lanes = {1, 2}
    rig.node.announce(job)
    assert rig.reported[-1]["t"] == "planned"
    assert rig.node.look_at_idle() is not None


def test_an_agent_that_dies_when_it_has_sent_the_memory_has_not_said_that_it_did(rig: Rig) -> None:
    """Nothing can be in it then: a gateway takes updates when its lanes have joined, and this
    agent answers to that later.  So where the gateway dies as well the next agent makes the
    memory anew; had it been written down before, that would be a lost node.
    """
    rig.control.kills = True
    with pytest.raises(Died):
        rig.node.carry_out(plan(LEAF, TOP))
    assert rig.said("arena") == 1
    (saved,) = saved_jobs(rig.folder)
    assert not saved.handed
    rig.control.kills = False
    rig.node.carry_out(plan(LEAF, TOP))
    (saved,) = saved_jobs(rig.folder)
    assert saved.handed
