"""What a node costs while its clients train: agent, gateway, zygote and four aggregators."""

from __future__ import annotations

import time
from itertools import pairwise

from benchmarks.rows import Case, Figure, Found, Goal, Line
from benchmarks.runs import AGENT, AGGREGATOR, GATEWAY, ZYGOTE, started
from benchmarks.system import cpu_s, pss

CLIENTS = 4
WINDOWS = 6
WINDOW_S = 5.0
SIZE = 1_000_000


def measure(*, turns: int = WINDOWS) -> Found:
    spec = {"aggregation": {"fanIn": 2}}  # two leaves, a middle, the top
    with started(clients=CLIENTS, size_bytes=SIZE, rounds=3, busy_rounds=2, spec=spec) as job:
        job.until("round_started", round=3)
        node = job.pids(AGENT, GATEWAY, ZYGOTE, AGGREGATOR)
        if len(node) != 7:
            raise RuntimeError(f"{len(node)} processes, not agent, gateway, zygote, 4 aggregators")
        used = [sum(map(cpu_s, node))]
        for _ in range(turns):
            time.sleep(WINDOW_S)
            used.append(sum(map(cpu_s, node)))
        parts = [pss(pid) for pid in node]
    windows = [after - before for before, after in pairwise(used)]
    each = ", ".join(f"{1e3 * window:.1f}" for window in windows)
    return {
        "cpu": Figure(
            value=used[-1] - used[0],
            note=f"clients connected and training; ms in each {WINDOW_S:g} s: {each}",
        ),
        "pss": Figure(
            value=sum(part.arena_bytes + part.other_bytes for part in parts) / 1e6,
            note=f"{sum(part.arena_bytes for part in parts) / 1e6:.1f} MB of it job memory",
        ),
    }


WHAT = "agent, gateway, zygote, 4 aggregators, idle"
CASE = Case(
    name="idle",
    lines={
        "cpu": Line(
            case=f"{WHAT}: CPU in {WINDOWS * WINDOW_S:g} s", unit="s", goal=Goal("value", "≤", 0.05)
        ),
        "pss": Line(case=f"{WHAT}: PSS together", unit="MB", goal=Goal("value", "<", 250)),
    },
    measure=measure,
)
