"""Rounds and their models on their way down to clients, virtual ones and other gateways.

    round ─► control channel, or bulk connection with the model behind it      get ─► model, or gone

Owns when a model goes unasked, and that nobody misses a round with a connection that broke.
Updates on their way up are in uploads.py, the bytes of the bulk port in bulk.py.  Called by
clients.py and orders.py.
"""

from __future__ import annotations

from collections.abc import Callable

from lifl.errors import InvalidUpdate
from lifl.functions.bulk import Bulk
from lifl.functions.bulk_state import Connection, Sending
from lifl.functions.jobs import Job
from lifl.functions.sealing import MESSAGE, PUSHED
from lifl.functions.wire import DOWN_CHUNK, INLINE, Message
from lifl.shm.slots import Header

HANDED_OUT = 10_000  # virtual clients in one message


class Downlink:
    """Rounds, with or without their models, and models that are asked for.

    Args:
        jobs: the gateway's jobs by name.
        send: a message, and a payload, to a control connection.
        tell: a message to whoever has this key in this job, whose control connection it also has.
    """

    def __init__(
        self, jobs: dict[str, Job], bulk: Bulk, *,
        send: Callable[[bytes, Message, memoryview | None], bool],
        tell: Callable[[Job, str, bytes, Message], bool],
    ) -> None:  # fmt: skip
        self._jobs, self._bulk, self._send, self._tell = jobs, bulk, send, tell

    # -- rounds ------------------------------------------------------------------------------
    def announce(self, job: Job, key: str, peer: bytes) -> None:
        """Tell a client about the round, if it is part of it."""
        bit = job.bit(key)
        if bit is None or not job.has_model:
            return
        job.announced.add(key)
        need = not job.answered >> bit & 1
        connection = self._bulk.of(key, job.name)
        if connection is None or not connection.talks:
            self._send(peer, job.news(need=need), self._small_model(job) if need else None)
        elif need:
            self._tell_with_model(job, key, peer, connection)
        else:
            self._tell(job, key, peer, job.news(need=False))

    def _tell_with_model(self, job: Job, key: str, peer: bytes, connection: Connection) -> None:
        """The model comes unasked where nothing keeps the client from reading it."""
        assert job.layout is not None
        listens, data = connection.gets_round(), job.news_with_model()
        if listens and connection.sending is None and len(data) <= MESSAGE:
            sending = self._sending(job, job.round - 1, PUSHED, 0, job.layout.update_bytes)
            self._bulk.push(connection, data, sending)
        else:
            self._tell(job, key, peer, job.news(need=True))

    def untold(self, connection: Connection) -> None:
        """A bulk connection is gone, and maybe with it what it had to tell of the round."""
        job, key = self._jobs.get(connection.job), connection.key
        if job is not None and not job.ended and (peer := job.clients.get(key)) is not None:
            self.announce(job, key, peer)

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
            self._send(peer, {
                "t": "work", "job": job.name, "round": job.round,
                "clients": due[at : at + HANDED_OUT], "settings": job.round_settings,
            }, None)  # fmt: skip

    # -- models that are asked for -----------------------------------------------------------
    def get(self, job: Job, peer: bytes, message: Message) -> None:
        if (found := self._model_of(job, peer, message)) is None:
            return
        slot, header = found
        at, size = message["at"], message["n"]
        if not 0 <= at < header.length or not 0 < size <= DOWN_CHUNK:
            raise _beyond(at, at + size, header.length)
        chunk = job.intake.arena.payload(slot, header.length)[at : at + size]
        self._send(peer, {"t": "model", "job": job.name, "round": header.round, "at": at}, chunk)

    def get_bulk(self, job: Job, key: str, peer: bytes, message: Message) -> None:
        """The rest of a model from `at`, over the client's bulk connection."""
        at, size, transfer = message["at"], message["n"], message["transfer"]
        if not isinstance(at, int) or not isinstance(size, int):
            raise InvalidUpdate(
                f"at {at!r:.40} and n {size!r:.40} must be integers", code="malformed"
            )
        if (found := self._model_of(job, peer, message)) is None:
            return
        if not 0 <= at < at + size <= found[1].length:
            raise _beyond(at, at + size, found[1].length)
        if not isinstance(transfer, int) or not 0 < transfer < 1 << 32:
            raise InvalidUpdate(
                f"transfer is {transfer!r:.40}: it must be from 1 to 2^32 - 1", code="malformed"
            )
        connection = self._bulk.need(key, job.name)
        sending = self._sending(job, found[1].round, transfer, at, at + size)
        self._bulk.send(connection, sending)

    def _model_of(self, job: Job, peer: bytes, message: Message) -> tuple[int, Header] | None:
        """Slot and header of the model that a `get` asks for; that it is gone is said here."""
        found = job.intake.model()
        if found is not None and found[1].round == message["round"]:
            return found
        self._send(peer, {"t": "gone", "job": job.name, "round": message["round"]}, None)
        return None

    def _sending(self, job: Job, round_: int, transfer: int, at: int, end: int) -> Sending:
        """A part of the model of a round, while that is the current one."""

        def model() -> memoryview | None:
            now = job.intake.model()
            same = now is not None and now[1].round == round_
            return job.intake.arena.payload(now[0], end) if now is not None and same else None

        return Sending(round_, transfer, at, end, model)


def _beyond(at: int, end: int, length: int) -> InvalidUpdate:
    return InvalidUpdate(f"bytes {at} to {end} of a model of {length}", code="malformed")
