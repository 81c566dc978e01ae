"""A thousand connected clients, and what they cost beyond ten.

The clients are `lifl.Client`s from outside, threads of eight processes (many_clients.py); the job
has one leaf and a top, however many clients there are, so that the number of processes that are
looked at stays.  As for eight clients, the data path is what is left without a client's own work:
checks, memory of its own and, in the clear, a copy (bench_trainer.py, `lean`).  Memory is looked at
in rounds of its own, behind those that are timed: a look reads thousands of lines of /proc.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.floor import PROCESSES, floor
from benchmarks.rows import Case, Figure, Found, Goal, Line
from benchmarks.runs import AGENT, AGGREGATOR, GATEWAY, Job, started
from benchmarks.system import peak, pss

MANY = 1000
FEW = 10
SIZE = 1_000_000
WARM = 5
JOBS = 3  # of each kind: where processes lie differs from job to job
LOOKED = 3  # rounds of many clients in which memory is looked at, every 50 ms
FEW_LOOKED = 100  # ... and of ten, whose rounds are short
SPEC: dict[str, Any] = {
    "aggregation": {"fanIn": 1024},
    "memory": {"inputSlots": 64},  # of 1 MB: fewer wake-ups, and the arena stays at 64 MB
}


@contextmanager
def clients(
    job: Job, count: int, size: int, module: str = "benchmarks.many_clients", train: str = "train"
) -> Iterator[None]:
    """`count` clients with updates of `size` bytes that take part until the job is done.

    Args:
        train: name of their trainer in bench_trainer.py.
    """
    files = [str(job.run_dir / "clients" / f"client-{index}.json") for index in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *files[index::PROCESSES]],
            env=os.environ | {"LIFL_BENCH_BYTES": str(size), "LIFL_BENCH_TRAIN": train,
                              "OPENBLAS_NUM_THREADS": "1"},
        )
        for index in range(min(PROCESSES, count))
    ]  # fmt: skip

    def watch(process: subprocess.Popen[bytes]) -> None:
        if process.wait():
            job.process.terminate()  # the round would wait for its clients

    watchers = [threading.Thread(target=watch, args=(process,)) for process in processes]
    for watcher in watchers:
        watcher.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for watcher in watchers:
            watcher.join()


def one_job(
    count: int, *, warm: int, looked: int = 0, insecure: bool = False, train: str = "train"
) -> tuple[list[float], int]:
    """Seconds of the warm rounds; peak of the node's memory beyond the arena in bytes, or 0.

    Args:
        looked: rounds behind the warm ones in which memory is looked at, which takes a CPU's time.
    """
    spec, rounds = SPEC | {"insecure": insecure}, 1 + warm + looked
    with started(clients=count, size_bytes=SIZE, rounds=rounds, trainers=False, spec=spec) as job:
        job.until("waiting")  # client files are written before that
        most_bytes = 0
        with clients(job, count, SIZE, train=train):
            job.until("published", round=1 + warm)
            if looked:
                node = job.pids(AGENT, GATEWAY, AGGREGATOR)
                with peak(lambda: sum(pss(pid).other_bytes for pid in node)) as most:
                    job.until("published", round=rounds)
                most_bytes = most[0]
            for _ in job.events():
                pass
        return [row["seconds"] for row in job.rows()][1 : 1 + warm], most_bytes


def measure(*, turns: int = WARM) -> Found:
    _, few_bytes = one_job(FEW, warm=0, looked=FEW_LOOKED)
    kinds: dict[str, dict[str, Any]] = {
        "time": {"looked": LOOKED}, "plain": {"insecure": True},
        "path": {"train": "lean"}, "path plain": {"train": "lean", "insecure": True},
    }  # fmt: skip
    below: dict[str, list[float]] = {kind: [] for kind in kinds}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    many_bytes = 0
    for _ in range(JOBS):
        for kind, how in kinds.items():
            below[kind].append(statistics.median(floor(MANY, SIZE, turns).seconds))
            seconds, seen_bytes = one_job(MANY, warm=turns, **how)
            taken[kind].append(statistics.median(seconds))
            many_bytes = max(many_bytes, seen_bytes)
    note = f"{JOBS} jobs of each kind in turn, a floor before each; {turns} warm rounds of each"
    return {
        **{
            kind: Figure.of_pairs(taken[kind], below[kind], scale=1e3, note=note) for kind in kinds
        },
        "memory": Figure(
            value=(many_bytes - few_bytes) / 1e6,
            note=f"peak PSS without job memory: {many_bytes / 1e6:.0f} MB with {MANY:,} clients, "
            f"{few_bytes / 1e6:.0f} MB with {FEW}",
        ),
    }  # fmt: skip


def _round(what: str) -> Line:
    return Line(
        case=f"round of 1,000 × 1 MB, {what}", unit="ms", reference="raw TCP",
        goal=Goal("ratio", "≤", 2.5),
    )  # fmt: skip


CASE = Case(
    name="clients",
    lines={
        "path plain": _round("data path, plain"),
        "path": _round("data path, encrypted"),
        "time": _round("whole job, encrypted"),
        "plain": _round("whole job, plain"),
        "memory": Line(
            case="node's memory beyond the arena, 1,000 clients less 10 clients", unit="MB",
            goal=Goal("value", "≤", 64),
        ),
    },
    measure=measure,
)  # fmt: skip
