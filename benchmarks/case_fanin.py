"""`fanIn: auto` beside the best fixed fan-in, in whole jobs.

Clients are those of lean_clients.py: eight processes send at the same time, however many clients
there are.  All fan-ins take turns; of each turn the first round is left out, in which aggregators
start.  Fan-ins whose sums would not fit into memory are left out, and said.  Called by `python -m
benchmarks.placement fanin-real`, or fan-in-8-1MB and the like for one, not by default: a case
takes minutes.
"""

from __future__ import annotations

import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case_clients import clients
from benchmarks.rows import Case, Figure, Found, Goal, Line, NotMeasured
from benchmarks.runs import started

SIZES = {"1MB": 1_000_000, "46.8MB": 46_800_000}
COUNTS = (8, 64, 256)
FIXED = (2, 4, 8, 16)  # and all in one leaf
TURNS = 3
BYTES_A_TURN = 6e9  # so many rounds as make up this, but at least
LEAST, MOST = 3, 40  # rounds
SLOTS = 8
LIMIT_S = 900.0  # of a job: 256 × 46.8 MB are 12 GB a round
SHARE_OF_MEMORY = 1 / 3  # of what is available, for sums

FanIn = int | str


def one_job(count: int, size: int, rounds: int, fan_in: FanIn) -> tuple[list[float], int]:
    """Seconds of the rounds after the first, and leaves of the last."""
    spec: dict[str, Any] = {
        "aggregation": {"fanIn": fan_in}, "memory": {"inputSlots": SLOTS},
        "checkpoint": {"every": 10**6},
    }  # fmt: skip
    with started(
        clients=count, size_bytes=size, rounds=rounds + 1, trainers=False, spec=spec,
        limit_s=LIMIT_S,
    ) as job:
        job.until("waiting")  # client files are written before that
        with clients(job, count, size, "benchmarks.lean_clients"):
            for _ in job.events():
                pass
        rows = job.rows()
    tree = [role for node in rows[-1]["tree"].values() for role in node]
    return [row["seconds"] for row in rows[1:]], sum(r["role"] == "leaf" for r in tree)


def fan_in(count: int, size: int, *, turns: int = TURNS) -> Found:
    fixed = sorted({*(one for one in FIXED if one < count), count})
    fit = [one for one in fixed if _sums_bytes(count, size, one) < _available() * SHARE_OF_MEMORY]
    if not fit:
        raise NotMeasured(f"one leaf of {size / 1e6:g} MB does not fit into memory")
    rounds = round(min(MOST, max(LEAST, BYTES_A_TURN / (count * size))))
    tried: list[FanIn] = ["auto", *fit]
    seconds: dict[FanIn, list[float]] = {one: [] for one in tried}
    leaves: dict[FanIn, int] = {}
    for turn in range(turns):
        first = turn % len(tried)
        for one in tried[first:] + tried[:first]:
            taken, leaves[one] = one_job(count, size, rounds, one)
            seconds[one] += taken
    median = {one: statistics.median(taken) for one, taken in seconds.items()}
    best = min(fit, key=lambda one: median[one])
    each = "; ".join(
        f"{one} ({leaves[one]} {'leaf' if leaves[one] == 1 else 'leaves'}): {1e3 * of:.1f}"
        for one, of in median.items()
    )
    out = [one for one in fixed if one not in fit]
    note = f"median ms over {turns} × {rounds} rounds: {each}"
    if out:
        note += f"; not measured, for want of memory: {', '.join(map(str, out))}"
    return {
        "auto": Figure(
            value=1e3 * median["auto"], beside=1e3 * median[best],
            ratio=median["auto"] / median[best], note=f"best is {best}; {note}",
        )
    }  # fmt: skip


def all_of_them(*, turns: int = TURNS) -> Found:
    found: Found = {}
    for case in EACH:
        found[case.name] = case.measure(turns=turns)["auto"]
    return found


def _sums_bytes(count: int, size: int, fan_in: int) -> int:
    """What leaves, a middle and the top write their sums into."""
    leaves = -(-count // fan_in)
    return size * (2 * leaves + 2 * (leaves > 1) + 3)


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _line(count: int, name: str) -> Line:
    return Line(
        case=f"fanIn: auto, {count} × {name}", unit="ms", reference="best fixed fan-in",
        goal=Goal("ratio", "≤", 1.05),
    )  # fmt: skip


EACH = tuple(
    Case(
        name=f"fan-in-{count}-{name}", lines={"auto": _line(count, name)},
        measure=partial(fan_in, count, size),
    )
    for name, size in SIZES.items()
    for count in COUNTS
)  # fmt: skip
LINES = tuple(case.lines["auto"] for case in EACH)
CASES = (
    *EACH,
    Case(
        name="fanin-real",
        lines={case.name: case.lines["auto"] for case in EACH},
        measure=all_of_them,
    ),
)
