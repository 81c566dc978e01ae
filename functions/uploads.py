"""Updates, sums and the first model on their way into slots.

    put ─► checked ─► slot or a place in the queue ─► go ─► chunks, or bytes of the bulk port ─► ack

Owns who writes to which slot, who waits for one, and what both are told.  The checks of a put are
in jobs.py, the steps on shared words in intake.py, the bulk port in bulk.py.  Called by clients.py
and, when a slot may have become free, by gateway.py.
"""

from __future__ import annotations

import itertools
import math
import secrets
import time
from collections.abc import Callable

from lifl.errors import InvalidUpdate, Late, LiflError, Refused, Unreachable
from lifl.faults import fault
from lifl.functions.bulk import Bulk
from lifl.functions.bulk_state import Connection
from lifl.functions.jobs import Asking, Job, Uploading, measured, rejection
from lifl.functions.sealing import CHUNK
from lifl.functions.wire import INLINE, UP_WINDOW, Message
from lifl.shm.slots import Payload

LOOK_AGAIN_S = 1.0
EXPIRE_S = 0.05  # from one look at everybody's uploads to the next
TOLD_S = 1.0  # who waits longer than that for a slot is told so; most do not


class Uploads:
    """Everything that writes to this node's slots.

    Args:
        jobs: the gateway's jobs by name.
        host, bulk_port, server_key: where the bulk port listens, and what its tickets are bound
            to.
        send: a message to a control connection.
        tell: a message to whoever has this key in this job, whose control connection it also has.
        said, untold: as of the bulk port.
        serve: looks at a job's words, when a slot may have become free.
    """

    def __init__(
        self, jobs: dict[str, Job], host: str, bulk_port: int, server_key: str, *,
        send: Callable[[bytes, Message], bool], tell: Callable[[Job, str, bytes, Message], bool],
        said: Callable[[Connection, memoryview], None], untold: Callable[[Connection], None],
        serve: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self.jobs, self.send, self.serve = jobs, send, serve
        self._tell = tell
        self._expired_at = -math.inf
        self.bulk = Bulk(
            host, server_key, wrote=self._wrote, lost=self._lost, said=said, untold=untold,
            port=bulk_port,
        )  # fmt: skip
        # not from 1: a client may still think of the last gateway's
        self._transfers = itertools.count(1 + secrets.randbelow(1 << 30))

    def tell(self, job: Job, asking: Asking, message: Message) -> bool:
        """Answer who asked; False when it has left."""
        return self._tell(job, asking.key, asking.peer, message)

    def put(self, job: Job, asking: Asking, payload: memoryview | None) -> None:
        before = job.uploads.get(asking.key)
        if before is not None and before.is_repeated(asking):
            before.asking = asking
            self._go(job, before)  # its first go was lost, or it is still writing
            return
        if before is not None:
            self.drop(job, before)
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
            self.bulk.need(asking.key, job.name)
        if job.waiting or not self._grant(job, asking):
            self._wait(job, asking)

    def _wait(self, job: Job, asking: Asking) -> None:
        """Take a place in the queue; who asks again keeps it, and what follows its first put."""
        begins, before = not job.waiting, job.waiting.get(asking.key)
        keeps = before is not None and before.message["round"] == asking.message["round"]
        if asking.early or before is None or not keeps or not self._follows(job, before):
            job.waiting[asking.key] = asking
        else:
            before.is_told = False  # it asks whether anybody is here
        if asking.came_on is not None and asking.early:
            self.bulk.pause(asking.came_on)
        if begins:
            job.intake.nudge()

    def _follows(self, job: Job, asking: Asking) -> bool:
        """Its first chunk follows its put, on the connection that its client has now."""
        return asking.early != 0 and asking.came_on is self.bulk.of(asking.key, job.name)

    def leaves_queue(self, job: Job, asking: Asking) -> None:
        """It has its slot, or a verdict: what follows its put is read on."""
        job.waiting.pop(asking.key, None)  # it may have left while it was told
        if asking.came_on is not None and self._follows(job, asking):
            self.bulk.resume(asking.came_on)

    def _known(self, job: Job, asking: Asking) -> bool:
        """Answer at once what needs no slot: a duplicate, or too late."""
        verdict = job.intake.look(asking.clients)
        if verdict is None and job.cut and asking.payload is Payload.UPDATE:
            verdict = "late"
        if verdict is not None:
            self._answer(job, asking, verdict)
        return verdict is not None

    def admit(self, job: Job, asking: Asking) -> bool:
        """Give a slot to one that waited; False when there is none."""
        if asking.message["round"] != job.intake.round or self._known(job, asking):
            return True
        return self._grant(job, asking)

    def _grant(self, job: Job, asking: Asking) -> bool:
        connection = self.bulk.of(asking.key, job.name) if asking.is_bulk else None
        if asking.is_bulk and connection is None:
            error = Unreachable("the bulk connection broke: ask for a ticket and put again")
            self.tell(job, asking, rejection(job.name, asking.message, error))
            return True
        grant = job.intake.begin(asking.clients, asking.consumer, asking.length)
        if grant is None:
            return False
        job.intake.tally.granted(asking.asked_at, waited=bool(job.waiting))
        upload, is_whole = job.uploading(asking, grant, time.monotonic()), False
        job.uploads[asking.key] = upload
        if connection is not None:
            upload.connection = connection
            early = asking.early if self._follows(job, asking) else 0
            upload.transfer = early or next(self._transfers)
            self.bulk.grant(connection, upload)
            is_whole = early != 0 and asking.length <= CHUNK  # all of it comes unasked
        if not is_whole and not self._go(job, upload):
            self.drop(job, upload)  # it has left
        return True

    def _go(self, job: Job, upload: Uploading) -> bool:
        """Let it send; False when its connection has ended."""
        go: Message = {"t": "go", "job": job.name, "round": job.round}
        if upload.connection is not None:
            go["transfer"] = upload.transfer
        else:
            go |= {"n": UP_WINDOW, "grant": upload.grant.generation}
        return self.tell(job, upload.asking, go)

    def drop(self, job: Job, upload: Uploading) -> None:
        """Forget an upload, and tell nobody; what of it is still on its way is thrown away."""
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

    def chunk(self, job: Job, key: str, message: Message, payload: memoryview) -> None:
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
            more = {"t": "more", "job": job.name, "round": grant.round, "n": 1}
            self.tell(job, upload.asking, more)

    def _finish(self, job: Job, upload: Uploading) -> None:
        asking = upload.asking
        verdict = job.intake.finish(
            upload.grant, payload=asking.payload, weight=asking.weight
        )
        if verdict == "accepted" and asking.payload is Payload.UPDATE:
            job.bytes_in += asking.length
            job.metrics.append((asking.weight, measured(asking.message), asking.key))
        self._answer(job, asking, verdict)

    def _answer(self, job: Job, asking: Asking, verdict: str) -> None:
        round_ = asking.message["round"]
        if verdict == "accepted":
            job.dirty = True
            self.tell(job, asking, {"t": "ack", "job": job.name, "round": round_})
            fault("gateway_acked", "gateway")
        elif verdict == "late":
            error: LiflError = Late(
                f"round {round_} is closed: go on with the next one", job=job.name
            )
            self.tell(job, asking, rejection(job.name, asking.message, error))
        else:
            error = InvalidUpdate(
                "some clients of this sum are accepted already", code="duplicate-overlap"
            )
            self.tell(job, asking, rejection(job.name, asking.message, error))

    def abandon(self, job: Job, upload: Uploading, error: LiflError) -> None:
        """Take the slot back and say why; a sender in the middle of it notices its connection."""
        self.drop(job, upload)
        if upload.connection is not None:
            self.bulk.close(upload.connection, error)
        self.tell(job, upload.asking, rejection(job.name, upload.asking.message, error))
        self.serve(job)

    def expire(self, now: float) -> None:
        """Take slots back from uploads that stand still or keep others waiting."""
        if now - self._expired_at < EXPIRE_S:
            return
        self._expired_at = now
        self.bulk.tick()
        for job in self.jobs.values():
            if job.waiting and now - job.looked_at >= TOLD_S:
                self._tell_who_waits(job, now)
            for upload in list(job.uploads.values()):
                if upload.connection is not None and not self._moves(job, upload, now):
                    continue
                if (why := job.too_slow(upload, now)) is not None:
                    self.abandon(job, upload, Unreachable(f"{why}: send again", code="too-slow"))

    def _tell_who_waits(self, job: Job, now: float) -> None:
        job.looked_at = now
        for asking in job.waiting.values():
            if not asking.is_told and now - asking.asked_at >= TOLD_S:
                asking.is_told = True
                self.tell(job, asking, {"t": "wait", "job": job.name, "round": job.round})

    # -- the initial model, from the coordinator ---------------------------------------------
    def put_model(self, job: Job, peer: bytes, right: str, message: Message) -> None:
        if right != "coordinator":
            raise Refused(f"a {right} may not set the model", code="not-allowed")
        found = job.intake.model()
        if found is not None and found[1].round >= message["round"]:
            self.send(peer, {"t": "ack", "job": job.name, "round": message["round"]})
            return
        job.model_upload = job.intake.begin_model(message["length"])
        fault("gateway_model_begun", "gateway")
        self.send(peer, {"t": "go", "job": job.name, "round": message["round"], "n": UP_WINDOW})

    def model_chunk(self, job: Job, peer: bytes, message: Message, payload: memoryview) -> None:
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
