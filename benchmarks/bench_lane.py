"""Rounds over either lane beside raw TCP that moves the same bytes.

    python -m benchmarks.bench_lane [--rounds 9] [--only 46.8MB]

More cases than `make bench` has: the lane zmq, insecure jobs, and 64 clients of 1 MB.  Whole jobs
and the floor as in case_round.py; figures are medians over rounds, the first of a job left out;
set-up is outside the clock.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from typing import Any

from benchmarks.floor import floor
from benchmarks.runs import job_rounds


def compare(
    name: str, clients: int, size: int, rounds: int, *, repeats: int, spec: dict[str, Any]
) -> None:
    floors: list[float] = []
    floor_cpu: list[float] = []
    jobs: list[float] = []
    cpu: list[float] = []
    first: list[float] = []
    for _ in range(repeats):
        below = floor(clients, size, rounds)
        floors += below.seconds
        floor_cpu.append(below.cpu_s)
        job = job_rounds(clients=clients, size_bytes=size, warm=rounds, spec=spec)
        jobs += job.warm_s
        cpu.append(job.cpu_s)
        first.append(job.first_s)
    middle = statistics.median
    below_s, time_s = middle(floors), middle(jobs)
    print(
        f"{name:34s}{time_s * 1e3:9.1f} ms  floor {below_s * 1e3:8.1f} ms"
        f"  {time_s / below_s:6.2f} x"
        f"   CPU {middle(cpu) * 1e3:6.0f} ms, floor {middle(floor_cpu) * 1e3:6.0f} ms"
        f"   first round {middle(first) * 1e3:7.0f} ms", flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="warm rounds of each job")
    parser.add_argument("--repeats", type=int, default=2, help="jobs and floors of each case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}; "
          f"load {os.getloadavg()[0]:.1f} when it began")  # fmt: skip
    cases: dict[str, tuple[int, int, dict[str, Any]]] = {
        "8 x 46.8MB whole job, sealed": (8, 46_800_000, {}),
        "8 x 46.8MB whole job, plain": (8, 46_800_000, {"insecure": True}),
        "8 x 46.8MB whole job, lane zmq": (8, 46_800_000, {"clients": {"lane": "zmq"}}),
        "8 x 256B whole job": (8, 256, {}),
        "64 x 1MB whole job, sealed": (64, 1_000_000, {}),
    }
    for name, (clients, size, spec) in cases.items():
        if arguments.only not in name:
            continue
        compare(
            name, clients, size, arguments.rounds, repeats=arguments.repeats, spec=spec
        )  # fmt: skip


if __name__ == "__main__":
    main()
