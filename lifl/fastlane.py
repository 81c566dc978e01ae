"""A client's fast lane: its bulk connection, and what of a round goes over it.

    welcome ─► ticket ─► connection      round, model ─► buffer      put with the update ─► ack

Owns the connection from its ticket to its end, transfers over it, and asking again for what was
lost with it.  Bytes are functions/bulk_client.py's, formats docs/protocol.md's.  Part of
exchange.py's conversation, which hears what comes here between all else.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypedDict

from lifl.buffers import Buffers
from lifl.connection import Address
from lifl.errors import Refused, Unreachable
from lifl.functions.bulk_client import Broken, BulkConnection, Opening, connect
from lifl.functions.layout import Layout
from lifl.functions.sealing import CHUNK, EARLY, MESSAGE, PUSHED
from lifl.functions.transfer import Outgoing, Upload
from lifl.functions.wire import LARGEST_TRUSTED, Keys, Message, decode, encode

LISTEN_S = 0.01  # for bytes of a model, from one look at the control channel to the next
RETRY_S = 0.05  # before the next ticket


class Conversation(Protocol):
    """What the lane needs of the exchange that it is part of; see there."""

    job: str
    timeout_s: float
    start: int
    layout: Layout | None
    pending: Message | None
    kept: Upload | Message | None
    buffers: Buffers

    @property
    def address(self) -> Address: ...

    def send(self, outgoing: list[Outgoing]) -> None: ...

    def counts(self, message: Message, number: int, start: int) -> bool | None: ...

    def wait_for(
        self, *kinds: str, again: Callable[[], list[Outgoing]] | None = None
    ) -> tuple[Message, memoryview | None]: ...


class _Arguments(TypedDict):
    """Of `connect` and `Opening`."""

    endpoint: str
    gateway: str
    job: str
    said: Callable[[memoryview], None] | None


class FastLane:
    """The bulk connection of one conversation, while there is one.

    Attributes:
        connection: to the gateway that the conversation is with.
        said: messages that came over it and nobody has looked at.
        verdicts: on a put, heard while a ticket was waited for.
    """

    def __init__(self, exchange: Conversation, keys: Keys) -> None:
        self._exchange, self._keys = exchange, keys
        self.connection: BulkConnection | None = None
        self.said: deque[Message] = deque()
        self.verdicts: deque[Message] = deque()
        self._transfers = self._tickets = 0
        self._early = 0  # number of a ticket that was asked for before it is needed, until it comes
        self._opening: Opening | None = None  # with that
        self._is_asking = False  # for one that is needed

    # -- before a round needs it -------------------------------------------------------------
    def prepare(self) -> None:
        """Ask for a ticket: who has its connection before a round is told gets the model unasked.

        Nothing waits here, nor in `hears`, and nothing fails: what does not come about in this way
        is `open`'s, as after a connection that was lost.
        """
        is_begun = self._early or self._opening is not None or self._is_asking
        if self.connection is None and not is_begun:
            self._tickets += 1
            self._early = self._tickets
            self._exchange.send(self._ask())

    def hears(self, ticket: Message) -> None:
        """It has come, and nobody waits for it: begin to connect, then have memory for models."""
        if ticket["n"] != self._early:
            return
        self._early, layout = 0, self._exchange.layout
        with contextlib.suppress(Broken, Refused):
            self._opening = Opening(ticket, self._keys, **self._with(ticket), waits=True)
            self._step()  # there and then, on this machine
        if layout is not None:
            self._exchange.buffers.prepare(layout.update_bytes)

    def hears_refusal(self) -> None:
        """No ticket comes, and nobody waits for it: there will be one when it is needed."""
        self._early = 0

    def _step(self) -> None:
        """Go on with a connection that was begun."""
        opening, self._opening = self._opening, None
        assert opening is not None
        try:
            self.connection = opening.step()
        except Broken:
            opening.close()
            return
        if self.connection is None:
            self._opening = opening

    def hello(self) -> None:
        """Is about to be said: of a client that says it a gateway takes it to have no connection.

        One that is there carries payloads still.
        """
        self._leave_early()
        if self.connection is not None:
            self.connection.talks = False

    def _leave_early(self) -> None:
        self._early = 0
        if self._opening is not None:
            self._opening.close()
            self._opening = None

    # -- rounds ------------------------------------------------------------------------------
    def comes(self, number: int) -> memoryview | None:
        """The buffer of this round's model, where that is on its way unasked."""
        return self.connection.expected(number, PUSHED) if self.connection is not None else None

    def fileno(self) -> int:
        """Of the connection, or of the one that was begun; -1 where there is neither."""
        what = self.connection if self.connection is not None else self._opening
        return what.fileno() if what is not None else -1

    @property
    def events(self) -> int:
        """Of poll(2), on `fileno`: when to call `take_in`."""
        if self._opening is not None:
            return self._opening.events
        has_rest = self.connection is not None and self.connection.has_rest
        return select.POLLIN | (select.POLLOUT if has_rest else 0)

    def upload(self, upload: Upload) -> bool:
        """Until acknowledged (True) or too late (False)."""
        number, start = upload.put["round"], self._exchange.start
        put = upload.put | {"length": upload.size, "lane": "fast"}
        bulk, early = self._start(put, upload)  # the transfer that was begun unasked, 0 if none
        sent = early  # the transfer that was begun last
        while bulk is not None:
            message, _ = self._exchange.wait_for(
                "go", "ack", "reject", "round", "bulk", again=lambda: [(put, None)]
            )
            if message["t"] == "reject" and message["of"] != "put":
                continue
            counts = self._exchange.counts(message, number, start)
            if counts is not None:
                bulk.stop()
                return counts
            before = bulk
            match message["t"]:
                case "go" if message["round"] == number and not _is_old(message, early):
                    try:  # the last one counts: it may follow one of an upload that was given up
                        if message["transfer"] != sent:
                            sent = message["transfer"]
                            at = min(CHUNK, upload.size) if sent == early else 0
                            bulk.begin(upload, number=number, transfer=sent, at=at)
                        bulk.end()
                    except Broken:
                        bulk, _ = self._start(put)
                    except BaseException:  # of a callback, or Ctrl-C: in the middle of a chunk
                        self.close()
                        raise
                case "bulk" if self.connection is not bulk:  # the gateway has ended it
                    bulk, _ = self._start(put)
                case "round":  # a gateway that was restarted, or what was said where it was lost
                    bulk, _ = self._start(put)
            if bulk is not before:
                early = sent = 0
        return False

    def fetch(self, number: int, buffer: memoryview, *, comes: bool) -> bool:
        """False when the model of this round is not to be had any more.

        Args:
            comes: it is on its way into `buffer` already, unasked.
        """
        bulk, at, transfer, ask = self.connection, 0, PUSHED, list[Outgoing]()
        while True:
            if not comes:
                self._transfers += 1
                bulk, transfer = self.open(), self._transfers
            if bulk is None:
                return False
            if not comes:
                get: Message = {
                    "t": "get", "job": self._exchange.job, "round": number, "transfer": transfer,
                    "at": at, "n": len(buffer) - at,
                }  # fmt: skip
                ask = [(get, None)]
                bulk.expect(buffer, number=number, transfer=transfer, at=at)
                self._exchange.send(ask)
            try:
                if self._receive(bulk, number, transfer, ask):
                    bulk.taken()
                    return True
                self.close()
                return False
            except Broken:
                is_ours = bulk.expected(number, transfer) is not None
                at, comes = bulk.verified if is_ours else 0, False
                time.sleep(RETRY_S)

    def _receive(
        self, bulk: BulkConnection, number: int, transfer: int, ask: list[Outgoing]
    ) -> bool:
        """Whether the model has come; not where it is gone, or another has come in its place.

        Args:
            ask: what is said again while nothing comes; nothing for a model that comes unasked.

        Raises:
            Broken: the connection is gone, maybe in the middle of a chunk.
        """
        while not bulk.has_all:
            if bulk.wait(LISTEN_S):  # to the control channel only when nothing comes here
                bulk.receive()
                continue
            message, _ = self._exchange.wait_for("bulk", "gone", "reject", again=lambda: ask)
            match message["t"]:
                case "bulk" if self.connection is not bulk:
                    raise Broken("the gateway closed the bulk connection")
                case "gone" if message["round"] == number:
                    return False
                case "reject" if message["of"] == "get":
                    self.close()
                    raise Broken(message["text"])
        return bulk.expected(number, transfer) is not None

    def _hear(self, data: memoryview) -> None:
        """A message has come over the bulk connection, and a model may follow."""
        message, exchange = decode(data, limit=LARGEST_TRUSTED), self._exchange
        self.said.append(message)
        if message["t"] == "round" and message.get("model"):
            assert self.connection is not None
            assert exchange.layout is not None
            if exchange.kept is not None and message["round"] > round_of(exchange.kept):
                exchange.kept = None  # its round has ended, and its memory may be the model's
            buffer = exchange.buffers.take(exchange.layout.update_bytes)
            self.connection.expect(buffer, number=message["round"] - 1, transfer=PUSHED, at=0)

    def waits(self) -> None:
        """A wait begins: what came since the last read is not known."""
        if self.connection is not None:
            self.connection.has_read_all = False

    def look(self) -> None:
        """Take in what had come behind what was read last, if anything had."""
        bulk = self.connection
        if bulk is not None and not bulk.has_read_all and bulk.wait(0):
            self.take_in()

    def take_in(self) -> None:
        """Whatever has come over the bulk connection, and on with what is on its way up.

        None is there any more if it has ended.
        """
        if self._opening is not None:
            self._step()
            return
        assert self.connection is not None
        try:
            if self.connection.has_rest:
                self.connection.push_rest()
            self.connection.receive()
        except Broken:
            self.close()
        except BaseException:  # of a callback, or Ctrl-C: in the middle of a chunk
            self.close()
            raise

    def _start(
        self, put: Message, upload: Upload | None = None
    ) -> tuple[BulkConnection | None, int]:
        """Ask for a slot.

        Args:
            upload: begin it without waiting for the slot, where the connection talks; None: wait,
                since what was sent before did not get through.

        Returns:
            The connection, None where the job is done; the transfer that was begun, 0 if none.
        """
        while True:
            bulk = self.open()
            if bulk is None or self.verdicts:  # which may say that there is no point
                return bulk, 0
            self._transfers += 1
            transfer = EARLY | self._transfers
            message = encode(put | {"transfer": transfer})
            if upload is None or not bulk.talks or len(message) > MESSAGE:
                self._exchange.send([(put, None)])
                return bulk, 0
            try:
                bulk.put(message, upload, number=put["round"], transfer=transfer)
                return bulk, transfer
            except Broken:
                upload = None
            except BaseException:  # of a callback, or Ctrl-C: in the middle of a chunk
                self.close()
                raise

    def open(self) -> BulkConnection | None:
        """The connection as it is, or a new one; None when the job is done.

        Raises:
            Unreachable: tickets come, but the port that they are for does not answer.
        """
        began = time.monotonic()
        while self.connection is None or not self.connection.is_fit:
            opening, self._opening = self._opening, None
            self._end()
            try:
                self.connection = opening.finish() if opening is not None else self._with_ticket()
            except Broken as error:
                if time.monotonic() - began > self._exchange.timeout_s:
                    raise Unreachable(
                        f"{error}; open that port for clients, or set spec.clients.lane: zmq",
                        job=self._exchange.job,
                    ) from error
                time.sleep(RETRY_S)
            if self._exchange.pending is not None and self._exchange.pending["t"] == "done":
                return None
        return self.connection

    def _with_ticket(self) -> BulkConnection:
        if not self._early:
            self._tickets += 1  # a newer ticket voids the older: only the last answer is of use
            self._exchange.send(self._ask())
        self._early, ask = 0, self._ask()
        verdicts: list[Message] = []
        self._is_asking = True
        try:
            while True:
                message, _ = self._exchange.wait_for("ticket", "reject", again=lambda: ask)
                if message["t"] == "ticket" and message["n"] == self._tickets:
                    break
                if message["t"] == "reject" and message["of"] == "ticket":
                    raise Broken(message["text"])
                if message["t"] == "reject":  # why the connection before this one was closed
                    verdicts.append(message)
        finally:
            self._is_asking = False
            self.verdicts.extend(verdicts)
        return connect(message, self._keys, **self._with(message))

    def _with(self, ticket: Message) -> _Arguments:
        """Where this ticket leads to, and who hears what comes from there."""
        where, said = self._exchange.address, self._hear if ticket.get("talks") else None
        return {
            "endpoint": where.endpoint, "gateway": where.key, "job": self._exchange.job,
            "said": said,
        }  # fmt: skip

    def _ask(self) -> list[Outgoing]:
        """For the ticket of this number."""
        job = self._exchange.job
        return [({"t": "ticket", "job": job, "n": self._tickets, "talks": True}, None)]

    def close(self) -> None:
        self._leave_early()
        self._end()

    def _end(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def round_of(kept: Upload | Message) -> int:
    """Of what a client answers a round with."""
    number: int = (kept.put if isinstance(kept, Upload) else kept)["round"]
    return number


def _is_old(go: Message, early: int) -> bool:
    """For a transfer that this side began unasked, with another put than the last."""
    return bool(go["transfer"] & EARLY) and go["transfer"] != early
