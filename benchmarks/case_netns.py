"""Placement policies in real rounds: a network namespace for each node, links of 1 Gbit/s.

Owns the two loads: one that all nodes are needed for, and one that half of them can take, where
policies differ in how many they use.  Clients train nothing and hold one model all together
(bench_trainer.py), so that 64 of 46.8 MB fit; all processes share this machine's cores.
"""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.case_policies import POLICIES
from benchmarks.netns import Asked, Measured, measured
from benchmarks.rows import Case, Figure, Found, Goal, Line

LOADS = {
    "64 × 46.8 MB, 4 nodes": (Asked(64, 46_800_000, 4), 2),
    "16 × 10 MB, 4 nodes": (Asked(16, 10_000_000, 4), 7),
}
"""What is asked, and how many warm rounds of it count."""
IDLE_S = 0.01  # CPU of a node without clients, a round: its processes answer when they are asked


def _asked(load: str, policy: str) -> tuple[Asked, int]:
    like, warm = LOADS[load]
    return Asked(like.clients, like.size_bytes, like.nodes, policy=policy), warm


def policies(load: str, *, turns: int = 1) -> Found:
    """`turns` is of no use: a job has as many warm rounds as it says."""
    found: Found = {}
    for policy in POLICIES:
        asked, warm = _asked(load, policy)
        job = measured(asked, warm=warm)
        idle = [cpu_s for node, cpu_s in job.cpu_s.items() if node not in job.tree]
        found[policy] = Figure(value=statistics.median(job.seconds), note=_note(job, idle))
        if policy == "bestfit" and idle:
            found["idle"] = Figure(value=max(idle))
    return found


def _note(job: Measured, idle: list[float]) -> str:
    used = sum(job.cpu_s[node] for node in job.tree)
    return (
        f"{len(job.tree)} nodes; {job.internode_bytes / 1e6:.1f} MB between nodes; "
        f"{used:.2f} CPU s of nodes; {job.machine_cpu_s:.2f} CPU s of all; "
        f"idle {max(idle) if idle else 0:.4f} CPU s"
    )


CASES = tuple(
    Case(
        name=f"netns-{like.clients}",
        lines={
            policy: Line(case=f"real round, {load}, {policy}", unit="s") for policy in POLICIES
        } | {
            "idle": Line(
                case=f"CPU of a node without clients, a round, {load}", unit="s",
                goal=Goal("value", "≤", IDLE_S),
            )
        },
        measure=partial(policies, load),
    )
    for load, (like, _) in LOADS.items()
)  # fmt: skip
