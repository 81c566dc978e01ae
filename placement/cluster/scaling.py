"""How many functions there are: one for each role that agents want to give out, and none else.

    agents' demand ─► (tenant, node) ─► number ─► functions of that tenant on that node

Owns the numbers, and that they fall only when they have been lower for a while, since a runtime
that is there starts a role warm.  Who goes is drained first (draining.py).  What a function runs as
is deployments.py's or services.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lifl.errors import LiflError
from lifl.placement.cluster.draining import Drains, Place, Step

log = logging.getLogger("lifl.operator")

AGAIN_S = 1.0


class Runtime(Protocol):
    """What functions run as."""

    async def there(self) -> dict[Place, int]:
        """How many there are, wherever there are any."""

    async def pods(self, tenant: str, node: str) -> list[str]:
        """Names of those that are there and are not ending."""

    async def scale(self, tenant: str, node: str, number: int, first: Sequence[str]) -> None:
        """Have so many there; `first` are the pods that go where there are to be fewer."""

    async def forget(self, tenant: str) -> None:
        """A tenant has no job any more: nothing of its functions stays."""


@dataclass
class Numbers:
    """What is wanted and what there is, of one clock that the caller has.

    Args:
        idle_s: for how long fewer must do before there are fewer.
    """

    idle_s: float
    wanted: dict[Place, int] = field(default_factory=dict)
    scaled: dict[Place, int] = field(default_factory=dict)
    lower_since: dict[Place, float] = field(default_factory=dict)

    def want(self, node: str, by_tenant: Mapping[str, int], now_s: float) -> None:
        """A node's agent says what it wants; tenants that it does not name want nothing there."""
        there = {tenant for tenant, at in {*self.wanted, *self.scaled} if at == node}
        for tenant in {*there, *by_tenant}:
            place, number = (tenant, node), by_tenant.get(tenant, 0)
            self.wanted[place] = number
            if number < self.scaled.get(place, 0):
                self.lower_since.setdefault(place, now_s)
            else:
                self.lower_since.pop(place, None)

    def due(self, now_s: float) -> dict[Place, int]:
        """What is to be scaled now, and to how many."""
        found = {}
        for place, number in self.wanted.items():
            there = self.scaled.get(place, 0)
            low = now_s - self.lower_since.get(place, now_s) >= self.idle_s
            if number > there or (number < there and low):
                found[place] = number
        return found

    def next_due_s(self, now_s: float) -> float | None:
        """When more will be due than is now; None: nothing."""
        times = [since + self.idle_s - now_s for since in self.lower_since.values()]
        return min((left for left in times if left > 0), default=None)

    def done(self, place: Place, number: int) -> None:
        self.scaled[place] = number
        if self.wanted.get(place, 0) >= number:
            self.lower_since.pop(place, None)

    def forget(self, tenant: str) -> None:
        for place in [place for place in {*self.wanted, *self.scaled} if place[0] == tenant]:
            self.wanted.pop(place, None)
            self.scaled.pop(place, None)
            self.lower_since.pop(place, None)


class Scaler:
    """Carries the numbers out.

    Args:
        drains: of this runtime's pods.
    """

    def __init__(self, runtime: Runtime, idle_s: float, drains: Drains) -> None:
        self.runtime, self.numbers, self.drains = runtime, Numbers(idle_s), drains
        self.woken = asyncio.Event()
        self._said: dict[str, Mapping[str, int]] = {}

    def want(self, node: str, by_tenant: Mapping[str, int]) -> None:
        """A node's agent wants so many of this runtime's functions, by tenant."""
        self._said[node] = by_tenant
        self.numbers.want(node, by_tenant, _now_s())
        self.woken.set()

    async def run(self) -> None:
        await self._begin()
        while True:
            self.woken.clear()
            due = self.numbers.due(_now_s())
            lowered = {place for place, to in due.items() if to < self.numbers.scaled.get(place, 0)}
            again_s = [self.numbers.next_due_s(_now_s()), self.drains.tidy(lowered, _now_s())]
            for place, number in due.items():
                try:
                    again_s.append(await self._scale(place, number))
                except LiflError as error:
                    log.warning("functions of %s on %s: %s", *place, error)
                    again_s.append(AGAIN_S)
            wait_s = min((each for each in again_s if each is not None), default=None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), wait_s)

    async def _begin(self) -> None:
        """What the operator before this one has left."""
        while True:
            try:
                there = await self.runtime.there()
                break
            except LiflError as error:
                log.warning("functions that are there: %s", error)
                await asyncio.sleep(AGAIN_S)
        for place, number in there.items():
            self.numbers.scaled.setdefault(place, number)
        for node, by_tenant in self._said.items():
            self.numbers.want(node, by_tenant, _now_s())

    async def _scale(self, place: Place, number: int) -> float | None:
        """As far as it can be now; seconds until another try, None: when there is news."""
        tenant, node = place
        step = Step(number)
        if number < self.numbers.scaled.get(place, 0):
            pods = await self.runtime.pods(tenant, node)
            step = self.drains.step(place, pods, number, _now_s())
        if step.number is None:
            return step.again_s
        number = step.number
        await self.runtime.scale(tenant, node, number, step.first)
        self.numbers.done(place, number)
        log.info("functions of %s on %s: %d", tenant, node, number)
        return None

    async def forget(self, tenant: str) -> None:
        self.numbers.forget(tenant)
        self.drains.forget(tenant)
        await self.runtime.forget(tenant)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
