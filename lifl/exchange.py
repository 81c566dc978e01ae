"""What a client and its gateways say to one another: the control channel and transfers over it.

Owns the connection, following the plan from gateway to gateway, saying everything again that a
gateway forgot.  Knows no training loop: client.py does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq
import zmq.utils.monitor

from lifl.api.codes import error_of
from lifl.errors import Late, Refused, Unreachable
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download, Outgoing, Upload
from lifl.functions.wire import LARGEST_TRUSTED, Keys, Message, dealer, decode, encode

State = dict[str, np.ndarray[Any, Any]]

AGAIN_S = 2.0
AGAIN_MS = 2000
ENDS = frozenset({"not-enrolled", "revoked", "not-allowed", "unknown-job"})
"""Rejections after which a gateway has nothing more to say to this client."""


@dataclass(frozen=True)
class Address:
    """A gateway: where it listens, and its public key."""

    endpoint: str
    key: str


class Connection:
    """One DEALER to a gateway that says when it has (re)connected."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, address: Address
    ) -> None:
        self.address = address
        self.socket = dealer(
            context, keys, address.endpoint, address.key,
            events=zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        )  # fmt: skip
        self.monitor = self.socket.get_monitor_socket()
        self._connections = 0

    def send(self, outgoing: list[Outgoing]) -> None:
        for message, payload in outgoing:
            frames: list[Any] = [encode(message)]
            self.socket.send_multipart(frames if payload is None else [*frames, payload])

    def reconnected(self) -> bool:
        """A handshake succeeded since the last call, and it was not the first.

        Raises:
            Refused: the gateway does not know this key.
        """
        found = False
        while self.monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise Refused(
                    f"the gateway at {self.address.endpoint} does not know this client's key: "
                    "ask for it to be enrolled (lifl keys enroll)",
                    code="not-enrolled",
                )
            self._connections += 1
            found = self._connections > 1
        return found

    def receive(self) -> tuple[Message, memoryview | None] | None:
        """The next message, if one waits."""
        if not self.socket.poll(0):
            return None
        head, *rest = self.socket.recv_multipart(copy=False)
        return decode(head.buffer, limit=LARGEST_TRUSTED), rest[0].buffer if rest else None

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class Exchange:
    """One client's conversation with the gateways of a job; single-threaded.

    Attributes:
        layout: of the job's model, None until a gateway has said it.
        settings: what the job tells its clients.
        pending: a message that came while another was waited for.
    """

    def __init__(self, address: Address, *, job: str, keys: Keys, timeout_s: float) -> None:
        self.job, self.timeout_s = job, timeout_s
        self.settings: dict[str, Any] = {}
        self.layout: Layout | None = None
        self.pending: Message | None = None
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._connection = Connection(self._context, keys, address)
        self._heard_at = time.monotonic()
        self.hello()

    def hello(self) -> None:
        self._connection.send([({"t": "hello", "job": self.job}, None)])

    def upload(self, upload: Upload) -> bool:
        """Until acknowledged (True) or too late (False)."""
        self._connection.send(upload.start())
        number = upload.put["round"]
        while True:
            message, _ = self.wait_for("go", "more", "ack", "reject", "round", again=upload.start)
            match message["t"]:
                case "go" | "more":
                    self._connection.send(upload.take(message))
                case "round" if message["round"] > number:
                    self.pending = message
                    return False
                case "round" if not message["need"]:
                    return True
                case "round":  # a gateway that was restarted
                    self._connection.send(upload.start())
                case "ack" if message["round"] == number:
                    return True
                case "reject" if message["round"] == number:
                    error = error_of(
                        message["code"], message["text"], retry=message["retry"],
                        job=self.job, round=number,
                    )  # fmt: skip
                    if isinstance(error, Late):
                        return False
                    if not error.retryable:
                        raise error
                    time.sleep(0.05)
                    self._connection.send(upload.start())

    def fetch(self, number: int) -> State | None:
        """The model of a round as arrays of one's own; None when it is already replaced."""
        assert self.layout is not None
        buffer = memoryview(bytearray(self.layout.update_bytes))
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

        What is under way is asked `again` when the connection came back or nothing was heard.
        """
        if self.pending and self.pending["t"] in kinds:
            message, self.pending = self.pending, None
            return message, None
        poller = zmq.Poller()
        connection = None
        asked_at = self._heard_at = time.monotonic()
        while True:
            if connection is not self._connection:
                connection = self._connection
                poller = zmq.Poller()
                poller.register(connection.socket, zmq.POLLIN)
                poller.register(connection.monitor, zmq.POLLIN)
            poller.poll(AGAIN_MS)
            now = time.monotonic()
            if connection.reconnected():
                self.hello()
                asked_at = 0.0  # ask again for what is under way
            received = connection.receive()
            if received is None:
                expects = self.layout is None or again is not None
                if expects and now - self._heard_at > self.timeout_s:
                    raise Unreachable(
                        f"no gateway answered at {connection.address.endpoint} "
                        f"for {self.timeout_s:g} s"
                    )
                if again and now - asked_at >= AGAIN_S:
                    asked_at = now
                    connection.send(again())
                continue
            self._heard_at = now
            message, payload = received
            if message["t"] == "reject" and message["code"] in ENDS:
                raise error_of(
                    message["code"], message["text"], retry=message["retry"], job=self.job
                )
            if message["t"] in kinds:
                return message, payload
            self._handle(message)

    def _handle(self, message: Message) -> None:
        match message["t"]:
            case "welcome":
                self.layout = Layout.from_wire(message["layout"])
                self.settings = message["settings"]["args"]
            case "redirect":
                before = self._connection
                address = Address(message["endpoint"], message["key"])
                self._connection = Connection(self._context, self._keys, address)
                before.close()
                self.hello()
            case "round" | "done":
                self.pending = message

    def close(self) -> None:
        self._connection.close()
        self._context.destroy(linger=0)
