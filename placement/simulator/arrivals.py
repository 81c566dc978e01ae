"""When the clients of a round have their updates ready: seconds after the round's start.

Owns the processes and reading a trace.  The same seed and round give the same times, whatever the
policy.  Formulas: a Poisson process has exponential gaps; one with rate λ(t) is a Poisson process
of rate 1 in the time Λ(t) = ∫ λ (Çinlar, "Introduction to Stochastic Processes", 1975, chapter 4),
which is what `diurnal` solves for t.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifl.errors import InvalidJob
from lifl.placement.simulator.scenario import Arrivals

Times = NDArray[np.float64]
Trace = list[Times]


def ready_times(
    arrivals: Arrivals, count: int, *, began_s: float, number: int, seed: int, trace: Trace
) -> Times:
    """One time for each of `count` clients, in their order.

    Args:
        began_s: the round's start since the first one's: where `diurnal` is in its period.
        number: of the round, from 1.
        trace: of `arrivals.file`, read by `read_trace`.
    """
    chance = np.random.default_rng([seed, number])
    match arrivals.kind:
        case "poisson":
            times = np.cumsum(chance.exponential(1 / arrivals.rate_per_s, count))
        case "diurnal":
            times = _diurnal(arrivals, np.cumsum(chance.exponential(1.0, count)), began_s)
        case "flash":
            crowd = round(arrivals.flash_share * count)
            steady = np.cumsum(chance.exponential(1 / arrivals.rate_per_s, count - crowd))
            at_once = arrivals.flash_at_s + chance.uniform(0, arrivals.flash_width_s, crowd)
            times = np.concatenate([steady, at_once])
        case "trace":
            recorded = trace[(number - 1) % len(trace)]
            times = recorded if len(recorded) == count else chance.choice(recorded, count)
    return chance.permutation(times)


def _diurnal(arrivals: Arrivals, amounts: Times, began_s: float) -> Times:
    """Times t with Λ(t) = amount, λ(t) = rate·(1 + a·sin(2π·(began + t) / period)).

    Λ is increasing, since a < 1; bisection to the last bit that matters.
    """
    omega = 2 * np.pi / arrivals.period_s
    rate, a = arrivals.rate_per_s, arrivals.amplitude

    def total(t: Times) -> Times:
        swing = np.cos(omega * began_s) - np.cos(omega * (began_s + t))
        return np.asarray(rate * (t + a * swing / omega))

    low, high = np.zeros_like(amounts), amounts / (rate * (1 - a))
    for _ in range(60):
        middle = (low + high) / 2
        below = total(middle) < amounts
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def read_trace(path: Path) -> Trace:
    """Times of every round that a run's trace.jsonl has, sorted.

    Of a round that is there twice, as after a coordinator's restart, the last counts.

    Raises:
        InvalidJob: it cannot be read, or is no trace.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        by_round = {row["round"]: row["accepted_s"] for row in rows}
        found = [
            np.sort(np.array([t for times in accepted.values() for t in times], float))
            for _, accepted in sorted(by_round.items())
        ]
    except OSError as error:
        raise InvalidJob(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidJob(f"{path} is no trace: a run leaves one, trace.jsonl") from None
    found = [times for times in found if len(times)]
    if not found:
        raise InvalidJob(f"{path} holds no round with an update")
    return found
