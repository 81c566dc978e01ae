"""The simulator beside real rounds: constants from one set of jobs, predictions of another.

Owns which jobs there are and the fit.  Every job is one of `benchmarks.netns`: all clients at once,
all nodes on this machine.  Six constants of a scenario's `costs` are fitted to the warm rounds of
CALIBRATION; the jobs of VALIDATION and BLIND differ from those in clients, size, nodes, link,
policy and fan-in, and take no part in the fit.  The figure of a job is the median of its warm
rounds.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.netns import Asked, measured
from benchmarks.rows import Case, Figure, Found, Goal, Line
from lifl.functions.kernels import choose
from lifl.placement.capacity import capacity
from lifl.placement.fabric import parse_rate
from lifl.placement.measure import measure
from lifl.placement.simulator.rounds import simulate
from lifl.placement.simulator.scenario import Costs, Scenario

MB = 1_000_000
CALIBRATION = {
    Asked(16, 1 * MB, 2, policy="worstfit"): 15,
    Asked(32, 1 * MB, 4, policy="worstfit"): 15,
    Asked(16, 10 * MB, 2, policy="worstfit"): 7,
    Asked(8, 46_800_000, 2, policy="worstfit"): 5,
    Asked(32, 10 * MB, 4, "2Gbit", policy="worstfit"): 7,
    Asked(16, 10 * MB, 3, "200Mbit", policy="worstfit"): 3,
    Asked(32, 20 * MB, 2, policy="worstfit"): 4,
    Asked(6, 4 * MB, 2, "500Mbit"): 15,
    Asked(40, 20 * MB, 4, policy="worstfit", fan_in=4): 4,
}
VALIDATION = {
    Asked(64, 46_800_000, 4): 2,
    Asked(32, 46_800_000, 2, "2Gbit", policy="worstfit"): 3,
    Asked(8, 1 * MB, 2, "200Mbit"): 15,
    Asked(64, 1 * MB, 4, policy="least-connections"): 15,
    Asked(24, 10 * MB, 3, policy="random", fan_in=4): 7,
    Asked(12, 46_800_000, 3, "500Mbit", policy="firstfit", fan_in=2): 3,
    Asked(48, 4 * MB, 4, "200Mbit", policy="worstfit"): 3,
    Asked(16, 20 * MB, 2, "2Gbit", fan_in=16): 9,
    Asked(40, 4 * MB, 2, policy="random"): 9,
    Asked(64, 10 * MB, 4, "2Gbit", policy="worstfit", fan_in=16): 5,
}
"""Jobs, and how many warm rounds of each count."""
BLIND = {
    Asked(20, 10 * MB, 4, "500Mbit", policy="worstfit", fan_in=4): 5,
    Asked(10, 46_800_000, 2, policy="random"): 5,
    Asked(48, 2 * MB, 3, policy="firstfit", fan_in=16): 11,
    Asked(24, 20 * MB, 4, "2Gbit", policy="least-connections"): 7,
}
"""More of them, chosen when the form of the model was settled, and never looked at before."""
NEAR = 0.2
STEPS = (2.0, 1.4, 1.15, 1.05, 1.02)  # of the fit, by which a constant is made larger and smaller
LIMITS = {"linkShare": (0.5, 1.0), "modelSpread": (0.0, 1.0)}
START = {
    "linkShare": 0.93, "sumBytesS": 200 * MB, "modelSpread": 0.4, "updateCpuS": 1e-3,
    "roundS": 0.02, "ingestBytesS": 1000 * MB, "coldStartS": 0.0, "coldStartCpuS": 0.0,
}  # fmt: skip
STARTS: tuple[dict[str, float], ...] = ({}, {"updateCpuS": 4e-3, "ingestBytesS": 600 * MB})
FITTED = ("linkShare", "sumBytesS", "modelSpread", "updateCpuS", "roundS", "ingestBytesS")


@dataclass(frozen=True)
class Machine:
    """What an agent measures here."""

    fold_bytes_s: float
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    @classmethod
    def here(cls) -> Machine:
        return cls(measure(choose("auto"))["fold_bytes_s"])


def scenario(asked: Asked, costs: Mapping[str, Any], machine: Machine) -> Scenario:
    """A job of `benchmarks.netns` in the simulator's words; MC as the coordinator computes it."""
    link = parse_rate(asked.link) // 8
    room = capacity(
        update_bytes=asked.size_bytes, fold_bytes_s=machine.fold_bytes_s, ingress_bytes_s=link,
        input_slots=asked.input_slots,
    )  # fmt: skip
    return Scenario.model_validate({
        "clients": asked.clients, "rounds": 2, "updateBytes": asked.size_bytes,
        "arrivals": {"kind": "flash", "flashShare": 1.0, "flashWidthS": 0.0},
        "nodes": [{
            "count": asked.nodes, "cores": machine.cores, "linkBytesS": link,
            "foldBytesS": round(machine.fold_bytes_s), "inputSlots": asked.input_slots,
            "capacity": room.updates,
        }],
        "fanIn": asked.fan_in, "planned": False, "models": True, "sharedCores": machine.cores,
        "keepAlive": "fixed", "costs": dict(costs),
    })  # fmt: skip


def predicted(asked: Asked, costs: Mapping[str, Any], machine: Machine) -> float:
    """Seconds of a warm round."""
    return simulate(scenario(asked, costs, machine), asked.policy)[-1].seconds


def fit(seconds: Mapping[Asked, float], machine: Machine) -> dict[str, Any]:
    """The constants with the least sum of squared logarithms of predicted / measured.

    One constant after the other is made larger and smaller, in steps that shrink, from two starts:
    where a machine is the bottleneck, and where links are.
    """
    found = [_descend(seconds, machine, START | start) for start in STARTS]
    _, costs = min(found, key=lambda one: one[0])
    return {name: _rounded(value) for name, value in costs.items()}


def _descend(
    seconds: Mapping[Asked, float], machine: Machine, costs: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    def error(tried: Mapping[str, Any]) -> float:
        return sum(
            math.log(predicted(asked, tried, machine) / found) ** 2
            for asked, found in seconds.items()
        )

    best = error(costs)
    for step in STEPS:
        before = math.inf
        while best < before * 0.999:
            before = best
            for name in FITTED:
                for factor in (step, 1 / step):
                    value = costs[name] * factor
                    least, most = LIMITS.get(name, (0.0, math.inf))
                    if not least <= value <= most:
                        continue
                    tried = costs | {name: round(value) if name.endswith("BytesS") else value}
                    if (found := error(tried)) < best:
                        best, costs = found, tried
    return best, costs


def _rounded(value: float) -> float | int:
    """Three digits: more are noise."""
    return round(value, 2 - math.floor(math.log10(value))) if value else 0.0


def compare(*, turns: int = 1) -> Found:
    """`turns` is of no use: a job has as many warm rounds as it says."""
    machine = Machine.here()
    costs = fit(_seconds(CALIBRATION), machine)
    found: Found = {}
    for asked, seconds in _seconds(VALIDATION | BLIND).items():
        expected = predicted(asked, costs, machine)
        found[asked.text()] = Figure(value=expected, beside=seconds, ratio=expected / seconds)
    misses = [max(figure.ratio, 1 / figure.ratio) - 1 for figure in found.values() if figure.ratio]
    known = Costs.model_validate(costs).model_dump(by_alias=True, exclude_defaults=True)
    found["worst"] = Figure(
        value=max(misses), note=f"foldBytesS {machine.fold_bytes_s:.3g}, costs {known}"
    )
    return found


def _seconds(jobs: Mapping[Asked, int]) -> dict[Asked, float]:
    return {asked: statistics.median(measured(asked, warm=warm).seconds)
            for asked, warm in jobs.items()}  # fmt: skip


def _lines(jobs: Sequence[Asked]) -> dict[str, Line]:
    lines = {
        asked.text(): Line(
            case=f"round as simulated, {asked.text()}", unit="s", reference="measured",
            goal=None,
        )
        for asked in jobs
    }  # fmt: skip
    return lines | {
        "worst": Line(
            case="furthest from measured, either way", unit="", goal=Goal("value", "≤", NEAR)
        )
    }


CASE = Case(name="calibration", lines=_lines([*VALIDATION, *BLIND]), measure=compare)
