"""When the runtimes of a job are stopped between rounds, and when they are there again.

Owns one job's quiet times on one node: since when nothing was to be done, what was learned of such
times (keepalive.py), and what follows.  Pure: the clock is the caller's, who stops and starts
runtimes (node.py).

    a round is over ─► quiet ─► the window is over: asleep ─► a descriptor for a role: awake
                       ▲   ▲                  │                          │
                       │   └──── awake ◄──────┘ the next is expected     └─► that idle time is seen
                       └─ all roles are there ◄─ planned ◄─ a plan, unless work has begun

A plan has every role started, which somebody waits for; it is no work, and a round in which nobody
answers is quiet from then on, however long it takes.

Below `least_s` nothing is stopped: what was learned counts where it says more.  With a limit, which
is the autoscaler's `idle_s`, runtimes go after that, whatever was learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lifl.placement.keepalive import Idle, Window, seen, verdict, window

Turn = Literal["stop", "start"]


@dataclass
class Idling:
    """One job on one node.

    Attributes:
        least_s: for so long runtimes stay in any case.
        limit_s: for no longer than that.
        quiet_since_s: when the last round was over, or the plan after it carried out; None: one is
            under way, or none has been.
        over: number of the last round that was over, and when.
        asleep: its runtimes were stopped.
        expecting: they are there again, since the next round is expected.
        planned: they are there for a plan, of which not every role is there yet, and nothing else.
    """

    least_s: float = math.inf
    limit_s: float = math.inf
    idle: Idle = field(default_factory=Idle)
    quiet_since_s: float | None = None
    over: tuple[int, float] = 0, 0.0
    asleep: bool = False
    expecting: bool = False
    planned: bool = False

    @property
    def window(self) -> Window:
        learned = window(self.idle, worth_s=max(self.least_s, 1e-9))
        until_s = min(max(learned.until_s, self.least_s), self.limit_s)
        return Window(from_s=learned.from_s, until_s=until_s, learned=learned.learned)

    def round_over(self, now_s: float, round_: int) -> None:
        """Nothing more is to be done for this round; may be said again."""
        if round_ != self.over[0]:  # a run that begins again repeats numbers
            self.over = round_, now_s
        self.planned = False
        if self.quiet_since_s is None:
            self.quiet_since_s = now_s

    def plan(self, at_s: float) -> None:
        """Every role is to be there, until `ready` says that it is."""
        if self.quiet_since_s is not None:
            self.work(at_s)
            self.planned = True

    def ready(self, now_s: float) -> None:
        """Every role of the plan is there; what has begun meanwhile goes on."""
        if self.planned:
            self.quiet_since_s, self.planned = now_s, False

    def work(self, at_s: float, round_: int | None = None) -> None:
        """Something is to be done from then on; earlier times belong to the round before.

        Args:
            round_: what it was done for, where somebody who did it says so, maybe after the end
                of that round.
        """
        number, over_at_s = self.over
        if self.quiet_since_s is None and (round_ is None or round_ > number):
            self.planned = False
        if self.quiet_since_s is None or at_s < self.quiet_since_s:
            return
        self.idle = seen(self.idle, at_s - self.quiet_since_s)
        if round_ is not None and round_ <= number:
            self.quiet_since_s = over_at_s
        else:
            self.quiet_since_s, self.asleep, self.expecting = None, False, False

    def turn(self, now_s: float) -> Turn | None:
        """What is to be done now; it is taken as done."""
        if self.quiet_since_s is None:
            return None
        said = verdict(self.window, now_s - self.quiet_since_s)
        if said == "stop" and not self.asleep:
            self.asleep, self.expecting = True, False
            return "stop"
        if said == "start" and self.asleep and not self.expecting:
            self.asleep, self.expecting = False, True
            return "start"
        return None

    def next_in_s(self, now_s: float) -> float | None:
        """When to look again; None: nothing comes with time alone."""
        if self.quiet_since_s is None:
            return None
        now, idle_s = self.window, now_s - self.quiet_since_s
        if idle_s < now.from_s:
            return now.from_s - idle_s if self.asleep else 0.0
        return None if self.asleep else max(0.0, now.until_s - idle_s)

    def is_to_go(self, idle_s: float) -> bool:
        """A runtime that has had no role for so long is wanted no more."""
        return idle_s >= self.window.until_s
