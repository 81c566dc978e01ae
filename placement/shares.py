"""Several jobs on the same nodes: who comes first, and how much of the nodes is whose.

Owns the order of jobs and each one's share of the capacity; where a job's clients go is
planner.py's matter, which is asked once a job.  No I/O, no clock.

Jobs of higher priority come first and take what they want of what there is; what they leave goes
to the next priority.  Among jobs of one priority capacity is shared max-min fairly by weight
(Bertsekas and Gallager, "Data Networks", 2nd edition 1992, section 6.5.2): with d the share of
the capacity that a job would take if it were alone, and w its weight, its share is

    s = min(d, w·λ)        with λ such that Σ s = min(1, Σ d)

so nobody gets more than they want, and what one does not want the others get.  Shares are cut to
whole clients; what that leaves goes, one client each, to whoever had the fewest so far (`turn`),
so that jobs whose shares are below one client take turns and none of them starves.  Updates of
different jobs have different sizes, hence a node has another MC for each: a client of job j takes
1 / MCⱼ of a node, and all shares are shares of nodes, not counts of clients.

Every outcome is a plan or the `Busy` that planner.py raises for that job alone; clients beyond a
job's share are in its plan's `oversubscribed`, where they wait for an input slot.  Called by
arbiter.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from lifl.errors import Busy
from lifl.placement import policies
from lifl.placement.planner import plan
from lifl.placement.snapshot import Node, Plan, Snapshot

Outcome = Plan | Busy


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A job that wants to be planned.

    Attributes:
        job: its name; of equals the first name comes first.
        snapshot: as for this job alone: MC and residents without the other asking jobs.
        priority: higher comes first.
        weight: of its share among jobs of its priority.
        turn: what it has had so far, by weight; of jobs of one priority the lowest comes first
            where not everybody can have something.
    """

    job: str
    snapshot: Snapshot
    priority: int = 0
    weight: float = 1.0
    turn: float = 0.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"the weight of job {self.job!r} is {self.weight}: it must be above 0")


def plan_jobs(asks: Sequence[Ask]) -> dict[str, Outcome]:
    """Job → its plan, or why it has none; the same asks in any order give the same."""
    order = sorted(asks, key=lambda ask: (-ask.priority, ask.turn, ask.job))
    taken: dict[str, float] = {}  # node → share of it that planned jobs fill
    outcomes: dict[str, Outcome] = {}
    for _, group in groupby(order, key=lambda ask: ask.priority):
        equals = list(group)
        shares = _shares(equals, taken)
        for ask in equals:
            nodes = tuple(_less(node, taken.get(node.name, 0.0)) for node in ask.snapshot.nodes)
            try:
                made = plan(replace(ask.snapshot, nodes=nodes, share=shares[ask.job]))
            except Busy as busy:
                outcomes[ask.job] = busy
                continue
            outcomes[ask.job] = made
            waiting = set(made.oversubscribed)
            capacity = {node.name: node.capacity_updates for node in nodes}
            for name, part in made.nodes.items():
                served = sum(key not in waiting for key in part.clients)
                if served:
                    taken[name] = taken.get(name, 0.0) + served / capacity[name]
    return outcomes


def _less(node: Node, taken: float) -> Node:
    """The node with `taken` of its capacity in use by other jobs."""
    if not taken:
        return node
    in_service = node.arrival_per_s * node.service_s + taken * node.capacity_updates
    return replace(node, arrival_per_s=in_service, service_s=1.0)


def _shares(asks: Sequence[Ask], taken: dict[str, float]) -> dict[str, int]:
    """Job → clients that may take up capacity."""
    rooms = {
        ask.job: sum(
            policies.room(_less(node, taken.get(node.name, 0.0)))
            for node in ask.snapshot.nodes
            if node.alive and not node.draining
        )
        for ask in asks
    }
    wanted = {
        ask.job: len(ask.snapshot.clients) / rooms[ask.job] if rooms[ask.job] else 0.0
        for ask in asks
    }
    fair = fair_shares(wanted, {ask.job: ask.weight for ask in asks})
    whole = {job: math.floor(share * rooms[job] + policies.ROUNDING) for job, share in fair.items()}
    left = 1.0 - sum(count / rooms[job] for job, count in whole.items() if count)
    for ask in sorted(asks, key=lambda ask: (ask.turn, whole[ask.job], ask.job)):
        room = rooms[ask.job]
        wants_more = room > 0 and whole[ask.job] < len(ask.snapshot.clients)
        if wants_more and left >= 1 / room - policies.ROUNDING:
            whole[ask.job] += 1
            left -= 1 / room
    return whole


def fair_shares(wanted: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """Max-min fair shares of 1 by weight; the formula is in the module's docstring."""
    shares: dict[str, float] = {}
    left = 1.0
    unmet = sorted(wanted, key=lambda job: (wanted[job] / weights[job], job))
    while unmet:
        level = max(0.0, left) / sum(weights[job] for job in unmet)
        job = unmet[0]
        if wanted[job] > weights[job] * level:  # and so do all others: each gets its part
            return shares | {job: weights[job] * level for job in unmet}
        shares[job] = wanted[job]
        left -= wanted[job]
        unmet.pop(0)
    return shares
