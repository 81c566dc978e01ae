"""Which processes of a node are alive: each is asked now and then, and who is not is replaced.

    asked ─► an answer, or anything else that it says ─► asked …
      └───► nothing for `liveness_s` ─► its role is somebody else's ─► killed ─► died

Owns when processes are asked and how long each has to answer, or to come at all, and what follows
from a death.  Does not own connections: members.py has them, and says who has joined or died.
Called by members.py.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from lifl.functions.ending import HOPELESS
from lifl.placement.accounts import Accounts
from lifl.placement.node import Node
from lifl.placement.pool import Process
from lifl.placement.takeover import make_if_nobody_holds
from lifl.proxy_ebpf.descriptor import lane

log = logging.getLogger("lifl.agent")

PING_S: Final = 2.0
START_S: Final = 30.0  # to connect, or to join with a role: imports, first touch, a busy machine


class Liveness:
    """Of the processes of one node.

    Args:
        liveness_s: who holds a role and does not answer for so long is replaced.
        restart_at: says where the gateway listens, for the one that follows it.
    """

    def __init__(
        self, node: Node, accounts: Accounts, liveness_s: float, *, restart_at: Callable[[], str]
    ) -> None:
        self.node, self.accounts, self.liveness_s = node, accounts, liveness_s
        self._restart_at = restart_at
        self.pinged_at = self.checked_at = 0.0
        self._stuck: Counter[str] = Counter()  # by kind: who never came, one after the other

    @property
    def ping_s(self) -> float:
        return min(PING_S, self.liveness_s / 3)

    @property
    def look_in_s(self) -> float | None:
        """How often `check` has to be called; None: there is nothing to be looked at."""
        awaited = any(each.is_awaited for each in self.node.pool.processes.values())
        return self.ping_s if self.node.jobs or awaited else None

    def arrived(self, kind: str) -> None:
        """One that was waited for has joined: this machine is not too slow for its kind."""
        del self._stuck[kind]

    def died(self, process: Process) -> None:
        """Somebody else takes the role, or the gateway's place."""
        role = process.role
        status = self.node.pool.bury(process)
        what = process.kind
        if process.kind == "gateway" and status == HOPELESS:
            self.node.report({
                "t": "failed", "code": "port-in-use", "error":
                f"the gateway of {self.node.name} could not start; its last words are above",
            })  # fmt: skip
            return
        if process.kind == "gateway":
            for job in self.node.jobs.values():
                job.lanes.clear()
                for endpoint in job.roles:
                    self.node.router.unregister(job.number, lane(endpoint))
            self.node.pool.start_gateway(self._restart_at())
        elif role and role[0] in self.node.jobs:
            job = self.node.jobs[role[0]]
            what = job.roles.get(role[1], {"kind": what})["kind"]
            if self.node.pool.holder(*role) is None:
                self.node.router.unregister(*role)
        if process.is_retired or (process.pod and not role and process.kind != "gateway"):
            pass  # idle ones go as they are scaled
        else:
            self.node.report({"t": "restart", "what": what})
        for job in list(self.node.jobs.values()):
            make_if_nobody_holds(self.node, job)
            self.node.staff(job)
            self.node.router.reset_credit(job.number)
            self.node.poke_everybody(job)
            self.node.forget_if_left(job)

    def check(self) -> None:
        """Who holds a role and does not answer is replaced: the successor waits, then it dies.

        A process is asked, and has `liveness_s` from then: silence before a question, or while
        this agent was busy itself, says nothing.  Who is on its way and cannot be asked has
        `START_S`, and each one in a row that does not arrive leaves the next of its kind
        twice as long, so that on a machine that is too slow one arrives in the end.
        """
        now = time.monotonic()
        late = now - self.checked_at > self.liveness_s / 2  # this agent did not look: ask again
        self.checked_at = now
        if self.look_in_s is None or now - self.pinged_at < self.ping_s:
            return
        self.pinged_at = now
        if self.node.jobs:
            self._mend()
        for process in list(self.node.pool.processes.values()):
            if process.is_awaited:
                self._await(process, now, late=late)
            if process.control is None or not (process.joined or process.kind == "gateway"):
                continue
            if process.asked_at is None or late:
                process.asked_at = now
                self.node.send(process, {"t": "ping"})
            elif now - process.asked_at > self.liveness_s:
                log.warning("%s %d does not answer: replaced", process.kind, process.pid)
                self._replace(process)

    def _await(self, process: Process, now: float, *, late: bool) -> None:
        if late:
            process.awaited_since_s = now
        elif now - process.awaited_since_s > max(START_S, self.liveness_s) * 2 ** min(
            self._stuck[process.kind], 6
        ):  # fmt: skip
            self._stuck[process.kind] += 1
            log.warning("%s %d has not joined: replaced", process.kind, process.pid)
            self._replace(process)

    def _mend(self) -> None:
        """See that the kernel has what descriptors need: others with the right can take it."""
        for what, count in self.node.mend().items():
            self.accounts.figures.add("lifl_proxy_repairs", count, what=what)
            log.warning("somebody took %d × %s out of the kernel: put back", count, what)

    def _replace(self, process: Process) -> None:
        """Fence: the successor asks for the role's lock, which is free when this one is dead."""
        if process.role is not None:
            number, endpoint = process.role
            process.role, process.joined = None, False
            job = self.node.jobs.get(number)
            successor = self.node.pool.idle(but=process, tenant=job.tenant) if job else None
            if successor and job:
                self.node.assign(job, endpoint, successor)
        process.is_given_up = True
        self.node.pool.kill(process)
