"""A gateway as a client of other gateways: fetching the model, forwarding a node's sum.

Owns one connection per other gateway and the transfer under way on it.  Does not decide what is
moved; errands.py does.  Everything is said over ZeroMQ; a sum takes the bulk port (outlets.py)
where its `put` says so and that can be reached.  A transfer that makes no progress is asked for
again, since the other gateway may have been restarted and forgotten it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from lifl.functions.outlets import Outlets
from lifl.functions.transfer import UNDER_WAY_S, Download, Outgoing, Upload
from lifl.functions.wire import Keys, Message, dealer, decode, encode, takes_bulk_port

AGAIN_S = 1.0


@dataclass
class Transfer:
    """One transfer and what to call when it is through; `refused` gets the rejection."""

    work: Upload | Download
    done: Callable[[], None]
    refused: Callable[[Message], None]
    moved_at: float = 0.0

    @property
    def round(self) -> int:
        work = self.work
        return int(work.put["round"]) if isinstance(work, Upload) else work.round

    @property
    def again_s(self) -> float:
        """How long nothing may be heard of it."""
        work = self.work
        is_sending = isinstance(work, Upload) and work.granted and not self.is_bulk
        return UNDER_WAY_S if is_sending or isinstance(work, Download) else AGAIN_S

    @property
    def is_bulk(self) -> bool:
        """It goes over the bulk port."""
        work = self.work
        return isinstance(work, Upload) and takes_bulk_port(work.put.get("lane"), work.size)


class Peer:
    """The connection to one other gateway; per job one upload and one download at a time."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, endpoint: str, server_key: str
    ) -> None:
        self.endpoint = endpoint
        self.socket = dealer(context, keys, endpoint, server_key)
        self.uploads: dict[str, Transfer] = {}
        self.downloads: dict[str, Transfer] = {}
        self.outlets = Outlets(
            keys, endpoint, server_key, ask=lambda message: self._send([(message, None)]),
            opened=self._put, moved=self._moved,
        )  # fmt: skip

    @property
    def is_busy(self) -> bool:
        return bool(self.uploads or self.downloads)

    def start(self, job: str, transfer: Transfer) -> None:
        transfer.moved_at = time.monotonic()
        work = transfer.work
        if isinstance(work, Upload):
            self.uploads[job] = transfer
            self.outlets.stop(job)  # of a sum before
            self._put(job)
        else:
            self.downloads[job] = transfer
            self._send(work.ask())
            self._end_if_done(job, transfer)

    def _put(self, job: str) -> None:
        """Ask for a slot, or for a bulk connection first."""
        transfer = self.uploads.get(job)
        if transfer is None or not isinstance(work := transfer.work, Upload):
            return
        if not transfer.is_bulk:
            self._send(work.start())
        elif self.outlets.is_open(job):
            self._send([(work.put | {"length": work.size}, None)])
        elif self.outlets.is_shut:
            work.put["lane"] = "zmq"
            self._send(work.start())

    def _moved(self, job: str) -> None:
        if (transfer := self.uploads.get(job)) is not None:
            transfer.moved_at = time.monotonic()

    def receive(self) -> None:
        """Handle every message that waits."""
        while self.socket.poll(0):
            head, *rest = self.socket.recv_multipart()
            message = decode(head)
            self._handle(message.get("job", ""), message, rest)

    def _handle(self, job: str, message: Message, rest: list[bytes]) -> None:
        if message["t"] == "ticket":
            self.outlets.admit(message)
            return
        if message.get("of") == "ticket":
            self._no_ticket(job, message)
            return
        is_download = message["t"] in ("model", "gone") or message.get("of") == "get"
        group = self.downloads if is_download else self.uploads
        transfer = group.get(job)
        if transfer is None or message.get("round") != transfer.round:
            return
        transfer.moved_at = time.monotonic()
        work = transfer.work
        match message["t"]:
            case "go" if isinstance(work, Upload) and "transfer" in message:
                number = message["transfer"]
                self.outlets.begin(job, work, number=transfer.round, transfer=number)
            case "go" | "more" if isinstance(work, Upload):
                self._send(work.take(message))
            case "ack":
                del group[job]
                transfer.done()
            case "model" if isinstance(work, Download):
                self._send(work.take(message, memoryview(rest[0])))
                self._end_if_done(job, transfer)
            case "reject" | "gone" if not message.get("retry"):
                del group[job]
                transfer.refused(message)

    def _no_ticket(self, job: str, rejection: Message) -> None:
        """A ticket is refused: for now, and `tick` asks again; or for good, and so is the sum.

        Nothing that is said of tickets names a round.
        """
        transfer = self.uploads.get(job)
        if transfer is None or not transfer.is_bulk or rejection.get("retry"):
            return
        del self.uploads[job]
        self.outlets.close(job)
        transfer.refused(rejection)

    def forget(self, job: str) -> None:
        """Nobody needs anything of the other end any more, nor it of this one."""
        self.uploads.pop(job, None)
        self.downloads.pop(job, None)
        self.outlets.close(job)

    def tick(self) -> None:
        """Ask again for what has not moved."""
        now = time.monotonic()
        for job, transfer in [*self.uploads.items(), *self.downloads.items()]:
            if now - transfer.moved_at > transfer.again_s:
                transfer.moved_at = now
                if isinstance(transfer.work, Download):
                    self._send(transfer.work.again())
                else:
                    self._put(job)

    def _end_if_done(self, job: str, transfer: Transfer) -> None:
        if isinstance(transfer.work, Download) and transfer.work.done:
            del self.downloads[job]
            transfer.done()

    def _send(self, outgoing: list[Outgoing]) -> None:
        for message, payload in outgoing:
            head = encode(message)
            self.socket.send_multipart([head] if payload is None else [head, payload])

    def close(self) -> None:
        self.outlets.close_all()
        self.socket.close()
