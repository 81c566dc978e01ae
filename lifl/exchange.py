"""What a client and its gateways say to one another: the control channel and transfers over it.

Owns the connection, following the plan from gateway to gateway, saying everything again that a
gateway forgot, and asking for tickets: bytes on the bulk port are functions/bulk_client.py's.
Knows no training loop: client.py does.
"""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lifl.api.codes import error_of
from lifl.buffers import Buffers
from lifl.connection import Address, Connection
from lifl.errors import Late, Unreachable
from lifl.functions.bulk_client import Broken, BulkConnection, connect
from lifl.functions.layout import Layout
from lifl.functions.sealing import EARLY, MESSAGE, PUSHED, preload
from lifl.functions.transfer import STILL_S, Download, Outgoing, Upload
from lifl.functions.wire import (
    INLINE,
    LARGEST_TRUSTED,
    Keys,
    Message,
    decode,
    encode,
    takes_bulk_port,
)

State = dict[str, np.ndarray[Any, Any]]

AGAIN_S = 2.0
AGAIN_MS = int(AGAIN_S * 1000)
AWAY_S = 3.0  # without its gateway a client tries another
LISTEN_S = 0.01
RETRY_S = 0.05  # before the next ticket
RETRY_FIRST_S = 0.01  # after a refusal
RETRY_LAST_S = 1.0
ENDS = frozenset({"not-enrolled", "revoked", "displaced", "not-allowed", "unknown-job"})
"""Rejections after which a gateway has nothing more to say to this client."""
ANSWERS = frozenset({"go", "more", "ack", "reject"})


class Interrupted(Exception):
    """Another thread asked this one to stop waiting; what was under way can be done again."""


def retry_s(refusals: int) -> float:
    """Back-off after so many refusals in a row: 10 ms, 20 ms, … 1 s."""
    return float(min(RETRY_LAST_S, RETRY_FIRST_S * 2 ** min(refusals, 30)))


def _round_of(kept: Upload | Message) -> int:
    number: int = (kept.put if isinstance(kept, Upload) else kept)["round"]
    return number


def _is_old(go: Message, sent: int) -> bool:
    """For a transfer that this side began unasked and has given up."""
    return bool(go["transfer"] & EARLY) and go["transfer"] != sent


class Away(Exception):
    """The gateway is gone, and what was under way is somebody else's to ask for."""


class Exchange:
    """One client's conversation with the gateways of a job; single-threaded.

    Args:
        moves: whether it goes to another gateway when its own is gone; a worker, which talks to all
            of them, does not: it hears `Away`.
        may_bulk: whether payloads may take the bulk port; a worker's, for its many clients, do not.

    Attributes:
        layout: of the job's model, None until a gateway has said it.
        settings: what the job tells its clients.
        start: how often the run was started; a new one may repeat rounds.
        pending: a message that came while another was waited for.
        work: what a worker is to do, as its gateway says it.
        kept: what the last round was answered with, until the next one begins.
        speaks_for: number of the virtual client on whose behalf a worker speaks just now.
    """

    def __init__(
        self, address: Address, *, job: str, keys: Keys, timeout_s: float, may_bulk: bool = True,
        moves: bool = True, elsewhere: Sequence[Address] = (),
    ) -> None:  # fmt: skip
        self.job, self.timeout_s, self._may_bulk = job, timeout_s, may_bulk
        self.settings: dict[str, Any] = {}
        self.start = 0
        self.layout: Layout | None = None
        self.pending: Message | None = None
        self.work: deque[Message] = deque()
        self.kept: Upload | Message | None = None
        self.speaks_for: int | None = None
        self._keys, self._moves = keys, moves
        self.elsewhere = list(elsewhere)  # other gateways of the job
        self._gone_at = math.inf  # since when no gateway is there
        self._connection = Connection(keys, address)
        self._poll, self._fds = select.poll(), (-1, -1, -1, -1)
        self._heard_at = time.monotonic()
        self._lane = "zmq"
        self._bulk: BulkConnection | None = None
        self._transfers = self._tickets = 0
        self._small: tuple[int, bytes] | None = None  # a model that came with its round
        self._said: deque[Message] = deque()  # over the bulk connection
        self._verdicts: deque[Message] = deque()  # on a put, heard while a ticket was waited for
        self.buffers = Buffers()
        self._refusals = 0
        self._retry_at = math.inf
        self._woken, self._wake = socket.socketpair()  # what every system has
        self._woken.setblocking(False)
        self._woken_fd = self._woken.fileno()
        self.hello()

    def hello(self) -> None:
        if self._bulk is not None:
            self._bulk.talks = False  # which is what a gateway takes from a hello
        self._connection.send([({"t": "hello", "job": self.job}, None)])

    def upload(self, upload: Upload) -> bool:
        """Until acknowledged (True) or too late (False)."""
        if takes_bulk_port(self._lane, len(upload.data)):
            return self._upload_bulk(upload)

        def again() -> list[Outgoing]:
            """Begin again; not while a chunk may still be on its way over a slow link.

            After a reconnection the gateway says `round`, which begins it again.
            """
            is_still = time.monotonic() - self._heard_at > STILL_S
            return upload.start() if is_still or not upload.granted else []

        self._connection.send(upload.start())
        number, start = upload.put["round"], self.start
        while True:
            message, _ = self.wait_for("go", "more", "ack", "reject", "round", again=again)
            counts = self._counts(message, number, start)
            if counts is not None:
                return counts
            match message["t"]:
                case "go" | "more":
                    self._connection.send(upload.take(message))
                case "round":  # a gateway that was restarted
                    self._connection.send(upload.start())

    def _counts(self, message: Message, number: int, start: int) -> bool | None:
        """Whether what was sent for a round counts, as far as this message says; None: not yet.

        Args:
            start: of the run, when it was sent.

        Raises:
            LiflError: it was refused for good.
        """
        match message["t"]:
            case "round" if message["round"] > number or self.start != start:
                self.pending = message
                return False
            case "round" if not message["need"]:
                return True
            case "ack" if message["round"] == number:
                return True
            case "reject" if message["round"] == number and self._does_without(message):
                return False
        return None

    def _does_without(self, rejection: Message) -> bool:
        """True when the round goes on without this; False when it will be asked again.

        Raises:
            LiflError: it was refused for good.
        """
        error = error_of(
            rejection["code"], rejection["text"], retry=rejection["retry"],
            job=self.job, round=rejection["round"],
        )  # fmt: skip
        if isinstance(error, Late):
            return True
        if not error.retryable:
            raise error
        self.retry_later()
        return False

    def retry_later(self) -> None:
        """Was refused for now: what is under way is asked again after a while, not before.

        Meanwhile every message is heard: a gateway that begins the round says so at once.
        """
        self._retry_at = time.monotonic() + retry_s(self._refusals) * random.uniform(0.5, 1.0)
        self._refusals += 1

    def report(self, message: Message) -> bool:
        """Figures without an update, until acknowledged (True) or too late (False)."""

        def start() -> list[Outgoing]:
            return [(message, None)]

        self._connection.send(start())
        number, run_start = message["round"], self.start
        while True:
            answer, _ = self.wait_for("ack", "reject", "round", again=start)
            counts = self._counts(answer, number, run_start)
            if counts is not None:
                return counts
            if answer["t"] == "round":  # a gateway that was restarted
                self._connection.send(start())

    def fetch(self, number: int) -> State | None:
        """The model of a round as arrays of one's own; None when it is already replaced."""
        assert self.layout is not None
        small, self._small = self._small, None
        if small is not None and small[0] == number and len(small[1]) == self.layout.update_bytes:
            return self.layout.views(memoryview(bytearray(small[1])))
        bulk = self._bulk
        comes = bulk.expected(number, PUSHED) if bulk is not None else None
        buffer = comes if comes is not None else self.buffers.take(self.layout.update_bytes)
        if takes_bulk_port(self._lane, len(buffer)):
            got = self._fetch_bulk(number, buffer, comes=comes is not None)
            return self.layout.views(buffer) if got else None
        download = Download(self.job, number, buffer)
        self._connection.send(download.ask())
        while not download.done:
            message, payload = self.wait_for("model", "gone", again=download.again)
            if message["t"] == "gone" and message["round"] == number:
                return None
            if message["t"] == "model" and payload is not None:
                self._connection.send(download.take(message, payload))
        return self.layout.views(buffer)

    def wait_for(
        self, *kinds: str, again: Callable[[], list[Outgoing]] | None = None
    ) -> tuple[Message, memoryview | None]:
        """The next message of one of these kinds; handles all others.

        What is under way is asked `again` when the connection came back, when nothing was heard,
        or when it is time to after a refusal.  The kind "bulk" is no message: bytes have come on
        the bulk connection, or it has ended.

        Raises:
            Interrupted: `interrupt` was called.
            Unreachable: nobody answers.
        """
        if self.pending and self.pending["t"] in kinds:
            message, self.pending = self.pending, None
            return message, None
        if self._verdicts and "reject" in kinds:
            return self._verdicts.popleft(), None
        asked_at = self._heard_at = now = time.monotonic()
        while True:
            connection, received = self._connection, self._next_said()
            if received is None:
                wait_s = self._retry_at - now
                again_ms = AGAIN_MS if wait_s > AGAIN_S else max(0, math.ceil(wait_s * 1000))
                ready = self._ready(again_ms)
                now = time.monotonic()
                if self._woken_fd in ready and self._was_interrupted():
                    raise Interrupted
                if self._bulk is not None and self._bulk.fileno() in ready:
                    self._take_in()
                    if "bulk" in kinds:
                        return {"t": "bulk"}, None
                    continue
                if connection.monitor_fd in ready and connection.reconnected():
                    self.hello()
                    asked_at = 0.0  # ask again for what is under way
                if connection.fd in ready:
                    received = connection.receive()
            if received is None and not connection.is_up and self._goes_elsewhere(now, again):
                asked_at = now  # whoever is there says what it needs
                continue
            if received is None:
                if now >= self._retry_at:
                    asked_at, self._retry_at = 0.0, math.inf
                # who is connected and hears nothing waits for others to come, like everybody
                expects = again is not None or not connection.is_up
                down_at = min(connection.down_at, self._gone_at)
                if expects and now - max(self._heard_at, down_at) > self.timeout_s:
                    raise Unreachable(
                        f"no gateway answered at {connection.address.endpoint} "
                        f"for {self.timeout_s:g} s: see whether the run is still under way"
                    )
                if again and now - asked_at >= AGAIN_S:
                    asked_at = now
                    connection.send(again())
                continue
            self._heard_at, self._gone_at = now, math.inf
            message, payload = received
            if message.get("as") != self.speaks_for and message["t"] in ANSWERS:
                continue  # to what was asked on behalf of another
            if message["t"] == "reject" and message["code"] in ENDS:
                raise error_of(
                    message["code"], message["text"], retry=message["retry"], job=self.job
                )
            if message["t"] == "round":
                small = payload is not None and message["need"]
                self._small = (message["round"] - 1, bytes(payload or b"")) if small else None
            if message["t"] in ("go", "ack"):
                self._refusals, self._retry_at = 0, math.inf
            if message["t"] in kinds:
                return message, payload
            self._handle(message)

    def _next_said(self) -> tuple[Message, memoryview | None] | None:
        """The next message that came over the bulk connection."""
        return (self._said.popleft(), None) if self._said else None

    def _ready(self, timeout_ms: int) -> set[int]:
        """Descriptors that have something to read, or may have had it already."""
        connection, bulk = self._connection, self._bulk
        fds = (
            connection.fd, connection.monitor_fd, self._woken_fd, bulk.fileno() if bulk else -1
        )  # fmt: skip
        if fds != self._fds:
            self._fds, self._poll = fds, select.poll()
            for fd in fds:
                if fd >= 0:
                    self._poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in self._poll.poll(timeout_ms if connection.is_quiet else 0)}
        return ready if connection.is_quiet else ready | {connection.fd, connection.monitor_fd}

    @property
    def sources(self) -> list[Any]:
        """What to poll for something to read, where this is one of several conversations."""
        self._connection.is_quiet = False
        return [self._connection.socket, self._connection.monitor, self._woken]

    def listen(self) -> None:
        """Handle whatever has come, without waiting: `pending` and `work` say what."""
        if self._connection.reconnected():
            self.hello()
        while (received := self._connection.receive()) is not None:
            self._heard_at = time.monotonic()
            self._handle(received[0])

    def interrupt(self) -> None:
        """From another thread: end the wait of the one that is in this conversation."""
        self._wake.send(b".")

    def _was_interrupted(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(self._woken.recv(64))
        return False

    def calm(self) -> None:
        """Forget an interruption that came after the wait had ended."""
        self._was_interrupted()

    def _handle(self, message: Message) -> None:
        match message["t"]:
            case "welcome":
                self.layout = Layout.from_wire(message["layout"])
                self.settings = message["settings"]["args"]
                self._lane = message["settings"]["lane"] if self._may_bulk else "zmq"
                self.start = message["settings"]["start"]
                self._prepare(self.layout.update_bytes)
                self._hear_of(message["elsewhere"])
            case "elsewhere":
                self._hear_of(message["gateways"])
            case "redirect":
                self._go_to(Address(message["endpoint"], message["key"]))
            case "round" | "done":
                self.pending = message
            case "work":
                self.work.append(message)

    def _hear_of(self, gateways: list[list[str]]) -> None:
        self.elsewhere = [Address(*where) for where in gateways]

    def _go_to(self, address: Address) -> None:
        before = self._connection
        self._connection = Connection(self._keys, address)
        before.close()
        self._close_bulk()
        self._said.clear()
        self.hello()

    def _goes_elsewhere(self, now: float, again: object) -> bool:
        """True when the gateway has been gone for a while and another is tried.

        Raises:
            Away: this is a worker's exchange, and something is under way on it.
        """
        connection = self._connection
        if now - connection.down_at < AWAY_S:
            return False
        if not self._moves:
            if again is not None:
                raise Away
            return False
        if not self.elsewhere:
            return False
        self._gone_at = min(self._gone_at, connection.down_at)
        address = self.elsewhere.pop(0)
        self.elsewhere.append(connection.address)  # which may be back when its turn comes
        self._go_to(address)
        return True

    def _prepare(self, size_bytes: int) -> None:
        """Have memory and code for large models before the first round needs them."""
        if self._may_bulk and size_bytes > INLINE:
            self.buffers.prepare(size_bytes)
            if self._lane == "fast" and self._keys.is_secure:
                preload()

    # -- the bulk port -----------------------------------------------------------------------
    def _upload_bulk(self, upload: Upload) -> bool:
        number, start = upload.put["round"], self.start
        put = upload.put | {"length": len(upload.data), "lane": "fast"}
        bulk, sent = self._start(put, upload)
        while bulk is not None:
            message, _ = self.wait_for(
                "go", "ack", "reject", "round", "bulk", again=lambda: [(put, None)]
            )
            if message["t"] == "reject" and message["of"] != "put":
                continue
            counts = self._counts(message, number, start)
            if counts is not None:
                bulk.stop()
                return counts
            match message["t"]:
                case "go" if message["round"] == number and not _is_old(message, sent):
                    try:
                        if message["transfer"] != sent:
                            sent = message["transfer"]
                            bulk.begin(upload, number=number, transfer=sent)
                        bulk.end()
                    except Broken:
                        bulk, sent = self._start(put)
                    except BaseException:  # of a callback, or Ctrl-C: in the middle of a chunk
                        self._close_bulk()
                        raise
                case "bulk" if self._bulk is not bulk:  # the gateway has ended it
                    bulk, sent = self._start(put)
                case "round":  # a gateway that was restarted, or what was said where it was lost
                    before = bulk
                    bulk, _ = self._start(put)
                    sent = sent if bulk is before else 0
        return False

    def _fetch_bulk(self, number: int, buffer: memoryview, *, comes: bool) -> bool:
        """False when the model of this round is not to be had any more.

        Args:
            comes: it is on its way already, unasked.
        """
        bulk, at, transfer = self._bulk, 0, PUSHED
        while True:
            if not comes:
                self._transfers += 1
                bulk, transfer = self._open_bulk(), self._transfers
            if bulk is None:
                return False
            get: Message = {
                "t": "get", "job": self.job, "round": number, "transfer": transfer,
                "at": at, "n": len(buffer) - at,
            }  # fmt: skip
            if not comes:
                bulk.expect(buffer, number=number, transfer=transfer, at=at)
                self._connection.send([(get, None)])
            try:
                if self._receive(bulk, get):
                    bulk.taken()
                    return True
                self._close_bulk()  # it may be in the middle of a chunk
                return False
            except Broken:
                at, comes = bulk.verified, False
                time.sleep(RETRY_S)

    def _receive(self, bulk: BulkConnection, get: Message) -> bool:
        while not bulk.has_all:
            if bulk.wait(LISTEN_S):  # to the control channel only when nothing comes here
                bulk.receive()
                continue
            message, _ = self.wait_for("bulk", "gone", "reject", again=lambda: [(get, None)])
            match message["t"]:
                case "bulk" if self._bulk is not bulk:
                    raise Broken("the gateway closed the bulk connection")
                case "gone" if message["round"] == get["round"]:
                    return False
                case "reject" if message["of"] == "get":
                    self._close_bulk()
                    raise Broken(message["text"])
        # or that of a later round, which came unasked
        return bulk.expected(get["round"], get["transfer"]) is not None

    def _hear(self, data: memoryview) -> None:
        """A message has come over the bulk connection, and a model may follow."""
        message, bulk = decode(data, limit=LARGEST_TRUSTED), self._bulk
        self._said.append(message)
        if message["t"] == "round" and message.get("model"):
            assert bulk is not None
            assert self.layout is not None
            if self.kept is not None and message["round"] > _round_of(self.kept):
                self.kept = None  # its round has ended, and its memory may be the model's
            buffer = self.buffers.take(self.layout.update_bytes)
            bulk.expect(buffer, number=message["round"] - 1, transfer=PUSHED, at=0)

    def _take_in(self) -> None:
        """Whatever has come over the bulk connection; none is there any more if it has ended."""
        assert self._bulk is not None
        try:
            self._bulk.receive()
        except Broken:
            self._close_bulk()

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
            bulk = self._open_bulk()
            if bulk is None or self._verdicts:  # which may say that there is no point
                return bulk, 0
            self._transfers += 1
            transfer = EARLY | self._transfers
            message = encode(put | {"transfer": transfer})
            if upload is None or not bulk.talks or len(message) > MESSAGE:
                self._connection.send([(put, None)])
                return bulk, 0
            try:
                bulk.put(message, upload, number=put["round"], transfer=transfer)
                return bulk, transfer
            except Broken:
                upload = None
            except BaseException:  # of a callback, or Ctrl-C: in the middle of a chunk
                self._close_bulk()
                raise

    def _open_bulk(self) -> BulkConnection | None:
        """The connection as it is, or a new one; None when the job is done.

        Raises:
            Unreachable: tickets come, but the port that they are for does not answer.
        """
        began = time.monotonic()
        while self._bulk is None or not (self._bulk.talks or self._bulk.is_alive):
            self._close_bulk()
            try:
                self._bulk = self._with_ticket()
            except Broken as error:
                if time.monotonic() - began > self.timeout_s:
                    raise Unreachable(
                        f"{error}; open that port for clients, or set spec.clients.lane: zmq",
                        job=self.job,
                    ) from error
                time.sleep(RETRY_S)
            if self.pending is not None and self.pending["t"] == "done":
                return None
        return self._bulk

    def _with_ticket(self) -> BulkConnection:
        self._tickets += 1  # a newer ticket voids the older, so only the last answer is of use
        ask: list[Outgoing] = [
            ({"t": "ticket", "job": self.job, "n": self._tickets, "talks": True}, None)
        ]
        self._connection.send(ask)
        verdicts: list[Message] = []
        try:
            while True:
                message, _ = self.wait_for("ticket", "reject", again=lambda: ask)
                if message["t"] == "ticket" and message["n"] == self._tickets:
                    break
                if message["t"] == "reject" and message["of"] == "ticket":
                    raise Broken(message["text"])
                if message["t"] == "reject":  # why the connection before this one was closed
                    verdicts.append(message)
        finally:
            self._verdicts.extend(verdicts)
        where = self._connection.address
        return connect(
            message, self._keys, endpoint=where.endpoint, gateway=where.key, job=self.job,
            said=self._hear if message.get("talks") else None,
        )  # fmt: skip

    def _close_bulk(self) -> None:
        if self._bulk is not None:
            self._bulk.close()
            self._bulk = None

    def close(self) -> None:
        self._close_bulk()
        self._connection.close()
        self._woken.close()
        self._wake.close()
