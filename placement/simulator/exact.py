"""One round, event by event: clients are placed by planner.py, each with its leaf.

Owns the events.  The model is world.py's; fast.py computes the same over arrays, and a test holds
the two against one another.  Called by rounds.py, up to 100,000 clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count as counting

import numpy as np

from lifl.placement.planner import plan
from lifl.placement.simulator.scenario import Scenario
from lifl.placement.simulator.world import (
    Outcome,
    Rates,
    Site,
    Tasks,
    cpu_seconds,
    models_there,
    process_times,
    sum_crosses_s,
    work,
)
from lifl.placement.snapshot import Client, Snapshot
from lifl.placement.tree import Role

Then = Callable[[float], None]


class Clock:
    """Events by time; of one time what became ready first, then in the order of scheduling."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, int, Then]] = []
        self._numbers = counting()

    def at(self, time_s: float, then: Then, *, order: int | None = None) -> None:
        rank = (1, next(self._numbers)) if order is None else (0, order)
        heappush(self._events, (time_s, *rank, then))

    def run(self) -> None:
        while self._events:
            time_s, _, _, then = heappop(self._events)
            then(time_s)


@dataclass
class Server:
    """One after the other, in the order of arrival: a core, a middle, a top."""

    clock: Clock
    waiting: deque[tuple[float, float, Then]] = field(default_factory=deque)
    busy: bool = False

    def put(self, now_s: float, *, not_before_s: float, takes_s: float, then: Then) -> None:
        self.waiting.append((not_before_s, takes_s, then))
        if not self.busy:
            self._next(now_s)

    def _next(self, now_s: float) -> None:
        self.busy = bool(self.waiting)
        if self.busy:
            not_before_s, takes_s, then = self.waiting.popleft()

            def done(end_s: float) -> None:
                then(end_s)
                self._next(end_s)

            self.clock.at(max(now_s, not_before_s) + takes_s, done)


@dataclass
class Process:
    """When a role's process is there."""

    at_s: float  # −1: not started yet
    cold_s: float

    def there(self, first_input_s: float) -> float:
        if self.at_s < 0:
            self.at_s = first_input_s + self.cold_s
        return self.at_s


class Collector:
    """A role above leaves: folds `expected` sums, then passes its own on."""

    def __init__(
        self, clock: Clock, process: Process, rates: Rates, size: float, *, expected: int,
        lazy: bool, then: Then,
    ) -> None:  # fmt: skip
        self.server = Server(clock)
        self.process, self.rates, self.size, self.lazy = process, rates, size, lazy
        self.expected, self.missing, self.then = expected, expected, then
        self.folded = 0

    def take(self, now_s: float) -> None:
        self.missing -= 1
        there_s = self.process.there(now_s)
        if not self.lazy:
            self.server.put(
                now_s, not_before_s=there_s, takes_s=self.rates.sum_s, then=self._one_folded
            )
        elif not self.missing:
            bytes_ = self.expected * self.size + self.size
            self.server.put(
                now_s, not_before_s=there_s, takes_s=bytes_ / self.rates.memory_bytes_s,
                then=self.then,
            )  # fmt: skip

    def _one_folded(self, now_s: float) -> None:
        self.folded += 1
        if self.folded == self.expected:
            self.then(now_s)


class NodeRound:
    """A node's part of a round."""

    def __init__(
        self, clock: Clock, scenario: Scenario, rates: Rates, *, leaves: list[Role], cores: int,
        slots: int, processes: list[float], is_top: bool, root_done: Then,
    ) -> None:  # fmt: skip
        self.clock, self.rates, self.is_top = clock, rates, is_top
        self.lazy = scenario.mode == "lazy"
        self.size = float(scenario.update_bytes)
        self.handoff_s = scenario.costs.handoff_s
        self.free_slots, self.link_busy = slots, False
        self.waiting: deque[tuple[float, float, int | None]] = deque()
        self.cores = [Server(clock) for _ in range(cores)]
        cold_s = scenario.costs.cold_start_s
        self.processes = [Process(at_s, cold_s) for at_s in processes]
        self.missing = [role.expected for role in leaves]
        self.arrived: list[list[float]] = [[] for _ in leaves]
        self.waited_s: list[float] = []
        self.to_top: Then | None = None
        above = [p for at, p in enumerate(self.processes) if at >= len(leaves)]
        self.middle: Collector | None = None
        if len(leaves) > 1:
            self.middle = Collector(
                clock, above[0], rates, self.size, expected=len(leaves), lazy=self.lazy,
                then=root_done,
            )  # fmt: skip
        self.root_done = root_done

    # -- link --------------------------------------------------------------------------------
    def ready(self, now_s: float, takes_s: float, leaf: int | None) -> None:
        """An update for a leaf, or another node's sum for the top (leaf None), wants to come in."""
        self.waiting.append((now_s, takes_s, leaf))
        self._grant(now_s)

    def _grant(self, now_s: float) -> None:
        if not self.waiting or self.link_busy or (not self.free_slots and not self.lazy):
            return
        ready_s, takes_s, leaf = self.waiting.popleft()
        self.link_busy = True
        self.free_slots -= 1

        def crossed(up_s: float) -> None:
            self.link_busy = False
            self.clock.at(
                up_s + self.handoff_s, lambda arrived_s: self._arrive(arrived_s, ready_s, leaf)
            )
            self._grant(up_s)

        self.clock.at(now_s + takes_s, crossed)

    def _release(self, now_s: float) -> None:
        self.free_slots += 1
        self._grant(now_s)

    # -- roles -------------------------------------------------------------------------------
    def _arrive(self, now_s: float, ready_s: float, leaf: int | None) -> None:
        if leaf is None:
            assert self.to_top is not None
            self.to_top(now_s)
            self.clock.at(now_s + self.rates.sum_s, self._release)
            return
        there_s = self.processes[leaf].there(now_s)
        core = self.cores[leaf % len(self.cores)]
        self.arrived[leaf].append(ready_s)

        def folded(end_s: float) -> None:
            self.waited_s.append(end_s - ready_s)
            self.missing[leaf] -= 1
            if not self.missing[leaf]:
                self._leaf_done(end_s)
            self._release(end_s)

        def all_folded(end_s: float) -> None:
            self.waited_s += [end_s - at_s for at_s in self.arrived[leaf]]
            self._leaf_done(end_s)

        if not self.lazy:
            core.put(now_s, not_before_s=there_s, takes_s=self.rates.eager_s, then=folded)
        elif len(self.arrived[leaf]) == self.missing[leaf]:
            bytes_ = self.missing[leaf] * self.size + self.size
            core.put(
                now_s, not_before_s=there_s, takes_s=bytes_ / self.rates.memory_bytes_s,
                then=all_folded,
            )  # fmt: skip

    def _leaf_done(self, now_s: float) -> None:
        if self.middle is None:
            self.root_done(now_s)
        else:
            self.clock.at(now_s + self.handoff_s, self.middle.take)


def play(scenario: Scenario, site: Site, tasks: Tasks, policy: str, *, seed: int) -> Outcome:
    """One round.

    Raises:
        Busy: no node for anybody; see planner.py.
    """
    names = site.names
    keys = [f"c{number:07}" for number in tasks.roster]
    made = plan(
        Snapshot(
            nodes=site.nodes(tasks.capacities, tasks.warm, tasks.leaves_max),
            clients=tuple(
                Client(key=key, node=names[home] if home >= 0 else None)
                for key, home in zip(keys, tasks.homes.tolist(), strict=True)
            ),
            fan_in=scenario.fan_in, policy=policy, seed=seed, work=work(scenario),
        )
    )  # fmt: skip
    assert made.top_node is not None
    number = {name: at for at, name in enumerate(names)}
    top, homes = number[made.top_node], made.homes()
    size, handoff_s = float(scenario.update_bytes), scenario.costs.handoff_s
    clock = Clock()
    ends: list[float] = []
    nodes: dict[int, NodeRound] = {}
    leaf_of: dict[str, int] = {}
    leaves, roles = np.zeros(len(site), np.int64), np.zeros(len(site), np.int64)
    starts, counts = np.zeros(len(site), np.int64), np.zeros(len(site), np.int64)
    used = [number[name] for name in made.used]

    def root_done_at(at: int) -> Then:
        """Its sum goes on: to the top beside it, or over the link of the top's node."""
        takes_s = sum_crosses_s(scenario, site, at, top)

        def local(now_s: float) -> None:
            clock.at(now_s + handoff_s, collector.take)

        def remote(now_s: float) -> None:
            clock.at(
                now_s + handoff_s, lambda there_s: nodes[top].ready(there_s, takes_s, None),
                order=len(keys) + at,
            )  # fmt: skip

        return local if at == top else remote

    for at in used:
        here = [role for role in made.nodes[names[at]].roles if role.kind == "leaf"]
        leaf_of |= {key: place for place, role in enumerate(here) for key in role.clients}
        counts[at] = sum(role.expected for role in here)
        leaves[at], roles[at] = len(here), len(made.nodes[names[at]].roles)
        times, starts[at] = process_times(
            scenario, cores=int(site.cores[at]), leaves=len(here), warm=tasks.warm[at],
            is_top=at == top,
        )  # fmt: skip
        nodes[at] = NodeRound(
            clock, scenario, Rates.of(scenario, site, at, used=len(used)), leaves=here,
            cores=int(site.cores[at]), slots=int(site.slots[at]), processes=times, is_top=at == top,
            root_done=root_done_at(at),
        )  # fmt: skip
    rates = nodes[top].rates
    collector = Collector(
        clock, nodes[top].processes[-1], rates, size, expected=len(used),
        lazy=scenario.mode == "lazy",
        then=lambda now_s: ends.append(
            now_s + size / rates.memory_bytes_s + scenario.costs.round_s
        ),
    )  # fmt: skip
    nodes[top].to_top = collector.take

    at_home = np.array([number[homes[key]] for key in keys])
    place, met = np.zeros(len(keys), np.int64), np.zeros(len(site), np.int64)
    for order, home in enumerate(at_home.tolist()):
        place[order], met[home] = met[home], met[home] + 1
    models_s = models_there(
        scenario, site, counts=counts, homes=at_home, place=place, top=top
    )
    for order, (key, ready_s) in enumerate(
        zip(keys, (tasks.ready + models_s).tolist(), strict=True)
    ):
        node = nodes[number[homes[key]]]
        leaf, takes_s = leaf_of[key], node.rates.update_link_s

        def ready(now_s: float, node: NodeRound = node, leaf: int = leaf,
                  takes_s: float = takes_s) -> None:  # fmt: skip
            node.ready(now_s, takes_s, leaf)

        clock.at(ready_s, ready, order=order)
    clock.run()
    (seconds,) = ends
    waiting_s = np.zeros(len(site))
    for at, node in nodes.items():
        waiting_s[at] = sum(node.waited_s)
    return Outcome(
        seconds=seconds,
        homes=at_home,
        counts=counts, leaves=leaves, roles=roles, starts=starts, top=top,
        internode_bytes=scenario.update_bytes * (len(used) - 1),
        cpu_s=cpu_seconds(scenario, site, counts=counts, leaves=leaves, starts=starts, top=top),
        waiting_s=waiting_s,
    )  # fmt: skip
