"""What clients and other gateways ask, and what they are answered.

    hello ─► welcome, round      get ─► model      put ─► go … chunk ─► more … ─► ack

Owns the ROUTER's messages: who asks, what is wrong with it, which slot it gets.  The checks of an
update are in jobs.py, the steps on shared words in intake.py, payloads over TCP in bulk.py.
Called by gateway.py.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any

import zmq
import zmq.utils.monitor

from lifl.errors import Busy, InvalidUpdate, Late, LiflError, PermanentError, Refused, Unreachable
from lifl.faults import fault
from lifl.functions.bulk import Bulk, Connection, Sending
from lifl.functions.jobs import Asking, Job, Uploading, measured, rejection, weight_of
from lifl.functions.sealing import CHUNK, Mode
from lifl.functions.wire import (
    DOWN_CHUNK,
    INLINE,
    UP_WINDOW,
    Keys,
    Message,
    decode,
    encode,
    sender,
    virtual_key,
)
from lifl.shm.slots import Payload

log = logging.getLogger("lifl.gateway")

BATCH = 64
LOOK_AGAIN_S = 1.0
LEAVE_S = 1.0  # for clients to hear that a job is done
LOOK_S = 0.1  # many connections end at once when a machine of clients does
HANDED_OUT = 10_000  # virtual clients in one message


class Caller(bytes):
    """A worker's connection while it speaks for one of its virtual clients.

    Whoever has not the worker's key cannot speak for its clients (wire.virtual_key).  Each answer
    says the number, so that the worker knows whom it is for.
    """

    number: int

    @classmethod
    def of(cls, peer: bytes, number: object) -> Caller:
        if not isinstance(number, int) or number < 0:
            raise InvalidUpdate(
                f"'as' is {number!r}: it must be the number of a virtual client", code="malformed"
            )
        caller = cls(peer)
        caller.number = number
        return caller


class Clients:
    """The side of a gateway that faces outwards.

    Args:
        rights: public key -> client, worker, observer, node or coordinator.
        jobs: the gateway's jobs by name.
        host, keys: where the bulk port listens, and what its tickets are bound to.
        report: tells the coordinator something.
        serve: looks at a job's words, when a slot may have become free.
    """

    def __init__(
        self, router: zmq.Socket[bytes], node: str, rights: dict[str, str], jobs: dict[str, Job],
        *, host: str, keys: Keys, report: Callable[[Message], None],
        serve: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self.router, self.node = router, node
        self.secure = keys.is_secure
        self.bulk = Bulk(host, keys.public, wrote=self._wrote, lost=self._lost)
        # not from 1: a client may still think of the last gateway's
        self._transfers = itertools.count(1 + secrets.randbelow(1 << 31))
        self.rights, self.jobs = rights, jobs
        self.report, self.serve = report, serve
        self.rejected: dict[str, int] = {}  # by code, since the agent last asked
        self.expected: set[str] = set()  # jobs that the coordinator has, here already or not
        self.over: set[str] = set()  # jobs that have ended
        self.revoked: set[str] = set()
        self.unknown: dict[str, dict[str, bytes]] = {}  # hello before the job is here
        self.monitor = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._look_at = math.inf  # when to see who has left (monotonic seconds)

    def adopt(self, job: Job) -> None:
        """Take in those who said hello before the job's memory was here."""
        for key, peer in self.unknown.pop(job.name, {}).items():
            self._belongs(job, key)[key] = peer

    def send(self, peer: bytes, message: Message, payload: memoryview | None = None) -> bool:
        """False when the connection has ended: whoever it was will ask again."""
        if message["t"] == "reject":
            self.rejected[message["code"]] = self.rejected.get(message["code"], 0) + 1
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

    def figures(self) -> Message:
        """For the node's metrics: what was counted since the last call, and what is there now."""
        rejected, self.rejected = self.rejected, {}
        rejected |= {f"bulk: {why}": count for why, count in self.bulk.refused.items()}
        self.bulk.refused.clear()
        return {"rejected": rejected, "jobs": {
            job.name: {"counts": job.intake.tally.take(), "slots_used": job.intake.in_use(),
                       "queue": job.intake.queued() + len(job.waiting)}
            for job in self.jobs.values()
        }}  # fmt: skip

    def receive(self) -> None:
        for _ in range(BATCH):
            if not self.router.poll(0):
                return
            peer, *frames = self.router.recv_multipart(copy=False)
            key = sender(peer)
            message: Message = {}
            if key not in self.rights:  # taken away while connected: nothing of it is read
                self.send(peer.bytes, rejection("", message, self._stranger(key)))
                continue
            try:
                message = decode(frames[0].buffer) if frames else {"t": ""}
                payload = frames[1].buffer if len(frames) == 2 else None
                self._handle(peer.bytes, key, message, payload)
            except LiflError as error:
                self._reject(peer.bytes, message, error)
            except Exception as error:  # whatever it was, it came from outside
                log.info("a %.20r that cannot be read: %.200r", message.get("t"), error)
                wrong = InvalidUpdate(
                    f"a {message.get('t')!r:.20} that cannot be read: {error!r:.200}",
                    code="malformed",
                )
                self._reject(peer.bytes, message, wrong)

    def _reject(self, peer: bytes, message: Message, error: LiflError) -> None:
        name = message.get("job")
        self.send(peer, rejection(name[:80] if isinstance(name, str) else "", message, error))

    def _handle(self, peer: bytes, key: str, message: Message, payload: memoryview | None) -> None:
        right, name = self.rights.get(key, ""), message.get("job", "")
        job = self.jobs.get(name)
        if job is None and name in self.over:
            self.send(peer, {"t": "done", "job": name})
            return
        if "as" in message and right == "worker":
            peer = caller = Caller.of(peer, message["as"])
            key, right = virtual_key(key, caller.number), "client"
        if message["t"] == "hello":
            self._hello(peer, key, right, name, message)
            return
        if job is None:
            self._expect(name)
            raise Busy(f"job {name!r} is not at this gateway yet", code="not-started")
        match message["t"]:
            case "put" if message.get("kind") == "model":
                self._put_model(job, peer, right, message)
            case "put":
                self._put(job, job.check(peer, key, right, message), payload)
            case "chunk" if message.get("kind") == "model" and right == "coordinator":
                self._model_chunk(job, peer, message, _payload(payload))
            case "chunk":
                self._chunk(job, key, message, _payload(payload))
            case "get" if "transfer" in message:
                self._get_bulk(job, key, peer, message)
            case "get":
                self._get(job, peer, message)
            case "ticket":
                self._ticket(job, key, right, peer, message)
            case "report":
                self._report(job, peer, key, message)
            case "metrics" if right == "observer":
                self.report({"t": "metrics", "job": name, "round": message["round"],
                              "metrics": message["metrics"]})  # fmt: skip
            case other:
                raise Refused(f"a {right} may not send a {other!r}", code="not-allowed")

    def _hello(self, peer: bytes, key: str, right: str, name: str, message: Message) -> None:
        if right not in ("client", "worker", "observer"):
            raise Refused(f"a {right} does not take part in rounds", code="not-allowed")
        job = self.jobs.get(name)
        if job is None:
            self._expect(name)
            self.unknown.setdefault(name, {})[key] = peer
        else:
            self._belongs(job, key)[key] = peer
        self.report({"t": "client", "job": name, "key": key, "observer": right == "observer"})
        if job is not None and job.layout is not None:
            self.welcome(job, key, peer)

    def _report_client(self, name: str, key: str) -> None:
        observer = self.rights.get(key) == "observer"
        self.report({"t": "client", "job": name, "key": key, "observer": observer})

    def report_all(self) -> None:
        """Tell a new coordinator who is here."""
        for name, waiting in self.unknown.items():
            for key in waiting:
                self._report_client(name, key)
        for job in self.jobs.values():
            for key in [*job.clients, *job.observers]:
                self._report_client(job.name, key)

    # -- who has left ------------------------------------------------------------------------
    def disconnected(self) -> None:
        """Some connection ended; libzmq does not say whose, so see a little later."""
        while self.monitor.poll(0):
            zmq.utils.monitor.recv_monitor_message(self.monitor)
        self._look_at = min(self._look_at, time.monotonic() + LOOK_S)

    def wait_s(self) -> float:
        """Seconds until `expire` has something to do, infinity if nothing is due."""
        due = self._look_at
        if self.bulk.is_waiting or any(job.uploads for job in self.jobs.values()):
            due = min(due, time.monotonic() + 1.0)
        for job in self.jobs.values():
            if job.ended and not job.end_is_reported:
                due = min(due, job.leave_by)
        return max(0.0, due - time.monotonic())

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
        for job in self.jobs.values():
            for key, peer in list(job.clients.items()):
                if not self.send(peer, {"t": "here", "job": job.name}):
                    del job.clients[key]
                    self.report({"t": "gone", "job": job.name, "key": key})
                    if key in job.uploads:
                        self.abandon(job, job.uploads[key], Unreachable("the connection ended"))

    # -- who may speak -----------------------------------------------------------------------
    def enrol(self, rights: dict[str, str], names: list[str]) -> None:
        """From now on these keys have these rights and no others have any.

        Who had rights and has none loses the slot that it writes to, and is told.  What was
        accepted of it stays.
        """
        gone = self.rights.keys() - rights.keys()
        self.rights.clear()
        self.rights.update(rights)
        self.expected = set(names)
        self.revoked = (self.revoked | gone) - rights.keys()
        for job in self.jobs.values():
            for key in gone:
                peer = job.clients.pop(key, None) or job.observers.pop(key, None)
                if (upload := job.uploads.get(key)) is not None:
                    self.abandon(job, upload, self._stranger(key))
                elif peer is not None:
                    self.send(peer, rejection(job.name, {}, self._stranger(key)))
            job.waiting = type(job.waiting)(a for a in job.waiting if a.key in self.rights)
        for waiting in self.unknown.values():
            for key in gone:
                waiting.pop(key, None)

    def _stranger(self, key: str) -> Refused:
        if key in self.revoked:
            return Refused(f"the key {key} was revoked: have a new one enrolled", code="revoked")
        return Refused(f"the key {key} is not enrolled: lifl keys enroll", code="not-enrolled")

    def redirect(self, name: str, key: str, endpoint: str, server_key: str) -> None:
        """Send a client that called here to the gateway that serves it."""
        job = self.jobs.get(name)
        for here in (job.clients if job else {}, self.unknown.get(name, {})):
            if key in here:
                where = {"endpoint": endpoint, "key": server_key}
                self.send(here.pop(key), {"t": "redirect", "job": name, **where})

    def _expect(self, name: object) -> None:
        if name not in self.expected:
            raise PermanentError(
                f"there is no job {name!r:.80} here, only {', '.join(sorted(self.expected))}: take "
                "the client file of this run", code="unknown-job",
            )  # fmt: skip

    def _belongs(self, job: Job, key: str) -> dict[str, bytes]:
        right = self.rights.get(key)
        return {"observer": job.observers, "worker": job.workers}.get(right or "", job.clients)

    def welcome(self, job: Job, key: str, peer: bytes) -> None:
        assert job.layout is not None
        self.send(peer, {"t": "welcome", "job": job.name, "node": self.node,
                          "layout": job.layout.to_wire(), "digest": job.layout.digest,
                          "settings": job.settings})  # fmt: skip
        if job.ended:
            self.send(peer, {"t": "done", "job": job.name, "round": job.round})
        elif key in job.clients:
            self.announce(job, key, peer)
        elif key in job.workers:
            self.hand_out(job, key, peer)
        elif (model := job.intake.model()) is not None:
            self.send(peer, {"t": "published", "job": job.name, "round": model[1].round})

    def announce(self, job: Job, key: str, peer: bytes) -> None:
        """Tell a client about the round, if it is part of it."""
        bit = job.bit(key)
        if bit is None or not job.has_model:
            return
        need = not job.answered >> bit & 1
        news = {
            "t": "round", "job": job.name, "round": job.round, "need": need,
            "settings": job.round_settings,
        }  # fmt: skip
        self.send(peer, news, self._small_model(job) if need else None)

    def _small_model(self, job: Job) -> memoryview | None:
        """A model that fits into a message goes down with the round that starts from it."""
        found = job.intake.model()
        if found is None or job.layout is None or job.layout.update_bytes > INLINE:
            return None
        return job.intake.arena.payload(found[0], job.layout.update_bytes)

    def hand_out(self, job: Job, key: str, peer: bytes) -> None:
        """Tell a worker which of its virtual clients this round has drawn and still needs."""
        numbers = job.shares.get(key, {})
        if not job.has_model or not numbers:
            return
        answered = job.answered
        due = [number for number, bit in numbers.items() if not answered >> bit & 1]
        for at in range(0, len(due), HANDED_OUT):
            self.send(peer, {
                "t": "work", "job": job.name, "round": job.round,
                "clients": due[at : at + HANDED_OUT], "settings": job.round_settings,
            })  # fmt: skip

    def _report(self, job: Job, peer: bytes, key: str, message: Message) -> None:
        """Figures instead of an update: the round does not wait for this client."""
        weight, metrics = weight_of(message), measured(message)
        bit = job.bit_of(key, message)
        answer = {"t": "ack", "job": job.name, "round": job.round}
        if not job.answered >> bit & 1:
            if job.cut:
                raise Late(f"round {job.round} is closed", code="late", job=job.name)
            job.excused |= 1 << bit
            job.metrics.append((weight, metrics))
            job.dirty = True
        self.send(peer, answer)

    def _get(self, job: Job, peer: bytes, message: Message) -> None:
        found = job.intake.model()
        at, size = message["at"], message["n"]
        if found is None or found[1].round != message["round"]:
            self.send(peer, {"t": "gone", "job": job.name, "round": message["round"]})
            return
        slot, header = found
        if not 0 <= at < header.length or not 0 < size <= DOWN_CHUNK:
            raise InvalidUpdate(
                f"bytes {at} to {at + size} of a model of {header.length}", code="malformed"
            )
        chunk = job.intake.arena.payload(slot, header.length)[at : at + size]
        self.send(peer, {"t": "model", "job": job.name, "round": header.round, "at": at}, chunk)

    def _get_bulk(self, job: Job, key: str, peer: bytes, message: Message) -> None:
        """The rest of a model from `at`, over the client's bulk connection."""
        round_, at, end = message["round"], message["at"], message["at"] + message["n"]
        found = job.intake.model()
        if found is None or found[1].round != round_:
            self.send(peer, {"t": "gone", "job": job.name, "round": round_})
            return
        if not 0 <= at < end <= found[1].length:
            raise InvalidUpdate(f"bytes {at} to {end} of a model of {found[1].length}")

        def model() -> memoryview | None:
            now = job.intake.model()
            same = now is not None and now[1].round == round_
            return job.intake.arena.payload(now[0], end) if now is not None and same else None

        transfer = int(message["transfer"])
        self.bulk.send(self._connection(job, key), Sending(round_, transfer, at, end, model))

    def _ticket(self, job: Job, key: str, right: str, peer: bytes, message: Message) -> None:
        """The right to open one connection to the bulk port."""
        if right not in ("client", "observer", "node"):
            raise Refused(f"a {right} gets no ticket")
        ticket = self.bulk.tickets.issue(key, job.name, self._mode())
        self.send(peer, {
            "t": "ticket", "job": job.name, "n": message["n"], "port": self.bulk.port,
            "id": ticket.id, "secret": ticket.secret, "mode": ticket.mode.name.lower(),
        })  # fmt: skip

    def _mode(self) -> Mode:
        return Mode.SEALED if self.secure else Mode.PLAIN

    def _connection(self, job: Job, key: str) -> Connection:
        connection = self.bulk.of(key, job.name)
        if connection is None:
            raise Unreachable("this client has no bulk connection here: ask for a ticket")
        return connection

    def _put(self, job: Job, asking: Asking, payload: memoryview | None) -> None:
        before = job.uploads.get(asking.key)
        if before is not None and before.is_repeated(asking):
            before.asking = asking
            self._go(job, before)  # its first go was lost, or it is still writing
            return
        if before is not None:
            self._drop(job, before)
        self._take_in(job, asking, payload)
        if before is not None:
            self.serve(job)  # a slot may be free for somebody else

    def _take_in(self, job: Job, asking: Asking, payload: memoryview | None) -> None:
        if self._known(job, asking):
            return
        if payload is not None and len(payload) == asking.length <= INLINE:
            grant = job.intake.begin(asking.clients, asking.consumer, asking.length)
            if grant is not None:
                self._write(job, job.uploading(asking, grant, time.monotonic()), payload)
                return
        if asking.is_bulk:
            self._connection(job, asking.key)
        if job.waiting or not self.admit(job, asking):
            for place, other in enumerate(job.waiting):
                if other.key == asking.key:  # asked again: it keeps its place
                    job.waiting[place] = asking
                    break
            else:
                job.waiting.append(asking)
            self.send(asking.peer, {"t": "wait", "job": job.name, "round": job.round})

    def _known(self, job: Job, asking: Asking) -> bool:
        """Answer at once what needs no slot: a duplicate, or too late."""
        verdict = job.intake.look(asking.clients)
        if verdict is None and job.cut and asking.payload is Payload.UPDATE:
            verdict = "late"
        if verdict is not None:
            self._answer(job, asking, verdict)
        return verdict is not None

    def admit(self, job: Job, asking: Asking) -> bool:
        """Give a slot to one that asked; False when there is none."""
        if asking.message["round"] != job.intake.round or self._known(job, asking):
            return True
        connection = self.bulk.of(asking.key, job.name) if asking.is_bulk else None
        if asking.is_bulk and connection is None:
            error = Unreachable("the bulk connection broke: ask for a ticket and put again")
            self.send(asking.peer, rejection(job.name, asking.message, error))
            return True
        grant = job.intake.begin(asking.clients, asking.consumer, asking.length)
        if grant is None:
            return False
        job.intake.tally.granted(asking.asked_at, waited=bool(job.waiting))
        upload = job.uploading(asking, grant, time.monotonic())
        job.uploads[asking.key] = upload
        if connection is not None:
            upload.connection, upload.transfer = connection, next(self._transfers)
            self.bulk.grant(connection, upload)
        self._go(job, upload)
        return True

    def _go(self, job: Job, upload: Uploading) -> None:
        go: Message = {"t": "go", "job": job.name, "round": job.round}
        if upload.connection is not None:
            go["transfer"] = upload.transfer
        else:
            go |= {"n": UP_WINDOW, "grant": upload.grant.generation}
        self.send(upload.asking.peer, go)

    def _drop(self, job: Job, upload: Uploading) -> None:
        """Forget an upload; what of it is still on its way is thrown away."""
        job.uploads.pop(upload.asking.key, None)
        job.intake.drop(upload.grant)
        if upload.connection is not None:
            upload.connection.forget()

    def _wrote(self, connection: Connection, upload: Uploading) -> None:
        """A chunk is in its slot, and its tag was right."""
        job, grant = self.jobs[connection.job], upload.grant
        at = grant.written
        job.intake.wrote(grant, min(CHUNK, len(grant.view) - at))
        self._written(job, upload, at)

    def _moves(self, job: Job, upload: Uploading, now_s: float) -> bool:
        """Look at bytes that were not worth a wake-up; False when that was the end of it."""
        assert upload.connection is not None
        if now_s - upload.moved_at < LOOK_AGAIN_S:
            return True
        self.bulk.look(upload.connection)
        if upload.received > upload.seen:
            upload.seen, upload.moved_at = upload.received, now_s
        return job.uploads.get(upload.asking.key) is upload

    def _lost(self, connection: Connection, upload: Uploading, error: LiflError) -> None:
        """The connection of an upload broke; its slot is somebody else's."""
        job = self.jobs.get(connection.job)
        if job is not None and job.uploads.get(upload.asking.key) is upload:
            self.abandon(job, upload, error)

    def _chunk(self, job: Job, key: str, message: Message, payload: memoryview) -> None:
        upload = job.uploads.get(key)
        if upload is None or message["round"] != upload.grant.round:
            return  # of an upload that was given up; its sender was told
        if message["grant"] != upload.grant.generation:
            return  # on its way when the sender asked again
        grant = upload.grant
        follows = message["at"] == grant.written and len(payload) > 0
        if not follows or grant.written + len(payload) > len(grant.view):
            self.abandon(job, upload, InvalidUpdate(
                f"{len(payload)} bytes at {message['at']} where byte {grant.written} of "
                f"{len(grant.view)} is next", code="oversized",
            ))  # fmt: skip
            return
        self._write(job, upload, payload)

    def _write(self, job: Job, upload: Uploading, payload: memoryview) -> None:
        """The next bytes of an update, looked at while they are in the cache."""
        at = upload.grant.written
        job.intake.write(upload.grant, at, payload)
        self._written(job, upload, at)

    def _written(self, job: Job, upload: Uploading, at: int) -> None:
        """Bytes from `at` on are in the slot, however they came."""
        grant = upload.grant
        upload.moved_at = time.monotonic()
        bad = upload.check.feed(at, grant.view[at : grant.written]) if upload.check else None
        if bad is not None:
            self.abandon(job, upload, _not_finite(job, bad))
        elif grant.written == len(grant.view):
            job.uploads.pop(upload.asking.key, None)
            self._finish(job, upload)
        elif upload.connection is None:
            self.send(upload.asking.peer,
                       {"t": "more", "job": job.name, "round": grant.round, "n": 1})  # fmt: skip

    def _finish(self, job: Job, upload: Uploading) -> None:
        asking = upload.asking
        verdict = job.intake.finish(
            upload.grant, payload=asking.payload, weight=asking.weight, epoch=asking.epoch
        )
        job.bytes_in += asking.length
        if verdict == "accepted":
            job.metrics.append((asking.weight, measured(asking.message)))
        self._answer(job, asking, verdict)

    def _answer(self, job: Job, asking: Asking, verdict: str) -> None:
        round_ = asking.message["round"]
        if verdict == "accepted":
            job.dirty = True
            self.send(asking.peer, {"t": "ack", "job": job.name, "round": round_})
            fault("gateway_acked", "gateway")
        elif verdict == "late":
            error: LiflError = Late(
                f"round {round_} is closed: go on with the next one", job=job.name
            )
            self.send(asking.peer, rejection(job.name, asking.message, error))
        else:
            error = InvalidUpdate(
                "some clients of this sum are accepted already", code="duplicate-overlap"
            )
            self.send(asking.peer, rejection(job.name, asking.message, error))

    def abandon(self, job: Job, upload: Uploading, error: LiflError) -> None:
        """Take the slot back and say why; a sender in the middle of it notices its connection."""
        self._drop(job, upload)
        if upload.connection is not None:
            self.bulk.close(upload.connection, error)
        self.send(upload.asking.peer, rejection(job.name, upload.asking.message, error))
        self.serve(job)

    def expire(self) -> None:
        """Take slots back from uploads that stand still or keep others waiting; see who left."""
        self.bulk.tick()
        now = time.monotonic()
        if now >= self._look_at:
            self._see_who_left()
        for job in self.jobs.values():
            for upload in list(job.uploads.values()):
                if upload.connection is not None and not self._moves(job, upload, now):
                    continue
                if (why := job.too_slow(upload, now)) is not None:
                    self.abandon(job, upload, Unreachable(f"{why}: send again", code="too-slow"))
            self._report_the_end(job, now)

    # -- the initial model, from the coordinator ---------------------------------------------
    def _put_model(self, job: Job, peer: bytes, right: str, message: Message) -> None:
        if right != "coordinator":
            raise Refused(f"a {right} may not set the model", code="not-allowed")
        found = job.intake.model()
        if found is not None and found[1].round >= message["round"]:
            self.send(peer, {"t": "ack", "job": job.name, "round": message["round"]})
            return
        job.model_upload = job.intake.begin_model(message["length"])
        self.send(peer, {"t": "go", "job": job.name, "round": message["round"], "n": UP_WINDOW})

    def _model_chunk(self, job: Job, peer: bytes, message: Message, payload: memoryview) -> None:
        at, model = message["at"], job.model_upload
        if model is None:
            return  # begun at the gateway before this one; its sender asks again
        model[at : at + len(payload)] = payload
        answer = {"job": job.name, "round": message["round"]}
        if at + len(payload) < len(model):
            self.send(peer, answer | {"t": "more", "n": 1})
            return
        job.intake.finish_model(message["round"], len(model))
        job.model_upload = None
        self.send(peer, answer | {"t": "ack"})
        for observer in job.observers.values():
            self.send(observer, answer | {"t": "published"})


def _not_finite(job: Job, offset: int) -> InvalidUpdate:
    assert job.layout is not None
    return InvalidUpdate(
        f"{job.layout.name_at(offset)} is NaN or infinite: check the loss before sending, or "
        "allow it with spec.aggregation.nonFinite: accept",
        code="not-finite", job=job.name, round=job.round,
    )  # fmt: skip


def _payload(payload: memoryview | None) -> memoryview:
    if payload is None:
        raise InvalidUpdate("a chunk without its bytes", code="malformed")
    return payload
