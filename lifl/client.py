"""The client library: a training loop takes part in a job.

    with lifl.Client.connect() as client:
        for round in client.rounds():
            model = round.model                      # dict of NumPy arrays, yours to change
            examples, loss = train(model)
            round.send(model, weight=examples, metrics={"loss": loss})

Owns the client's side of the control channel: saying hello, following the plan from gateway to
gateway, fetching models, sending updates and sending them again when a gateway forgot.  An
update is kept until its round is over.  Single-threaded; between calls nothing runs.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zmq
import zmq.utils.monitor

from lifl.errors import InvalidUpdate, LiflError, PermanentError, Refused, Unreachable
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download, Outgoing, Upload
from lifl.functions.wire import Keys, Message, dealer, decode, encode

log = logging.getLogger("lifl.client")

State = dict[str, np.ndarray[Any, Any]]

AGAIN_S = 2.0
AGAIN_MS = 2000


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
        self.socket = dealer(context, keys, address.endpoint, address.key)
        self.monitor = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
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
                    "ask for it to be enrolled"
                )
            self._connections += 1
            found = self._connections > 1
        return found

    def receive(self) -> tuple[Message, memoryview | None] | None:
        """The next message, if one waits."""
        if not self.socket.poll(0):
            return None
        head, *rest = self.socket.recv_multipart(copy=False)
        return decode(head.buffer), rest[0].buffer if rest else None

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


@dataclass
class Round:
    """One round of this client.

    Attributes:
        number: 1 and up.
        model: the global model that the round starts from; the arrays are this client's own.
    """

    number: int
    model: State
    _client: Client = field(repr=False)

    def send(
        self, model: Mapping[str, Any], *, weight: float, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """Send the trained model and wait until a gateway has it.

        Args:
            model: the same names, dtypes and shapes as `self.model`.
            weight: of this update in the mean, usually the number of examples; more than 0.
            metrics: numbers to be averaged by weight over the round's clients.

        Returns:
            True when it counts, False when the round closed before it was there.

        Raises:
            InvalidUpdate: another layout, or a weight that is not finite and positive.
            Unreachable: no gateway answered in time.
        """
        return self._client._send_update(self.number, model, weight, dict(metrics or {}))


class Client:
    """A participant of one job.

    Args:
        address: any gateway of the job; the platform says where else to go.
        job: name of the job.
        keys: this client's CURVE key pair, which is its identity.
        index, count: which of how many clients this is, for splitting data; 0 of 1 by default.
        timeout_s: how long to try when no gateway answers.
    """

    def __init__(
        self, address: Address, *, job: str, keys: Keys, index: int = 0, count: int = 1,
        timeout_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.job, self.index, self.count, self.timeout_s = job, index, count, timeout_s
        self._settings: dict[str, Any] = {}
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._connection = Connection(self._context, keys, address)
        self._layout: Layout | None = None
        self._kept: Upload | None = None
        self._heard_at = time.monotonic()
        self._hello()

    @classmethod
    def connect(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """A client from what `lifl run` printed: LIFL_CLIENT names its file, mode 0600.

        Raises:
            Unreachable: the variable is not set or names no such file.
        """
        path = environment.get("LIFL_CLIENT", "")
        try:
            fields = json.loads(Path(path).read_text())
        except OSError as error:
            raise Unreachable(
                f"LIFL_CLIENT is {path!r}: set it to a client file of the run, for example "
                "runs/latest/clients/client-0.json"
            ) from error
        return cls(
            Address(fields["endpoint"], fields["server_key"]),
            job=fields["job"],
            keys=Keys(fields["public_key"], fields["secret_key"]),
            index=fields["index"],
            count=fields["count"],
        )

    @property
    def settings(self) -> dict[str, Any]:
        """`spec.trainer.args` of the job; waits until a gateway has said it.

        Raises:
            Unreachable: no gateway answered in time.
        """
        if self._layout is None:
            self._pending, _ = self._await("round", "done")
        return self._settings

    # -- the two things to do ----------------------------------------------------------------
    def rounds(self) -> Iterator[Round]:
        """Every round for which this client is selected, until the job is done."""
        last = 0
        while True:
            message, _ = self._await("round", "done")
            if message["t"] == "done":
                self._pending = message  # and so it stays
                return
            number = message["round"]
            if not message["need"] or number < last:
                continue
            if number == last:  # the gateway lost it before it was sealed
                self._upload(self._kept) if self._kept else None
                continue
            model = self._fetch(number - 1)
            if model is not None:
                last = number
                self._kept = None
                yield Round(number, model, self)

    def _send_update(
        self, number: int, model: Mapping[str, Any], weight: float, metrics: dict[str, float]
    ) -> bool:
        if self._layout is None:
            raise InvalidUpdate("no round has begun")
        if not isinstance(weight, int | float | np.number) or not 0 < float(weight) < float("inf"):
            raise InvalidUpdate(f"weight is {weight!r}: it must be finite and more than 0")
        buffer = memoryview(bytearray(self._layout.update_bytes))
        self._layout.pack_into(model, buffer)
        put = {
            "t": "put", "kind": "update", "job": self.job, "round": number,
            "digest": self._layout.digest, "weight": float(weight),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }  # fmt: skip
        self._kept = Upload(put, buffer)
        return self._upload(self._kept)

    # -- exchange ----------------------------------------------------------------------------
    def _hello(self) -> None:
        self._connection.send([({"t": "hello", "job": self.job}, None)])

    def _upload(self, upload: Upload) -> bool:
        """Until acknowledged (True) or too late (False)."""
        self._connection.send(upload.start())
        number = upload.put["round"]
        while True:
            message, _ = self._await("go", "more", "ack", "reject", "round", again=upload.start)
            match message["t"]:
                case "go" | "more":
                    self._connection.send(upload.take(message))
                case "round" if message["round"] > number:
                    self._pending = message
                    return False
                case "round" if not message["need"]:
                    return True
                case "round":  # a gateway that was restarted
                    self._connection.send(upload.start())
                case "ack" if message["round"] == number:
                    return True
                case "reject" if message["round"] == number:
                    if message["code"] == "late":
                        return False
                    if not message["retry"]:
                        raise InvalidUpdate(message["text"], job=self.job, round=number)
                    time.sleep(0.05)
                    self._connection.send(upload.start())

    def _fetch(self, number: int) -> State | None:
        """The model of a round as arrays of one's own; None when it is already replaced."""
        assert self._layout is not None
        buffer = memoryview(bytearray(self._layout.update_bytes))
        download = Download(self.job, number, buffer)
        self._connection.send(download.ask())
        while not download.done:
            message, payload = self._await("model", "gone", again=download.again)
            if message["t"] == "gone" and message["round"] == number:
                return None
            if message["t"] == "model" and payload is not None:
                self._connection.send(download.take(message, payload))
        return self._layout.views(buffer)

    _pending: Message | None = None

    def _await(
        self, *kinds: str, again: Callable[[], list[Outgoing]] | None = None
    ) -> tuple[Message, memoryview | None]:
        """The next message of one of these kinds; handles all others.

        What is under way is asked `again` when the connection came back or nothing was heard.
        """
        if self._pending and self._pending["t"] in kinds:
            message, self._pending = self._pending, None
            return message, None
        poller = zmq.Poller()
        connection = None
        asked_at = time.monotonic()
        while True:
            if connection is not self._connection:
                connection = self._connection
                poller = zmq.Poller()
                poller.register(connection.socket, zmq.POLLIN)
                poller.register(connection.monitor, zmq.POLLIN)
            poller.poll(AGAIN_MS)
            now = time.monotonic()
            if connection.reconnected():
                self._hello()
                asked_at = 0.0  # ask again for what is under way
            received = connection.receive()
            if received is None:
                if self._layout is None and now - self._heard_at > self.timeout_s:
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
            if message["t"] in kinds:
                return message, payload
            self._handle(message)

    def _handle(self, message: Message) -> None:
        match message["t"]:
            case "welcome":
                self._layout = Layout.from_wire(message["layout"])
                self._settings = message["settings"]["args"]
            case "redirect":
                before = self._connection
                address = Address(message["endpoint"], message["key"])
                self._connection = Connection(self._context, self._keys, address)
                before.close()
                self._hello()
            case "round" | "done":
                self._pending = message
            case "reject" if message["code"] in ("refused", "permanent"):
                raise PermanentError(message["text"], job=self.job)

    def close(self) -> None:
        """Leave; an update that was acknowledged stays."""
        self._connection.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


class Observer:
    """Somebody who sees every global model and may report on it, but trains nothing.

    Args:
        addresses: all gateways of the job: any of them may be the one that publishes.
    """

    def __init__(self, addresses: list[Address], *, job: str, keys: Keys) -> None:
        self.job = job
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._connections = [Connection(self._context, keys, at) for at in addresses]
        self._layout: Layout | None = None
        for connection in self._connections:
            connection.send([({"t": "hello", "job": job}, None)])

    def models(self) -> Iterator[tuple[int, State]]:
        """(round, model) of every round that can still be had, until the job is done.

        Round 0 is the initial model.
        """
        poller = zmq.Poller()
        for connection in self._connections:
            poller.register(connection.socket, zmq.POLLIN)
        last, download, source = -1, None, self._connections[0]
        while True:
            ready = dict(poller.poll(AGAIN_MS))
            if not ready and download is not None:
                source.send(download.again())
            for connection in self._connections:
                if connection.reconnected():
                    connection.send([({"t": "hello", "job": self.job}, None)])
                while (received := connection.receive()) is not None:
                    message, payload = received
                    match message["t"]:
                        case "done":
                            return
                        case "welcome":
                            self._layout = Layout.from_wire(message["layout"])
                        case "published" if message["round"] > last and self._layout:
                            last, source = message["round"], connection
                            buffer = memoryview(bytearray(self._layout.update_bytes))
                            download = Download(self.job, last, buffer)
                            source.send(download.ask())
                        case "model" if download is not None and payload is not None:
                            source.send(download.take(message, payload))
                            if download.done and self._layout:
                                self._source = source
                                yield download.round, self._layout.views(download.buffer)
                                download = None
                        case "gone":
                            download = None

    def report(self, number: int, metrics: Mapping[str, float]) -> None:
        """Say what the model of a round is worth."""
        self._source.send([(
            {"t": "metrics", "job": self.job, "round": number,
             "metrics": {name: float(value) for name, value in metrics.items()}}, None,
        )])  # fmt: skip

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._context.destroy(linger=0)


__all__ = ["Address", "Client", "LiflError", "Observer", "Round"]
