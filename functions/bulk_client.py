"""The other end of the bulk port: of a client, and of a coordinator that fetches a model.

Owns one TCP connection and its bytes; formats and keys are sealing.py's.  Knows neither rounds nor
when to ask for a ticket: lifl/exchange.py and placement/models.py do.  Every failure is `Broken`,
after which the connection is of no use and another ticket is needed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Any, Final

from lifl.errors import Refused, Unreachable
from lifl.functions import tcp
from lifl.functions.sealing import (
    ANSWER,
    CHUNK,
    HEAD,
    NO_TAG,
    TAG,
    Direction,
    Head,
    Kind,
    Mode,
    Ticket,
    about,
    verify,
)
from lifl.functions.transfer import Upload
from lifl.functions.wire import Keys, Message, host_of

CONNECT_S: Final = 5.0
STILL_S: Final = 20  # no byte was taken for so long: the gateway or the way to it is gone
WAKE_AT: Final = 1 << 18  # bytes that are worth a wake-up
_TIMEVAL: Final = struct.Struct("@qq")


class Broken(Unreachable):
    """The bulk connection is gone."""


def connect(
    answer: Message, keys: Keys, *, endpoint: str, gateway: str, job: str
) -> BulkConnection:
    """Open the connection that a gateway's answer `ticket` gives the right to.

    Args:
        endpoint, gateway: of the control channel that the answer came on, and its public key.

    Raises:
        Broken: nobody listens there, or whoever does is not the gateway that gave the ticket.
        Refused: it wants payloads in the clear although there are keys.
    """
    mode = Mode[answer["mode"].upper()]
    if mode is Mode.PLAIN and keys.is_secure:
        raise Refused(f"the gateway at {endpoint} wants payloads in the clear although the job "
                      "has keys", code="not-allowed")  # fmt: skip
    what = about(mode, gateway=gateway, client=keys.public, job=job)
    ticket = Ticket(answer["id"], answer["secret"], mode, what)
    return BulkConnection(host_of(endpoint), answer["port"], ticket)


class BulkConnection:
    """A connection that a gateway has admitted.

    Raises:
        Broken: nobody listens there, or whoever does is not the gateway that gave the ticket.
    """

    def __init__(self, host: str, port: int, ticket: Ticket) -> None:
        try:
            self._sock = tcp.connect(host, port, timeout_s=CONNECT_S)
        except OSError as error:
            raise Broken(f"the bulk port {host}:{port} cannot be reached ({error})") from error
        try:
            # limits of the kernel, not of Python, which would wait before it looks
            self._sock.settimeout(None)
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                self._sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(STILL_S, 0))
            self._sock.sendall(ticket.greeting())
            answer = self._sock.recv(ANSWER, socket.MSG_WAITALL)
        except OSError as error:
            self.close()
            raise Broken(f"the bulk port {host}:{port} broke off ({error})") from error
        if answer != ticket.answer():
            self.close()
            raise Broken(f"the bulk port {host}:{port} did not take the ticket")
        self._up, self._down = ticket.channel(Direction.UP), ticket.channel(Direction.DOWN)
        self._poll = select.poll()
        self._poll.register(self._sock.fileno(), select.POLLIN)
        self._scratch = memoryview(bytearray(HEAD + CHUNK + TAG))
        self._small = bytearray()
        self._head: Head | None = None
        self._open: Any = None
        self._left = self._filled = 0
        self._expected: tuple[memoryview, int, int] | None = None  # buffer, round, transfer
        self.verified = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def is_alive(self) -> bool:
        """Idle as it should be: neither closed nor with bytes that nobody asked for."""
        if self._sock.fileno() < 0:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    # -- up ----------------------------------------------------------------------------------
    def send(self, upload: Upload, *, number: int, transfer: int) -> None:
        """A whole update, chunk by chunk, each sealed in a buffer that stays in the cache."""
        upload.sent = 0
        for at in range(0, len(upload.data), CHUNK):
            part = upload.part(at, CHUNK)
            head = Head(Kind.UPDATE, len(part), number, transfer, at).pack()
            try:
                if self._up is None:
                    self._send_all([memoryview(head), part, memoryview(NO_TAG)])
                else:
                    size = self._up.seal_into(head, part, self._scratch)
                    self._sock.sendall(self._scratch[:size])
            except OSError as error:
                self.close()
                raise Broken(f"the gateway closed the bulk connection ({error})") from error
            upload.sent = at + len(part)
            upload.moved()

    def _send_all(self, parts: list[memoryview]) -> None:
        while parts:
            sent = self._sock.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]

    # -- down --------------------------------------------------------------------------------
    def expect(self, buffer: memoryview, *, number: int, transfer: int, at: int) -> None:
        """What is asked for now comes into `buffer` from `at` on."""
        self._expected = buffer, number, transfer
        self.verified = at
        self._wake()

    def wait(self, timeout_s: float) -> bool:
        """Whether something has come."""
        return bool(self._poll.poll(timeout_s * 1000))

    def receive(self) -> bool:
        """Take what has come; True when all that is expected is there and verified."""
        assert self._expected is not None
        buffer = self._expected[0]
        try:
            while self.verified < len(buffer):
                if not self._receive(buffer):
                    raise Broken("the gateway closed the bulk connection")
        except BlockingIOError:
            self._wake()
            return False
        except OSError as error:
            self.close()
            raise Broken(f"the bulk connection broke ({error})") from error
        except Unreachable as error:
            self.close()
            raise Broken(str(error)) from error
        return True

    def _receive(self, buffer: memoryview) -> int:
        flags = socket.MSG_DONTWAIT
        rest = self._scratch[: TAG + HEAD]
        if self._down is None and self._left:  # straight to where it belongs
            at = self.verified + self._filled
            parts = [buffer[at : at + self._left], rest[: self._rest(buffer)]]
            size: int = self._sock.recvmsg_into(parts, 0, flags)[0]
            into = min(size, self._left)
            self._filled += into
            self._left -= into
            self._feed(buffer, rest[: size - into])
            return size
        if self._down is None:
            ask = TAG - len(self._small) if self._head else HEAD - len(self._small)
        else:
            ask = min(CHUNK, self._remaining(buffer))
        size = self._sock.recv_into(self._scratch, ask, flags)
        self._feed(buffer, self._scratch[:size])
        return size

    def _rest(self, buffer: memoryview) -> int:
        """Bytes between this chunk's payload and the next one's."""
        is_last = self.verified + self._filled + self._left == len(buffer)
        return TAG if is_last else TAG + HEAD

    def _remaining(self, buffer: memoryview) -> int:
        """Bytes on the wire until all is there: never read more, the next model has its own."""
        payload = len(buffer) - self.verified
        if self._head is None:
            return -(-payload // CHUNK) * (HEAD + TAG) + payload - len(self._small)
        after = payload - self._head.length
        rest = self._left + TAG - len(self._small)
        return rest + after + -(-after // CHUNK) * (HEAD + TAG)

    def _wake(self) -> None:
        """Wake up for as much as is worth it, or for the rest."""
        if self._expected:
            least = min(WAKE_AT, max(1, self._remaining(self._expected[0])))
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _feed(self, buffer: memoryview, data: memoryview) -> None:
        assert self._expected is not None
        at = 0
        while at < len(data):
            if self._left:
                size = min(self._left, len(data) - at)
                start = self.verified + self._filled
                self._open.update_into(data[at : at + size], buffer[start : start + size])
                self._filled += size
                self._left -= size
                at += size
                continue
            need = TAG if self._head else HEAD
            size = min(need - len(self._small), len(data) - at)
            self._small += data[at : at + size]
            at += size
            if len(self._small) < need:
                return
            small = bytes(self._small)
            self._small.clear()
            if self._head is None:
                self._begin(buffer, small)
            else:
                if self._open is not None:
                    verify(self._open, small)
                self.verified += self._head.length
                self._head = self._open = None

    def _begin(self, buffer: memoryview, small: bytes) -> None:
        assert self._expected is not None
        _, number, transfer = self._expected
        size = min(CHUNK, len(buffer) - self.verified)
        expected = Head(Kind.MODEL, size, number, transfer, self.verified)
        if (head := Head.unpack(small)) != expected:
            raise Unreachable(f"a chunk says {head}, where {expected} was asked for")
        self._head, self._left, self._filled = head, size, 0
        self._open = self._down.open(small) if self._down else None

    def close(self) -> None:
        self._sock.close()
