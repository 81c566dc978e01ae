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
from typing import Final

from lifl.errors import LiflError, Refused, Unreachable
from lifl.functions import tcp
from lifl.functions.chunks import Chunks
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
        self._up = ticket.channel(Direction.UP)
        self._down = Chunks(
            ticket.channel(Direction.DOWN), begin=self._begin_chunk, end=self._end_chunk
        )
        self._poll = select.poll()
        self._poll.register(self._sock.fileno(), select.POLLIN)
        self._scratch = memoryview(bytearray(HEAD + CHUNK + TAG))
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
        except LiflError as error:  # it is not what was asked for, or not under its tag
            self.close()
            raise Broken(str(error)) from error
        return True

    def _receive(self, buffer: memoryview) -> int:
        flags, down = socket.MSG_DONTWAIT, self._down
        if down.is_sealed:
            ask = min(CHUNK, self._remaining(buffer))
            size = self._sock.recv_into(self._scratch, ask, flags)
            down.feed(self._scratch[:size])
            return size
        is_last = self.verified + down.filled + down.left == len(buffer)
        after = TAG if is_last else TAG + HEAD
        return down.receive_plain(self._sock, self._scratch, after=after, flags=flags)

    def _remaining(self, buffer: memoryview) -> int:
        """Bytes on the wire until all is there: never read more, the next model has its own."""
        payload, down = len(buffer) - self.verified, self._down
        if down.head is None:
            return -(-payload // CHUNK) * (HEAD + TAG) + payload - down.begun
        after = payload - down.head.length
        rest = down.left + TAG - down.begun
        return rest + after + -(-after // CHUNK) * (HEAD + TAG)

    def _wake(self) -> None:
        """Wake up for as much as is worth it, or for the rest."""
        if self._expected:
            least = min(WAKE_AT, max(1, self._remaining(self._expected[0])))
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _begin_chunk(self, head: Head) -> memoryview:
        """Where a chunk goes.

        Raises:
            Unreachable: it is not the next one.
        """
        if self._expected is None:
            raise Unreachable(f"a chunk says {head}, and nothing was asked for")
        buffer, number, transfer = self._expected
        size = min(CHUNK, len(buffer) - self.verified)
        expected = Head(Kind.MODEL, size, number, transfer, self.verified)
        if head != expected:
            raise Unreachable(f"a chunk says {head}, where {expected} was asked for")
        return buffer[self.verified : self.verified + size]

    def _end_chunk(self, head: Head) -> None:
        self.verified += head.length

    def close(self) -> None:
        self._sock.close()
