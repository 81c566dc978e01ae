"""Which clients take part in a round.

Owns the draw.  Knows nothing of nodes, connections or deadlines; the coordinator calls it
with the keys of the clients that are there, and hands the result to the planner as the
round's roster: a client's place in the list is its bit in every client set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from lifl.errors import Busy

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
    needed = max(minimum, 1)
    if len(keys) < needed:
        raise Busy(
            f"{len(keys)} of at least {needed} clients are connected: wait for more, "
            "or lower the job's minimum",
            round=round,
        )
    count = draw_size(len(keys), fraction=fraction, minimum=minimum)

    def ticket(key: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{round}:{key}".encode(), digest_size=16).digest()

    return sorted(sorted(keys, key=ticket)[:count])
