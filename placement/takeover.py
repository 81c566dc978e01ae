"""After a restart of the agent: jobs get their memory back from the processes that hold it.

Owns what is believed: memory by its inode, which the agent before wrote down (hosted.py).  The
processes themselves are found by pool.py.  Called by members.py when a process joins, and by
liveness.py when one has died.
"""

from __future__ import annotations

import os

from lifl.placement.hosted import NodeJob
from lifl.placement.node import Node
from lifl.shm.arena import ArenaFiles
from lifl.shm.geometry import Geometry


def take_files(node: Node, job: NodeJob, fds: list[int]) -> None:
    """A process hands back the memory of its job, which is believed by its inode."""
    inputs, sums, locks = fds
    if job.files is not None or [os.fstat(fd).st_ino for fd in (inputs, sums)] != job.inodes:
        return
    writable = os.open(f"/proc/self/fd/{inputs}", os.O_RDWR | os.O_CLOEXEC)
    geometry = Geometry(**job.plan["geometry"])
    job.files = ArenaFiles(geometry, writable, os.dup(sums), os.dup(locks))
    job.slots = geometry.model_slot  # as far as is known; what is too many is given back
    node.carry_out(job.plan)


def make_if_nobody_holds(node: Node, job: NodeJob) -> None:
    """The last agent died before it handed the memory to anyone: nothing was in it.

    If it had, everybody who held it has died, too, and updates with them: this node is lost for the
    round, and begins anew when the coordinator says so.
    """
    processes = node.pool.processes.values()
    if job.files is None and job.inodes and all(
        process.control and job.number not in process.holds for process in processes
    ):  # fmt: skip
        job.inodes = []
        if job.handed:
            error = "every process of it died at once, and the job's memory with them"
            node.report({"t": "lost", "job": job.name, "error": error})
            return
        node.carry_out(job.plan)
