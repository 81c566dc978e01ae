"""Nodes, costs, and what one round is asked and answers: the model that both engines compute.

Owns the model's constants and values.  Times are seconds after the round's start.

    link    an update of B bytes crosses its node's link in B / (linkShare·rate), one after the
            other in the order in which they are ready; it begins when a slot is free, which it
            holds until it was folded.  (Lazy: updates wait elsewhere, slots do not bind.)
    model   with `models` it is on its way before: over the link of the top's node to its Q clients
            and the N − 1 other nodes at once, which have it after T = (Q + N − 1)·B / (linkShare·
            rate); then over each of theirs to its Q', after T' = Q'·B / (linkShare·rate) more.  The
            i-th client of a node has it modelSpread·T·(1 − i / Q) before the last one, T' and Q'
            for T and Q where the top is not.  Clients have their updates that much later.
    cores   with sharedCores C a crossing takes at least n·(updateCpu + 2·B / ingest) / C, n being
            the nodes in use: both ends work, for all nodes at once.  For models that
            leave the top's node n is 1, for those that leave the others it is their number.
    leaf    leaf i of a node runs on core i mod cores; a core folds what arrived first.  Eager: each
            update takes (B + S) / M, as in pairs.  Lazy: when all k are there, (k·B + S) / M.
            M is 5/4 of the measured fold rate, S = B, as fanin.py has it.
    middle  above more than one leaf; folds sums as they come, 2·S / M each, or all at once when
            lazy, (L·S + S) / M.  It has the time of a core of its own: its leaves are done.
    top     on the node with most clients.  Other nodes' sums cross its link as updates do, after
            those that were ready before, in S / (the slower of the two links, linkShare of it, and
            of sumBytes), and hold a slot for the time of their fold; folded as a middle folds.  The
            model is there S / M after, and the round over another roundS later.
    start   a process is there at once where a warm one is free.  Planned: the c-th cold one of a
            node is there ⌈c / cores⌉·coldStart after the round's start.  Not planned: coldStart
            after its first input.  With reuse middle and top take over a leaf that is done, so
            that only leaves have processes of their own.
    hand-off  handoff seconds from link to leaf, leaf to middle, root to top.

CPU seconds are those of folds, of starts, and of bytes that cross links, between nodes at both
ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lifl.placement.capacity import capacity
from lifl.placement.fanin import Work
from lifl.placement.simulator.scenario import Scenario
from lifl.placement.snapshot import Node

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """The nodes, one element of each array for each; names sort as they are numbered."""

    names: tuple[str, ...]
    cores: Ints
    link_bytes_s: Floats
    fold_bytes_s: Floats
    slots: Ints
    fixed_capacity: Ints  # 0: by the formula

    @classmethod
    def of(cls, scenario: Scenario) -> Site:
        groups = [group for group in scenario.nodes for _ in range(group.count)]
        return cls(
            tuple(f"n{at:05}" for at in range(len(groups))),
            np.array([group.cores for group in groups]),
            np.array([float(group.link_bytes_s) for group in groups]),
            np.array([float(group.fold_bytes_s) for group in groups]),
            np.array([group.input_slots for group in groups]),
            np.array([group.capacity or 0 for group in groups]),
        )

    def __len__(self) -> int:
        return len(self.names)

    def capacities(self, scenario: Scenario, service_s: float) -> Ints:
        """MC of every node.

        Slots bound what a node holds at a time, not what passes through it in `service_s`.
        """
        found: dict[tuple[float, float, int, int], int] = {}
        for at in range(len(self)):
            figures = self._figures(at)
            if figures in found:
                continue
            fixed, cores = int(self.fixed_capacity[at]), int(self.cores[at])
            room = fixed or capacity(
                update_bytes=scenario.update_bytes, fold_bytes_s=figures[0] * cores,
                ingress_bytes_s=figures[1], input_slots=2**31, service_s=service_s,
            ).updates  # fmt: skip
            found[figures] = max(1, int(room * scenario.headroom))
        return np.array([found[self._figures(at)] for at in range(len(self))])

    def _figures(self, at: int) -> tuple[float, float, int, int]:
        return (
            float(self.fold_bytes_s[at]), float(self.link_bytes_s[at]), int(self.cores[at]),
            int(self.fixed_capacity[at]),
        )  # fmt: skip

    def nodes(
        self, capacities: Ints, warm: Sequence[int], leaves_max: Sequence[int | None]
    ) -> tuple[Node, ...]:
        """As the planner is told of them."""
        return tuple(
            Node(
                name=name, capacity_updates=int(capacities[at]), cores=int(self.cores[at]),
                input_slots=int(self.slots[at]), fold_bytes_s=float(self.fold_bytes_s[at]),
                ingress_bytes_s=float(self.link_bytes_s[at]), runtimes_warm=warm[at],
                leaves_max=leaves_max[at],
            )
            for at, name in enumerate(self.names)
        )  # fmt: skip


@dataclass(frozen=True)
class Tasks:
    """What a round is asked.

    Attributes:
        roster: numbers of its clients, ascending.
        ready: when each has its update.
        homes: node of each where it was last, -1: nowhere yet.
        capacities: MC of each node.
        warm: runtimes of each node that are there.
        leaves_max: of each node; None: no bound.
    """

    roster: Ints
    ready: Floats
    homes: Ints
    capacities: Ints
    warm: list[int]
    leaves_max: list[int | None]


@dataclass(frozen=True)
class Outcome:
    """What a round came to.

    Attributes:
        seconds: until the model is there.
        homes: node of each client of the roster.
        counts, leaves, roles, starts: of each node.
        top: number of its node.
        internode_bytes: that crossed from node to node.
        cpu_s: of all nodes together.
        waiting_s: of each node, summed over its updates: from ready to folded.
    """

    seconds: float
    homes: Ints
    counts: Ints
    leaves: Ints
    roles: Ints
    starts: Ints
    top: int
    internode_bytes: int
    cpu_s: float
    waiting_s: Floats


@dataclass(frozen=True)
class Rates:
    """Seconds that steps take on one node."""

    update_link_s: float
    eager_s: float
    sum_s: float
    memory_bytes_s: float

    @classmethod
    def of(cls, scenario: Scenario, site: Site, at: int, *, used: int) -> Rates:
        """
        Args:
            used: nodes with clients.
        """
        size = float(scenario.update_bytes)
        memory = 1.25 * float(site.fold_bytes_s[at])
        crossing_s = max(size / payload_bytes_s(scenario, site, at), _cpu_s(scenario, used))
        return cls(crossing_s, (size + size) / memory, 2 * size / memory, memory)


def payload_bytes_s(scenario: Scenario, site: Site, at: int) -> float:
    """That a node's link brings, each way."""
    return scenario.costs.link_share * float(site.link_bytes_s[at])


def _cpu_s(scenario: Scenario, nodes: int) -> float:
    """What the machine needs until one crossing is done for each of so many nodes."""
    if scenario.shared_cores is None:
        return 0.0
    both_ends_s = 2 * scenario.update_bytes / scenario.costs.ingest_bytes_s
    return nodes * (scenario.costs.update_cpu_s + both_ends_s) / scenario.shared_cores


def sum_crosses_s(scenario: Scenario, site: Site, at: int, top: int) -> float:
    """A sum's time from a node to the top's."""
    rate = min(payload_bytes_s(scenario, site, at), payload_bytes_s(scenario, site, top))
    return scenario.update_bytes / min(rate, scenario.costs.sum_bytes_s or rate)


def models_there(
    scenario: Scenario, site: Site, *, counts: Ints, homes: Ints, place: Ints, top: int
) -> Floats:
    """When each client has the model that the round starts from.

    Args:
        counts: clients of each node.
        homes, place: node of each client, and its number there, from 0.
    """
    there, takes = np.zeros(len(site)), np.zeros(len(site))
    if not scenario.models:
        return there[homes]
    size, used = float(scenario.update_bytes), np.flatnonzero(counts)
    others = len(used) - 1
    each_s = max(size / payload_bytes_s(scenario, site, top), _cpu_s(scenario, 1))
    there[top] = takes[top] = (int(counts[top]) + others) * each_s
    first_s = max(there[top], others * size / (scenario.costs.sum_bytes_s or np.inf))
    for at in used.tolist():
        if at != top:
            each_s = max(size / payload_bytes_s(scenario, site, at), _cpu_s(scenario, others))
            takes[at] = int(counts[at]) * each_s
            there[at] = first_s + takes[at]
    before = scenario.costs.model_spread * takes[homes] * (1 - (place + 1) / counts[homes])
    return np.asarray(there[homes] - before)


def work(scenario: Scenario) -> Work:
    """As fanin.py is asked."""
    return Work(
        update_bytes=scenario.update_bytes, sum_bytes=scenario.update_bytes,
        lazy=scenario.mode == "lazy", start_s=scenario.costs.cold_start_s,
        handoff_s=scenario.costs.handoff_s,
    )  # fmt: skip


def process_times(
    scenario: Scenario, *, cores: int, leaves: int, warm: int, is_top: bool
) -> tuple[list[float], int]:
    """When the process of each role of a node is there, and how many are started.

    Roles are the leaves, the middle where there is one, the top where it is; −1: as long after
    its first input as a cold start takes.
    """
    roles = leaves + (leaves > 1) + is_top
    own = leaves if scenario.reuse and leaves else roles
    times = [0.0] * roles
    for role in range(min(warm, own), own):
        if scenario.planned:
            wave = (role - min(warm, own)) // cores + 1
            times[role] = wave * scenario.costs.cold_start_s
        else:
            times[role] = -1.0
    return times, max(0, own - warm)


def cpu_seconds(
    scenario: Scenario, site: Site, *, counts: Ints, leaves: Ints, starts: Ints, top: int
) -> float:
    """Of all nodes; the sum is the same whatever the order of events was."""
    size = float(scenario.update_bytes)
    memory = 1.25 * site.fold_bytes_s
    used = counts > 0
    if scenario.mode == "eager":
        folded = counts * (size + size) + np.where(leaves > 1, leaves * 2 * size, 0.0)
    else:
        folded = counts * size + leaves * size
        folded = folded + np.where(leaves > 1, leaves * size + size, 0.0)
    fold_s = float(np.sum(np.where(used, folded / memory, 0.0)))
    sums = int(used.sum())
    fold_s += (sums * 2 * size + size) / float(memory[top])
    crossing = sums - 1
    moved = float(counts.sum()) * size + crossing * 2 * size
    return (
        fold_s
        + float(starts.sum()) * scenario.costs.cold_start_cpu_s
        + moved / scenario.costs.ingest_bytes_s
    )
