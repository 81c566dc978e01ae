"""One simulated round after the other, and what they come to for each policy.

Owns what lasts from round to round: where clients were, runtimes that stay warm and what was
learned of their idle times (keepalive.py), queue estimates (autoscaler.py).  Which engine plays a
round is the caller's choice or follows from the number of clients.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np

from lifl.placement import autoscaler
from lifl.placement.fanin import leaves_bound
from lifl.placement.keepalive import Idle, Window, is_warm, seen, window
from lifl.placement.simulator import exact, fast
from lifl.placement.simulator.arrivals import Trace, read_trace, ready_times
from lifl.placement.simulator.scenario import Scenario
from lifl.placement.simulator.world import Ints, Outcome, Site, Tasks

EXACT_MOST: Final = 100_000  # clients, beyond which `auto` is fast
Engine = Literal["auto", "exact", "fast"]
Play = Callable[..., Outcome]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One round under one policy.

    Attributes:
        seconds: from its start to its model.
        aggregate_s: from the last client's update being ready to the model.
        starts, reuses: roles' processes that were started, and that were there.
        oversubscribed: clients beyond their nodes' capacity.
    """

    policy: str
    round: int
    clients: int
    seconds: float
    aggregate_s: float
    internode_bytes: int
    nodes: int
    starts: int
    reuses: int
    cpu_s: float
    oversubscribed: int


@dataclass(frozen=True, kw_only=True)
class Total:
    """All rounds of one policy: medians of times, means of nodes, sums of the rest."""

    policy: str
    seconds: float
    aggregate_s: float
    internode_bytes: int
    nodes: float
    starts: int
    reuses: int
    cpu_s: float


@dataclass
class Warm:
    """Runtimes of one node between rounds."""

    runtimes: int = 0
    since_s: float = 0.0
    idle: Idle = field(default_factory=Idle)
    window: Window = field(default_factory=lambda: window(Idle()))

    def at(self, now_s: float) -> int:
        """How many are there after being idle since the last round."""
        return self.runtimes if is_warm(self.window, now_s - self.since_s) else 0


def simulate(
    scenario: Scenario, policy: str, *, folder: Path = Path(), engine: Engine = "auto"
) -> list[Row]:
    """The rounds of one policy.

    Args:
        folder: where a trace's relative path starts.

    Raises:
        InvalidJob: the trace is none.
    """
    play = _engine(engine, scenario.clients)
    trace: Trace = []
    if scenario.arrivals.file is not None:
        trace = read_trace(folder / scenario.arrivals.file)
    site = Site.of(scenario)
    homes = np.full(scenario.clients, -1)
    warm = [Warm() for _ in site.names]
    queues: list[autoscaler.Queue] = [autoscaler.Queue() for _ in site.names]
    now_s, rows = 0.0, []
    for number in range(1, scenario.rounds + 1):
        tasks = _tasks(scenario, site, homes, warm, queues, trace, now_s=now_s, number=number)
        outcome = play(scenario, site, tasks, policy, seed=scenario.seed)
        homes[tasks.roster] = outcome.homes
        rows.append(_row(policy, number, tasks, outcome))
        end_s = now_s + outcome.seconds
        _remember(scenario, warm, queues, outcome, began_s=now_s, end_s=end_s)
        now_s = end_s + scenario.pause_s
    return rows


def _engine(engine: Engine, clients: int) -> Play:
    if engine == "auto":
        engine = "exact" if clients <= EXACT_MOST else "fast"
    return exact.play if engine == "exact" else fast.play


def _tasks(
    scenario: Scenario, site: Site, homes: Ints, warm: Sequence[Warm],
    queues: Sequence[autoscaler.Queue], trace: Trace, *, now_s: float, number: int,
) -> Tasks:  # fmt: skip
    """What the round is asked."""
    count = max(1, round(scenario.fraction * scenario.clients))
    roster = np.arange(scenario.clients)
    if count < scenario.clients:
        chance = np.random.default_rng([scenario.seed, number, 1])
        roster = np.sort(chance.choice(scenario.clients, count, replace=False))
    ready = ready_times(
        scenario.arrivals, count, began_s=now_s, number=number, seed=scenario.seed, trace=trace
    )
    service_s = scenario.service_s or max(float(ready.max() - ready.min()), 1e-9)
    return Tasks(
        roster=roster, ready=ready, homes=homes[roster],
        capacities=site.capacities(scenario, service_s),
        warm=[one.at(now_s) if scenario.reuse else 0 for one in warm],
        leaves_max=[_leaves_max(scenario, site, at, queue) for at, queue in enumerate(queues)],
    )  # fmt: skip


def _leaves_max(
    scenario: Scenario, site: Site, at: int, queue: autoscaler.Queue
) -> int | None:  # fmt: skip
    """What the autoscaler says, where the hierarchy is planned at all."""
    if not scenario.planned:
        return None
    room = autoscaler.Room(cores=int(site.cores[at]), input_slots=int(site.slots[at]))
    if scenario.leaves == "queue" and scenario.fan_in is not None and queue.estimate is not None:
        return autoscaler.leaves(
            queue, queue.looked_s, fan_in=scenario.fan_in, room=room,
            settings=autoscaler.Settings(alpha=scenario.alpha),
        )  # fmt: skip
    return leaves_bound(cores=room.cores, input_slots=room.input_slots)


def _remember(
    scenario: Scenario, warm: Sequence[Warm], queues: list[autoscaler.Queue], outcome: Outcome,
    *, began_s: float, end_s: float,
) -> None:  # fmt: skip
    """Idle times, runtimes and queues after a round; a plan period is a round."""
    for at in np.flatnonzero(outcome.counts).tolist():
        one = warm[at]
        if one.runtimes:
            one.idle = seen(one.idle, began_s - one.since_s)
        own = int(outcome.leaves[at] if scenario.reuse else outcome.roles[at])
        one.runtimes, one.since_s = own, end_s
        one.window = (
            window(one.idle) if scenario.keep_alive == "learned"
            else Window(from_s=0.0, until_s=scenario.keep_s, learned=False)
        )  # fmt: skip
        before = queues[at].estimate
        mean = float(outcome.waiting_s[at]) / max(outcome.seconds, 1e-12)
        queues[at] = autoscaler.Queue(
            estimate=autoscaler.smoothed(before, mean, scenario.alpha), looked_s=end_s, busy_s=end_s
        )


def _row(policy: str, number: int, tasks: Tasks, outcome: Outcome) -> Row:
    own = int(outcome.roles.sum())
    starts = int(outcome.starts.sum())
    return Row(
        policy=policy,
        round=number,
        clients=len(tasks.roster),
        seconds=outcome.seconds,
        aggregate_s=outcome.seconds - float(tasks.ready.max()),
        internode_bytes=outcome.internode_bytes,
        nodes=int((outcome.counts > 0).sum()),
        starts=starts,
        reuses=own - starts,
        cpu_s=outcome.cpu_s,
        oversubscribed=int(np.maximum(outcome.counts - tasks.capacities, 0).sum()),
    )


def total(rows: Sequence[Row]) -> Total:
    """What a policy comes to."""
    return Total(
        policy=rows[0].policy,
        seconds=statistics.median(row.seconds for row in rows),
        aggregate_s=statistics.median(row.aggregate_s for row in rows),
        internode_bytes=sum(row.internode_bytes for row in rows),
        nodes=statistics.fmean(row.nodes for row in rows),
        starts=sum(row.starts for row in rows),
        reuses=sum(row.reuses for row in rows),
        cpu_s=sum(row.cpu_s for row in rows),
    )


__all__ = ["EXACT_MOST", "Row", "Total", "simulate", "total"]
