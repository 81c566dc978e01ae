"""What clients and other gateways ask, and what they are answered.

    hello ─► welcome, round      get ─► model      put ─► go … chunk ─► more … ─► ack

Owns the ROUTER's messages, and those that come over bulk connections: who asks, who may, who has
left.  Updates on their way into slots are in uploads.py, rounds and models on their way down in
downlink.py.  Called by gateway.py.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

import zmq
import zmq.utils.monitor

from lifl.errors import Busy, InvalidUpdate, Late, LiflError, PermanentError, Refused, Unreachable
from lifl.faults import fault
from lifl.functions.bulk_state import Connection
from lifl.functions.downlink import Downlink
from lifl.functions.jobs import Job, evaluation, measured, rejection
from lifl.functions.layout import Layout
from lifl.functions.lines import EVERYTHING
from lifl.functions.rights import Enrolment, Rights
from lifl.functions.sealing import MESSAGE, Mode, preload
from lifl.functions.uploads import Uploads
from lifl.functions.welcomes import Welcomes
from lifl.functions.wire import (
    Caller,
    Keys,
    Message,
    decode,
    encode,
    owner,
    sender,
    virtual_key,
    weight_of,
)

log = logging.getLogger("lifl.gateway")

BATCH = 64
LEAVE_S = 1.0  # for clients to hear that a job is done
LOOK_S = 0.1  # many connections end at once when a machine of clients does
TAKE_PART = frozenset({"client", "worker", "observer"})
OF_A_ROUND = frozenset({"put", "get", "report"})


class Clients:
    """The side of a gateway that faces outwards.

    Args:
        jobs: the gateway's jobs by name.
        host, bulk_port, keys: where the bulk port listens, and what its tickets are bound to.
        report: tells the coordinator something.
        serve: looks at a job's words, when a slot may have become free.

    Attributes:
        rights: who may do what, in which job.
        named: jobs that have coordinators; where there is one for everything, none.
        over: jobs that have ended.
    """

    def __init__(
        self, router: zmq.Socket[bytes], node: str, jobs: dict[str, Job], *, host: str,
        bulk_port: int, keys: Keys, report: Callable[[Message], None],
        serve: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self.router = router
        self.uploads = Uploads(
            jobs, host, bulk_port, keys.public, send=self.send, tell=self.tell, said=self._said,
            untold=lambda connection: self.downlink.untold(connection), serve=serve,
        )  # fmt: skip
        self.bulk = self.uploads.bulk
        self.downlink = Downlink(jobs, self.bulk, send=self.send, tell=self.tell)
        self._mode = Mode.SEALED if keys.is_secure else Mode.PLAIN
        if keys.is_secure:
            preload()
        self.rights, self.jobs = Rights(), jobs
        self.welcomes = Welcomes(node, self.rights, self.send)
        self.report, self.serve = report, serve
        self.rejected: dict[str, int] = {}  # by code, since the agent last asked
        self.named: Set[str] = frozenset()
        self.over: set[str] = set()
        self.unknown: dict[str, dict[str, bytes]] = {}  # hello before the job is here
        self.unlisted: dict[str, dict[str, bytes]] = {}  # ... before it is known who takes part
        self.monitor = router.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        )
        self._look_at = math.inf  # when to see who has left (monotonic seconds)

    def adopt(self, job: Job) -> None:
        """Take in those who said hello before the job's memory was here."""
        self.welcomes.coming.pop(job.name, None)
        for key, peer in self.unknown.pop(job.name, {}).items():
            self._belongs(job, key)[key] = peer

    def forget(self, job: Job) -> None:
        """The job's memory goes; where it is not over it may come again, and who is here waits."""
        self.bulk.close_job(job.name)
        if not job.ended and job.name in self.rights.jobs:
            here = self.unknown.setdefault(job.name, {})
            here |= job.everybody

    def keep_only(self, names: Set[str]) -> None:
        """These are the jobs that have coordinators; of others, nothing stays."""
        self.named, self.over = names, self.over & names
        self.welcomes.keep_only(names)
        for rows in (self.unknown, self.unlisted):
            for name in rows.keys() - names:
                del rows[name]

    def send(self, peer: bytes, message: Message, payload: memoryview | None = None) -> bool:
        """False when the connection has ended: whoever it was will ask again."""
        self._count(message)
        if isinstance(peer, Caller):
            message = message | {"as": peer.number}
        frames: list[Any] = [peer, encode(message)]
        if payload is not None:
            frames.append(payload)
        try:
            self.router.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:  # who does not read what it asks for goes without
            log.info("a client does not read: %r is dropped", message["t"])
        except zmq.ZMQError:
            return False
        return True

    def tell(self, job: Job, key: str, peer: bytes, message: Message) -> bool:
        """Tell it to a client over its bulk connection where that talks, else over `peer`."""
        connection = self.bulk.of(key, job.name)
        if connection is None or not connection.talks or len(data := encode(message)) > MESSAGE:
            return self.send(peer, message)
        self._count(message)
        is_final = message["t"] == "ack" or (message["t"] == "reject" and not message["retry"])
        if is_final and message["round"] == job.round:
            connection.gets_verdict()
        self.bulk.say(connection, data)
        return True

    def _count(self, message: Message) -> None:
        if message["t"] == "reject":
            self.rejected[message["code"]] = self.rejected.get(message["code"], 0) + 1

    def figures(self) -> Message:
        """For the node's metrics: what was counted since the last call, and what is there now."""
        rejected, self.rejected = self.rejected, {}
        rejected |= {f"bulk: {why}": count for why, count in self.bulk.refused.items()}
        self.bulk.refused.clear()
        for job in self.jobs.values():
            job.note_queue()
        return {"rejected": rejected, "jobs": {
            job.name: {"counts": job.intake.tally.take(), "slots_used": job.intake.in_use(),
                       "queue": job.intake.queued() + len(job.waiting),
                       "in_service": job.in_service()}
            for job in self.jobs.values()
        }}  # fmt: skip

    def receive(self) -> None:
        for _ in range(BATCH):
            if not self.router.poll(0):
                return
            peer, *frames = self.router.recv_multipart(copy=False)
            key = sender(peer)
            message: Message = {}
            if key not in self.rights.keys:  # taken away while connected: nothing of it is read
                self.send(peer.bytes, rejection("", message, self.rights.stranger(key)))
                continue
            try:
                message = decode(frames[0].buffer) if frames else {"t": ""}
                payload = frames[1].buffer if len(frames) == 2 else None
                self._handle(peer.bytes, key, message, payload)
            except Exception as error:
                self._reject(peer.bytes, message, _error(message, error))

    def _said(self, connection: Connection, data: memoryview) -> None:
        """A client says over its bulk connection what it may say about a round."""
        job, key = self.jobs.get(connection.job), connection.key
        if job is None or self.bulk.of(key, job.name) is not connection:
            return  # closed by what came before this
        peer, message = job.clients.get(key, b""), Message()
        try:
            message = decode(data)
            if message["t"] not in OF_A_ROUND or message.get("job") != job.name:
                raise InvalidUpdate(
                    f"a {message['t']!r:.20} of job {message.get('job')!r:.80} over the bulk "
                    f"connection of job {job.name!r}: say it over the control channel",
                    code="malformed",
                )
            self._handle(peer, key, message, None, connection)
        except Exception as error:
            self.tell(job, key, peer, rejection(job.name, message, _error(message, error)))

    def _reject(self, peer: bytes, message: Message, error: LiflError) -> None:
        name = message.get("job")
        self.send(peer, rejection(name[:80] if isinstance(name, str) else "", message, error))

    def _handle(
        self, peer: bytes, key: str, message: Message, payload: memoryview | None,
        came_on: Connection | None = None,
    ) -> None:  # fmt: skip
        name = message.get("job", "")
        right, job = self.rights.of(name, key), self.jobs.get(name)
        if name in self.rights.jobs and not right:
            raise self.rights.stranger(key, name)
        if job is None and name in self.over:
            self.send(peer, {"t": "done", "job": name})
            return
        if name not in self.rights.jobs:  # whatever it may be in others
            self._waits_for_its_list(peer, key, message["t"], name)
            return
        if "as" in message and right == "worker" and message["t"] not in ("hello", "ticket"):
            peer = caller = Caller.of(peer, message["as"])
            key, right = virtual_key(key, caller.number), "client"
        if message["t"] == "hello":
            self._let_in(peer, key, right, name)
            return
        if message["t"] == "ticket" and (job is not None or name in self.welcomes.coming):
            self._ticket(name, key, right, peer, message)
            return
        if job is None:
            raise Busy(f"job {name!r} is not at this gateway yet", code="not-started")
        connection = self.bulk.of(key, name)
        if connection is not None and _is_about(message, job.round):
            connection.asks()
        match message["t"]:
            case "put" if message.get("kind") == "model":
                self.uploads.put_model(job, peer, right, message)
            case "put":
                asking = job.check(peer, key, right, message)
                asking.came_on = came_on
                self.uploads.put(job, asking, payload)
            case "chunk" if message.get("kind") == "model" and right == "coordinator":
                self.uploads.model_chunk(job, peer, message, _payload(payload))
            case "chunk":
                self.uploads.chunk(job, key, message, _payload(payload))
            case "get":
                if right == "coordinator":
                    fault("gateway_model_asked", "gateway")
                if "transfer" in message:
                    self.downlink.get_bulk(job, key, peer, message)
                else:
                    self.downlink.get(job, peer, message)
            case "report":
                self._report(job, peer, key, message)
            case "metrics" if right == "observer":
                job.evaluation = evaluation(name, message)
                self.report(job.evaluation)
            case other:
                raise Refused(f"a {right} may not send a {other!r}", code="not-allowed")

    def _let_in(self, peer: bytes, key: str, right: str, name: str) -> None:
        """Somebody says hello: it takes part from here on, and the coordinator hears so."""
        if right not in TAKE_PART:
            raise Refused(f"a {right} does not take part in rounds", code="not-allowed")
        job = self.jobs.get(name)
        here = self.unknown.setdefault(name, {}) if job is None else self._belongs(job, key)
        if (connection := self.bulk.of(key, name)) is not None:
            connection.talks = False  # whoever says hello may not have it any more
        before, here[key] = here.get(key, peer), peer
        if before != peer:  # as a rule its own that has ended, and then nobody hears it
            displaced = Refused(
                f"the key {key} called again from elsewhere, and the newer one counts: run one "
                "program for each client file", code="displaced",
            )  # fmt: skip
            self.send(before, rejection(name, {}, displaced))
        self._say_is_here(name, key)
        if job is not None and job.layout is not None:
            self.welcome(job, key, peer)
        elif job is None:
            self.welcomes.early(name, key, peer)

    def comes(self, name: str, layout: Layout, settings: Message) -> None:
        """A job's memory is not here yet: meanwhile its clients prepare for its models."""
        self.welcomes.coming[name] = layout, settings
        for key, peer in self.unknown.get(name, {}).items():
            self.welcomes.early(name, key, peer)

    def _say_is_here(self, name: str, key: str) -> None:
        observer = self.rights.of(name, key) == "observer"
        self.report({"t": "client", "job": name, "key": key, "observer": observer})

    def report_all(self, line: str) -> None:
        """Tell a new coordinator who is here."""
        for name, waiting in self.unknown.items():
            for key in waiting if line in (EVERYTHING, name) else ():
                self._say_is_here(name, key)
        for job in self.jobs.values():
            if line not in (EVERYTHING, job.name):
                continue
            for key in job.everybody:
                self._say_is_here(job.name, key)

    # -- who has left ------------------------------------------------------------------------
    def disconnected(self) -> None:
        """Some connection ended; libzmq does not say whose, so see a little later."""
        while self.monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
            if event != zmq.EVENT_DISCONNECTED:  # a key without its secret, or no ZeroMQ at all
                self.rejected["bad-handshake"] = self.rejected.get("bad-handshake", 0) + 1
        self._look_at = min(self._look_at, time.monotonic() + LOOK_S)

    def wait_s(self) -> float:
        """Seconds until `expire` has something to do, infinity if nothing is due."""
        due = self._look_at
        if self.bulk.is_waiting or any(job.uploads or job.waiting for job in self.jobs.values()):
            due = min(due, time.monotonic() + 1.0)
        for job in self.jobs.values():
            if job.ended and not job.end_is_reported:
                due = min(due, job.leave_by)
        return max(0.0, due - time.monotonic())

    def expire(self) -> None:
        """Take slots back from uploads that stand still; see who left."""
        now = time.monotonic()
        self.uploads.expire(now)
        if now >= self._look_at:
            self._see_who_left()
        for job in self.jobs.values():
            self._report_the_end(job, now)

    def ends(self, job: Job) -> None:
        """Everybody was told that the job is done; once they have left, or soon, that is reported.

        Who hears it leaves, so a connection that ends says that the message was not lost with
        this process, which is ended next.
        """
        job.leave_by = time.monotonic() + LEAVE_S
        self._look_at = min(self._look_at, time.monotonic() + LOOK_S)

    def _report_the_end(self, job: Job, now: float) -> None:
        if job.ended and not job.end_is_reported and (not job.clients or now >= job.leave_by):
            job.end_is_reported = True
            self.report({"t": "ended", "job": job.name})

    def _see_who_left(self) -> None:
        """A message to a connection that has ended is refused: report whose it was."""
        self._look_at = math.inf
        for name, waiting in self.unknown.items():
            for key, peer in list(waiting.items()):
                if not self.send(peer, {"t": "here", "job": name}):
                    del waiting[key]
                    self.report({"t": "gone", "job": name, "key": key})
        for job in self.jobs.values():
            for key, peer in list(job.clients.items()):
                if not self.send(peer, {"t": "here", "job": job.name}):
                    del job.clients[key]
                    if key in job.waiting:
                        self.uploads.leaves_queue(job, job.waiting[key])
                    self.report({"t": "gone", "job": job.name, "key": key})
                    if key in job.uploads:
                        error = Unreachable("the connection ended")
                        self.uploads.abandon(job, job.uploads[key], error)

    # -- who may speak -----------------------------------------------------------------------
    def enrol(self, enrolled: Mapping[str, Enrolment]) -> None:
        """From now on these keys have these rights, by job, and no others have any.

        Who had a right in a job and has none loses there the slot that it writes to, and is told.
        What was accepted of it stays.
        """
        gone = self.rights.replace(enrolled)
        for name, keys in gone.items():
            if (job := self.jobs.get(name)) is not None:
                self._put_out(job, keys)
            for key in keys:
                self.bulk.put_out(key, name, self.rights.stranger(key, name))
            waiting = self.unknown.get(name, {})
            for key in keys & waiting.keys():
                self._turn_out(name, key, waiting.pop(key))
        for name in enrolled:
            self._list_is_here(name)

    def _put_out(self, job: Job, gone: Set[str]) -> None:
        """Who waits goes first: a slot that becomes free here must not be one of theirs."""
        for key in [key for key in job.waiting if owner(key) in gone]:
            del job.waiting[key]
        for key in [key for key in job.uploads if owner(key) in gone]:
            error = self.rights.stranger(owner(key), job.name)
            self.uploads.abandon(job, job.uploads[key], error)
        for key in gone:
            for here in (job.clients, job.workers, job.observers):
                if (peer := here.pop(key, None)) is not None:
                    self._turn_out(job.name, key, peer)

    def _turn_out(self, name: str, key: str, peer: bytes) -> None:
        self.send(peer, rejection(name, {}, self.rights.stranger(key, name)))

    def redirect(self, name: str, key: str, endpoint: str, server_key: str) -> None:
        """Send a client that called here to the gateway that serves it."""
        job = self.jobs.get(name)
        for here in (job.clients if job else {}, self.unknown.get(name, {})):
            if key in here:
                where = {"endpoint": endpoint, "key": server_key}
                self.send(here.pop(key), {"t": "redirect", "job": name, **where})

    def _waits_for_its_list(self, peer: bytes, key: str, kind: str, name: str) -> None:
        """The coordinator of a job has not said who takes part; a hello is not said twice."""
        if name not in self.named:
            raise PermanentError(
                f"there is no job {name!r:.80} here, only {', '.join(sorted(self.rights.jobs))}: "
                "take the client file of this run", code="unknown-job",
            )  # fmt: skip
        if kind != "hello":
            raise Busy(f"nobody may speak of job {name!r} here yet", code="not-started")
        self.unlisted.setdefault(name, {})[key] = peer

    def _list_is_here(self, name: str) -> None:
        for key, peer in self.unlisted.pop(name, {}).items():
            right = self.rights.of(name, key)
            if right in TAKE_PART:
                self._let_in(peer, key, right, name)
                self._look_at = min(self._look_at, time.monotonic() + LOOK_S)  # maybe it has left
            else:
                self._turn_out(name, key, peer)

    def _belongs(self, job: Job, key: str) -> dict[str, bytes]:
        right = self.rights.of(job.name, key)
        return {"observer": job.observers, "worker": job.workers}.get(right, job.clients)

    def welcome(self, job: Job, key: str, peer: bytes) -> None:
        assert job.layout is not None
        self.welcomes.say(job.name, key, peer, job.layout, job.settings)
        if job.ended:
            self.send(peer, {"t": "done", "job": job.name, "round": job.round})
        elif key in job.clients:
            self.downlink.announce(job, key, peer)
        elif key in job.workers:
            self.downlink.hand_out(job, key, peer)
        elif (model := job.intake.model()) is not None:
            self.send(peer, {"t": "published", "job": job.name, "round": model[1].round})

    def tell_elsewhere(
        self, name: str, near: list[list[str]], far: list[list[str]]
    ) -> None:
        """Where clients of this gateway go when it is gone; workers and observers go to all."""
        self.welcomes.elsewhere[name] = near, far
        job = self.jobs.get(name)
        for peers in (self.unknown.get(name, {}), job.everybody if job else {}):
            for key, peer in peers.items():
                gateways = self.welcomes.gateways(name, key)
                self.send(peer, {"t": "elsewhere", "job": name, "gateways": gateways})

    def _report(self, job: Job, peer: bytes, key: str, message: Message) -> None:
        """Figures instead of an update: the round does not wait for this client."""
        weight, metrics = weight_of(message.get("weight", 1.0)), measured(message)
        bit = job.bit_of(key, message)
        answer = {"t": "ack", "job": job.name, "round": job.round}
        if not job.answered >> bit & 1:
            if job.cut:
                raise Late(f"round {job.round} is closed", code="late", job=job.name)
            job.excused |= 1 << bit
            job.metrics.append((weight, metrics, key))
            job.dirty = True
        self.tell(job, key, peer, answer)

    def _ticket(self, name: str, key: str, right: str, peer: bytes, message: Message) -> None:
        """The right to open one connection to the bulk port."""
        if right not in ("client", "observer", "node", "coordinator"):
            raise Refused(f"a {right} gets no ticket")
        talks = right == "client" and message.get("talks") is True
        job = self.jobs.get(name)
        listens = job is None or key not in job.announced
        ticket = self.bulk.tickets.issue(key, name, self._mode, talks=talks, listens=listens)
        self.send(peer, {
            "t": "ticket", "job": name, "n": message["n"],
            "port": self.rights.port(name, key) or self.bulk.port, "id": ticket.id,
            "secret": ticket.secret, "mode": ticket.mode.name.lower(), "talks": talks,
        })  # fmt: skip


def _is_about(message: Message, round_: int) -> bool:
    """Whether its sender has heard of this round: a model is called by the round that made it."""
    about = message.get("round")
    return about == (round_ - 1 if message["t"] == "get" else round_) and message["t"] in OF_A_ROUND


def _error(message: Message, error: Exception) -> LiflError:
    """What its sender is told: whatever it was, it came from outside."""
    if isinstance(error, LiflError):
        return error
    log.info("a %.20r that cannot be read: %.200r", message.get("t"), error)
    return InvalidUpdate(
        f"a {message.get('t')!r:.20} that cannot be read: {error!r:.200}", code="malformed"
    )


def _payload(payload: memoryview | None) -> memoryview:
    if payload is None:
        raise InvalidUpdate("a chunk without its bytes", code="malformed")
    return payload
