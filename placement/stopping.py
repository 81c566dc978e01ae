"""When a job ends before its last round.

Owns the decision over `spec.stop`: a goal, and patience.  Pure: figures in, a sentence out.
Does not know where figures come from (record.py) nor how a job ends; called by the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping

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
            f"for {idle} rounds; patience is {stop.patience}"
        )
    return None
