"""Rounds of whole jobs beside raw TCP that moves the same bytes.

A job through `lifl run`, coordinator, gateway, aggregators and `lifl.Client`, in turn with the
floor: floor, job, floor, job.  The floor comes twice: with the system's TCP, and with the
congestion control that LIFL takes between processes of one machine (functions/tcp.py).  Seconds of
a round are those of rounds.jsonl: from its start to its model.  Whole job: clients that pack their
arrays with `Round.send`; data path: clients that send back the bytes that they got.  Both run the
same nodes and coordinator.  The ratio is the median over pairs (floor, job that follows it) of the
ratio of medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.floor import Floor, floor
from benchmarks.rows import Case, Figure, Found, Goal, Line
from benchmarks.runs import GATEWAY, Rounds, job_rounds, started
from benchmarks.system import peak, pss
from lifl.functions.tcp import LOCAL_CONTROL

CLIENTS = 8
LARGE = 46_800_000
SMALL = 256
PAIRS = 5
WARM = 5  # rounds of each job and each floor

FLOOR = "raw TCP"
UNPACED = "raw TCP, unpaced"  # with the congestion control that LIFL takes over loopback


@dataclass(frozen=True)
class Way:
    """How the clients of a job send, and what else the job says."""

    train: str = "train"
    spec: dict[str, Any] = field(default_factory=dict)


WHOLE = Way()
SEALED = Way(train="carry")
PLAIN = Way(train="carry", spec={"insecure": True})


@dataclass(frozen=True)
class Pair:
    """Two floors and the job that followed them: as the system has TCP, and without a pace."""

    below: Floor
    unpaced: Floor
    job: Rounds


def pairs(size_bytes: int, turns: int, *ways: Way) -> list[list[Pair]]:
    """For each way as many pairs as turns; the ways take turns, too."""
    found: list[list[Pair]] = [[] for _ in ways]
    for _ in range(turns):
        for way, taken in zip(ways, found, strict=True):
            below = floor(CLIENTS, size_bytes, WARM)
            unpaced = floor(CLIENTS, size_bytes, WARM, control=LOCAL_CONTROL)
            job = job_rounds(
                clients=CLIENTS, size_bytes=size_bytes, warm=WARM, train=way.train, spec=way.spec
            )
            taken.append(Pair(below, unpaced, job))
    return found


def compared(found: Sequence[Pair], *, unpaced: bool = False) -> Figure:
    middle = statistics.median
    return Figure.of_pairs(
        [middle(pair.job.warm_s) for pair in found],
        [middle((pair.unpaced if unpaced else pair.below).seconds) for pair in found],
        scale=1e3,
        note=_note(len(found)),
    )


def _note(turns: int) -> str:
    return f"{turns} jobs in turn with {turns} floors, {WARM} warm rounds of each"


def large(*, turns: int = PAIRS) -> Found:
    plain, sealed, whole = pairs(LARGE, turns, PLAIN, SEALED, WHOLE)
    jobs = [pair.job for pair in whole]
    return {
        "plain": compared(plain),
        "sealed": compared(sealed),
        "whole": compared(whole),
        "plain unpaced": compared(plain, unpaced=True),
        "sealed unpaced": compared(sealed, unpaced=True),
        "whole unpaced": compared(whole, unpaced=True),
        "cpu": Figure.of_pairs(
            [job.cpu_s for job in jobs],
            [pair.below.cpu_s for pair in whole],
            scale=1e3,
            note=_note(turns),
        ),
        "first": Figure.of_pairs(
            [job.first_s for job in jobs],
            [statistics.median(job.warm_s) for job in jobs],
            scale=1e3,
            note=_note(turns),
        ),
    }


def small(*, turns: int = PAIRS) -> Found:
    (found,) = pairs(SMALL, turns, WHOLE)
    return {"round": compared(found)}


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
            "plain": Line(
                case="round of 8 × 46.8 MB, data path, plain", unit="ms", reference=FLOOR,
                goal=Goal("ratio", "≤", 1.3),
            ),
            "sealed": Line(
                case="round of 8 × 46.8 MB, data path, encrypted", unit="ms", reference=FLOOR,
                goal=Goal("ratio", "≤", 1.5),
            ),
            "whole": Line(
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
            "plain unpaced": Line(case="data path, plain", unit="ms", reference=UNPACED),
            "sealed unpaced": Line(case="data path, encrypted", unit="ms", reference=UNPACED),
            "whole unpaced": Line(case="whole job, encrypted", unit="ms", reference=UNPACED),
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
