"""Processes below this one: adopting orphans, finding them, ending them all; and giving way.

Owns the system calls that keep a run's processes together: subreaper, SIGKILL to every descendant
until none is left, and who gives way to whom.  Called by the local engine, by the command above it,
and by trainers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_CLONE_NEWNS: Final = 0x20000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)

ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of processes that have NumPy and do not multiply: no threads that only wait."""


def end_with_parent() -> None:
    """SIGTERM for this process when the one that started it is gone, however it went."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def give_way() -> None:
    """Preempt nobody by waking up: this thread, and threads and children that it starts.

    SCHED_BATCH of sched(7).  Their share of the CPUs stays; but a gateway on this machine is not
    put aside at each message that it sends.  A policy that somebody has chosen stays, too.
    """
    with contextlib.suppress(OSError):  # whoever may not choose goes on as before
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def private_bpffs(path: Path) -> str:
    """Mount a bpffs that only this process and its descendants see.

    It goes, with every pin in it, when the last of them is gone: nothing is left to clean up,
    however the run ended.  Returns why it could not be had, or an empty string.
    """
    if _libc.unshare(_CLONE_NEWNS):
        return f"no mount namespace ({os.strerror(ctypes.get_errno())})"
    if _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        return f"cannot make mounts private ({os.strerror(ctypes.get_errno())})"
    path.mkdir(mode=0o700, exist_ok=True)
    if _libc.mount(b"lifl", str(path).encode(), b"bpf", 0, b"mode=0700"):
        return f"cannot mount a bpffs ({os.strerror(ctypes.get_errno())})"
    return ""


def unmount(path: Path) -> None:
    """Undo `private_bpffs`, so that the directory can be removed."""
    _libc.umount2(str(path).encode(), _MNT_DETACH)


def descendants(root: int) -> set[int]:
    """Every process below `root`, zombies included."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (comm) state ppid: comm may hold anything but ends with the last bracket
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    grew = True
    while grew:
        new = {pid for pid, parent in parents.items() if parent in found or parent == root} - found
        grew = bool(new)
        found |= new
    return found


def words_of(pid: int) -> set[bytes]:
    """Of its command line; none where the process is gone."""
    try:
        return {*Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")}
    except OSError:
        return set()


def end_those_with(directory: Path) -> None:
    """Kill every process below this one that belongs to the node with this directory."""
    socket = f"{directory}/agent.sock".encode()
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if socket in words_of(pid):
                os.kill(pid, signal.SIGKILL)


def end_descendants(limit_s: float = 10.0) -> None:
    """Kill every process below this one and wait for it."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        below = descendants(os.getpid())
        if not below:
            return
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)
