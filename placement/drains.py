"""Which nodes of a run are to be left, as a file in the run's directory.

Owns RUN/draining.json.  Written by `lifl nodes` and, in a cluster, for nodes that are cordoned, by
the operator; read by the coordinator whenever it asks nodes whether they are there, and at its
start.  A node that drains finishes the round under way; from the next one on its clients are
elsewhere, and with the round after that it holds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Final

from lifl.placement.limits import full_disk_says
from lifl.placement.record import write_whole

FILE: Final = "draining.json"


def read(run_dir: Path) -> set[str]:
    """Names of nodes; none where nobody has said anything."""
    try:
        return set(json.loads((run_dir / FILE).read_text()))
    except FileNotFoundError:
        return set()


def write(run_dir: Path, nodes: Collection[str]) -> None:
    """From now on these and no others.

    Raises:
        NoSpace: the disk is full; what was there stays.
    """
    path = run_dir / FILE
    with full_disk_says(path):
        write_whole(path, json.dumps(sorted(nodes)).encode())
