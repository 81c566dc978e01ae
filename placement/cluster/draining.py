"""Functions that are to go take no role any more before they go.

    fewer wanted ─► pods without a role ─► asked of their agent ─► confirmed ─► scaled down

An agent gives roles to whatever function is idle, so one that is idle when it is chosen may have a
role when it is killed.  Nothing would be lost (docs/crash-protocol.md), but a round would wait for
another function.  Owns who was asked, and what agents say; pure but for `on_change`.  Called by
scaling.py, with one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

Place = tuple[str, str]  # tenant, node
DRAIN_S: Final = 5.0  # for the agent's answer; one that is gone gives out no role
LEAVE_S: Final = 10.0  # for pods to end; one that is there after that takes roles again


@dataclass(frozen=True)
class Step:
    """What can be done now.

    Attributes:
        number: functions that there can be; None: nothing can be done yet.
        first: pods that go.
        again_s: when to ask again, if nothing is heard before.
    """

    number: int | None
    first: tuple[str, ...] = ()
    again_s: float | None = None


@dataclass
class Drains:
    """Pods of one runtime that are to go.

    Args:
        on_change: a node's agent is to hear what `asked_of` says now.

    Attributes:
        busy, draining: by node, pods with a role, and asked ones that have and get none.
    """

    on_change: Callable[[str], None]
    busy: dict[str, frozenset[str]] = field(default_factory=dict)
    draining: dict[str, frozenset[str]] = field(default_factory=dict)
    _asked: dict[Place, tuple[tuple[str, ...], float]] = field(default_factory=dict)
    _leaving: dict[Place, tuple[tuple[str, ...], float]] = field(default_factory=dict)

    def hear(self, node: str, busy: Collection[str], draining: Collection[str]) -> None:
        """What the node's agent says."""
        self.busy[node], self.draining[node] = frozenset(busy), frozenset(draining)

    def asked_of(self, node: str) -> set[str]:
        """Pods of a node that are to take no role."""
        return {
            pod for asked in (self._asked, self._leaving) for (_, at), (pods, _) in asked.items()
            if at == node for pod in pods
        }  # fmt: skip

    def step(self, place: Place, pods: Sequence[str], number: int, now_s: float) -> Step:
        """How far the pods of a place can be brought down towards `number`."""
        surplus = len(pods) - number
        if surplus <= 0:  # they have ended by themselves, or have not been made yet
            self._forget(self._asked, place)
            return Step(number)
        node = place[1]
        before, since_s = self._asked.get(place, ((), now_s))
        free = [pod for pod in pods if pod not in self.busy.get(node, frozenset())]
        chosen = tuple(sorted(free, key=lambda pod: (pod not in before, pod))[:surplus])
        if not chosen:
            self._forget(self._asked, place)
            return Step(None)  # the agent says when one has no role any more
        if set(chosen) != set(before):
            self._asked[place] = (chosen, now_s)
            self.on_change(node)
            return Step(None, again_s=DRAIN_S)
        is_drained = set(chosen) <= self.draining.get(node, frozenset())
        if not is_drained and now_s - since_s < DRAIN_S:
            return Step(None, again_s=since_s + DRAIN_S - now_s)
        self._leaving[place] = self._asked.pop(place)[0], now_s
        return Step(len(pods) - len(chosen), chosen)

    def tidy(self, lowered: Collection[Place], now_s: float) -> float | None:
        """Let go of those that are wanted after all; seconds until there is more to tidy."""
        for place in [place for place in self._asked if place not in lowered]:
            self._forget(self._asked, place)
        for place in [p for p, (_, at_s) in self._leaving.items() if now_s - at_s >= LEAVE_S]:
            self._forget(self._leaving, place)
        times = [at_s + LEAVE_S - now_s for _, at_s in self._leaving.values()]
        return min(times, default=None)

    def forget(self, tenant: str) -> None:
        for asked in (self._asked, self._leaving):
            for place in [place for place in asked if place[0] == tenant]:
                self._forget(asked, place)

    def _forget(
        self, asked: dict[Place, tuple[tuple[str, ...], float]], place: Place
    ) -> None:
        if asked.pop(place, None) is not None:
            self.on_change(place[1])
