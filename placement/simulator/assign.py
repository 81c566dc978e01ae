"""planner.py's placement over arrays: which node each client of a roster goes to.

Owns the same decisions as `planner._place` for clients that are not pinned, on nodes that are all
alive and take clients, between rounds; a test holds it against the planner.  A policy's rank
depends on its own node and count alone, so the order in which nodes are chosen is the sorted order
of all (rank, node) with room, and no client needs to be looked at by itself.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import numpy as np

from lifl.placement import policies
from lifl.placement.simulator.world import Floats, Ints, Site
from lifl.placement.snapshot import Node


def assign(policy: str, site: Site, capacities: Ints, homes: Ints, *, seed: int) -> Ints:
    """Node of each client, in roster order.

    Args:
        capacities: MC of each node, at least 1.
        homes: node where each was, -1 for none.
    """
    nodes = len(site)
    placed = np.where(homes >= 0, homes, -1)
    place = _place_among_equals(homes)
    stays = (homes >= 0) & (place < capacities[np.maximum(homes, 0)])
    placed = np.where(stays, homes, -1)
    moving = np.flatnonzero(~stays)
    if not len(moving):
        return placed
    count = np.bincount(placed[stays], minlength=nodes)
    left = np.maximum(capacities - count, 0)
    fitting = min(len(moving), int(left.sum()))
    order = _order(policy, site, count, left, fitting, seed)
    placed[moving[:fitting]] = order
    beyond = moving[fitting:]
    if len(beyond):
        count = count + np.bincount(order, minlength=nodes)
        placed[beyond] = _overflow(capacities, count, homes[beyond])
    return placed


def _place_among_equals(homes: Ints) -> Ints:
    """How many clients before each have the same home."""
    by_home = np.argsort(homes, kind="stable")
    ordered = homes[by_home]
    first = np.searchsorted(ordered, ordered, side="left")
    places = np.empty_like(by_home)
    places[by_home] = np.arange(len(homes)) - first
    return places


def _order(policy: str, site: Site, count: Ints, left: Ints, wanted: int, seed: int) -> Ints:
    """The first `wanted` nodes that the policy chooses, one after the other."""
    nodes = np.arange(len(site))
    if policy in ("bestfit", "firstfit"):  # a node that is chosen stays the first until it is full
        first = np.lexsort((nodes, left if policy == "bestfit" else nodes))
        first = first[left[first] > 0]
        return np.repeat(first, left[first])[:wanted]
    if not wanted:
        return np.empty(0, np.int64)
    most = max(64, 2 * -(-wanted // len(site)))  # places of each node that are looked at
    while True:
        looked = np.minimum(left, most)
        entries = np.repeat(nodes, looked)
        at = np.arange(len(entries)) - np.repeat(np.cumsum(looked) - looked, looked)
        ranks = _ranks(policy, site, entries, at, count, left, seed)
        first = np.lexsort((entries, ranks))[:wanted]
        cut = np.flatnonzero(looked < left)  # nodes with more places, which rank higher
        last = np.cumsum(looked)[cut] - 1
        if len(first) == wanted and not (ranks[last] < ranks[first[-1]]).any():
            return entries[first]
        most *= 2


def _ranks(
    policy: str, site: Site, entries: Ints, at: Ints, count: Ints, left: Ints, seed: int
) -> Floats:
    """As policies.py has them, of a node with `at` more clients than it has now."""
    match policy:
        case "worstfit":
            return (at - left[entries]).astype(np.float64)
        case "least-connections":
            return (at + count[entries]).astype(np.float64)
        case "random":
            rank = policies.at_random(seed)
            some = [Node(name=name, capacity_updates=1) for name in site.names]
            placed = (at + count[entries]).tolist()
            found = (rank(some[n], p) for n, p in zip(entries.tolist(), placed, strict=True))
            return np.fromiter(found, np.float64, len(entries))
    raise ValueError(f"no placement policy {policy!r}")


def _overflow(capacities: Ints, count: Ints, homes: Ints) -> Ints:
    """Nodes of clients for whom there is no room: home, or where the most room is."""
    if (homes >= 0).all():
        return homes
    if (homes < 0).all():
        return _emptiest(capacities, count, len(homes))
    heap = [(int(c - m), at) for at, (c, m) in enumerate(zip(count, capacities, strict=True))]
    heapify(heap)
    load = count.astype(np.int64)
    found = []
    for home in homes.tolist():
        while home < 0 and heap[0][0] != load[heap[0][1]] - capacities[heap[0][1]]:
            _, at = heappop(heap)
            heappush(heap, (int(load[at] - capacities[at]), at))
        chosen = home if home >= 0 else heap[0][1]
        load[chosen] += 1
        found.append(chosen)
    return np.array(found)


def _emptiest(capacities: Ints, count: Ints, wanted: int) -> Ints:
    """Each to the node with most room, one after the other: water that is poured in."""
    level = np.sort(count - capacities)
    filled = np.arange(1, len(level) + 1) * level - np.cumsum(level)  # to raise the first i to i-th
    reached = int(np.searchsorted(filled, wanted, side="right"))
    height = (wanted + int(level[:reached].sum())) // reached + 1  # every node below is enough
    more = np.maximum(height - (count - capacities), 0)
    entries = np.repeat(np.arange(len(count)), more)
    at = np.arange(len(entries)) - np.repeat(np.cumsum(more) - more, more)
    ranks = at + (count - capacities)[entries]
    return entries[np.lexsort((entries, ranks))[:wanted]]
