"""What runs out: how much memory this process may still take, and files that find no space.

Owns reading the limits of cgroups (v1 and v2) and of the machine.  Pages of shared memory are
charged to whoever makes them, and a cgroup that is over its limit is not told but killed: so the
agent asks before it makes any, and the engine looks afterwards whether that is what killed it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lifl.errors import Busy, NoSpace

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
BUDGET = "the node's memory for jobs (lifl run --arena-memory; in a cluster agent.arenaMemory)"


@dataclass(frozen=True)
class Room:
    """Memory that can still be had, and what bounds it."""

    left_bytes: int
    bound: str


def check_memory(
    needed_bytes: int, *, node: str, budget_bytes: int, taken_bytes: int, limit_bytes: int = 0
) -> None:  # fmt: skip
    """See that a job's memory fits.

    Args:
        needed_bytes: of the whole job on this node, of which it has `taken_bytes` already.
        budget_bytes: of all jobs on the node; 0 is none.
        limit_bytes: of the job; 0 is none.

    Raises:
        Busy: it does not.
    """
    rooms = [room()]
    if budget_bytes:
        rooms.append(Room(budget_bytes - taken_bytes, BUDGET))
    if limit_bytes:
        rooms.append(Room(limit_bytes - taken_bytes, "spec.memory.arenaBytes"))
    least = min(rooms, key=lambda each: each.left_bytes)
    if needed_bytes - taken_bytes > least.left_bytes:
        raise Busy(
            f"the job needs {needed_bytes} bytes of shared memory on {node}, and {least.bound} "
            f"leaves {max(0, least.left_bytes) + taken_bytes}: lower spec.memory.inputSlots or "
            "raise that limit",
            code="no-memory",
        )


def unwritten(error: OSError) -> NoSpace | None:
    """The error for a file that there is no space for; None if it is about something else."""
    if error.errno not in _NO_SPACE:
        return None
    return NoSpace(
        f"a result cannot be written to {error.filename or 'the run directory'} "
        f"({error.strerror}): make room, or name another folder with --out"
    )


@contextlib.contextmanager
def full_disk_says(path: Path, then: str = "") -> Iterator[None]:
    """What cannot be written into a run's directory as an error that names the way out.

    Args:
        then: what follows and what to do; for `lifl run` unless given.
    """
    try:
        yield
    except OSError as error:
        can_go_on = (path.parent / "run.json").exists()
        fix = (f"go on with lifl run --resume {path.parent}" if can_go_on
               else "run again, or name another folder with --out")  # fmt: skip
        then = then or f"the run stops here: make room and {fix}"
        raise NoSpace(f"{path} cannot be written: {error.strerror}; {then}") from error


def room(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Room:
    """The least of what the cgroups of this process and the machine have left."""
    meminfo = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    found = [Room(available, "this machine"), *_limits(root, proc)]
    return min(found, key=lambda each: each.left_bytes)


def oom_kills(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int:
    """Processes that the memory limits of this process's cgroups have killed so far."""
    total = 0
    for folder, is_v1 in _cgroups(root, proc):
        text = _read(folder / ("memory.oom_control" if is_v1 else "memory.events"))
        total += sum(int(line.split()[1]) for line in text.splitlines() if line[:9] == "oom_kill ")
    return total


def _limits(root: Path, proc: Path) -> Iterator[Room]:
    for folder, is_v1 in _cgroups(root, proc):
        limit = _read(folder / ("memory.limit_in_bytes" if is_v1 else "memory.max")).strip()
        used = _read(folder / ("memory.usage_in_bytes" if is_v1 else "memory.current")).strip()
        if not limit.isdigit() or not used.isdigit():  # v2 says "max"
            continue
        given_back = "total_inactive_file" if is_v1 else "inactive_file"  # when memory is short
        for line in _read(folder / "memory.stat").splitlines():
            name, value = line.split()
            if name == given_back:
                used = str(int(used) - int(value))
        yield Room(int(limit) - int(used), f"the memory limit of {folder}, {limit} bytes,")


def _cgroups(root: Path, proc: Path) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is of v1) of this process's memory cgroup and every one above it."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "memory" if controllers else root
        folder = base / path.lstrip("/")
        while folder != base.parent:
            if folder.is_dir():
                yield folder, bool(controllers)
            folder = folder.parent


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
