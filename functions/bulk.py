"""The bulk port of a gateway: payloads over TCP, one connection per client of a job.

    ticket (control channel) ─► greeting ─► answer ─► chunks up, chunks down

Owns connections and their bytes: what comes is opened straight into the slot that was granted,
what goes is sealed from the mapping.  Tickets are tickets.py's.  Decides nothing about updates:
uploads.py says what a connection may write, downlink.py what is sent on it, and clients.py hears
the messages that come between payloads.  One epoll descriptor for all connections, which gateway.py
polls with its sockets; a turn costs what is ready and not what is connected.

Memory beyond the arena: two chunks for all that comes (it is opened into a slot, which nobody reads
before the last tag), one for all that goes, and at most HELD_BYTES of sealed bytes that the network
did not take at once, then HELD_PIECE a connection.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Final

from lifl.errors import InvalidUpdate, LiflError, TransientError, Unreachable
from lifl.functions import tcp
from lifl.functions.bulk_state import TAKEN, Connection, Sending
from lifl.functions.chunks import Chunks
from lifl.functions.jobs import Uploading
from lifl.functions.sealing import (
    CHUNK,
    EARLY,
    GREETING,
    HEAD,
    MAGIC,
    NO_TAG,
    TAG,
    Direction,
    Head,
    Kind,
    message_chunk,
)
from lifl.functions.tickets import Tickets

log = logging.getLogger("lifl.bulk")

GREETING_S: Final = 5.0  # from accept to the last byte of the greeting
STRANGERS: Final = 256  # connections without a ticket at a time; the oldest makes room
HELD_BYTES: Final = 12 << 20
HELD_PIECE: Final = 1 << 14
PIECES: Final = 3  # of a model in one go
BATCH: Final = 64
BEFORE: Final = 8  # that are ready go before a model: who writes all the time keeps none back
TURN_S: Final = 0.02  # of one turn, in which the gateway's other sockets wait
UNREAD: Final = 128  # messages that wait for one client
FULL: Final = frozenset({errno.EMFILE, errno.ENFILE})  # of accept: no descriptor is left
FULL_S: Final = 0.5  # until it is tried again
WARN_S: Final = 60.0  # between two warnings of it
DEAD_MS: Final = 30_000  # bytes unacknowledged for so long: the peer is gone


class Bulk:
    """The listener and all connections.

    Args:
        host, port: where to listen; 0: the system chooses the port.
        gateway: this gateway's public key.
        wrote: a chunk of this upload is in its slot and has its tag.
        lost: the connection of this upload is gone, and why.
        said: a message that came on this connection.
        untold: this connection is gone, and with it, maybe, what it had to tell of a round.
    """

    def __init__(
        self, host: str, gateway: str, *, wrote: Callable[[Connection, Uploading], None],
        lost: Callable[[Connection, Uploading, LiflError], None],
        said: Callable[[Connection, memoryview], None],
        untold: Callable[[Connection], None], port: int = 0,
    ) -> None:  # fmt: skip
        try:
            self.listener = tcp.listen(host, port, backlog=4096)
        except OSError as error:
            raise TransientError(
                f"cannot listen at {host}:{port} ({error.strerror}): end what listens there, or "
                "choose another port for models and updates",
                code="port-in-use",
            ) from error
        self.port: int = self.listener.getsockname()[1]
        self._wrote, self._lost, self._said, self._untold = wrote, lost, said, untold
        self._epoll = select.epoll()
        self._epoll.register(self.listener.fileno(), select.EPOLLIN)
        self._by_fd: dict[int, Connection] = {}
        self._strangers: dict[int, Connection] = {}  # by fd, oldest first
        self._clients: dict[tuple[str, str], Connection] = {}
        self.tickets = Tickets(gateway)
        self._in = memoryview(bytearray(TAKEN))
        self._out = memoryview(bytearray(HEAD + CHUNK + TAG))
        self._held = 0
        self._resumed: list[Connection] = []
        self._to_push: deque[Connection] = deque()  # their models have not begun
        self._accepts_at = math.inf  # when the listener is heard again, while it is not
        self._warns_at = -math.inf
        self.refused: Counter[str] = Counter()

    def fileno(self) -> int:
        return self._epoll.fileno()

    # -- connections -------------------------------------------------------------------------
    def of(self, key: str, job: str) -> Connection | None:
        return self._clients.get((key, job))

    def need(self, key: str, job: str) -> Connection:
        """The same.

        Raises:
            Unreachable: there is none.
        """
        if (connection := self.of(key, job)) is None:
            raise Unreachable("this client has no bulk connection here: ask for a ticket")
        return connection

    def turn(self) -> None:
        """Handle what is ready, and what becomes ready meanwhile, but not for ever.

        Models that were pushed begin one by one, each behind what has come: the fewer updates are
        under way, the more of their bytes are still in the cache when they are read.
        """
        resumed, self._resumed = self._resumed, []
        for connection in resumed:
            if not connection.is_paused:  # again, by what was read meanwhile
                self.look(connection)
        until = time.monotonic() + TURN_S
        while (ready := self._epoll.poll(0, BEFORE if self._to_push else BATCH)) or self._to_push:
            self._handle(ready)
            if self._to_push:
                connection = self._to_push.popleft()
                self._handle([(connection.sock.fileno(), select.EPOLLOUT)])
            if time.monotonic() > until:
                return

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        for fd, events in ready:
            if fd == self.listener.fileno():
                self._accept()
                continue
            connection = self._by_fd.get(fd)
            if connection is None:
                continue  # closed by one before it in this batch
            try:
                if events & ~select.EPOLLOUT:
                    self._receive(connection)
                if events & select.EPOLLOUT and connection.sock.fileno() >= 0:
                    self._pump(connection)
            except LiflError as error:
                self.close(connection, error)
            except OSError as error:
                self.close(connection, Unreachable(f"the bulk connection broke ({error})"))
            except Exception as error:  # whatever it was, it came from outside
                log.exception("a bulk connection of %s is closed", connection.key)
                self.close(connection, Unreachable(f"what came cannot be handled: {error!r:.200}"))

    @property
    def is_due(self) -> bool:
        """There is something to do that may wake nobody up: call `turn` at once."""
        return bool(self._resumed or self._to_push)

    @property
    def is_waiting(self) -> bool:
        """Somebody has connected and is not known yet, or not let in: call `tick` in time."""
        return bool(self._strangers) or self._accepts_at < math.inf

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self._accepts_at:
            self._accepts_at = math.inf
            self._epoll.register(self.listener.fileno(), select.EPOLLIN)
        for stranger in list(self._strangers.values()):
            if now - stranger.since < GREETING_S:
                break  # the oldest come first
            self._refuse(stranger, "silent")

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                sock, _ = self.listener.accept()
            except OSError as error:
                if error.errno in FULL:
                    self._accept_later(error)
                return
            sock.setblocking(False)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MS)
            except OSError:  # gone before it was looked at
                sock.close()
                continue
            stranger = Connection(sock, time.monotonic())
            self._by_fd[sock.fileno()] = self._strangers[sock.fileno()] = stranger
            self._epoll.register(sock.fileno(), stranger.events)
            if len(self._strangers) > STRANGERS:
                self._refuse(next(iter(self._strangers.values())), "crowded out")

    def _accept_later(self, error: OSError) -> None:
        """Whoever waits to be let in would wake up every turn, for nothing."""
        now = time.monotonic()
        self._epoll.unregister(self.listener.fileno())
        self._accepts_at = now + FULL_S
        if now >= self._warns_at:
            self._warns_at = now + WARN_S
            how = "ulimit -n" if error.errno == errno.EMFILE else "sysctl fs.file-max"
            log.warning(
                "no descriptor is left for who connects to the bulk port (%s; %d are connected): "
                "raise the limit (%s) and start again", error.strerror, len(self._by_fd), how,
            )  # fmt: skip

    def _greet(self, stranger: Connection) -> None:
        """Read the greeting and not a byte more; close on anything else."""
        data = stranger.sock.recv(GREETING - len(stranger.greeting))
        stranger.greeting += data
        if not data or stranger.greeting[: len(MAGIC)] != MAGIC[: len(stranger.greeting)]:
            self._refuse(stranger, "not a greeting")
            return
        if len(stranger.greeting) < GREETING:
            return
        found = self.tickets.redeem(bytes(stranger.greeting))
        stranger.greeting.clear()
        if isinstance(found, str):
            self._refuse(stranger, found)
            return
        before = self._clients.get((found.key, found.job))
        if before:
            self.close(before, Unreachable("this client has opened another bulk connection"))
        ticket, connection = found.ticket, stranger
        connection.key, connection.job = found.key, found.job
        connection.chunks = Chunks(
            ticket.channel(Direction.UP), begin=partial(self._begin_chunk, connection),
            end=partial(self._end_chunk, connection), said=partial(self._said, connection),
        )  # fmt: skip
        connection.down = ticket.channel(Direction.DOWN)
        connection.talks = found.talks
        connection.opens(listens=found.listens)
        del self._strangers[connection.sock.fileno()]
        self._clients[found.key, found.job] = connection
        connection.sock.send(ticket.answer())  # the first bytes of a connection always fit

    def _refuse(self, stranger: Connection, why: str) -> None:
        self.refused[why] += 1
        log.info("a connection to the bulk port was refused: %s", why)
        self.close(stranger, Unreachable(why))

    def close(self, connection: Connection, error: LiflError) -> None:
        """End a connection; its upload, if there is one, is reported as lost."""
        fd = connection.sock.fileno()
        if fd < 0:
            return
        self._epoll.unregister(fd)
        self._by_fd.pop(fd, None)
        self._strangers.pop(fd, None)
        connection.sock.close()
        is_newest = self._clients.get((connection.key, connection.job)) is connection
        if is_newest:
            del self._clients[connection.key, connection.job]
        self._held -= connection.held
        connection.rest.clear()
        connection.words.clear()
        connection.sending, upload = None, connection.upload
        connection.forget()
        connection.chunks = None
        if upload is not None:
            self._lost(connection, upload, error)
        if is_newest and connection.has_untold:
            self._untold(connection)

    def put_out(self, key: str, job: str, error: LiflError) -> None:
        """It has lost its right in this job: it has no connection, and opens none."""
        self.tickets.void(key, job)
        if (connection := self.of(key, job)) is not None:
            self.close(connection, error)

    def close_job(self, job: str) -> None:
        """A job has left this node, and its memory with it."""
        for connection in [c for c in self._clients.values() if c.job == job]:
            connection.talks = False
            connection.forget()
            self.close(connection, Unreachable(f"job {job!r} has left this node"))
        self.tickets.forget(job)

    # -- what comes --------------------------------------------------------------------------
    def grant(self, connection: Connection, upload: Uploading) -> None:
        """From now on this transfer may be written."""
        connection.upload = upload
        if not upload.transfer & EARLY:
            connection.newest = upload.transfer
        if len(upload.grant.view) > 2 * CHUNK:
            connection.wake_at(tcp.WAKE_AT)

    def pause(self, connection: Connection) -> None:
        """Read nothing of an update that came with its put until there is a slot, or a verdict."""
        if connection.chunks is not None:
            connection.chunks.is_paused = True
            self._epoll.modify(connection.sock.fileno(), connection.events)

    def resume(self, connection: Connection) -> None:
        """Read on; what was not granted meanwhile is thrown away."""
        if connection.chunks is not None and connection.is_paused:
            connection.chunks.is_paused = False
            self._epoll.modify(connection.sock.fileno(), connection.events)
            self._resumed.append(connection)  # all of it may have come, and nothing more wake us

    def look(self, connection: Connection) -> None:
        """Take what has come and was not worth a wake-up, or was kept."""
        self._handle([(connection.sock.fileno(), select.EPOLLIN)])

    def _receive(self, connection: Connection) -> None:
        if connection.is_stranger:
            with contextlib.suppress(BlockingIOError):
                self._greet(connection)
            return
        chunks = connection.chunks
        assert chunks is not None
        if chunks.is_paused:  # and something has happened all the same
            raise Unreachable("the client closed its bulk connection")
        try:
            if chunks.is_sealed:
                size = self._receive_sealed(connection, chunks)
            else:
                chunks.feed(self._in[: chunks.take_kept(self._in)])
                # no byte of the next payload, which goes straight to its slot
                size = chunks.receive_plain(connection.sock, self._in, after=TAG + HEAD)
        except BlockingIOError:
            return
        if size == 0:
            raise Unreachable("the client closed its bulk connection")

    def _receive_sealed(self, connection: Connection, chunks: Chunks) -> int:
        """Read once, and again where something follows a message.

        By then a put may have its slot: all of its chunk is asked for, and opened in one go.
        """
        size = self._read_sealed(connection, chunks, stops=True)
        if size and chunks.may_go_on and connection.chunks is chunks:  # not closed by what it said
            with contextlib.suppress(BlockingIOError):  # the next look sees an end, too
                self._read_sealed(connection, chunks, stops=False)
        return size

    def _read_sealed(self, connection: Connection, chunks: Chunks, *, stops: bool) -> int:
        """Read once, behind what was kept.

        Args:
            stops: keep what follows a message, unless it was kept before: nobody may come for it.
        """
        kept, wanted = chunks.take_kept(self._in), connection.wanted
        if kept >= wanted:  # as after a put and another right behind it
            chunks.feed(self._in[:kept])
            return kept
        try:
            size = connection.sock.recv_into(self._in[kept:], wanted - kept)
        except OSError:
            chunks.feed(self._in[:kept])
            raise
        chunks.feed(self._in[: kept + size], stops_at_message=stops and size > 0)
        return size

    def _begin_chunk(self, connection: Connection, head: Head) -> memoryview | None:
        """Where in its slot a chunk goes; None where its transfer was given up.

        Raises:
            InvalidUpdate: it is not the next one.
            Unreachable: nobody was told to send it.
        """
        upload = connection.upload
        if upload is not None and head.transfer == upload.transfer:
            grant = upload.grant
            size = min(CHUNK, len(grant.view) - grant.written)
            expected = Head(Kind.UPDATE, size, grant.round, upload.transfer, grant.written)
            if head != expected:
                raise InvalidUpdate(f"a chunk says {head}, where {expected} is next")
            if len(grant.view) - grant.written - size < tcp.WAKE_AT:
                connection.wake_at(1)
            return grant.view[grant.written : grant.written + size]
        was_granted = head.transfer & EARLY or head.transfer <= connection.newest
        if was_granted and 0 < head.length <= CHUNK:
            return None  # its bytes were on their way
        # of a go that was on its way when the connection before this one broke, or made up
        self.refused["not granted"] += 1
        raise Unreachable(f"a chunk says {head}, which nobody was told to send here")

    def _end_chunk(self, connection: Connection, head: Head) -> None:
        upload = connection.upload
        assert upload is not None  # or the chunk would be forgotten
        if upload.grant.written + head.length == len(upload.grant.view):
            connection.upload = None
        self._wrote(connection, upload)

    # -- what goes ---------------------------------------------------------------------------
    def send(self, connection: Connection, sending: Sending) -> None:
        """Send a model, unless this very transfer was asked for before."""
        if connection.asked == sending.transfer:
            return
        if connection.sending is not None:
            self.close(connection, Unreachable("a model was asked for before another came"))
            return
        connection.sending, connection.asked = sending, sending.transfer
        self._send(connection)

    def say(self, connection: Connection, message: bytes) -> None:
        """Send a message of at most MESSAGE bytes, between the chunks of a model or after it."""
        if len(connection.words) >= UNREAD:
            self.close(connection, Unreachable("this client does not read what it is told"))
            return
        connection.words.append(message)
        if not connection.writing and connection.sending is None:  # else its turn comes
            self._send(connection)

    def push(self, connection: Connection, message: bytes, sending: Sending) -> None:
        """Send a message and, behind it, the model that it says, when its turn comes."""
        connection.words.append(message)
        connection.sending, connection.asked = sending, sending.transfer
        self._to_push.append(connection)

    def _send(self, connection: Connection) -> None:
        try:
            self._pump(connection)
        except OSError as error:
            self.close(connection, Unreachable(f"the bulk connection broke ({error})"))

    def _pump(self, connection: Connection) -> None:
        """A few chunks, then it is another's turn."""
        for _ in range(PIECES):
            sending = connection.sending
            if sending is None:
                connection.rest = connection.rest or self._words(connection)
            else:
                model = sending.model()
                # sealed bytes are what they are; plain ones are still the mapping's
                if model is None and (connection.down is None or not connection.rest):
                    self.close(connection, Unreachable("the model was replaced on its way down"))
                    return
                if not connection.rest and model is not None:
                    words = [] if sending.left else self._words(connection)
                    connection.rest = words + self._piece(connection, sending, model)
            if not connection.rest or not self._push(connection):
                break
            if sending is not None and sending.at == sending.end and not sending.left:
                connection.sending = None
        is_due = connection.rest or connection.words or connection.sending is not None
        self._want(connection, writing=bool(is_due))

    def _words(self, connection: Connection) -> list[memoryview]:
        """All messages, which go before a model, since one may say that it comes."""
        words = [memoryview(message_chunk(connection.down, text)) for text in connection.words]
        connection.words.clear()
        return words

    def _piece(
        self, connection: Connection, sending: Sending, model: memoryview
    ) -> list[memoryview]:
        """The next bytes for the network: a chunk, or a part of one where memory is short."""
        if sending.left:
            return self._part(sending, model, b"")
        size = min(CHUNK, sending.end - sending.at)
        head = Head(Kind.MODEL, size, sending.round, sending.transfer, sending.at).pack()
        whole = model[sending.at : sending.at + size]
        if connection.down is None:
            sending.at += size
            return [memoryview(head), whole, memoryview(NO_TAG)]
        if self._held + CHUNK <= HELD_BYTES:
            sending.at += size
            return [self._out[: connection.down.seal_into(head, whole, self._out)]]
        sending.left, sending.seal = size, connection.down.seal(head)
        return self._part(sending, model, head)

    def _part(self, sending: Sending, model: memoryview, head: bytes) -> list[memoryview]:
        """The next bytes of a chunk that was begun, with its head before or its tag behind them."""
        size, start = min(sending.left, HELD_PIECE), len(head)
        part = model[sending.at : sending.at + size]
        sending.at += size
        sending.left -= size
        self._out[:start] = head
        sending.seal.update_into(part, self._out[start : start + size])
        end = start + size
        if not sending.left:
            sending.seal.finalize()
            self._out[end : end + TAG] = sending.seal.tag
            end += TAG
        return [self._out[:end]]

    def _push(self, connection: Connection) -> bool:
        """Write what is left of a piece; False when the network takes no more now."""
        rest = connection.rest
        try:
            sent = connection.sock.sendmsg(rest)
        except BlockingIOError:
            sent = 0
        while rest and sent >= len(rest[0]):
            sent -= len(rest.pop(0))
        if rest and sent:
            rest[0] = rest[0][sent:]
        held = 0
        if connection.down is not None and rest:
            if not connection.held:  # in the scratch buffer so far
                rest[:] = [memoryview(b"".join(rest))]
            held = len(rest[0])
        self._held += held - connection.held
        connection.held = held
        return not rest

    def _want(self, connection: Connection, *, writing: bool) -> None:
        if writing != connection.writing:
            connection.writing = writing
            self._epoll.modify(connection.sock.fileno(), connection.events)
