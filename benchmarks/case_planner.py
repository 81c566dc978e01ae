"""How long a plan takes, and a simulation of a million clients."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.rows import Case, Figure, Found, Goal, Line
from lifl.placement.planner import plan
from lifl.placement.policies import NAMES
from lifl.placement.snapshot import Client, Node, Plan, Snapshot

NODES, CLIENTS = 1000, 10_000
TURNS = 5
MILLION = """\
rounds: 10
clients: 1000000
updateBytes: 1M
nodes: [{count: 1000}]
arrivals: {ratePerS: 10000}
policies: [bestfit]
"""


def _ms(ask: Callable[[], Plan], turns: int) -> tuple[float, Plan]:
    """Median milliseconds of a plan, and the plan.

    CPU time: a plan computes and waits for nothing, and what else runs here is not its matter.
    """
    took = []
    for _ in range(turns):
        began = time.process_time()
        made = ask()
        took.append(1e3 * (time.process_time() - began))
    return statistics.median(took), made


def planner(*, turns: int = TURNS) -> Found:
    nodes = tuple(Node(name=f"node-{at:04}", capacity_updates=12) for at in range(NODES))
    clients = tuple(Client(key=f"client-{at:05}") for at in range(CLIENTS))
    found: dict[str, dict[str, float]] = {"plan": {}, "lost": {}, "lost between": {}}
    for policy in NAMES:
        asked = Snapshot(nodes=nodes, clients=clients, fan_in=4, policy=policy)
        found["plan"][policy], made = _ms(lambda asked=asked: plan(asked), turns)
        lost = max(made.nodes.values(), key=lambda node: (len(node.clients), node.name)).name
        left = tuple(replace(node, alive=node.name != lost) for node in nodes)
        for name, mid_round in (("lost", True), ("lost between", False)):
            again = replace(asked, nodes=left, previous=made, epoch=1, mid_round=mid_round)
            found[name][policy], _ = _ms(lambda again=again: plan(again), turns)
    return {
        name: Figure(
            value=by_policy["bestfit"],
            note="; ".join(f"{policy} {took:.1f} ms" for policy, took in by_policy.items()),
        )
        for name, by_policy in found.items()
    }


def simulator(*, turns: int = 1) -> Found:
    """`lifl simulate` as a process, its time and its peak of memory; median over turns."""
    took, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.yaml"
        path.write_text(MILLION)
        for _ in range(turns):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "lifl", "simulate", str(path), "--json"],
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"lifl simulate ended with status {process.returncode}")
            took.append(time.perf_counter() - began)
            peaks.append(usage.ru_maxrss * 1024 / 1e9)
    note = f"{turns} of them, 1000 nodes, bestfit"
    return {
        "time": Figure(value=statistics.median(took), note=note),
        "memory": Figure(value=statistics.median(peaks), note=note),
    }


CASES = (
    Case(
        name="planner",
        lines={
            "plan": Line(
                case="plan of 10,000 clients on 1,000 nodes", unit="ms",
                goal=Goal("value", "<", 200),
            ),
            "lost": Line(
                case="re-plan of one lost node, in mid-round", unit="ms",
                goal=Goal("value", "<", 20),
            ),
            "lost between": Line(
                case="re-plan of one lost node, between rounds", unit="ms",
                goal=Goal("value", "<", 20),
            ),
        },
        measure=planner,
    ),
    Case(
        name="simulator",
        lines={
            "time": Line(
                case="10 simulated rounds of 1,000,000 clients", unit="s",
                goal=Goal("value", "≤", 60),
            ),
            "memory": Line(
                case="its memory at most", unit="GB", goal=Goal("value", "≤", 2),
            ),
        },
        measure=simulator,
    ),
)  # fmt: skip
