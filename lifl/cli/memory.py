"""The shared memory of jobs on this machine, for `lifl shm ls`.

Arenas have no path: they live as long as a process holds them.  So they are found where
processes hold them, in /proc; without root only in one's own processes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"/memfd:lifl-(.+)-(inputs|sums|locks)(?: \(deleted\))?")


@dataclass
class Memory:
    """One memfd of an arena.

    Attributes:
        resident_bytes: pages that exist, in memory or swap.
        pids: processes that hold a descriptor of it.
    """

    job: str
    part: str
    inode: int
    size_bytes: int
    resident_bytes: int
    pids: list[int] = field(default_factory=list)


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
    return sorted(found.values(), key=lambda memory: (memory.job, memory.inode))
