"""On which node the next client goes: one formula per policy, by name.

Owns the ranking of nodes.  Does not own what fits (`fits`, the same for every policy), nor
the order of clients, stickiness or overload (planner.py, the only caller).

A policy gives a node a rank from the node and the number of clients that this plan has put
there; the lowest rank among the nodes where one more client fits is chosen, ties by name.
A rank depends on its own node alone, so the planner keeps nodes in a heap and n clients on
m nodes cost O((n + m) log m).

With kᵢ the arrival rate (1/s) and Eᵢ the mean time in service (s) of what node i serves
already, kᵢ·Eᵢ updates are in service there (Little 1961, L = λ·W).  With pᵢ clients put
there by this plan its residual capacity, in updates, is

    RCᵢ = MCᵢ − kᵢ·Eᵢ − pᵢ

LIFL (Qi, Ramakrishnan, Lee, MLSys 2024, arXiv 2405.10968) defines RC = MC − k·E and places
by BestFit; the others are there to compare with.

Every rank but best fit's either grows with p or is the same for all p, and best fit's falls only
for the node that was chosen last: what the planner's heap relies on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Final

from lifl.errors import InvalidJob
from lifl.placement.snapshot import Node

Policy = Callable[[Node, int], float]

ROUNDING: Final = 1e-9  # k·E is a product of measurements: 8 − 0.1·10 is to leave room for 7


def residual(node: Node, placed: int) -> float:
    """RC = MC − k·E − placed, in updates; negative when oversubscribed."""
    return node.capacity_updates - node.arrival_per_s * node.service_s - placed


def fits(node: Node, placed: int) -> bool:
    """Whether one more client fits: RC ≥ 1."""
    return residual(node, placed) >= 1 - ROUNDING


def room(node: Node) -> int:
    """How many clients fit on a node without any: ⌊MC − k·E⌋, at least 0."""
    return max(0, math.floor(residual(node, 0) + ROUNDING))


def bestfit(node: Node, placed: int) -> float:
    """rank = RC: the fullest node that still has room.

    LIFL's policy (MLSys 2024), after best fit for bin packing (Johnson et al. 1974): a node
    is filled before the next is touched, so updates meet in shared memory.  Among *unequal
    idle* nodes the smallest is filled first, which can take more nodes than worst fit.
    """
    return residual(node, placed)


def firstfit(node: Node, placed: int) -> float:
    """rank = 0: the first node by name that has room (first fit, Johnson et al. 1974)."""
    return 0.0


def worstfit(node: Node, placed: int) -> float:
    """rank = −RC: the emptiest node; spreads, and so pays a crossing for every node."""
    return -residual(node, placed)


def least_connections(node: Node, placed: int) -> float:
    """rank = k·E + p: the node that serves fewest updates, however large it is.

    The rule of load balancers (`least_conn` in nginx; LIFL's baseline from Knative): unlike
    worst fit it does not know capacities.
    """
    return node.arrival_per_s * node.service_s + placed


POLICIES: Final[dict[str, Policy]] = {
    "bestfit": bestfit,
    "firstfit": firstfit,
    "worstfit": worstfit,
    "least-connections": least_connections,
}

RANDOM: Final = "random"  # depends on a seed, and so is made anew for every plan
NAMES: Final = (*POLICIES, RANDOM)


def at_random(seed: int) -> Policy:
    """rank = time of node i's (p + 1)-th event in a Poisson process of rate 1, from (seed, i).

    The baseline that knows nothing.  Events of equal processes are as likely to be the next one
    whatever happened before (the exponential distribution has no memory: Ross, "Introduction to
    Probability Models", chapter 5), so each client goes to any of the nodes with room with the
    same probability; and the rank depends on its own node alone, as every policy's must.
    """
    clocks: dict[str, tuple[random.Random, list[float]]] = {}

    def rank(node: Node, placed: int) -> float:
        if node.name not in clocks:
            clocks[node.name] = random.Random(f"{seed}:{node.name}"), []
        clock, events = clocks[node.name]
        while len(events) <= placed:
            events.append((events[-1] if events else 0.0) + clock.expovariate(1.0))
        return events[placed]

    return rank


def policy(name: str, *, seed: int = 0) -> Policy:
    """The policy of that name; only `random` depends on the seed.

    Raises:
        InvalidJob: there is none; the sentence lists those there are.
    """
    if name == RANDOM:
        return at_random(seed)
    try:
        return POLICIES[name]
    except KeyError:
        known = ", ".join(NAMES)
        raise InvalidJob(f"no placement policy {name!r}: choose one of {known}") from None
