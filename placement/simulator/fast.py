"""One round over arrays: a million clients over a thousand nodes.

Owns the recurrences that follow from the model in world.py: all queues there are served in the
order of arrival, so that when an update is folded follows from the update before it.  The k-th
updates of all nodes are computed at once; the top's node, which waits for the others, at last.
Called by rounds.py; a test holds it against exact.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lifl.placement.fanin import Means, choose
from lifl.placement.simulator.assign import assign
from lifl.placement.simulator.scenario import Scenario
from lifl.placement.simulator.world import (
    Floats,
    Ints,
    Outcome,
    Rates,
    Site,
    Tasks,
    cpu_seconds,
    models_there,
    process_times,
    sum_crosses_s,
    work,
)
from lifl.placement.tree import leaf_count


def play(scenario: Scenario, site: Site, tasks: Tasks, policy: str, *, seed: int) -> Outcome:
    """One round."""
    homes = assign(policy, site, tasks.capacities, tasks.homes, seed=seed)
    counts = np.bincount(homes, minlength=len(site))
    leaves = np.array([_leaves(scenario, site, tasks, at, int(q)) for at, q in enumerate(counts)])
    top = int(np.argmax(counts))
    used = np.flatnonzero(counts)
    starts, roles = np.zeros(len(site), np.int64), np.zeros(len(site), np.int64)
    processes: list[list[float]] = [[] for _ in site.names]
    for at in used.tolist():
        processes[at], starts[at] = process_times(
            scenario, cores=int(site.cores[at]), leaves=int(leaves[at]), warm=tasks.warm[at],
            is_top=at == top,
        )  # fmt: skip
        roles[at] = leaves[at] + (leaves[at] > 1) + (at == top)

    by_node = np.lexsort((np.arange(len(homes)), homes))  # roster order on each node
    first = np.cumsum(counts) - counts
    place = np.empty(len(homes), np.int64)
    place[by_node] = np.arange(len(homes)) - np.repeat(first, counts)
    leaf = place % leaves[homes]  # newcomers go to the emptiest leaf, one after the other
    ready = tasks.ready + models_there(
        scenario, site, counts=counts, homes=homes, place=place, top=top
    )
    in_line = np.lexsort((np.arange(len(homes)), ready, homes))
    lines = _Lines(ready[in_line], leaf[in_line], first, counts)

    waiting_s, roots = np.zeros(len(site)), np.full(len(site), np.nan)
    others = used[used != top]
    if len(others):
        _others(scenario, site, others, lines, leaves, processes, waiting_s, roots)
    waiting_s[top], seconds = _top(
        scenario, site, top, others, lines, int(leaves[top]), processes[top], roots
    )
    return Outcome(
        seconds=seconds, homes=homes, counts=counts, leaves=leaves, roles=roles, starts=starts,
        top=top, internode_bytes=scenario.update_bytes * (len(used) - 1),
        cpu_s=cpu_seconds(scenario, site, counts=counts, leaves=leaves, starts=starts, top=top),
        waiting_s=waiting_s,
    )  # fmt: skip


def _leaves(scenario: Scenario, site: Site, tasks: Tasks, at: int, count: int) -> int:
    """As planner.py and tree.py have it."""
    most = tasks.leaves_max[at]
    if scenario.fan_in is None:
        cores = int(site.cores[at])
        means = Means(
            cores=cores if most is None else min(cores, most), input_slots=int(site.slots[at]),
            fold_bytes_s=float(site.fold_bytes_s[at]),
            ingress_bytes_s=float(site.link_bytes_s[at]), runtimes_warm=tasks.warm[at],
        )  # fmt: skip
        return leaf_count(count, choose(count, work(scenario), means).fan_in)
    fan_in = scenario.fan_in if most is None else max(scenario.fan_in, leaf_count(count, most))
    return leaf_count(count, fan_in)


@dataclass(frozen=True)
class _Lines:
    """Updates of all nodes, node after node, each node's in the order in which they are ready."""

    ready: Floats
    leaf: Ints
    first: Ints
    counts: Ints

    def of(self, at: int) -> tuple[list[float], list[int]]:
        here = slice(int(self.first[at]), int(self.first[at] + self.counts[at]))
        return self.ready[here].tolist(), self.leaf[here].tolist()


def _others(
    scenario: Scenario, site: Site, others: Ints, lines: _Lines, leaves: Ints,
    processes: list[list[float]], waiting_s: Floats, roots: Floats,
) -> None:  # fmt: skip
    """All nodes but the top's: fills in how long updates waited and when each root was done."""
    nodes = others[np.argsort(-lines.counts[others], kind="stable")]  # so that the k-th ones lead
    rows, many = np.arange(len(nodes)), lines.counts[nodes]
    lazy, handoff_s = scenario.mode == "lazy", scenario.costs.handoff_s
    cold_s, size = scenario.costs.cold_start_s, float(scenario.update_bytes)
    rates = [Rates.of(scenario, site, int(at), used=len(others) + 1) for at in nodes]
    link_s = np.array([rate.update_link_s for rate in rates])
    eager_s, sum_s = (np.array([getattr(r, n) for r in rates]) for n in ("eager_s", "sum_s"))
    memory = np.array([rate.memory_bytes_s for rate in rates])
    widest, cores = int(leaves[nodes].max()), site.cores[nodes]

    there = np.full((len(nodes), widest + 1), np.inf)  # of each leaf's process, and the middle's
    for row, at in enumerate(nodes.tolist()):
        there[row, : leaves[at]] = processes[at][: leaves[at]]
        there[row, widest] = processes[at][-1]
    slots = np.full((len(nodes), int(site.slots[nodes].max())), np.inf)
    slots[np.arange(slots.shape[1])[None, :] < site.slots[nodes][:, None]] = 0.0
    link_free, waited = np.zeros(len(nodes)), np.zeros(len(nodes))
    core_free = np.zeros((len(nodes), min(widest, int(cores.max()))))
    done = np.full((len(nodes), widest), np.nan)
    ready_sum = np.zeros((len(nodes), widest))

    for k in range(int(many[0])):
        live = int(np.searchsorted(-many, -k, side="left"))  # nodes with more than k updates
        here = rows[:live]
        at = lines.first[nodes[:live]] + k
        ready, leaf = lines.ready[at], lines.leaf[at]
        start = np.maximum(ready, link_free[:live])
        if not lazy:
            slot = np.argmin(slots[:live], axis=1)
            start = np.maximum(start, slots[here, slot])
        link_free[:live] = up = start + link_s[:live]
        arrived = up + handoff_s
        process = there[here, leaf]
        process = np.where(process < 0, arrived + cold_s, process)
        there[here, leaf] = process
        if lazy:
            done[here, leaf] = arrived  # the last one's is what counts
            ready_sum[here, leaf] += ready
            continue
        core = leaf % cores[:live]
        end = np.maximum(np.maximum(arrived, core_free[here, core]), process) + eager_s[:live]
        core_free[here, core] = slots[here, slot] = done[here, leaf] = end
        waited[:live] += end - ready

    if lazy:
        _lazy_leaves(nodes, lines, leaves, cores, there, done, ready_sum, memory, size, waited)
    waiting_s[nodes] = waited

    single = leaves[nodes] == 1
    arrivals = np.sort(np.where(np.isnan(done), np.inf, done + handoff_s), axis=1)
    middle = there[:, widest]
    middle = np.where(middle < 0, arrivals[:, 0] + cold_s, middle)
    if lazy:
        last = np.max(np.where(np.isinf(arrivals), -np.inf, arrivals), axis=1)
        root = np.maximum(last, middle) + (leaves[nodes] * size + size) / memory
    else:
        root = np.zeros(len(nodes))
        for arrival in arrivals.T:
            next_ = np.maximum(np.maximum(arrival, root), middle) + sum_s
            root = np.where(np.isinf(arrival), root, next_)
    roots[nodes] = np.where(single, done[:, 0], root)


def _lazy_leaves(
    nodes: Ints, lines: _Lines, leaves: Ints, cores: Ints, there: Floats, done: Floats,
    ready_sum: Floats, memory: Floats, size: float, waited: Floats,
) -> None:  # fmt: skip
    """Each leaf folds when its last update is there; a core takes leaves in that order."""
    for row, at in enumerate(nodes.tolist()):
        count, many = int(leaves[at]), int(lines.counts[at])
        free: dict[int, float] = {}
        for leaf in np.argsort(done[row, :count], kind="stable").tolist():
            inputs = many // count + (leaf < many % count)
            core = leaf % int(cores[row])
            begin = max(float(done[row, leaf]), free.get(core, 0.0), float(there[row, leaf]))
            end = begin + (inputs * size + size) / float(memory[row])
            free[core] = end
            done[row, leaf] = end
            waited[row] += inputs * end - float(ready_sum[row, leaf])


def _top(
    scenario: Scenario, site: Site, top: int, others: Ints, lines: _Lines, leaves: int,
    processes: list[float], roots: Floats,
) -> tuple[float, float]:  # fmt: skip
    """The top's node, with other nodes' sums among its updates: waiting time, and the round's."""
    lazy, handoff_s = scenario.mode == "lazy", scenario.costs.handoff_s
    cold_s, size = scenario.costs.cold_start_s, float(scenario.update_bytes)
    rates = Rates.of(scenario, site, top, used=len(others) + 1)
    ready, leaf = lines.of(top)
    items = [(at_s, 0, place, rates.update_link_s, leaf[place]) for place, at_s in enumerate(ready)]
    items += [
        (float(roots[at]) + handoff_s, 1, at, sum_crosses_s(scenario, site, at, top), -1)
        for at in others.tolist()
    ]
    there = list(processes)
    cores, waited = int(site.cores[top]), 0.0
    slots = [0.0] * int(site.slots[top])
    free: dict[int, float] = {}
    done, inputs, ready_sum = [0.0] * leaves, [0] * leaves, [0.0] * leaves
    link_free, sums = 0.0, []
    for at_s, _, _, takes_s, to in sorted(items):
        start = max(at_s, link_free)
        slot = 0
        if not lazy:
            slot = min(range(len(slots)), key=slots.__getitem__)
            start = max(start, slots[slot])
        link_free = start + takes_s
        arrived = link_free + handoff_s
        if to < 0:
            sums.append(arrived)
            slots[slot] = arrived + rates.sum_s
            continue
        if there[to] < 0:
            there[to] = arrived + cold_s
        if lazy:
            done[to] = arrived
            inputs[to] += 1
            ready_sum[to] += at_s
            continue
        core = to % cores
        end = max(arrived, free.get(core, 0.0), there[to]) + rates.eager_s
        free[core] = slots[slot] = done[to] = end
        waited += end - at_s
    if lazy:
        for to in sorted(range(leaves), key=lambda to: (done[to], to)):
            begin = max(done[to], free.get(to % cores, 0.0), there[to])
            done[to] = free[to % cores] = (
                begin + (inputs[to] * size + size) / rates.memory_bytes_s
            )
            waited += inputs[to] * done[to] - ready_sum[to]
    root = done[0]
    if leaves > 1:
        root = _collected([end + handoff_s for end in done], there[leaves], rates, scenario)
    end = _collected([*sums, root + handoff_s], there[-1], rates, scenario)
    return waited, end + size / rates.memory_bytes_s + scenario.costs.round_s


def _collected(arrivals: list[float], there: float, rates: Rates, scenario: Scenario) -> float:
    """When a role above leaves has folded all its sums."""
    size, arrivals = float(scenario.update_bytes), sorted(arrivals)
    if there < 0:
        there = arrivals[0] + scenario.costs.cold_start_s
    if scenario.mode == "lazy":
        return max(arrivals[-1], there) + (len(arrivals) * size + size) / rates.memory_bytes_s
    end = 0.0
    for arrival in arrivals:
        end = max(arrival, end, there) + rates.sum_s
    return end
