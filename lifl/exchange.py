"""What a client and its gateways say to one another: the control channel and transfers over it.

Owns the connection, following the plan from gateway to gateway, saying everything again that a
gateway forgot; what goes over the bulk connection is fastlane.py's.  Knows no training loop:
client.py does.
"""

from __future__ import annotations

import contextlib
import math
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from lifl.api.codes import error_of
from lifl.buffers import Buffers
from lifl.connection import Address, Connection
from lifl.errors import Late, Unreachable
from lifl.fastlane import FastLane
from lifl.functions.layout import Layout
from lifl.functions.sealing import preload
from lifl.functions.transfer import UNDER_WAY_S, Download, Outgoing, Upload
from lifl.functions.wire import Keys, Message, takes_bulk_port

State = dict[str, np.ndarray[Any, Any]]

AGAIN_S = 2.0
AGAIN_MS = int(AGAIN_S * 1000)
AWAY_S = 3.0  # without its gateway a client tries another
RETRY_FIRST_S = 0.01  # after a refusal
RETRY_LAST_S = 1.0
ENDS = frozenset({"not-enrolled", "revoked", "displaced", "not-allowed", "unknown-job"})
"""Rejections after which a gateway has nothing more to say to this client."""
ANSWERS = frozenset({"go", "more", "ack", "reject"})
"""What follows a `put` or a `report`."""
KNOWS = ANSWERS | {"model", "gone", "round", "work", "done"}  # who says so was told of the round


class Interrupted(Exception):
    """Another thread asked this one to stop waiting; what was under way can be done again."""


def retry_s(refusals: int) -> float:
    """Back-off after so many refusals in a row: 10 ms, 20 ms, … 1 s."""
    return float(min(RETRY_LAST_S, RETRY_FIRST_S * 2 ** min(refusals, 30)))


class Away(Exception):
    """The gateway is gone, or its round is; what was under way is somebody else's to ask for."""


class Exchange:
    """One client's conversation with the gateways of a job; single-threaded.

    Args:
        moves: whether it goes to another gateway when its own is gone; a worker, which talks to all
            of them, does not: it hears `Away`.
        may_bulk: whether payloads may take the bulk port; a worker's, for its many clients, do not.
        name: of the client, where it has one; errors name it.

    Attributes:
        layout: of the job's model, None until a gateway has said it.
        settings: what the job tells its clients.
        start: how often the run was started; a new one may repeat rounds.
        elsewhere: other gateways of the job, the next to try first.
        pending: a message that came while another was waited for.
        work: what a worker is to do, as its gateway says it.
        kept: what the last round was answered with, until the next one begins.
        speaks_for: number of the virtual client on whose behalf a worker speaks just now.
    """

    def __init__(
        self, address: Address, *, job: str, keys: Keys, timeout_s: float, may_bulk: bool = True,
        moves: bool = True, name: str = "",
    ) -> None:  # fmt: skip
        self._whose = {"job": job, **({"client": name} if name else {})}  # context of errors
        self.job, self.timeout_s, self._may_bulk = job, timeout_s, may_bulk
        self.settings: dict[str, Any] = {}
        self.start = 0
        self.layout: Layout | None = None
        self.pending: Message | None = None
        self.work: deque[Message] = deque()
        self.kept: Upload | Message | None = None
        self.speaks_for: int | None = None
        self._keys, self._moves = keys, moves
        self.elsewhere: list[Address] = []
        self._gone_at = math.inf  # since when no gateway is there
        self._forgot_at = math.inf  # since when the gateway knows nothing of what it had asked for
        self._connection = Connection(keys, address, self._whose)
        self._poll, self._polled = select.poll(), (-1, -1, -1, 0)
        self._heard_at = time.monotonic()
        self._lane = "zmq"
        self._small: tuple[int, bytes] | None = None  # a model that came with its round
        self.buffers = Buffers()
        self.fast = FastLane(self, keys)
        self._refusals = 0
        self._retry_at = math.inf
        self._woken, self._wake = socket.socketpair()  # what every system has
        self._woken.setblocking(False)
        self._woken_fd = self._woken.fileno()
        self.hello()

    def hello(self) -> None:
        """First on every connection: the gateway answers with a welcome, and with the round."""
        self.fast.hello()
        self._connection.send([({"t": "hello", "job": self.job}, None)])

    def upload(self, upload: Upload) -> bool:
        """Until acknowledged (True) or too late (False)."""
        if takes_bulk_port(self._lane, upload.size):
            return self.fast.upload(upload)

        def again() -> list[Outgoing]:
            """Begin again; not while a chunk may still be on its way over a slow link.

            After a reconnection the gateway says `round`, which begins it again.
            """
            is_still = time.monotonic() - self._heard_at > UNDER_WAY_S
            return upload.start() if is_still or not upload.granted else []

        return self._bring(upload.put["round"], upload.start, again, upload.take)

    def report(self, message: Message) -> bool:
        """Figures without an update, until acknowledged (True) or too late (False)."""

        def say() -> list[Outgoing]:
            return [(message, None)]

        return self._bring(message["round"], say, say, lambda _: [])

    def _bring(
        self, number: int, begin: Callable[[], list[Outgoing]], again: Callable[[], list[Outgoing]],
        take: Callable[[Message], list[Outgoing]],
    ) -> bool:  # fmt: skip
        """Answer a round over the control channel, until that counts (True) or is too late (False).

        Args:
            begin: what is said first, also to a gateway that was restarted.
            again: as of `wait_for`.
            take: what a `go` or a `more` lets go out.
        """
        self._forgot_at = math.inf
        self._connection.send(begin())
        start = self.start
        while True:
            message, _ = self.wait_for(*ANSWERS, "round", again=again)
            counts = self.counts(message, number, start)
            if counts is not None:
                return counts
            match message["t"]:
                case "go" | "more":
                    self._connection.send(take(message))
                case "round":  # a gateway that was restarted
                    self._connection.send(begin())

    def counts(self, message: Message, number: int, start: int) -> bool | None:
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
            **self._whose, round=rejection["round"],
        )  # fmt: skip
        if isinstance(error, Late):
            return True
        if not error.retryable:
            raise error
        self._retry_later()
        return False

    def _retry_later(self) -> None:
        """Was refused for now: what is under way is asked again after a while, not before.

        Meanwhile every message is heard: a gateway that begins the round says so at once.
        """
        self._retry_at = time.monotonic() + retry_s(self._refusals) * random.uniform(0.5, 1.0)
        self._refusals += 1

    def fetch(self, number: int) -> State | None:
        """The model of a round as arrays of one's own; None when it is already replaced."""
        assert self.layout is not None
        small, self._small = self._small, None
        if small is not None and small[0] == number and len(small[1]) == self.layout.update_bytes:
            return self.layout.views(memoryview(bytearray(small[1])))
        comes, start = self.fast.comes(number), self.start
        buffer = comes if comes is not None else self.buffers.take(self.layout.update_bytes)
        if takes_bulk_port(self._lane, len(buffer)):
            got = self.fast.fetch(number, buffer, comes=comes is not None)
        else:
            got = self._download(number, buffer)
        # a new start may have made it again: a part of each would be neither
        return self.layout.views(buffer) if got and self.start == start else None

    def _download(self, number: int, buffer: memoryview) -> bool:
        """Over the control channel; False when the model is gone."""
        download, self._forgot_at = Download(self.job, number, buffer), math.inf
        self._connection.send(download.ask())
        while not download.done:
            message, payload = self.wait_for("model", "gone", again=download.again)
            if message["t"] == "gone" and message["round"] == number:
                return False
            if message["t"] == "model" and payload is not None:
                self._connection.send(download.take(message, payload))
        return True

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
        self.fast.waits()
        if self.pending and self.pending["t"] in kinds:
            message, self.pending = self.pending, None
            return message, None
        if self.fast.verdicts and "reject" in kinds:
            return self.fast.verdicts.popleft(), None
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
                if self.fast.fileno() in ready:
                    self.fast.take_in()
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
            if again is not None and not self._moves and self._has_forgotten(message, now):
                raise Away
            if message.get("as") != self.speaks_for and message["t"] in ANSWERS:
                continue  # to what was asked on behalf of another
            if message["t"] == "reject" and message["code"] in ENDS:
                raise error_of(
                    message["code"], message["text"], retry=message["retry"], **self._whose
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
        return (self.fast.said.popleft(), None) if self.fast.said else None

    def _ready(self, timeout_ms: int) -> set[int]:
        """Descriptors that have something to read, or may have had it already."""
        connection, bulk = self._connection, self.fast.fileno()
        polled = connection.fd, connection.monitor_fd, bulk, self.fast.events
        if polled != self._polled:
            self._polled, self._poll = polled, select.poll()
            for fd in (connection.fd, connection.monitor_fd, self._woken_fd):
                self._poll.register(fd, select.POLLIN)
            if bulk >= 0:
                self._poll.register(bulk, self.fast.events)
        ready = {fd for fd, _ in self._poll.poll(timeout_ms if connection.is_quiet else 0)}
        return ready if connection.is_quiet else ready | {connection.fd, connection.monitor_fd}

    def is_behind(self, number: int) -> bool:
        """A later round was said meanwhile: this one waited unread, with its model."""
        self.fast.look()
        return any(each["t"] == "round" and each["round"] > number for each in self.fast.said)

    @property
    def address(self) -> Address:
        """Of the gateway that this is with."""
        return self._connection.address

    def send(self, outgoing: list[Outgoing]) -> None:
        """Over the control channel."""
        self._connection.send(outgoing)

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
                self._prepare(self.layout.update_bytes, message["settings"].get("all_drawn", False))
                self._hear_of(message["elsewhere"])
            case "elsewhere":
                self._hear_of(message["gateways"])
            case "ticket":
                self.fast.hears(message)
            case "reject" if message["of"] == "ticket":
                self.fast.hears_refusal()
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
        self._connection = Connection(self._keys, address, self._whose)
        before.close()
        self.fast.close()
        self.fast.said.clear()
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

    def _has_forgotten(self, message: Message, now: float) -> bool:
        """The gateway is there again, and for a while now without the round that it had begun.

        It may be told of it yet, or its node was lost and others have its clients, of whom they
        tell on connections that nobody reads while something is under way on this one.
        """
        if message["t"] != "reject" or message["code"] != "not-started":
            if message["t"] in KNOWS:
                self._forgot_at = math.inf
            return False
        self._forgot_at = min(self._forgot_at, now)
        if now - self._forgot_at < AWAY_S:
            return False
        self._forgot_at = math.inf
        return True

    def _prepare(self, size_bytes: int, all_drawn: bool) -> None:
        """Have for large models what the first round needs: a connection, code and memory.

        Args:
            all_drawn: rounds draw everybody; where they do not, a gateway may have to do with many
                more clients than with connections.
        """
        is_bulk = takes_bulk_port(self._lane, size_bytes)
        if is_bulk and all_drawn:
            self.fast.prepare()  # and memory when it has its ticket
        elif self._may_bulk:
            self.buffers.prepare(size_bytes)
        if is_bulk and self._keys.is_secure:
            preload()

    def close(self) -> None:
        self.fast.close()
        self._connection.close()
        self._woken.close()
        self._wake.close()
