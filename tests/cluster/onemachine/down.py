"""Takes a cluster down, whatever state it is in: up, half up, or with its `up` killed.

Owns the order: processes, then what they hold.  Finds everything by name, see `layout`.  Called by
`__main__`, and by `up` before it begins and when it is broken off.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from . import cgroups, network
from .layout import Cluster
from .shell import Failed, run

MOUNTS: Final = Path("/proc/self/mounts")


def mounts(cluster: Cluster) -> list[Path]:
    """What is mounted below its folder here; a node's mounts are not seen here and end with it."""
    found = [Path(line.split()[1]) for line in MOUNTS.read_text().splitlines()]
    return sorted((path for path in found if path.is_relative_to(cluster.home)), reverse=True)


def leftovers(cluster: Cluster) -> list[str]:
    """What there is of the cluster, in words."""
    return [
        *(f"process {pid}" for pid in cgroups.processes(cluster)),
        *(f"mount {path}" for path in mounts(cluster)),
        *(f"network namespace {name}" for name in network.there(cluster)),
        *(f"control group {folder}" for folder in cgroups.folders(cluster)),
        *([f"folder {cluster.home}"] if cluster.home.exists() else []),
    ]


def down(cluster: Cluster) -> None:
    """Take everything away.

    Raises:
        Failed: something is still there; the message says what.
    """
    cgroups.end(cluster)
    cgroups.remove(cluster)
    for path in mounts(cluster):
        run(["umount", "--lazy", path])
    network.remove(cluster)
    if cluster.home.exists():
        shutil.rmtree(cluster.home)
    if left := leftovers(cluster):
        raise Failed("still there: " + ", ".join(left))
