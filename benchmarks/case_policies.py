"""Placement policies and the steps of the paper, in the simulator.

Owns the scenarios and what counts: bestfit beside the best of the five policies, and each step of
LIFL beside the one before.  Nothing here depends on the machine; the same seed gives the same.
"""

from __future__ import annotations

from typing import Any

from benchmarks.rows import Case, Figure, Found, Goal, Line
from lifl.placement.simulator.rounds import Total, simulate, total
from lifl.placement.simulator.scenario import Scenario

POLICIES = ("bestfit", "firstfit", "worstfit", "least-connections", "random")
LINKS = {"1 Gbit/s": 125_000_000, "10 Gbit/s": 1_250_000_000, "100 Gbit/s": 12_500_000_000}
LOADS = ((20, 5), (60, 5), (100, 5), (100_000, 500))  # clients, nodes
WINDOW_S = 5.0  # in which the clients of a round have their updates
ROUNDS = 5
MANY = 10_000  # clients, from which on the fast engine plays


def scenario(clients: int, of_nodes: int, link: int, /, **more: Any) -> Scenario:
    """Equal nodes, unless `more` says otherwise."""
    fields: dict[str, Any] = {
        "clients": clients, "rounds": ROUNDS, "seed": 1, "pauseS": 2.0, "fanIn": 8,
        "arrivals": {"ratePerS": clients / WINDOW_S},
        "nodes": [{"count": of_nodes, "cores": 8, "linkBytesS": link}],
    }  # fmt: skip
    return Scenario.model_validate(fields | more)


def played(asked: Scenario, policy: str) -> Total:
    return total(simulate(asked, policy, engine="fast" if asked.clients >= MANY else "exact"))


def policies(*, turns: int = 1) -> Found:
    """All five at each load and link rate; `turns` is of no use, since nothing varies."""
    found: Found = {}
    for clients, nodes in LOADS:
        for name, link in LINKS.items():
            totals = [played(scenario(clients, nodes, link), policy) for policy in POLICIES]
            found |= _compared(f"{clients}-{nodes}-{name}", totals)
    found |= _compared("burst", [played(_burst(), policy) for policy in POLICIES])
    found |= _compared("unequal", [played(_unequal(), policy) for policy in POLICIES])
    return found


def _burst() -> Scenario:
    """Everybody at once on slow links, and an MC that does not know of it."""
    return scenario(
        60, 5, 0, arrivals={"kind": "flash", "flashShare": 1.0},
        nodes=[{"count": 5, "linkBytesS": LINKS["1 Gbit/s"], "capacity": 20}],
    )  # fmt: skip


def _unequal() -> Scenario:
    """Three small nodes and a large one that could take all."""
    small = {"count": 3, "cores": 2, "linkBytesS": LINKS["1 Gbit/s"]}
    return scenario(40, 4, 0, nodes=[small, {"count": 1, "linkBytesS": LINKS["10 Gbit/s"]}])


def _compared(key: str, totals: list[Total]) -> Found:
    own, best = totals[0], min(totals, key=lambda one: one.seconds)
    fewest = min(one.nodes for one in totals)
    note = "; ".join(f"{one.policy} {one.seconds:.2f} s, {one.nodes:.1f} nodes" for one in totals)
    return {
        f"{key} time": Figure(
            value=own.seconds, beside=best.seconds, ratio=own.seconds / best.seconds, note=note
        ),
        f"{key} nodes": Figure(value=own.nodes, beside=fewest, ratio=own.nodes / fewest),
    }


def _policy_lines() -> dict[str, Line]:
    lines: dict[str, Line] = {}
    wheres = {
        f"{clients}-{nodes}-{name}": f"{clients} clients, {nodes} nodes, {name}"
        for clients, nodes in LOADS
        for name in LINKS
    }
    informing = {
        "burst": "60 clients at once, 5 nodes, 1 Gbit/s, MC set to 20",
        "unequal": "40 clients, 3 nodes of 1 Gbit/s and one of 10",
    }
    for key, where in (wheres | informing).items():
        near, few = (Goal("ratio", "≤", 1.05), Goal("ratio", "≤", 1.0)) if key in wheres else (
            None, None)  # fmt: skip
        lines[f"{key} time"] = Line(
            case=f"bestfit's round, {where}", unit="s", reference="best policy", goal=near
        )
        lines[f"{key} nodes"] = Line(
            case=f"its nodes, {where}", unit="", reference="fewest", goal=few
        )
    return lines


# -- the steps of the paper -------------------------------------------------------------------
PLAIN = {"mode": "lazy", "planned": False, "reuse": False}
STEPS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("plain serverless hierarchy", "least-connections", PLAIN, ""),
    (
        "+ locality-aware placement", "bestfit", PLAIN,
        "fewer nodes and bytes; where a node gets several leaves and a middle, starts follow one "
        "another over one level more, which the next step ends",
    ),
    (
        "+ hierarchy planning", "bestfit", PLAIN | {"planned": True},
        "starts no longer wait for inputs, and leaves are no more than cores and slots can use",
    ),
    (
        "+ reuse", "bestfit", PLAIN | {"planned": True, "reuse": True},
        "starts and their CPU; planned starts were over before updates came, so no time",
    ),
    (
        "+ eager", "bestfit", {"mode": "eager", "planned": True, "reuse": True},
        "folds while updates come; folding in pairs moves more memory than one pass over all, "
        "hence more CPU",
    ),
)  # fmt: skip
CLIENTS = (20, 60, 100)


def ablation(*, turns: int = 1) -> Found:
    """Each step beside the one before; `turns` is of no use, since nothing varies."""
    found: Found = {}
    for clients in CLIENTS:
        before: Total | None = None
        for name, policy, fields, why in STEPS:
            now = played(scenario(clients, 5, LINKS["10 Gbit/s"], **fields), policy)
            last = before or now
            moved = f"{now.internode_bytes / 1e9:.2f} GB between nodes"
            for field in ("aggregate_s", "cpu_s", "starts", "nodes"):
                value, beside = float(getattr(now, field)), float(getattr(last, field))
                found[f"{clients} {name} {field}"] = Figure(
                    value=value,
                    beside=None if before is None else beside,
                    ratio=None if before is None else value / beside,
                    note="; ".join(filter(None, (why, moved))) if field == "aggregate_s" else "",
                )
            before = now
    return found


def _ablation_lines() -> dict[str, Line]:
    words = {
        "aggregate_s": ("aggregation", "s"), "cpu_s": ("CPU", "s"), "starts": ("starts", ""),
        "nodes": ("nodes", ""),
    }  # fmt: skip
    return {
        f"{clients} {name} {field}": Line(
            case=f"{clients} clients, {name}: {what}", unit=unit,
            reference="" if name == STEPS[0][0] else "step before",
        )
        for clients in CLIENTS
        for name, *_ in STEPS
        for field, (what, unit) in words.items()
    }  # fmt: skip


CASES = (
    Case(name="policies", lines=_policy_lines(), measure=policies),
    Case(name="ablation", lines=_ablation_lines(), measure=ablation),
)
