"""A gateway as a client of other gateways: fetching the model, forwarding a node's sum.

Owns one connection per other gateway and the transfer under way on it.  Does not decide what is
moved; gateway.py does.  A transfer that makes no progress is asked for again, since the other
gateway may have been restarted and forgotten it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from lifl.functions.transfer import Download, Outgoing, Upload
from lifl.functions.wire import Keys, Message, dealer, decode, encode

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


class Peer:
    """The connection to one other gateway; per job one upload and one download at a time."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, endpoint: str, server_key: str
    ) -> None:
        self.endpoint = endpoint
        self.socket = dealer(context, keys, endpoint, server_key)
        self.uploads: dict[str, Transfer] = {}
        self.downloads: dict[str, Transfer] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self.uploads or self.downloads)

    def start(self, job: str, transfer: Transfer) -> None:
        transfer.moved_at = time.monotonic()
        work = transfer.work
        if isinstance(work, Upload):
            self.uploads[job] = transfer
            self._send(work.start())
        else:
            self.downloads[job] = transfer
            self._send(work.ask())
            self._end_if_done(job, transfer)

    def receive(self) -> None:
        """Handle every message that waits."""
        while self.socket.poll(0):
            head, *rest = self.socket.recv_multipart()
            message = decode(head)
            self._handle(message.get("job", ""), message, rest)

    def _handle(self, job: str, message: Message, rest: list[bytes]) -> None:
        is_download = message["t"] in ("model", "gone") or message.get("of") == "get"
        group = self.downloads if is_download else self.uploads
        transfer = group.get(job)
        if transfer is None or message.get("round") != transfer.round:
            return
        transfer.moved_at = time.monotonic()
        work = transfer.work
        match message["t"]:
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

    def forget(self, job: str) -> None:
        """Nobody needs anything of the other end any more, nor it of this one."""
        self.uploads.pop(job, None)
        self.downloads.pop(job, None)

    def tick(self) -> None:
        """Ask again for what has not moved."""
        now = time.monotonic()
        for transfer in [*self.uploads.values(), *self.downloads.values()]:
            if now - transfer.moved_at > AGAIN_S:
                transfer.moved_at = now
                work = transfer.work
                self._send(work.start() if isinstance(work, Upload) else work.again())

    def _end_if_done(self, job: str, transfer: Transfer) -> None:
        if isinstance(transfer.work, Download) and transfer.work.done:
            del self.downloads[job]
            transfer.done()

    def _send(self, outgoing: list[Outgoing]) -> None:
        for message, payload in outgoing:
            head = encode(message)
            self.socket.send_multipart([head] if payload is None else [head, payload])

    def close(self) -> None:
        self.socket.close()
