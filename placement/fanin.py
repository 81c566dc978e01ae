"""`fanIn: auto`: how many leaves a node is to have, by what a round costs it.

Owns the cost model and the choice.  Pure; called by planner.py for every node of a plan whose job
says `auto`, with figures that agents measured when they started.

A node takes in Q updates of B bytes each; a sum has S bytes.  Its link and gateway bring R bytes
a second, so the last update is there after Q·B / R.  Memory moves M bytes a second for each core:
a pass over k inputs reads k·B, reads and writes the sum once (k·B + 2·S), or only writes it when
it is the first (k·B + S).  The measured fold_bytes_s is k·B / time of a first pass with k = 4,
hence M = 5/4 · fold_bytes_s.

With L leaves on c cores (L ≤ c and L ≤ input slots: a leaf without a core or a slot of its own
has nothing to do at that time) eager aggregation folds in pairs while updates come in, so that

    leaf work per update     u = (2·B + 2·S) / 2M
    middle work per leaf     v = (L > 1) · 2·S / M
    everything folded after  max( Q·B/R + (B + 2·S)/M,          the link brings the last one
                                  Q·u / min(L, c),              leaves are the bottleneck
                                  (Q·u + L·v) / c )             cores are

and lazy aggregation, which folds when all are there, after

                             Q·B/R + ⌈L/c⌉·(⌈Q/L⌉·B + S)/M

After that come, one after the other, the last level's work and hand-offs of h seconds each:

    middle                   (L > 1) · ( h + (eager ? S + 2·S : L·S + S) / M )
    top                      h + 2·S / M

and what processes cost to start, spread over the rounds that they are expected to serve:
⌈cold / c⌉·start / rounds, with cold = roles − warm runtimes.

Chosen are the fewest leaves with the least sum; the fan-in is ⌈Q / L⌉.  Every further leaf adds a
sum that is written and read again, so that it pays only where folding, not the link, is slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

LEAVES_MOST = 64  # of a node; beyond that sums cost more than a level could bring


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a round of this job asks of a node.

    Attributes:
        update_bytes, sum_bytes: B, S.
        lazy: the job's mode.
        start_s: CPU seconds until a new process can take a role.
        handoff_s: h, from one process to the next.
        rounds: that a process is expected to serve.
    """

    update_bytes: int
    sum_bytes: int
    lazy: bool = False
    start_s: float = 0.4
    handoff_s: float = 20e-6
    rounds: int = 10


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a node has for it; the names are those of `snapshot.Node`."""

    cores: int
    input_slots: int
    fold_bytes_s: float
    ingress_bytes_s: float
    runtimes_warm: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fan-in, the leaves that it gives, and the seconds that the model expects."""

    fan_in: int
    leaves: int
    expected_s: float


def leaves_bound(*, cores: int, input_slots: int) -> int:
    """Most leaves that can be at work at once; 1 where nothing is known of a node."""
    return max(1, min(cores, input_slots or cores, LEAVES_MOST))


@lru_cache(maxsize=4096)
def choose(clients: int, work: Work, means: Means) -> Choice:
    """The cheapest number of leaves; of equals the fewest.

    Without figures (rates of 0) or clients there is one leaf for all.
    """
    if clients < 1 or means.fold_bytes_s <= 0 or means.ingress_bytes_s <= 0:
        return Choice(fan_in=max(1, clients), leaves=min(1, clients), expected_s=0.0)
    bound = leaves_bound(cores=means.cores, input_slots=means.input_slots)
    best: Choice | None = None
    for leaves in range(1, min(clients, bound) + 1):
        fan_in = -(-clients // leaves)
        if -(-clients // fan_in) != leaves:
            continue  # no fan-in gives this number
        expected_s = seconds(clients, leaves, work, means)
        if best is None or expected_s < best.expected_s:
            best = Choice(fan_in=fan_in, leaves=leaves, expected_s=expected_s)
    assert best is not None
    return best


def seconds(clients: int, leaves: int, work: Work, means: Means) -> float:
    """What a round costs a node with so many leaves; the formula is in the module's docstring."""
    update, total = work.update_bytes, work.sum_bytes
    memory_bytes_s = 1.25 * means.fold_bytes_s
    cores = max(1, means.cores)
    levels = leaves > 1
    all_in_s = clients * update / means.ingress_bytes_s
    if work.lazy:
        inputs = math.ceil(clients / leaves)
        folded_s = all_in_s + math.ceil(leaves / cores) * (inputs * update + total) / memory_bytes_s
        middle_bytes = (leaves + 1) * total
    else:
        unit_s = (update + total) / memory_bytes_s
        sums_s = levels * leaves * 2 * total / memory_bytes_s
        folded_s = max(
            all_in_s + (update + 2 * total) / memory_bytes_s,
            clients * unit_s / min(leaves, cores),
            (clients * unit_s + sums_s) / cores,
        )
        middle_bytes = 3 * total
    middle_s = levels * (work.handoff_s + middle_bytes / memory_bytes_s)
    top_s = work.handoff_s + 2 * total / memory_bytes_s
    cold = max(0, leaves + levels + 1 - means.runtimes_warm)
    return folded_s + middle_s + top_s + math.ceil(cold / cores) * work.start_s / work.rounds
