"""What coordinators hear from a gateway of its jobs: that it is ready, who is in, all of it again.

Owns when it is worth a message.  What is told is in the shared words and in jobs.py, so that to a
coordinator that starts again all of it is said once more; what clients do is told by clients.py as
it happens.  Called by gateway.py, and by orders.py when a coordinator is a new one.
"""

from __future__ import annotations

import time
from typing import Final

from lifl.functions.clients import Clients
from lifl.functions.jobs import Job
from lifl.functions.lanes import Lanes
from lifl.functions.lines import EVERYTHING, Lines
from lifl.functions.wire import Message, bits

TELL_S: Final = 0.01  # from one report of who is in to the next, while more are expected


class Reports:
    """One gateway's.

    Args:
        endpoint, key: where the gateway listens, and its public key.
        jobs: the gateway's jobs by name.
        agent: says whether a job's memory and lanes are here.
    """

    def __init__(
        self, endpoint: str, key: str, *, lines: Lines, jobs: dict[str, Job], clients: Clients,
        agent: Lanes,
    ) -> None:  # fmt: skip
        self._hello: Message = {"t": "gateway", "endpoint": endpoint, "key": key}
        self._lines, self._jobs, self._clients, self._agent = lines, jobs, clients, agent

    def hello(self, only: str | None = None) -> None:
        """To all coordinators, or over one line."""
        self._lines.send(self._hello, only)

    def ready(self, job: Job) -> None:
        """This gateway has the job's memory, and what is in it."""
        round_, _ = job.intake.arena.model()
        self._lines.send({
            "t": "ready", "job": job.name, "model": round_ if job.intake.model() else -1,
            "in_model": bits(job.intake.arena.accepted(round_)) if round_ > 0 else b"",
        })  # fmt: skip

    def everything(self, line: str) -> None:
        """A coordinator is a new one: it hears from here all that the last one knew."""
        self.hello(line)
        self._clients.report_all(line)
        for job in self._jobs.values():
            if line not in (EVERYTHING, job.name):
                continue
            if job.round:
                job.told = (0, 0)
                self._accepted(job, again=True)
            if job.evaluation:
                self._lines.send(job.evaluation)
            if job.intake.ports and self._agent.is_ready(job):
                self.ready(job)

    def progress(self, job: Job) -> None:
        """What there is to tell of a job, once per turn of the loop."""
        if job.dirty and self._is_news(job):
            self._accepted(job)

    def crowd(self, job: Job) -> None:
        """Its queue, where the coordinator wants to hear of one that is so long."""
        if (length := job.crowd()) is not None:
            self._lines.send({
                "t": "crowd", "job": job.name, "round": job.round, "queue": length,
            })  # fmt: skip

    def _accepted(self, job: Job, *, again: bool = False) -> None:
        """What is in; `again`: the whole round."""
        job.dirty, job.told_at = False, time.monotonic()
        bytes_told, metrics_told = job.told
        job.told = job.bytes_in, len(job.metrics)
        self._lines.send({
            "t": "accepted", "job": job.name, "round": job.round, "epoch": job.epoch,
            "clients": bits(job.intake.arena.accepted(job.round)),
            "bytes": job.bytes_in - bytes_told, "metrics": job.metrics[metrics_told:],
            "again": again, "begun": job.has_model,
            "excused": bits(job.excused),
            "cut": job.cut or job.intake.arena.is_closed(job.round),
        })  # fmt: skip

    def _is_news(self, job: Job) -> bool:
        """Worth a message now: the node's last client, or the first for a while."""
        everybody = job.answered.bit_count() >= len(job.lanes)
        return everybody or time.monotonic() - job.told_at >= TELL_S
