"""Rounds of whole jobs beside raw TCP that moves the same bytes.

A job through `lifl run`, coordinator, gateway, aggregators and `lifl.Client`, in turn with the
floor: floor, job, floor, job.  Seconds of a round are those of rounds.jsonl: from its start to its
model.  The ratio is the median over pairs (floor, job that follows it) of the ratio of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.floor import Floor, floor
from benchmarks.rows import Case, Figure, Found, Goal, Line
from benchmarks.runs import GATEWAY, Rounds, job_rounds, started
from benchmarks.system import peak, pss

CLIENTS = 8
LARGE = 46_800_000
SMALL = 256
PAIRS = 5
WARM = 5  # rounds of each job and each floor

FLOOR = "raw TCP"


def pairs(size_bytes: int, turns: int) -> list[tuple[Floor, Rounds]]:
    return [
        (
            floor(CLIENTS, size_bytes, WARM),
            job_rounds(clients=CLIENTS, size_bytes=size_bytes, warm=WARM),
        )
        for _ in range(turns)
    ]


def compared(found: Sequence[tuple[Floor, Rounds]], *, note: str) -> Figure:
    middle = statistics.median
    return Figure.of_pairs(
        [middle(job.warm_s) for _, job in found],
        [middle(below.seconds) for below, _ in found],
        scale=1e3,
        note=note,
    )


def large(*, turns: int = PAIRS) -> Found:
    found = pairs(LARGE, turns)
    jobs = [job for _, job in found]
    note = f"{turns} jobs in turn with {turns} floors, {WARM} warm rounds of each"
    return {
        "round": compared(found, note=note),
        "cpu": Figure.of_pairs(
            [job.cpu_s for job in jobs], [below.cpu_s for below, _ in found], scale=1e3, note=note
        ),
        "first": Figure.of_pairs(
            [job.first_s for job in jobs],
            [statistics.median(job.warm_s) for job in jobs],
            scale=1e3,
            note=note,
        ),
    }


def small(*, turns: int = PAIRS) -> Found:
    note = f"{turns} jobs in turn with {turns} floors, {WARM} warm rounds of each"
    return {"round": compared(pairs(SMALL, turns), note=note)}


def memory(*, turns: int = WARM) -> Found:
    """The gateway's peak in a job of its own: looking at it costs time."""
    with started(clients=CLIENTS, size_bytes=LARGE, rounds=turns + 1) as job:
        job.until("round_started")
        (gateway,) = job.pids(GATEWAY)
        with peak(lambda: pss(gateway).other_bytes) as most:
            job.until("published", round=turns + 1)
    note = f"peak PSS without job memory, looked at every 50 ms over {turns} rounds"
    return {"gateway": Figure(value=most[0] / 1e6, note=note)}


CASES = (
    Case(
        name="round",
        lines={
            "round": Line(
                case="round of 8 × 46.8 MB, whole job, encrypted", unit="ms", reference=FLOOR,
                goal=Goal("ratio", "≤", 2.0),
            ),
            "cpu": Line(
                case="CPU of gateway and aggregators in it", unit="ms", reference=FLOOR,
                goal=Goal("ratio", "≤", 1.5),
            ),
            "first": Line(
                case="first round of it", unit="ms", reference="warm round",
                goal=Goal("ratio", "≤", 1.2),
            ),
        },
        measure=large,
    ),
    Case(
        name="small",
        lines={
            "round": Line(
                case="round of 8 × 256 B, whole job", unit="ms", reference=FLOOR,
                goal=Goal("value", "≤", 10),
            ),
        },
        measure=small,
    ),
    Case(
        name="memory",
        lines={
            "gateway": Line(
                case="gateway's memory beyond the arena, 8 × 46.8 MB", unit="MB",
                goal=Goal("value", "≤", 40),
            ),
        },
        measure=memory,
    ),
)  # fmt: skip
