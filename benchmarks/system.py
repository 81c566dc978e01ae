"""What the kernel says about this machine and about processes of a run.

Owns reading /proc.  Called by the cases and by `python -m benchmarks`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lifl.placement.processes import descendants

ARENA = "/memfd:lifl"


def machine() -> dict[str, Any]:
    """What figures depend on."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)", info, re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gb": round(_memory_bytes("MemTotal") / 1e9, 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load_at_start": round(os.getloadavg()[0], 2),
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return _memory_bytes("MemAvailable")


def _memory_bytes(field: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/meminfo has no {field}")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process since it started, all its threads, to the nanosecond.

    Raises:
        ProcessLookupError: it is gone.
    """
    # clock_getcpuclockid(3), which Python does not have: ~pid << 3, and 2 for what the
    # scheduler counted.  Not in the 10 ms ticks of /proc/PID/stat.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error


def processes(root: int, *modules: str) -> list[int]:
    """Pids below `root` that run one of these modules of LIFL."""
    found = []
    for pid in descendants(root):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "-m" in words and words[words.index("-m") + 1] in modules:
                found.append(pid)
    return found


@dataclass(frozen=True)
class Pss:
    """Proportional set size of a process: pages that n processes map count 1/n in each."""

    arena_bytes: int
    other_bytes: int


def pss(pid: int) -> Pss:
    """Of mappings of job memory, and of everything else."""
    arena = other = 0
    is_arena = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("Pss:"):
            size = int(line.split()[1]) * 1024
            arena, other = (arena + size, other) if is_arena else (arena, other + size)
        elif re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_arena = ARENA in line
    return Pss(arena, other)


@contextmanager
def peak(sample: Callable[[], int], *, every_s: float = 0.05) -> Iterator[list[int]]:
    """The largest of what `sample` returned, at the start of the block and in it, as a list of one.

    A short block is sampled once: make it last.
    """
    most = [sample()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            with contextlib.suppress(OSError):  # a process went
                most[0] = max(most[0], sample())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
