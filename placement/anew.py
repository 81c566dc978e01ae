"""Lost nodes of a local run that begin anew: what of them goes, and which losses are no news.

    node_lost of a job ─► its agent is killed, then all it had ─► its agent begins with nothing of
    that job, and tells the others which memory was there and is gone (takeover.py): they lose it

Owns what is remembered meanwhile: a node is emptied once however many jobs find it lost, since each
further time would take what the first have put there again.  Called by engine.py, which kills
agents and starts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from lifl.placement.processes import end_those_with

HEARD_S: Final = 60.0  # in which the others have heard of a loss from the new agent, or by silence


class Anew:
    """Nodes that begin anew.

    Args:
        directory: of the run; each node has one in it.
        clock: monotonic seconds.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._ending: dict[str, set[int]] = {}  # node -> jobs that lost it, until its agent ended
        self._unheard: dict[str, tuple[set[int], float]] = {}  # node -> others, and until when

    def begins(self, node: str, job: int) -> bool:
        """A job has lost a node; whether its agent is to be killed.

        False: it is being killed, or what the job has lost is what another's loss took.
        """
        if node in self._ending:
            self._ending[node].add(job)
            return False
        jobs, until = self._unheard.get(node, (set(), 0.0))
        if job in jobs and self._clock() < until:
            jobs.discard(job)
            return False
        self._ending[node] = {job}
        return True

    def agent_ended(self, node: str, jobs: Iterable[int]) -> bool:
        """The agent of a node has ended; True if it was killed for a loss: all it had is gone now.

        What it wrote of jobs that have not lost the node stays, for the next one to tell them.

        Args:
            jobs: that are not over.
        """
        lost = self._ending.pop(node, None)
        if lost is None:
            return False
        end_those_with(self._directory / node)
        for name in ("processes.json", *(f"job-{number}" for number in lost)):
            (self._directory / node / name).unlink(missing_ok=True)
        self._unheard[node] = {*jobs} - lost, self._clock() + HEARD_S
        return True
