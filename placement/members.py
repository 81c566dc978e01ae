"""The processes of a node as they join, register their sockets and say what they do.

Owns the agent's side of every control connection.  Who falls silent or dies is liveness.py's, what
a process is given node.py's to say, who exists at all pool.py's.  Called by the agent's loop with
what became readable.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Container

from lifl.errors import LiflError, Unreachable
from lifl.faults import fault
from lifl.functions.wire import Keys, Message
from lifl.placement.accounts import Accounts
from lifl.placement.cluster.tokens import Doorman, Guest
from lifl.placement.hosted import NodeJob
from lifl.placement.liveness import Liveness
from lifl.placement.node import Node
from lifl.placement.pool import Process
from lifl.placement.takeover import make_if_nobody_holds, take_files
from lifl.proxy_ebpf.control import Control, close_all, listen

log = logging.getLogger("lifl.agent")

UNREADABLE = (KeyError, TypeError, ValueError)  # fields or descriptors that are not there
STRANGERS = 256  # who have connected and not said who they are, or said it and are asked about


class Members:
    """Everybody who is connected to this agent, or was.

    Args:
        liveness_s: who holds a role and does not answer for so long is replaced.
        listen_at: where the node's first gateway listens.
        doorman: says who somebody from another pod is; None: this user's processes alone come.
        keys: of the node, which its gateway gets in a cluster.

    Attributes:
        coordinators: of the jobs that there are, in a cluster; the gateway hears it.  None: this
            agent has not heard of any yet, and the gateway keeps what the last one told it.
    """

    def __init__(
        self, node: Node, accounts: Accounts, *, liveness_s: float, listen_at: str,
        doorman: Doorman | None = None, keys: Keys | None = None,
    ) -> None:  # fmt: skip
        self.node, self.accounts = node, accounts
        self.listen_at, self.doorman, self.keys = listen_at, doorman, keys
        self.coordinators: list[Message] | None = None
        self.listener = listen(node.pool.socket_path, to_all=doorman is not None)
        self.connections: dict[int, tuple[Control, Process | None]] = {}
        self.waiting = 0  # whom the doorman asks about
        self.liveness = Liveness(node, accounts, liveness_s, restart_at=self.gateway_address)

    def gateway_address(self) -> str:
        """Where the gateway listens: where the last one did, so that clients find it again."""
        try:
            return (self.node.directory / "gateway").read_text()
        except FileNotFoundError:
            return self.listen_at

    def turn(self, ready: Container[object]) -> None:
        """Who was forked, who joins, what members say, who has died.

        Who has spoken or died is known before anything is done: what a turn opens may get the
        number of a descriptor that it has closed, and is not ready.
        """
        pool = self.node.pool
        talking = [(fd, each[0]) for fd, each in self.connections.items() if fd in ready]
        dead = [(each, each.pidfd) for each in pool.processes.values() if each.pidfd in ready]
        if pool.zygote is not None and pool.zygote.has_news(ready):
            self.learn_who_was_forked()
        if self.listener.fileno() in ready:
            self.accept()
        for fd, control in talking:
            if fd in self.connections and self.connections[fd][0] is control:
                self.receive(fd)
        for process, pidfd in dead:
            if process.pidfd == pidfd:  # else it has come again, from its pod
                self.died(process)

    # -- joining -----------------------------------------------------------------------------
    def accept(self) -> None:
        connection, _ = self.listener.accept()
        control = Control(connection)
        self.connections[control.fileno()] = (control, None)
        silent = [each for each, process in self.connections.values() if process is None]
        if len(silent) > STRANGERS:  # the oldest first
            self._turn_away(silent[0], [], "silent", "it has not said who it is", say=False)

    def learn_who_was_forked(self) -> None:
        """Before anybody joins: who comes from the zygote is known then."""
        for _ in range(self.node.pool.take_forked()):
            self.node.report({"t": "restart", "what": "zygote"})

    def receive(self, fd: int) -> None:
        control, process = self.connections[fd]
        received = control.receive()
        if received is None:
            del self.connections[fd]
            if process and process.control is control:
                process.control, process.awaited_since_s = None, time.monotonic()
            control.close()
            return
        message, fds = received
        if not isinstance(message.get("t"), str):
            self._turn_away(control, fds, "malformed", "what it sent cannot be read")
            return
        if process is None and self.doorman is not None:
            if self.waiting >= STRANGERS:
                self._turn_away(control, fds, "busy", "too many wait", say=False)
                return
            del self.connections[fd]  # whatever else it says waits until it is known
            self.waiting += 1
            self.doorman.ask((control, message, fds), str(message.get("token", "")))
            return
        if process is None:
            self._joins(control, message, fds, None)
            return
        process.asked_at = None
        try:
            self._hears(process, message, fds)
        except UNREADABLE as error:
            self._misled(control, [], error)
        finally:
            close_all(fds)

    def admit(self) -> None:
        """The doorman knows who some of those are that wait."""
        assert self.doorman is not None
        for (control, message, fds), who in self.doorman.answers():
            self.waiting -= 1
            stale = self.keys is not None and message.get("key", "") != self.keys.public
            if isinstance(who, Guest) and message["t"] == "gateway" == who.kind and stale:
                answer: Message = {"t": "other-keys"}  # it starts again, and asks for them
            elif isinstance(who, Guest) and message["t"] == who.kind:
                self.connections[control.fileno()] = (control, None)
                try:
                    self._joins(control, message, fds, who)
                except UNREADABLE as error:
                    self._misled(control, fds, error)
                continue
            elif isinstance(who, Guest) and who.kind == "gateway" and message["t"] == "keys":
                assert self.keys is not None
                answer = {"t": "keys", "public": self.keys.public, "secret": self.keys.secret}
            else:
                why = who if isinstance(who, LiflError) else f"a {who.kind} is no such process"
                code = who.code if isinstance(who, LiflError) else "not-allowed"
                self._turn_away(control, fds, code, str(why))
                continue
            close_all(fds)
            with contextlib.suppress(Unreachable):
                control.send(answer)
            control.close()

    def _misled(self, control: Control, fds: list[int], error: Exception) -> None:
        """A member says what makes no sense: of a pod it may be anything, here it is a defect."""
        if self.doorman is None:
            raise error
        self._turn_away(control, fds, "malformed", f"a member's message: {error!r}")

    def _turn_away(
        self, control: Control, fds: list[int], code: str, why: str, *, say: bool = True
    ) -> None:
        """Count it and hear no more of it; whoever is not told why comes again."""
        self._refused(code, why)
        _, process = self.connections.pop(control.fileno(), (control, None))
        if process and process.control is control:
            process.control, process.awaited_since_s = None, time.monotonic()
        close_all(fds)
        with contextlib.suppress(Unreachable):
            if say:
                control.send({"t": "refused", "error": why, "code": code})
        control.close()

    def _refused(self, code: str, why: str) -> None:
        self.accounts.figures.add("lifl_joins_refused", 1, code=code)
        log.warning("somebody may not join: %s", why)

    def _joins(
        self, control: Control, message: Message, fds: list[int], who: Guest | None
    ) -> None:
        """The first message of a process says what it is."""
        peer = control.peer()
        if peer is None:
            close_all(fds)
            return
        name, pidfd = peer
        process = self.node.pool.processes.get(name)
        if process is None:
            process = self.node.pool.processes[name] = Process(message["t"], name, pidfd)
            if who is not None:
                process.tenant, process.pod = who.tenant, who.pod
                self._is_new(process)
            self.node.pool.save()
        else:
            self.node.pool.came(process, pidfd)
        if process.began_at is not None:
            self._is_new(process)
        process.control, process.asked_at = control, None
        process.awaited_since_s = time.monotonic()
        self.connections[control.fileno()] = (control, process)
        if process.kind == "gateway":
            self.liveness.arrived(process.kind)
            (self.node.directory / "gateway").write_text(message["endpoint"])
            self.tell_coordinators(process)
            for job in self.node.jobs.values():
                job.lanes.clear()
                self.node.tell_gateway(job)
        elif "job" in message:
            self._rejoin(process, message, fds)
        elif process.role is not None:  # an agent before this one died with the assignment
            self._vacate(process)
        close_all(fds)
        process.holds = set(message.get("holds", ()))
        for job in self.node.jobs.values():
            make_if_nobody_holds(self.node, job)
            self.node.staff(job)

    def _is_new(self, process: Process) -> None:
        if process.kind == "runtime":
            self.accounts.started(process.start, self.node.pool.started(process))

    def tell_coordinators(self, gateway: Process) -> None:
        if self.coordinators is not None:
            self.node.send(gateway, {"t": "jobs", "jobs": self.coordinators})

    def _vacate(self, process: Process) -> None:
        """It holds its role no more, and lives: the role is anybody's."""
        if process.role is not None:
            number, endpoint = process.role
            if number in self.node.jobs:
                self.node.jobs[number].assigned.pop(endpoint, None)
        process.role, process.joined = None, False
        process.idle_since_s = time.monotonic()

    def _rejoin(self, process: Process, message: Message, fds: list[int]) -> None:
        """A runtime comes back with its role, its socket pair and its memory."""
        near, far, *files = fds
        job = self.node.jobs.get(message["job"])
        if job is not None and process.tenant not in (None, job.tenant):
            self._refused("other-tenant", f"pod {process.pod} is not of job {job.name}'s tenant")
            return
        if job is None:
            return
        process.role = (job.number, message["endpoint"])
        take_files(self.node, job, files)
        self._register(process, message, [near, far])
        if not job.belongs(message["endpoint"]):
            self.node.take_back(job, message["endpoint"])

    def _hears(self, process: Process, message: Message, fds: list[int]) -> None:
        if process.kind == "runtime" and "job" in message and not _is_its(process, message):
            what, number = message["t"], message["job"]
            self._refused("not-its-role", f"{process.pod or process.pid}: {what} of job {number}")
            return
        match message["t"]:
            case "join":
                self._register(process, message, fds)
            case "held-job" if message["job"] in self.node.jobs:
                take_files(self.node, self.node.jobs[message["job"]], fds)
            case "limited" if message["job"] in self.node.jobs:
                self.node.limited(self.node.jobs[message["job"]], message["limit"])
            case "held-lane":
                self._register(process, message, fds)
            case "left":
                self.node.router.unregister(message["job"], message["endpoint"])
                self._vacate(process)
                if message["job"] in self.node.jobs:
                    self.accounts.left(self.node.jobs[message["job"]])
                for job in list(self.node.jobs.values()):
                    self.node.staff(job)
                    self.node.forget_if_left(job)
            case "failed" if message["job"] in self.node.jobs:
                name = self.node.jobs[message["job"]].name
                self.node.report({
                    "t": "failed", "job": name, "code": "defect", "error": message["error"],
                })  # fmt: skip
            case "work" if message["job"] in self.node.jobs:
                job = self.node.jobs[message["job"]]
                round_, began, _ = max(message["spans"], key=lambda span: float(span[1]))
                self.node.wake(job, began, round_)
                self.accounts.worked(job, message)
            case "pong" if process.kind == "gateway":
                self.accounts.gateway_says(message)

    def _register(self, process: Process, message: Message, fds: list[int]) -> None:
        """Put a process's socket into the map; only then may it read."""
        number, endpoint = message["job"], message["endpoint"]
        job = self.node.jobs.get(number)
        if job is None or not self._may_speak_for(process, number, endpoint):
            return
        near, far = (socket.socket(fileno=os.dup(fd)) for fd in fds)
        try:
            self.node.router.register(number, endpoint, near, far)
        finally:
            near.close()
            far.close()
        self._registered(process, job, endpoint)

    def _may_speak_for(self, process: Process, number: int, endpoint: int) -> bool:
        """A runtime speaks for the role that it was given, the gateway for lanes."""
        if process.kind == "gateway":
            return endpoint & 0x8000 != 0
        return process.role == (number, endpoint)

    def _registered(self, process: Process, job: NodeJob, endpoint: int) -> None:
        fault("agent_registered", "agent")
        answer: Message = {"t": "joined", "job": job.number, "name": job.name,
                           "endpoint": endpoint}  # fmt: skip
        if process.kind == "runtime":
            process.joined = True
            self.liveness.arrived(process.kind)
            if job.idling.asleep:  # it was to leave, and has something to do
                self.node.wake(job)
            role = job.roles.get(endpoint, {"parent": 0, "expected": 0})
            answer |= {"parent": role["parent"], "expected": role["expected"]}
        else:
            job.lanes.add(endpoint & 0x7FFF)
        self.node.send(process, answer)
        self.node.router.reset_credit(job.number)
        self.node.poke_everybody(job)
        self.node.announce(job)

    # -- death -------------------------------------------------------------------------------
    def died(self, process: Process) -> None:
        """A pidfd reports a death: its connection is forgotten; the rest is liveness.py's."""
        fault("agent_saw_death", "agent")
        for fd in [fd for fd, (_, p) in self.connections.items() if p is process]:
            del self.connections[fd]
        self.liveness.died(process)

    def check(self) -> None:
        """To be called every `liveness.look_in_s`."""
        for process in self.node.pool.lost():
            self.died(process)
        self.liveness.check()


def _is_its(process: Process, message: Message) -> bool:
    """A runtime speaks of the role that it was given, and of no other job."""
    if process.role is None:
        return False
    number, endpoint = process.role
    return bool(message["job"] == number and message.get("endpoint", endpoint) == endpoint)
