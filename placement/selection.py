"""Which clients take part in a round.

Owns the draw: `select` at random, `power_of_choice` and `oort` by what clients have shown
(history.py), and how many more are drawn than a round needs.  Knows nothing of nodes, connections
or deadlines; planning.py calls it with the names of the clients that are there, and hands the
result to the planner as the round's roster: a client's place in the list is its bit in every
client set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

from lifl.errors import Busy
from lifl.placement.history import History, Seen

ROUNDING = 1e-9  # 0.07 · 100 is 7.000000000000001: seven clients, not eight


def draw_size(count: int, *, fraction: float, minimum: int) -> int:
    """m of K = `count` candidates; the formula is in `select`."""
    return min(count, max(math.ceil(fraction * count - ROUNDING), minimum, 1))


def select(
    candidates: Sequence[str],
    *,
    fraction: float,
    minimum: int,
    round: int,  # noqa: A002 (the field's word)
    seed: int,
) -> list[str]:
    """A uniform random m of the K candidates, without replacement, sorted by key.

        m = min(K, max(⌈C·K⌉, minimum, 1))

    C is FedAvg's fraction of clients per round (McMahan et al., "Communication-Efficient
    Learning of Deep Networks from Decentralized Data", AISTATS 2017, algorithm 1:
    m = max(C·K, 1)).  Taken are the m candidates with the smallest hash of (seed, round,
    key): the draw depends on nothing else, not on the order of arrival nor on Python's
    generator, and a client that joins or leaves displaces at most one other when m stays.

    Args:
        candidates: client keys, in any order; a key that comes twice counts once.
        fraction: C, 0 < C ≤ 1.
        minimum: fewest clients of a round (`min_clients`).
        round: number of the round.
        seed: the job's.

    Raises:
        Busy: fewer candidates than `minimum`, or none.
        ValueError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}: it must be above 0 and at most 1")
    keys = sorted(set(candidates))
    check_enough(len(keys), minimum=minimum, round=round)
    count = draw_size(len(keys), fraction=fraction, minimum=minimum)
    return at_random(keys, count=count, round=round, seed=seed)


def check_enough(count: int, *, minimum: int, round: int) -> None:  # noqa: A002
    """
    Raises:
        Busy: fewer candidates than a round needs.
    """
    needed = max(minimum, 1)
    if count < needed:
        raise Busy(
            f"{count} of at least {needed} clients are connected: wait for more, "
            "or lower the job's minimum",
            round=round,
        )


def at_random(
    candidates: Sequence[str],
    *,
    count: int,
    round: int,  # noqa: A002
    seed: int,
) -> list[str]:
    """`count` of the candidates, each as likely; how is in `select`."""

    def ticket(key: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{round}:{key}".encode(), digest_size=16).digest()

    unique = sorted(set(candidates))
    return unique if count >= len(unique) else sorted(sorted(unique, key=ticket)[:count])


def over_provisioned(count: int, *, of: int, factor: float) -> int:
    """How many are drawn so that `count` send: min(of, ⌈factor·count⌉).

    Bonawitz et al., "Towards Federated Learning at Scale: System Design", MLSys 2019, section 9:
    the server selects more than it needs, by 30 % say, so that those that drop out or are slow
    keep nobody waiting.  The round closes when `enough` have sent.
    """
    return min(of, math.ceil(factor * count - ROUNDING))


def enough(drawn: int, *, factor: float, minimum: int) -> int | None:
    """Updates with which an over-provisioned round closes; None: it waits for all.

    ⌈drawn / factor⌉, at least `minimum`.
    """
    if factor <= 1:
        return None
    return min(drawn, max(minimum, math.ceil(drawn / factor - ROUNDING)))


# -- by what clients have shown ---------------------------------------------------------------
CHOICES: Final = 2.0  # candidates for each place, of power-of-choice
EXPLORE_FIRST: Final = 0.9
EXPLORE_DECAY: Final = 0.98
EXPLORE_LEAST: Final = 0.2
CUT_OFF: Final = 0.95
SLOW_POWER: Final = 2.0
UNCERTAINTY: Final = 0.1
PACE_FIRST, PACE_STEP = 0.3, 0.1  # share of known times that is no slower than preferred
PACE_WINDOW: Final = 20  # rounds


def power_of_choice(
    candidates: Sequence[str],
    seen: Mapping[str, Seen],
    *,
    count: int,
    round: int,  # noqa: A002
    seed: int,
) -> list[str]:
    """`count` of the candidates: of twice as many drawn at random, those with the highest loss.

    Cho, Wang and Joshi, "Towards Understanding Biased Client Selection in Federated Learning",
    AISTATS 2022 (arXiv 2010.01243), in the variant that they call rpow-d: d ≥ m candidates are
    drawn without replacement with probabilities in proportion to their data, here by weight
    (Efraimidis and Spirakis 2006: the d smallest −ln(u)/w), and ranked by the loss that each
    reported last.  No client is asked for its loss for this alone, as pow-d does.  Who has never
    reported one counts as infinitely high, and has the mean of the known weights.

    Returns:
        Keys, sorted.
    """
    keys = sorted(set(candidates))
    known = [seen[key].weight for key in keys if key in seen]
    mean = sum(known) / len(known) if known else 1.0

    def draw(key: str) -> float:
        weight = seen[key].weight if key in seen else mean
        return -math.log(_chance(seed, round, key)) / max(weight, 1e-300)

    def loss(key: str) -> float:
        last = seen[key].loss if key in seen else None
        return math.inf if last is None else last

    drawn = sorted(keys, key=draw)[: max(count, math.ceil(CHOICES * count))]
    # of equals any, by a chance that has nothing to do with having been drawn
    ranked = sorted(drawn, key=lambda key: (-loss(key), _chance(seed, -round, key)))
    return sorted(ranked[:count])


def oort(
    candidates: Sequence[str],
    history: History,
    *,
    count: int,
    round: int,  # noqa: A002
    seed: int,
) -> list[str]:
    """`count` of the candidates: fast ones whose loss is high, and some that nobody knows yet.

    Lai et al., "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021,
    algorithm 1.  Of a client last seen in round r with utility U (history.py says how far that is
    the paper's) and time t

        score = ( U + √(0.1·ln R / r)·U_max ) · (T / t)^2     the last factor only where t > T

    in round R, the second term so that old knowledge is looked at again; U_max scales it to the
    utilities at hand.  A share ε of the places goes to clients never seen, uniformly at random; ε
    starts at 0.9 and falls by 2 % a round to 0.2.  The others go, with probability in proportion
    to the score, to those whose score is at least 95 % of the last one that would just get in.

    The preferred time T is a quantile of the known times: 30 %, and 10 % more each time that the
    utility of the last 20 rounds together was below that of the 20 before (the paper's pacer,
    which trades time for utility when the latter runs dry).

    Different from the paper: clients that are never seen are not ranked by speed, of which
    nothing is known; nobody is dropped for having taken part often.

    Returns:
        Keys, sorted.
    """
    keys = sorted(set(candidates))
    seen = history.clients
    fresh = [key for key in keys if key not in seen]
    known = [key for key in keys if key in seen]
    explore = max(EXPLORE_LEAST, EXPLORE_FIRST * EXPLORE_DECAY ** (round - 1))
    new = min(len(fresh), max(count - len(known), math.floor(explore * count + 0.5)))
    chosen = sorted(fresh, key=lambda key: _chance(seed, round, key))[:new]

    places = min(count - new, len(known))
    if places > 0:
        preferred_s = _quantile([seen[key].time_s for key in known], _pace(history, round))
        most = max(seen[key].utility for key in known)

        def score(key: str) -> float:
            last = seen[key]
            bonus = math.sqrt(UNCERTAINTY * math.log(max(round, 1)) / max(last.round, 1))
            value = last.utility + bonus * most
            if last.time_s > preferred_s > 0:
                value *= (preferred_s / last.time_s) ** SLOW_POWER
            return value

        scores = {key: score(key) for key in known}
        cut_off = CUT_OFF * sorted(scores.values(), reverse=True)[places - 1]
        pool = [key for key in known if scores[key] >= cut_off]
        chosen += sorted(
            pool, key=lambda key: -math.log(_chance(seed, round, key)) / max(scores[key], 1e-300)
        )[:places]
    return sorted(chosen)


def _pace(history: History, round_: int) -> float:
    """Share of known times up to which nobody is slowed down: the pacer's."""
    share = PACE_FIRST
    for end in range(2 * PACE_WINDOW, round_, PACE_WINDOW):
        before, last = (
            sum(history.utilities.get(at, 0.0) for at in range(first + 1, first + PACE_WINDOW + 1))
            for first in (end - 2 * PACE_WINDOW, end - PACE_WINDOW)
        )
        if last < before:
            share += PACE_STEP
    return min(1.0, share)


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _chance(seed: int, round_: int, key: str) -> float:
    """Uniform in (0, 1], from nothing but these."""
    digest = hashlib.blake2b(f"{seed}:{round_}:{key}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") + 1) / 2**64
