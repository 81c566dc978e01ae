"""The other end of the bulk port: of a client, of another gateway, of a coordinator.

Owns one TCP connection and its bytes; formats and keys are sealing.py's.  Knows neither rounds nor
when to ask for a ticket: lifl/fastlane.py, functions/outlets.py and placement/models.py do.  The
connection of a client or a coordinator waits, a gateway's does not.  What fails there is `Broken`,
after which it is of no use and another ticket is needed; a ticket that asks for payloads in the
clear, where there are keys, is `Refused`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable
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
    Channel,
    Direction,
    Head,
    Kind,
    Mode,
    Ticket,
    about,
    message_chunk,
)
from lifl.functions.transfer import Source, Upload
from lifl.functions.wire import Keys, Message, host_of

CONNECT_S: Final = 5.0
STILL_S: Final = 20  # no byte was taken for so long: the gateway or the way to it is gone
_AT_ONCE: Final = int(socket.MSG_DONTWAIT)  # enumerations are slow
_TIMEVAL: Final = struct.Struct("@qq")


_rooms: list[memoryview] = []  # that nobody uses; the one that was used last is in the cache


def _room() -> memoryview:
    """Room for a chunk, which goes back to `_rooms`: a connection needs it for moments."""
    try:
        return _rooms.pop()
    except IndexError:
        return memoryview(bytearray(HEAD + CHUNK + TAG))


class Broken(Unreachable):
    """The bulk connection is gone."""


def connect(
    answer: Message, keys: Keys, *, endpoint: str, gateway: str, job: str,
    said: Callable[[memoryview], None] | None = None,
) -> BulkConnection:  # fmt: skip
    """Open the connection that a gateway's answer `ticket` gives the right to.

    Args:
        endpoint, gateway: of the control channel that the answer came on, and its public key.
        said: takes messages that come over it; None: the ticket was asked for without them.

    Raises:
        Broken: nobody listens there, or whoever does is not the gateway that gave the ticket.
        Refused: it wants payloads in the clear although there are keys.
    """
    ticket = _ticket(answer, keys, endpoint=endpoint, gateway=gateway, job=job)
    return admitted(host_of(endpoint), answer["port"], ticket, said)


def admitted(
    host: str, port: int, ticket: Ticket, said: Callable[[memoryview], None] | None = None
) -> BulkConnection:
    """A connection that waits.

    Raises:
        Broken: as `connect`.
    """
    try:
        sock = tcp.connect(host, port, timeout_s=CONNECT_S)
    except OSError as error:
        raise Broken(f"the bulk port {host}:{port} cannot be reached ({error})") from error
    try:
        _let_wait(sock)
        sock.sendall(ticket.greeting())
        answer = sock.recv(ANSWER, socket.MSG_WAITALL)
    except OSError as error:
        sock.close()
        raise Broken(f"the bulk port {host}:{port} broke off ({error})") from error
    if answer != ticket.answer():
        sock.close()
        raise Broken(f"the bulk port {host}:{port} did not take the ticket")
    return BulkConnection(sock, ticket, said)


def _ticket(answer: Message, keys: Keys, *, endpoint: str, gateway: str, job: str) -> Ticket:
    """What an answer `ticket` gives the right to."""
    mode = Mode[answer["mode"].upper()]
    if mode is Mode.PLAIN and keys.is_secure:
        raise Refused(f"the gateway at {endpoint} wants payloads in the clear although the job "
                      "has keys", code="not-allowed")  # fmt: skip
    what = about(mode, gateway=gateway, client=keys.public, job=job)
    return Ticket(answer["id"], answer["secret"], mode, what)


class Opening:
    """A connection that the gateway has not admitted yet; nothing but `finish` waits.

    The other arguments and errors are those of `connect`.

    Args:
        waits: the connection that comes of it does.
    """

    def __init__(
        self, answer: Message, keys: Keys, *, endpoint: str, gateway: str, job: str,
        said: Callable[[memoryview], None] | None = None, waits: bool = False,
    ) -> None:  # fmt: skip
        self._ticket = _ticket(answer, keys, endpoint=endpoint, gateway=gateway, job=job)
        self._said, self._waits = said, waits
        self._where = f"{host_of(endpoint)}:{answer['port']}"
        self._has_greeted, self._heard = False, b""
        try:
            self._sock = tcp.begin(host_of(endpoint), answer["port"])
            if not waits:
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STILL_S * 1000)
        except OSError as error:
            raise self._unreachable(error) from error

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def events(self) -> int:
        """Of poll(2): when the next step can be made."""
        return select.POLLIN if self._has_greeted else select.POLLOUT

    def step(self) -> BulkConnection | None:
        """The connection once it is admitted; to be called when it is writable, then readable.

        Raises:
            Broken: as `connect`.
        """
        try:
            if not self._has_greeted:
                if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise self._unreachable(OSError(error, os.strerror(error)))
                self._sock.send(self._ticket.greeting())  # the first bytes always fit
                self._has_greeted = True
                return None
            heard = self._sock.recv(ANSWER - len(self._heard))
        except BlockingIOError:
            return None
        except OSError as error:
            raise Broken(f"the bulk port {self._where} broke off ({error})") from error
        self._heard += heard
        if heard and len(self._heard) < ANSWER:
            return None
        if self._heard != self._ticket.answer():
            raise Broken(f"the bulk port {self._where} did not take the ticket")
        if self._waits:
            _let_wait(self._sock)
        return BulkConnection(self._sock, self._ticket, self._said)

    def finish(self) -> BulkConnection:
        """The connection, waiting for it.

        Raises:
            Broken: as `connect`; it is closed then.
        """
        poll, until = select.poll(), time.monotonic() + CONNECT_S
        try:
            while (connection := self.step()) is None:
                poll.register(self._sock, self.events)
                if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    raise self._unreachable(TimeoutError("timed out"))
            return connection
        except BaseException:
            self.close()
            raise

    def _unreachable(self, error: OSError) -> Broken:
        return Broken(f"the bulk port {self._where} cannot be reached ({error})")

    def close(self) -> None:
        self._sock.close()


def _let_wait(sock: socket.socket) -> None:
    """Within limits of the kernel, not of Python, which would wait before it looks."""
    sock.settimeout(None)
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(STILL_S, 0))


def _unwanted(message: memoryview) -> None:
    raise Unreachable(f"a message of {len(message)} bytes came, and none was asked for")


class BulkConnection:
    """A connection that a gateway has admitted; it waits if its socket does.

    Args:
        said: takes messages that come between payloads; None: there should be none.

    Attributes:
        talks: messages of rounds go over it, in both directions.
        verified: bytes of the model that is expected which are there, from its first on.
        has_read_all: nothing more had come when it read last.
    """

    def __init__(
        self, sock: socket.socket, ticket: Ticket, said: Callable[[memoryview], None] | None = None
    ) -> None:
        self._sock = sock
        self._up = ticket.channel(Direction.UP)
        self._down = Chunks(
            ticket.channel(Direction.DOWN), begin=self._begin_chunk, end=self._end_chunk,
            said=said or _unwanted,
        )  # fmt: skip
        self.talks = self._could_talk = said is not None
        self._poll = select.poll()
        self._poll.register(self._sock.fileno(), select.POLLIN)
        self._going: tuple[Upload, int, int] | None = None  # what is sent, its round and transfer
        self._chunk: list[memoryview] = []  # of the chunk that was begun
        self._room: memoryview | None = None  # in which it was sealed, and lies
        self._payload = 0  # bytes of the upload that are in it
        self._expected: tuple[memoryview, int, int] | None = None  # buffer, round, transfer
        self._least = 1  # bytes that wake this end up
        self.verified = 0
        self.has_read_all = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def is_fit(self) -> bool:
        """Good for another transfer: it talks, or never did and is alive."""
        return self.talks or (not self._could_talk and self.is_alive)

    @property
    def is_alive(self) -> bool:
        """As it should be: neither closed nor, where it does not talk, with bytes unasked for."""
        if self._sock.fileno() < 0:
            return False
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) and self.talks
        except BlockingIOError:
            return True
        except OSError:
            return False

    # -- up ----------------------------------------------------------------------------------
    def put(self, message: bytes, upload: Upload, *, number: int, transfer: int) -> None:
        """A message that asks for a slot, and the update's first chunk, which need not wait for it.

        Waits for nothing: where there is no slot the system may have no room for all of the chunk,
        and `has_rest` until there is one.

        Raises:
            Broken: the connection is gone.
        """
        self.begin(upload, number=number, transfer=transfer)
        self._chunk.append(memoryview(message_chunk(self._up, message)))
        self._next_chunk()
        self.push_rest()

    @property
    def has_rest(self) -> bool:
        """Of a chunk that was begun: `push_rest` when the connection is writable."""
        return bool(self._chunk)

    def push_rest(self) -> None:
        """As much of it as the system takes now.

        Raises:
            Broken: the connection is gone.
        """
        self.pump(0, _AT_ONCE)

    def end(self) -> None:
        """Whatever is left of an upload that was begun; waits until the system has taken it.

        Raises:
            Broken: the connection is gone, or took no byte for STILL_S.
        """
        if not self.pump():
            self.close()
            raise Broken(f"the gateway took no byte for {STILL_S} s")

    def begin(self, upload: Upload, *, number: int, transfer: int, at: int = 0) -> None:
        """What `pump` sends from now on; a chunk of another that was begun is ended first.

        Args:
            at: bytes of the upload that this transfer has carried already.
        """
        upload.sent, self._payload = at, 0
        self._going = upload, number, transfer

    def stop(self) -> None:
        """Send no more of it than the chunk that was begun."""
        self._going = None

    def pump(self, chunks: int = -1, flags: int = 0) -> bool:
        """Send on, as much as the system takes and no more than so many chunks.

        Returns:
            Whether it has taken all that was begun.
        """
        try:
            while self._chunk or (chunks and self._next_chunk()):
                if not self._push(flags):
                    return False
                chunks -= chunks > 0
        except OSError as error:
            self.close()
            raise Broken(f"the gateway closed the bulk connection ({error})") from error
        return self._going is None

    def _next_chunk(self) -> bool:
        """Seal it; False when there is none."""
        if self._going is None:
            return False
        upload, number, transfer = self._going
        at, end = upload.sent, min(upload.sent + CHUNK, upload.size)
        if at >= end:
            self._going = None
            return False
        head = Head(Kind.UPDATE, end - at, number, transfer, at).pack()
        if self._up is None:
            self._chunk += [memoryview(head), upload.source.kept(at, end), memoryview(NO_TAG)]
        else:
            self._chunk.append(self._seal(self._up, head, upload.source, at, end))
        self._payload = end - at
        return True

    def _seal(self, up: Channel, head: bytes, source: Source, at: int, end: int) -> memoryview:
        """A chunk, in a room that it has until it is sent."""
        self._room, other = _room(), None
        payload = source.lies(at, end)
        if payload is None:
            payload = source.gathered(at, end, other := _room())
        chunk = self._room[: up.seal_into(head, payload, self._room)]
        source.remember(at, up.last_seal(head, chunk))
        if other is not None:
            _rooms.append(other)
        return chunk

    def _push(self, flags: int) -> bool:
        """Whether the system has taken the chunk."""
        rest = self._chunk
        while rest:
            try:
                sent = self._sock.sendmsg(rest, (), flags)
            except BlockingIOError:
                self._keep()
                return False
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]
        if self._going is not None and self._payload:
            upload = self._going[0]
            upload.sent += self._payload
            self._payload = 0
            if upload.sent == upload.size:
                self._going = None
            upload.moved()
        self._leave_room()
        return True

    def _keep(self) -> None:
        """What is left of a sealed chunk goes later: others have the room meanwhile."""
        if self._room is not None:
            self._chunk = [memoryview(b"".join(self._chunk))]
            self._leave_room()

    def _leave_room(self) -> None:
        if self._room is not None:
            _rooms.append(self._room)
            self._room = None

    # -- down --------------------------------------------------------------------------------
    def expect(self, buffer: memoryview, *, number: int, transfer: int, at: int) -> None:
        """What is asked for now, or comes unasked, goes into `buffer` from `at` on."""
        self._down.forget()  # a chunk of what was expected before is none of this
        self._expected = buffer, number, transfer
        self.verified = at

    def expected(self, number: int, transfer: int) -> memoryview | None:
        """The buffer of this transfer, if it is what was expected last."""
        if self._expected is None or self._expected[1:] != (number, transfer):
            return None
        return self._expected[0]

    @property
    def come(self) -> int:
        """Bytes of the model that are there, those of a chunk that is not whole yet included."""
        head = self._down.head
        is_model = head is not None and head.kind == Kind.MODEL
        return self.verified + (self._down.filled if is_model else 0)

    def wait(self, timeout_s: float) -> bool:
        """Whether something has come."""
        return bool(self._poll.poll(timeout_s * 1000))

    @property
    def has_all(self) -> bool:
        """Nothing more of a model is expected."""
        return self._expected is None or self.verified == len(self._expected[0])

    def receive(self) -> bool:
        """Take what has come; True when all that is expected is there and verified.

        Raises:
            Broken: the connection is gone.
        """
        room = _room()
        try:
            while True:
                asked, size = self._receive(room)
                if not size:
                    self.close()
                    raise Broken("the gateway closed the bulk connection")
                self.has_read_all = size < asked
                if self.has_read_all or self.has_all:
                    break
        except BlockingIOError:
            self.has_read_all = True
        except OSError as error:
            self.close()
            raise Broken(f"the bulk connection broke ({error})") from error
        except LiflError as error:  # it is not what was asked for, or not under its tag
            self.close()
            raise Broken(str(error)) from error
        finally:
            _rooms.append(room)
        self._wake()
        return self.has_all

    def taken(self) -> None:
        """Whoever expected the model has it; its memory is not held here any more."""
        self._expected = None

    def _receive(self, room: memoryview) -> tuple[int, int]:
        """Read once.

        Returns:
            Fewer bytes than the first say that there are no more, and so many came.
        """
        flags, down = _AT_ONCE, self._down
        if down.is_sealed:
            size = self._sock.recv_into(room, 0, flags)
            down.feed(room[:size])
            return len(room), size
        return 0, down.receive_plain(self._sock, room, after=TAG + HEAD, flags=flags)

    def _wake(self) -> None:
        """Wake up for as much of a model as is worth it, or for the rest."""
        least = 1
        if self._expected is not None and not self.has_all:
            least = min(tcp.WAKE_AT, max(1, self._remaining(self._expected[0])))
        if least != self._least:
            self._least = least
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _remaining(self, buffer: memoryview) -> int:
        """Bytes on the wire until all of a model is there, at least."""
        payload, down = len(buffer) - self.verified, self._down
        if down.head is None or down.head.kind != Kind.MODEL:
            return -(-payload // CHUNK) * (HEAD + TAG) + payload - down.begun
        after = payload - down.head.length
        rest = down.left + TAG - down.begun
        return rest + after + -(-after // CHUNK) * (HEAD + TAG)

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
        self._leave_room()
        self.talks = False
