"""How many functions there are: one for each role that agents want to give out, and none else.

    agents' demand ─► (tenant, node) ─► number ─► functions of that tenant on that node

Owns the numbers, and that they fall only when they have been lower for a while, since a runtime
that is there starts a role warm.  What a function runs as is deployments.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lifl.errors import LiflError

log = logging.getLogger("lifl.operator")

Place = tuple[str, str]  # tenant, node
AGAIN_S = 1.0


class Runtime(Protocol):
    """What functions run as."""

    async def scale(self, tenant: str, node: str, number: int, idle: tuple[str, ...]) -> None:
        """Have so many there; `idle` are the pods that go first."""

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
        """When fewer will have done for long enough; None: nothing is lower."""
        times = [since + self.idle_s for since in self.lower_since.values()]
        return max(0.0, min(times) - now_s) if times else None

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
    """Carries the numbers out."""

    def __init__(self, runtime: Runtime, idle_s: float) -> None:
        self.runtime, self.numbers = runtime, Numbers(idle_s)
        self.idle: dict[str, tuple[str, ...]] = {}
        self.woken = asyncio.Event()

    def want(self, node: str, by_tenant: Mapping[str, int], idle: tuple[str, ...]) -> None:
        self.idle[node] = idle
        self.numbers.want(node, by_tenant, _now_s())
        self.woken.set()

    async def run(self) -> None:
        while True:
            self.woken.clear()
            for place, number in self.numbers.due(_now_s()).items():
                tenant, node = place
                try:
                    await self.runtime.scale(tenant, node, number, self.idle.get(node, ()))
                    self.numbers.done(place, number)
                    log.info("functions of %s on %s: %d", tenant, node, number)
                except LiflError as error:
                    log.warning("functions of %s on %s: %s", tenant, node, error)
                    asyncio.get_running_loop().call_later(AGAIN_S, self.woken.set)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), self.numbers.next_due_s(_now_s()))

    async def forget(self, tenant: str) -> None:
        self.numbers.forget(tenant)
        await self.runtime.forget(tenant)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
