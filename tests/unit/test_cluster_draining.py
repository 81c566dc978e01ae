"""Functions that are to go take no role any more before they go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lifl.errors import Unreachable
from lifl.placement.cluster.draining import DRAIN_S, LEAVE_S, Drains, Step
from lifl.placement.cluster.scaling import Scaler
from lifl.placement.cluster.steward import demand
from lifl.placement.guests import Guests
from lifl.placement.hosted import NodeJob
from lifl.placement.node import Node
from lifl.placement.pool import Process

PLACE = ("team-a", "n1")
PODS = ("p0", "p1", "p2", "p3")
pytestmark = pytest.mark.timeout(30)


class Asked:
    """Drains, and what their agents would have heard."""

    def __init__(self) -> None:
        self.told: list[set[str]] = []
        self.drains = Drains(lambda node: self.told.append(self.drains.asked_of(node)))

    def step(self, number: int, now_s: float, pods: Sequence[str] = PODS) -> Step:
        return self.drains.step(PLACE, pods, number, now_s)


def test_idle_ones_are_asked_then_go_once_it_is_confirmed() -> None:
    asked = Asked()
    asked.drains.hear("n1", {"p0", "p2"}, ())
    assert asked.step(2, 0) == Step(None, again_s=DRAIN_S)
    assert asked.told == [{"p1", "p3"}]
    asked.drains.hear("n1", {"p0", "p2"}, {"p1"})
    assert asked.step(2, 1) == Step(None, again_s=DRAIN_S - 1)
    asked.drains.hear("n1", {"p0", "p2"}, {"p1", "p3"})
    assert asked.step(2, 2) == Step(2, ("p1", "p3"))
    assert asked.drains.asked_of("n1") == {"p1", "p3"}  # until they have ended
    assert asked.drains.tidy((), 2) == LEAVE_S
    assert asked.drains.tidy((), 2 + LEAVE_S) is None
    assert asked.told[-1] == set()


def test_one_that_got_a_role_first_stays() -> None:
    asked = Asked()
    asked.drains.hear("n1", {"p0"}, ())
    asked.step(1, 0)
    asked.drains.hear("n1", {"p0", "p1"}, {"p2", "p3"})  # p1 had it before it was asked
    assert asked.step(1, 1) == Step(None, again_s=DRAIN_S)
    assert asked.told == [{"p1", "p2", "p3"}, {"p2", "p3"}]
    asked.drains.hear("n1", {"p0", "p1"}, {"p2", "p3"})
    assert asked.step(1, 2) == Step(2, ("p2", "p3"))


def test_while_all_have_roles_nothing_goes() -> None:
    asked = Asked()
    asked.drains.hear("n1", PODS, ())
    assert asked.step(0, 0) == Step(None)
    assert asked.told == []


def test_those_that_are_wanted_after_all_get_roles_again() -> None:
    asked = Asked()
    asked.step(1, 0)
    asked.drains.tidy((PLACE,), 1)
    assert len(asked.told) == 1
    asked.drains.tidy((), 1)
    assert asked.told[1:] == [set()]


def test_an_agent_that_is_gone_holds_nobody_up() -> None:
    asked = Asked()
    asked.step(0, 0)
    assert asked.step(0, DRAIN_S) == Step(0, PODS)


def test_pods_that_are_not_there_need_no_draining() -> None:
    asked = Asked()
    assert asked.step(2, 0, ("p0",)) == Step(2)
    asked.step(0, 0)
    asked.drains.forget("team-a")
    assert asked.told[-1] == set()
    assert asked.drains.asked_of("n1") == set()


# -- the scaler ----------------------------------------------------------------------------------
class Pods:
    """A runtime whose pods come and go at once."""

    def __init__(self, *pods: str) -> None:
        self.names = list(pods)
        self.away = 0
        self.scaled = asyncio.Event()

    async def there(self) -> dict[tuple[str, str], int]:
        if self.away:
            self.away -= 1
            raise Unreachable("connection refused")
        return {PLACE: len(self.names)} if self.names else {}

    async def pods(self, tenant: str, node: str) -> list[str]:
        return list(self.names)

    async def scale(self, tenant: str, node: str, number: int, first: Sequence[str]) -> None:
        assert (tenant, node) == PLACE
        left = [name for name in self.names if name not in first][:number]
        self.names = left + [f"new-{at}" for at in range(number - len(left))]
        self.scaled.set()

    async def forget(self, tenant: str) -> None:
        self.names = []


def scaling(pods: Pods, talk: Callable[[Scaler, asyncio.Queue[str]], Awaitable[None]]) -> None:
    async def main() -> None:
        changes: asyncio.Queue[str] = asyncio.Queue()
        scaler = Scaler(pods, 0, Drains(changes.put_nowait))
        loop = asyncio.create_task(scaler.run())
        try:
            await talk(scaler, changes)
            assert not loop.done(), loop
        finally:
            loop.cancel()

    asyncio.run(main())


def test_a_scaler_keeps_those_with_a_role() -> None:
    pods = Pods()

    async def talk(scaler: Scaler, changes: asyncio.Queue[str]) -> None:
        scaler.want("n1", {"team-a": 3})
        await pods.scaled.wait()
        pods.scaled.clear()
        scaler.drains.hear("n1", ["new-0"], [])
        scaler.want("n1", {"team-a": 1})
        assert await changes.get() == "n1"
        assert pods.names == ["new-0", "new-1", "new-2"]  # not before the agent has said so
        scaler.drains.hear("n1", ["new-0"], ["new-1", "new-2"])
        scaler.want("n1", {"team-a": 1})
        await pods.scaled.wait()
        assert pods.names == ["new-0"]

    scaling(pods, talk)


def test_what_the_operator_before_has_left_goes_when_nobody_wants_it() -> None:
    pods = Pods("old-0", "old-1")
    pods.away = 1

    async def talk(scaler: Scaler, changes: asyncio.Queue[str]) -> None:
        scaler.want("n1", {})
        await changes.get()
        scaler.drains.hear("n1", [], ["old-0", "old-1"])
        scaler.want("n1", {})
        await pods.scaled.wait()
        assert pods.names == []

    scaling(pods, talk)


# -- the agent -----------------------------------------------------------------------------------
def test_an_agent_gives_no_role_to_a_pod_that_is_to_go(tmp_path: Path) -> None:
    pool = Guests("n1", tmp_path, tmp_path / "agent.sock")
    connection: Any = object()
    for at, pod in enumerate(("p0", "p1")):
        pool.processes[at] = Process(
            "runtime", at, -1, control=connection, tenant="team-a", pod=pod
        )
    nothing: Any = None
    node = Node(name="n1", directory=tmp_path, router=nothing, pool=pool, kernels="native",
                budget_bytes=0, report=nothing)  # fmt: skip
    staffed: list[int] = []
    node.staff = lambda job: staffed.append(job.number)  # type: ignore[method-assign]
    node.jobs[7] = NodeJob(7, "toy", {"tenant": "team-a", "roles": []})
    pool.processes[1].role = (7, 1)
    node.drain(["p0", "p1"])
    assert staffed == [7]  # others may be free again
    assert pool.idle(tenant="team-a") is None
    said = demand(node)
    assert (said["busy"], said["draining"], said["runtimes"]) == (["p1"], ["p0"], {"toy": 0})
    node.drain([])
    found = pool.idle(tenant="team-a")
    assert found is not None
    assert found.pod == "p0"
