"""The bulk port and whoever calls it: real sockets, real bytes, one process, no waiting."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lifl.errors import InvalidUpdate, LiflError, Unreachable
from lifl.functions import bulk as port
from lifl.functions import tickets
from lifl.functions.bulk import Bulk
from lifl.functions.bulk_client import Broken, BulkConnection, admitted
from lifl.functions.bulk_state import Connection, Sending
from lifl.functions.intake import Grant
from lifl.functions.jobs import Asking, Uploading
from lifl.functions.sealing import CHUNK, NO_TAG, Direction, Head, Kind, Mode, Ticket
from lifl.shm.slots import Payload

SIZE = 2 * CHUNK + 12345
DATA = os.urandom(SIZE)
GATEWAY = "G" * 40


class Gateway:
    """A bulk port, turned by hand, and what it says to its owner."""

    def __init__(self) -> None:
        self.written: list[Uploading] = []
        self.errors: list[LiflError] = []
        self.said: list[bytes] = []
        self.untold: list[Connection] = []
        self.pauses = False  # at each message
        self.bulk = Bulk(
            "127.0.0.1", GATEWAY,
            wrote=lambda _, upload: self._wrote(upload),
            lost=lambda _, __, error: self.errors.append(error),
            said=self._said, untold=self.untold.append,
        )  # fmt: skip

    def _said(self, connection: Connection, text: memoryview) -> None:
        self.said.append(bytes(text))
        if self.pauses:
            self.bulk.pause(connection)

    def _wrote(self, upload: Uploading) -> None:
        upload.grant.written += min(CHUNK, len(upload.grant.view) - upload.grant.written)
        self.written.append(upload)

    def turn(self, times: int = 50) -> None:
        for _ in range(times):
            self.bulk.turn()

    def ticket(
        self, client: str = "C" * 40, mode: Mode = Mode.SEALED, *, talks: bool = False
    ) -> Ticket:
        return self.bulk.tickets.issue(client, "job", mode, talks=talks)

    def socket(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.bulk.port), timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.turn(2)
        return sock

    def greet(self, data: bytes) -> bytes:
        """What comes back for a greeting: an answer, or nothing and the end."""
        with self.socket() as sock:
            sock.sendall(data)
            self.turn(4)
            try:
                return sock.recv(100)
            except ConnectionResetError:
                return b""

    def client(self, ticket: Ticket) -> socket.socket:
        sock = self.socket()
        sock.sendall(ticket.greeting())
        self.turn(4)
        assert sock.recv(100) == ticket.answer()
        return sock

    def connection(self, client: str = "C" * 40) -> Connection:
        found = self.bulk.of(client, "job")
        assert found is not None
        return found

    def grant(self, transfer: int = 7, size: int = SIZE) -> Uploading:
        grant = Grant(0, 1, 1, 3, 1, memoryview(bytearray(size)))
        message = {"round": 3, "lane": "fast"}
        asking = Asking(b"", "C" * 40, message, Payload.UPDATE, 1, 1, size, 1.0)
        upload = Uploading(asking, grant, 0.0, 0.0, transfer=transfer)
        upload.connection = self.connection()
        self.bulk.grant(upload.connection, upload)
        return upload

    def close(self) -> None:
        for connection in list(self.bulk._by_fd.values()):
            self.bulk.close(connection, Unreachable("the test is over"))
        self.bulk.listener.close()
        self.bulk._epoll.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


def chunks(
    ticket: Ticket, transfer: int = 7, data: bytes = DATA, *, before: int = 0
) -> list[bytes]:
    """An update as it is on the wire.

    Args:
        before: chunks that were sent before it.
    """
    channel, found = ticket.channel(Direction.UP), []
    if channel is not None:
        channel.chunks = before
    for at in range(0, len(data), CHUNK):
        part = data[at : at + CHUNK]
        head = Head(Kind.UPDATE, len(part), 3, transfer, at).pack()
        if channel is None:
            found.append(head + part + NO_TAG)
            continue
        sealed = bytearray(len(part))
        seal = channel.seal(head)
        seal.update_into(part, sealed)
        seal.finalize()
        found.append(head + bytes(sealed) + seal.tag)
    return found


def deliver(gateway: Gateway, sock: socket.socket, data: bytes) -> None:
    """Send all of it while the gateway turns; stop when it has closed."""
    sock.setblocking(False)
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            pass
        except OSError:
            break
        gateway.turn(1)
    gateway.turn()
    for connection in list(gateway.bulk._clients.values()):
        if not connection.is_paused:
            gateway.bulk.look(connection)  # what is not worth a wake-up


# -- what works ----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", list(Mode))
def test_an_update_arrives_in_its_slot(gateway: Gateway, mode: Mode) -> None:
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        upload = gateway.grant()
        deliver(gateway, sock, b"".join(chunks(ticket)))
        assert gateway.written == [upload] * 3
        assert bytes(upload.grant.view) == DATA
        assert gateway.errors == []


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("piece", [1 << 12, CHUNK + 17])
def test_pieces_may_be_of_any_size(gateway: Gateway, mode: Mode, piece: int) -> None:
    """Network cuts where it likes: in heads, tags and payloads."""
    ticket = gateway.ticket(mode=mode)
    wire = b"".join(chunks(ticket))
    with gateway.client(ticket) as sock:
        upload = gateway.grant()
        for at in range(0, len(wire), piece):
            deliver(gateway, sock, wire[at : at + piece])
        assert bytes(upload.grant.view) == DATA


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("start", [0, 1, CHUNK + 5])
def test_a_model_goes_down_from_any_byte(gateway: Gateway, mode: Mode, start: int) -> None:
    ticket = gateway.ticket(mode=mode)
    model = memoryview(DATA)
    client = _connect(gateway, ticket)
    for transfer in (1, 2):  # the second finds the stream where the first left it
        buffer = memoryview(bytearray(SIZE))
        client.expect(buffer, number=2, transfer=transfer, at=start)
        sending = Sending(2, transfer, start, SIZE, lambda: model)
        gateway.bulk.send(gateway.connection(), sending)
        gateway.bulk.send(gateway.connection(), sending)  # asked again: once is enough
        _receive_all(gateway, client)
        assert buffer[start:] == DATA[start:]
        assert client.is_alive
    client.close()


def _connect(
    gateway: Gateway, ticket: Ticket, said: Callable[[memoryview], None] | None = None
) -> BulkConnection:
    """A client of the library, whose constructor waits for the answer."""
    import threading

    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(admitted("127.0.0.1", gateway.bulk.port, ticket, said))
    )
    thread.start()
    while thread.is_alive():
        gateway.turn(1)
    connection: BulkConnection = found[0]
    return connection


# -- who may not ---------------------------------------------------------------------------------
def test_random_bytes_are_closed_at_once(gateway: Gateway) -> None:
    assert gateway.greet(b"\0") == b""
    assert gateway.greet(os.urandom(3) + b"!" + os.urandom(100)) == b""
    assert gateway.greet(b"LIFL" + os.urandom(52)) == b""
    assert gateway.bulk.refused["not a greeting"] == 2
    assert gateway.bulk.refused["unknown"] == 1
    assert not gateway.bulk._strangers


def test_a_stolen_ticket_is_refused_and_stays_good_for_its_owner(gateway: Gateway) -> None:
    mine = gateway.ticket()
    stolen = Ticket(mine.id, os.urandom(32), mine.mode, mine.about)
    assert gateway.greet(stolen.greeting()) == b""
    other = Ticket(mine.id, mine.secret, mine.mode, mine.about.replace(b"C", b"D"))
    assert gateway.greet(other.greeting()) == b""
    assert gateway.bulk.refused["stolen"] == 2
    assert gateway.greet(mine.greeting()) == mine.answer()


def test_a_ticket_is_used_once(gateway: Gateway) -> None:
    mine = gateway.ticket()
    with gateway.client(mine):
        assert gateway.greet(mine.greeting()) == b""
        assert gateway.bulk.refused["replayed"] == 1
        assert gateway.connection().sock.fileno() >= 0  # the first is not disturbed


def test_a_newer_ticket_voids_the_older(gateway: Gateway) -> None:
    old, new = gateway.ticket(), gateway.ticket()
    assert gateway.greet(old.greeting()) == b""
    assert gateway.greet(new.greeting()) == new.answer()


def test_an_expired_ticket(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = gateway.ticket()
    later = tickets.time.monotonic() + tickets.TICKET_S + 1
    monkeypatch.setattr(tickets.time, "monotonic", lambda: later)
    assert gateway.greet(mine.greeting()) == b""
    assert gateway.bulk.refused["expired"] == 1


def test_who_says_nothing_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway.socket() as silent, gateway.socket() as slow:
        slow.sendall(b"LIFL\1")
        gateway.turn(2)
        gateway.bulk.tick()
        assert gateway.bulk.is_waiting
        later = port.time.monotonic() + port.GREETING_S + 1
        monkeypatch.setattr(port.time, "monotonic", lambda: later)
        gateway.bulk.tick()
        assert silent.recv(1) == slow.recv(1) == b""
        assert gateway.bulk.refused["silent"] == 2


def test_strangers_are_few(gateway: Gateway) -> None:
    socks = [gateway.socket() for _ in range(port.STRANGERS + 20)]
    assert len(gateway.bulk._strangers) == port.STRANGERS
    mine = gateway.ticket()
    assert gateway.greet(mine.greeting()) == mine.answer()
    for sock in socks:
        sock.close()


def test_without_a_descriptor_left_nobody_is_let_in_and_the_loop_sleeps(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = gateway.ticket()
    before = _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_connection(("127.0.0.1", gateway.bulk.port), timeout=5) as sock:
        sock.sendall(mine.greeting())
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            gateway.turn()
            assert not gateway.bulk._epoll.poll(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert gateway.bulk.is_waiting  # so `tick` is called
        assert [each for each in caplog.messages if "ulimit -n" in each]
        later = port.time.monotonic() + port.FULL_S
        monkeypatch.setattr(port.time, "monotonic", lambda: later)
        gateway.bulk.tick()
        gateway.turn()
        assert sock.recv(100) == mine.answer()
        assert not gateway.bulk.is_waiting


def test_a_second_connection_closes_the_first(gateway: Gateway) -> None:
    with gateway.client(gateway.ticket()) as first:
        gateway.grant()
        with gateway.client(gateway.ticket()):
            assert first.recv(1) == b""
            assert [type(error) for error in gateway.errors] == [Unreachable]


# -- what may not come ---------------------------------------------------------------------------
@pytest.mark.parametrize("mode", list(Mode))
def test_a_client_that_dies_in_the_middle(gateway: Gateway, mode: Mode) -> None:
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        gateway.grant()
        deliver(gateway, sock, b"".join(chunks(ticket))[: CHUNK + 100_000])
    gateway.turn()
    assert len(gateway.written) == 1
    assert [type(error) for error in gateway.errors] == [Unreachable]
    assert gateway.bulk.of("C" * 40, "job") is None


def test_a_changed_byte(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    wire = [bytearray(chunk) for chunk in chunks(ticket)]
    wire[1][1000] ^= 1
    with gateway.client(ticket) as sock:
        gateway.grant()
        deliver(gateway, sock, b"".join(wire))
        assert len(gateway.written) == 1
        assert "tag" in str(gateway.errors[0])
        assert gateway.errors[0].retryable


def test_a_repeated_chunk(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    first = chunks(ticket)[0]
    with gateway.client(ticket) as sock:
        gateway.grant()
        deliver(gateway, sock, first + first)
        assert len(gateway.written) == 1
        assert isinstance(gateway.errors[0], InvalidUpdate)


def test_a_repeated_chunk_that_says_it_is_the_next(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    first = chunks(ticket)[0]
    forged = Head(Kind.UPDATE, CHUNK, 3, 7, CHUNK).pack() + first[24:]
    with gateway.client(ticket) as sock:
        gateway.grant()
        deliver(gateway, sock, first + forged)
        assert len(gateway.written) == 1
        assert "tag" in str(gateway.errors[0])


@pytest.mark.parametrize(
    "head",
    [
        Head(Kind.UPDATE, CHUNK + 1, 3, 7, 0),
        Head(Kind.UPDATE, 2**32 - 1, 3, 7, 0),
        Head(Kind.UPDATE, 0, 3, 7, 0),
        Head(Kind.UPDATE, CHUNK, 3, 7, 2**63),
        Head(Kind.UPDATE, CHUNK, 4, 7, 0),
        Head(Kind.MODEL, CHUNK, 3, 7, 0),
        Head(Kind.UPDATE, CHUNK, 3, 8, 0),
    ],
)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_head_that_was_not_granted(gateway: Gateway, mode: Mode, head: Head) -> None:
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        upload = gateway.grant()
        deliver(gateway, sock, head.pack() + bytes(1000))
        assert gateway.written == []
        assert len(gateway.errors) == 1
        assert bytes(upload.grant.view) == bytes(SIZE)


def test_nobody_was_granted_anything(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    with gateway.client(ticket) as sock:
        deliver(gateway, sock, chunks(ticket)[0])
        assert gateway.bulk.of("C" * 40, "job") is None


def test_more_than_the_update(gateway: Gateway) -> None:
    ticket = gateway.ticket(mode=Mode.PLAIN)
    extra = Head(Kind.UPDATE, 100, 3, 8, SIZE).pack() + bytes(116)
    with gateway.client(ticket) as sock:
        upload = gateway.grant()
        deliver(gateway, sock, b"".join(chunks(ticket)) + extra)
        assert gateway.written == [upload] * 3  # it is complete, and counts
        assert gateway.bulk.of("C" * 40, "job") is None


@pytest.mark.parametrize("mode", list(Mode))
def test_bytes_of_a_void_transfer_are_thrown_away(gateway: Gateway, mode: Mode) -> None:
    ticket = gateway.ticket(mode=mode)
    wire = b"".join(chunks(ticket))
    with gateway.client(ticket) as sock:
        void = gateway.grant()
        deliver(gateway, sock, wire[: CHUNK + 100_000])
        gateway.connection().forget()
        before = bytes(void.grant.view)
        upload = gateway.grant(transfer=8)
        channel = ticket.channel(Direction.UP)
        rest = b"".join(chunks(ticket, transfer=8))
        if channel is not None:  # the chunks before have used up their nonces
            rest = b""
            channel.chunks = 3
            for at in range(0, SIZE, CHUNK):
                part = DATA[at : at + CHUNK]
                head = Head(Kind.UPDATE, len(part), 3, 8, at).pack()
                sealed = bytearray(len(part))
                seal = channel.seal(head)
                seal.update_into(part, sealed)
                seal.finalize()
                rest += head + bytes(sealed) + seal.tag
        deliver(gateway, sock, wire[CHUNK + 100_000 :] + rest)
        assert bytes(void.grant.view) == before  # it may be somebody else's slot by now
        assert bytes(upload.grant.view) == DATA
        assert gateway.errors == []


# -- models --------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", list(Mode))
def test_a_model_that_is_replaced_on_its_way(gateway: Gateway, mode: Mode) -> None:
    model: memoryview | None = memoryview(bytes(32 << 20))
    client = _connect(gateway, gateway.ticket(mode=mode))
    client.expect(memoryview(bytearray(32 << 20)), number=2, transfer=1, at=0)
    gateway.bulk.send(gateway.connection(), Sending(2, 1, 0, 32 << 20, lambda: model))
    model = None
    with pytest.raises(Broken):
        _receive_all(gateway, client)


def _receive_all(gateway: Gateway, client: BulkConnection) -> None:
    while not client.receive():
        gateway.turn(1)


def test_who_does_not_read_costs_little(gateway: Gateway) -> None:
    """30 clients ask for 32 MB and read nothing."""
    model = memoryview(bytes(32 << 20))
    socks = []
    for index in range(30):
        name = f"{index:040d}"
        socks.append(gateway.client(gateway.ticket(name)))
        gateway.connection(name).sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        gateway.bulk.send(gateway.connection(name), Sending(2, 1, 0, 32 << 20, lambda: model))
    gateway.turn()
    held = sum(connection.held for connection in gateway.bulk._clients.values())
    assert held == gateway.bulk._held > 0
    assert held <= port.HELD_BYTES + 30 * (port.HELD_PIECE + 100)
    for sock in socks:
        sock.close()
    gateway.turn()
    assert gateway.bulk._held == 0
