"""`fanIn: auto` beside the best fixed fan-in, in whole jobs.

Real clients, each a process; all fan-ins take turns.  256 clients of 46.8 MB want some 40 GB of
memory.  Called by `python -m benchmarks.placement fan-in-8-1MB` and the like, not by default: a
case takes minutes.
"""

from __future__ import annotations

import os
import statistics
from functools import partial

from benchmarks.rows import Case, Figure, Found, Goal, Line, NotMeasured
from benchmarks.runs import job_rounds

SIZES = {"1MB": 1_000_000, "46.8MB": 46_800_000}
COUNTS = (8, 64, 256)
TURNS = 5
WARM = 5
PER_CLIENT = 3  # times an update that a client's process holds, beside 30 MB


def fan_in(clients: int, size: int, *, turns: int = TURNS) -> Found:
    wanted = clients * (PER_CLIENT * size + 30_000_000)
    if wanted > (there := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise NotMeasured(
            f"{clients} clients of {size / 1e6:g} MB want {wanted / 1e9:.0f} GB of memory, and "
            f"there are {there / 1e9:.0f}"
        )
    fixed = [count for count in (1, 2, 4, 8, 16, 64, 256) if count <= clients]
    seconds: dict[int | str, list[float]] = {one: [] for one in ("auto", *fixed)}
    for _ in range(turns):
        for one, taken in seconds.items():
            job = job_rounds(
                clients=clients, size_bytes=size, warm=WARM, spec={"aggregation": {"fanIn": one}}
            )
            taken.append(statistics.median(job.warm_s))
    best = min(fixed, key=lambda one: statistics.median(seconds[one]))
    note = "; ".join(f"{one}: {1e3 * statistics.median(of):.1f}" for one, of in seconds.items())
    return {
        "auto": Figure.of_pairs(
            seconds["auto"], seconds[best], scale=1e3,
            note=f"best is {best}; median ms by fan-in over {turns} turns: {note}",
        )
    }  # fmt: skip


CASES = tuple(
    Case(
        name=f"fan-in-{clients}-{name}",
        lines={
            "auto": Line(
                case=f"fanIn: auto, {clients} × {name}", unit="ms", reference="best fixed fan-in",
                goal=Goal("ratio", "≤", 1.05),
            )
        },
        measure=partial(fan_in, clients, size),
    )
    for name, size in SIZES.items()
    for clients in COUNTS
)  # fmt: skip
