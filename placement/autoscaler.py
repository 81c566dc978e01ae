"""How many aggregators a node is to have: from what waits there, smoothed over plan periods.

Owns the queue estimate and what follows from it.  Does not own who is in which leaf (tree.py),
what a fan-in costs (fanin.py) nor how long an idle process stays (keepalive.py).  Pure: states in,
states and wishes out; times are the caller's clock.  Used by the simulator, and by whoever plans
for queues that are measured rather than for a roster that is known.

    1. Within a plan period the queue is averaged over time: Q_t.  By Little's law (1961) that is
       k·E, arrival rate times mean time in service, without either having to be known.
    2. At the end of the period                     Q̂_t = α·Q̂_{t−1} + (1 − α)·Q_t
       an exponentially weighted moving average; Q̂ of the first period is its Q.
    3. leaves = ⌈Q̂ / fan-in⌉, at most one for each core and each input slot
    4. one middle where there is more than one leaf; the top where Q̂ is largest
    5. nothing at all once a node's queue has been empty for `idle_s`; one leaf at once when an
       update arrives where there was none (from zero by event, without waiting for a period)

This is the hierarchy planning of LIFL (Qi, Ramakrishnan, Lee, MLSys 2024, arXiv 2405.10968),
which smooths queues by EWMA and plans anew every plan period.  Both constants are options: α = 0.7
is what others cite as the paper's coefficient, here as the weight of the past; the period of 120 s
is a choice of this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lifl.placement.fanin import leaves_bound


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the autoscaler looks at queues.

    Attributes:
        alpha: weight of what was; 0: only the last period counts.
        period_s: of planning.
        idle_s: without an update for so long a node has no role.
    """

    alpha: float = 0.7
    period_s: float = 120.0
    idle_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}: it must be at least 0 and below 1")
        if not (self.period_s > 0 and self.idle_s > 0):
            raise ValueError(f"period {self.period_s} s, idle {self.idle_s} s: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What is known of one node's queue.

    Attributes:
        estimate: Q̂; None before the first period has ended.
        length: updates that wait or are in service now; a mean where only that is known.
        since_s: when the current period began.
        looked_s: until when `area` is summed up.
        area: update-seconds of this period so far.
        busy_s: when there was something in the queue, last; None: never.
    """

    estimate: float | None = None
    length: float = 0
    since_s: float = 0.0
    looked_s: float = 0.0
    area: float = 0.0
    busy_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Room:
    """What bounds a node's leaves."""

    cores: int
    input_slots: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Roles that a node is to have."""

    leaves: int = 0
    middle: bool = False
    top: bool = False

    @property
    def roles(self) -> int:
        return self.leaves + self.middle + self.top


def pass_time(queue: Queue, now_s: float, settings: Settings) -> Queue:
    """The queue as it is at `now_s`, its length unchanged since; ends the periods that are over.

    Raises:
        ValueError: a time before one that was already looked at.
    """
    if now_s < queue.looked_s:
        raise ValueError(f"time goes back from {queue.looked_s} s to {now_s} s")
    estimate, since_s = queue.estimate, queue.since_s
    area, looked_s = queue.area, queue.looked_s
    ended = int((now_s - since_s) / settings.period_s)
    if ended > 0:
        area += queue.length * (since_s + settings.period_s - looked_s)
        estimate = smoothed(estimate, area / settings.period_s, settings.alpha)
        if ended > 1:  # of further periods each had this length throughout
            kept = settings.alpha ** (ended - 1)
            estimate = kept * estimate + (1 - kept) * queue.length
        since_s += ended * settings.period_s
        area, looked_s = 0.0, since_s
    area += queue.length * (now_s - looked_s)
    busy_s = now_s if queue.length else queue.busy_s
    return replace(
        queue, estimate=estimate, since_s=since_s, area=area, looked_s=now_s, busy_s=busy_s
    )


def measured(
    queue: Queue, now_s: float, *, update_s: float, length: int, settings: Settings
) -> Queue:
    """The queue after somebody else has looked at it all the time, and says what it came to.

    Args:
        update_s: its length integrated over the time since `queue.looked_s`.
        length: now.

    A period that ended in between is given its part of it by time.

    Raises:
        ValueError: a time before one that was already looked at.
    """
    passed_s = now_s - queue.looked_s
    mean = update_s / passed_s if passed_s > 0 else 0.0
    moved = pass_time(replace(queue, length=mean), now_s, settings)
    return replace(moved, length=length, busy_s=now_s if update_s or length else queue.busy_s)


def smoothed(before: float | None, now: float, alpha: float) -> float:
    """Q̂_t = α·Q̂_{t−1} + (1 − α)·Q_t; the first is taken as it is."""
    return now if before is None else alpha * before + (1 - alpha) * now


def change(queue: Queue, now_s: float, by: int, settings: Settings) -> Queue:
    """So many updates more, or fewer, from `now_s` on.

    Raises:
        ValueError: fewer than none.
    """
    moved = pass_time(queue, now_s, settings)
    if moved.length + by < 0:
        raise ValueError(f"{-by} updates leave a queue of {moved.length}")
    return replace(moved, length=moved.length + by, busy_s=now_s if by > 0 else moved.busy_s)


def leaves(queue: Queue, now_s: float, *, fan_in: int, room: Room, settings: Settings) -> int:
    """Leaves of one node at `now_s`: rules 3 and 5."""
    queue = pass_time(queue, now_s, settings)
    if not queue.length and (queue.busy_s is None or now_s - queue.busy_s >= settings.idle_s):
        return 0
    expected = queue.estimate if queue.estimate is not None else float(queue.length)
    return leaves_for(expected, fan_in=fan_in, room=room)


def leaves_for(expected: float, *, fan_in: int, room: Room) -> int:
    """Rule 3, of a node that has something to do."""
    bound = leaves_bound(cores=room.cores, input_slots=room.input_slots)
    return min(max(1, math.ceil(expected / fan_in - 1e-9)), bound)


def scale(
    queues: Mapping[str, Queue], now_s: float, *, fan_in: int, rooms: Mapping[str, Room],
    settings: Settings,
) -> dict[str, Scale]:  # fmt: skip
    """Roles of every node; of nodes with equal queues the first by name has the top."""
    counts = {
        name: leaves(queue, now_s, fan_in=fan_in, room=rooms[name], settings=settings)
        for name, queue in queues.items()
    }
    busy = sorted(name for name, count in counts.items() if count)

    def traffic(name: str) -> float:
        now = pass_time(queues[name], now_s, settings)
        return float(now.length) if now.estimate is None else now.estimate

    top = max(busy, key=traffic, default=None)
    return {
        name: Scale(leaves=count, middle=count > 1, top=name == top)
        for name, count in counts.items()
    }
