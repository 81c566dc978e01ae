"""Breadth-first search over every state of a configuration.

Owns exploring and the check for cycles.  Does not know the protocol.  Called by the tests and by
`python3 -m tests.model`.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from tests.model.control import Model
from tests.model.world import Config, Violation


@dataclass(frozen=True)
class Result:
    name: str
    states: int
    depth: int
    seconds: float
    violation: str = ""
    trace: tuple = ()  # labels of a shortest run to the violation
    points: frozenset = frozenset()  # fault points after which a crash was followed


def explore(config: Config, limit: int = 6_000_000) -> Result:
    """Search all states, or until the first violation; that trace is a shortest one."""
    begin = time.perf_counter()
    model = Model(config)
    first = model.start()
    ids = {first: 0}
    queue = deque([first])
    parents: list[tuple[int, str]] = [(-1, "")]
    edges: list[list[int]] = []
    points: set[str] = set()
    reached: dict[int, set] = {}

    def trace(at: int) -> tuple:
        labels = []
        while at > 0:
            at, label = parents[at]
            labels.append(label)
        return tuple(labels[::-1])

    def result(violation: str, labels: tuple, depth: int) -> Result:
        return Result(config.name, len(ids), depth, time.perf_counter() - begin, violation,
                      labels, frozenset(points))  # fmt: skip

    while queue:
        w = queue.popleft()
        at = len(edges)
        try:
            live, crashes = model.steps(w)
            if not live:
                model.check_end(w)
        except Violation as violation:
            labels = trace(at)
            return result(str(violation), labels, len(labels))
        mortal = {who for who, _ in crashes}
        points.update(point for who, point in reached.pop(at, ()) if who in mortal)
        fair = []
        for is_fair, steps in ((True, live), (False, (step for _, step in crashes))):
            for label, new, marks in steps:
                known = ids.get(new)
                if known is None:
                    known = ids[new] = len(ids)
                    queue.append(new)
                    parents.append((at, label))
                if known >= at:
                    for mark in marks:
                        if mark[1] not in points:
                            reached.setdefault(known, set()).add(mark)
                if is_fair:
                    fair.append(known)
        edges.append(fair)
        if len(ids) > limit:
            return result(f"gave up after {limit} states", (), 0)
    at = _cycle(edges)
    if at >= 0:
        return result("L1: a cycle of steps that are not crashes", trace(at), len(trace(at)))
    return result("", (), len(trace(len(ids) - 1)))


def _cycle(edges: list[list[int]]) -> int:
    """A state on a cycle or behind one, or -1 (Kahn's algorithm)."""
    degree = [0] * len(edges)
    for row in edges:
        for to in row:
            degree[to] += 1
    todo = [at for at, count in enumerate(degree) if not count]
    seen = 0
    while todo:
        seen += 1
        for to in edges[todo.pop()]:
            degree[to] -= 1
            if not degree[to]:
                todo.append(to)
    return -1 if seen == len(edges) else next(at for at, count in enumerate(degree) if count)
