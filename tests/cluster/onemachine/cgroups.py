"""The control groups of a cluster: how its processes are found, and ended, without any record.

Owns the folder of a cluster in every hierarchy of /sys/fs/cgroup.  A process is put there before
it becomes what it is to be, so that nothing is overlooked after a crash at any point.  Called by
`unit`, `up`, `down` and `status`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .layout import Cluster
from .shell import Failed

MOUNTS: Final = Path("/proc/self/mounts")
PATIENCE_S: Final = 20.0


def hierarchies() -> list[Path]:
    """Every hierarchy's root: one with cgroup v2, a dozen with v1."""
    found = []
    for line in MOUNTS.read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append(Path(where))
    if not found:
        raise Failed("no cgroups are mounted below /sys/fs/cgroup")
    return found


def tracker() -> Path:
    """The hierarchy by which processes are found: v1's `pids`, else the one that there is."""
    roots = hierarchies()
    return next((root for root in roots if root.name == "pids"), roots[0])


def make(cluster: Cluster, unit: str) -> Path:
    """The group in which a unit's first process goes; it is inside what `make_node` makes."""
    folder = tracker() / cluster.cgroup / unit / "unit"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_node(cluster: Cluster, unit: str) -> str:
    """The kubelet's cgroup root, which has to exist in every hierarchy."""
    for root in hierarchies():
        folder = root / cluster.cgroup / unit
        folder.mkdir(parents=True, exist_ok=True)
        # A new v1 cpuset is empty, and nothing can run in it.
        for name in ("cpuset.cpus", "cpuset.mems"):
            for part in (folder.parent, folder):
                if (part / name).exists() and (root / name).exists():
                    (part / name).write_text((root / name).read_text())
    return f"/{cluster.cgroup}/{unit}"


def clear(cluster: Cluster, unit: str) -> None:
    """Groups of pods that ended with their node; a kubelet would look into each."""
    for root in hierarchies():
        top = root / cluster.cgroup / unit
        for folder in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()


def enter(folder: Path) -> Path:
    """Put this process there; returns where it was."""
    mine = Path("/proc/self/cgroup").read_text().splitlines()
    root = tracker()
    name = "" if root.name == "unified" or len(mine) == 1 else root.name
    before = next(
        path for _, names, path in (line.split(":", 2) for line in mine) if name in names.split(",")
    )
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    return root / before.lstrip("/")


def leave(before: Path) -> None:
    """Put this process back where `enter` found it."""
    (before / "cgroup.procs").write_text(str(os.getpid()))


def folders(cluster: Cluster) -> Iterator[Path]:
    """All of the cluster's groups, inner ones first."""
    for root in hierarchies():
        top = root / cluster.cgroup
        if top.is_dir():
            for where, _, _ in os.walk(top, topdown=False):
                yield Path(where)


def processes(cluster: Cluster, unit: str = "") -> list[int]:
    """Ids of what runs in the cluster, or in one unit of it."""
    found: set[int] = set()
    for folder in folders(cluster):
        if not unit or unit in folder.parts:
            with contextlib.suppress(OSError):  # it has just gone
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    return sorted(found - {0, os.getpid()})


def end(cluster: Cluster) -> None:
    """End every process but this one.

    Raises:
        Failed: one does not end.
    """
    deadline = time.monotonic() + PATIENCE_S
    while left := processes(cluster):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Failed(f"these processes of the cluster do not end: {left}")
        time.sleep(0.02)


def remove(cluster: Cluster) -> None:
    """Remove every group, of which no process may be a member any more.

    Raises:
        Failed: one cannot be removed.
    """
    deadline = time.monotonic() + PATIENCE_S
    while left := list(folders(cluster)):
        for folder in left:
            with contextlib.suppress(OSError):  # one that ended just now is still counted
                folder.rmdir()
        if time.monotonic() > deadline:
            raise Failed(f"these control groups cannot be removed: {left}")
        time.sleep(0.02)
