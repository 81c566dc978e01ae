"""When a job ends before its last round.

Owns the decision over `spec.stop`: a goal, and patience, and what of the past it depends on.  Pure:
figures in, a sentence out.  Does not know where figures come from (record.py) nor how a job ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lifl.api.job import Stop


def verdict(stop: Stop | None, values: Mapping[int, float]) -> str | None:
    """Why the job is to end now; None while it is to go on.

    Args:
        values: round -> the figure that `stop` watches, of the rounds for which it is known.

    The goal counts as soon as one round has reached it.  With patience p, the job also ends when
    the best figure is p or more measured rounds old; a round that only equals it is no better.
    """
    if stop is None or not values:
        return None
    higher = stop.at_least is not None
    goal = stop.at_least if stop.at_least is not None else stop.at_most
    assert goal is not None
    sign = 1.0 if higher else -1.0
    rounds = sorted(values)
    words = "at least" if higher else "at most"
    for number in rounds:
        if sign * values[number] >= sign * goal:
            return (
                f"{stop.metric} was {values[number]:.6g} in round {number}; "
                f"the goal is {words} {goal:g}"
            )
    best = max(rounds, key=lambda number: (sign * values[number], -number))
    idle = sum(number > best for number in rounds)
    if stop.patience is not None and idle >= stop.patience:
        return (
            f"{stop.metric} has not been better than {values[best]:.6g} of round {best} "
            f"for {idle} measured rounds; patience is {stop.patience}"
        )
    return None


def worth_keeping(stop: Stop, values: Mapping[int, float]) -> dict[int, float]:
    """Of the figures known so far, those on which a later verdict can depend.

    That is the best one and, with patience, those after it, of which there are never more than
    patience allows.
    """
    if not values:
        return {}
    sign = 1.0 if stop.at_least is not None else -1.0
    best = max(values, key=lambda number: (sign * values[number], -number))
    return {
        number: value
        for number, value in values.items()
        if number == best or (stop.patience is not None and number > best)
    }


class Watch:
    """The figure that `spec.stop` watches, round by round.

    The evaluator's counts where it reports that name, else the clients'; where there is an
    evaluator, clients' figures say nothing before it has been heard once.
    """

    def __init__(self, stop: Stop | None, *, evaluated: bool, rounds: int) -> None:
        self.stop, self.evaluated, self.rounds = stop, evaluated, rounds
        self._values: dict[str, dict[int, float]] = {"evaluator": {}, "clients": {}}
        self._names: dict[str, set[str]] = {"evaluator": set(), "clients": set()}
        self._heard: set[str] = set()  # who has reported at all
        self._is_checked = False

    def take(
        self, number: int, metrics: Mapping[str, Any], evaluation: Mapping[str, Any] | None
    ) -> None:
        """What is known of a round by now."""
        if self.stop is None:
            return
        for who, figures in (("clients", metrics), ("evaluator", evaluation)):
            if figures is None:
                continue
            self._heard.add(who)
            if not self._is_checked:
                self._names[who] |= figures.keys()
            if self.stop.metric in figures:
                values = self._values[who] | {number: figures[self.stop.metric]}
                self._values[who] = worth_keeping(self.stop, values)

    def verdict(self) -> str | None:
        """Why the job is to end now; None while it is to go on."""
        if self.evaluated and "evaluator" not in self._heard:
            return None
        return verdict(self.stop, self._values["evaluator"] or self._values["clients"])

    def unheard_of(self, number: int) -> str | None:
        """Once, when all of a round is known: that nobody has reported what `stop` watches."""
        if self.stop is None or self._is_checked or not number:
            return None
        if self.evaluated and "evaluator" not in self._heard:
            return None  # it has skipped this round
        self._is_checked = True
        if self._values["evaluator"] or self._values["clients"]:
            return None
        sources = ["evaluator", "clients"] if self.evaluated else ["clients"]
        said = ", ".join(
            f"{who}: {', '.join(sorted(self._names[who])) or 'nothing'}" for who in sources
        )
        return (
            f"spec.stop.metric is {self.stop.metric!r}, which nobody has reported by round "
            f"{number} ({said}); unless somebody does, all {self.rounds} rounds are run"
        )
