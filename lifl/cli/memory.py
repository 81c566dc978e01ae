"""The shared memory of jobs on this machine, for `lifl shm ls`.

Arenas have no path: they live as long as a process holds them.  So they are found where
processes hold them, in /proc; without root only in one's own processes.
"""

from __future__ import annotations

import mmap
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lifl.shm.geometry import LABEL, Geometry
from lifl.shm.slots import phases

_NAME: Final = re.compile(r"/memfd:lifl-(.+)-(inputs|sums|locks)(?: \(deleted\))?")


@dataclass
class Memory:
    """One memfd of an arena.

    Attributes:
        resident_bytes: pages that exist, in memory or swap.
        pids: processes that hold a descriptor of it.
        slots: how many are in each phase; None where it has none or may not be read.
    """

    job: str
    part: str
    inode: int
    size_bytes: int
    resident_bytes: int
    pids: list[int] = field(default_factory=list)
    slots: dict[str, int] | None = None


def find(proc: Path = Path("/proc")) -> list[Memory]:
    """Every memory of every job, by job and in the order in which they were made."""
    found: dict[tuple[int, int], Memory] = {}
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())
    for pid in pids:
        try:
            descriptors = list(os.scandir(proc / str(pid) / "fd"))
        except OSError:  # ended, or another user's
            continue
        for descriptor in descriptors:
            try:
                match = _NAME.fullmatch(os.readlink(descriptor.path))
                if match is None:
                    continue
                stat = os.stat(descriptor.path)
            except OSError:
                continue
            key = stat.st_dev, stat.st_ino
            memory = found.setdefault(
                key, Memory(match[1], match[2], stat.st_ino, stat.st_size, stat.st_blocks * 512)
            )
            if pid not in memory.pids:
                memory.pids.append(pid)
            if memory.slots is None and memory.part != "locks":
                memory.slots = _slots(descriptor.path, memory)
    return sorted(found.values(), key=lambda memory: (memory.job, memory.inode))


def _slots(path: str, memory: Memory) -> dict[str, int] | None:
    """Read the state words through somebody's descriptor; nothing is written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        geometry = Geometry.of_label(os.pread(fd, LABEL.size, 0))
        if geometry is None:
            return None
        region = geometry.for_inputs if memory.part == "inputs" else geometry.for_sums
        if region.size_bytes != memory.size_bytes:
            return None
        with mmap.mmap(fd, region.headers, mmap.MAP_SHARED, mmap.PROT_READ) as words:
            return phases(words, region)
    finally:
        os.close(fd)
