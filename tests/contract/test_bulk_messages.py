"""Messages on a bulk connection, between payloads: real sockets, one process, no waiting."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lifl.connection import Address
from lifl.errors import Unreachable
from lifl.exchange import Exchange
from lifl.functions import bulk as port
from lifl.functions.bulk_client import Broken, BulkConnection
from lifl.functions.bulk_state import FIRST, Connection, Sending, Stage
from lifl.functions.jobs import Uploading
from lifl.functions.layout import Layout
from lifl.functions.packing import Packing
from lifl.functions.sealing import (
    CHUNK,
    EARLY,
    HEAD,
    PUSHED,
    TAG,
    Channel,
    Direction,
    Mode,
    Ticket,
    message_chunk,
)
from lifl.functions.transfer import Upload, Whole
from lifl.functions.wire import Keys, Message, decode, encode
from tests.contract.test_bulk_port import (
    DATA,
    SIZE,
    Gateway,
    _connect,
    _receive_all,
    chunks,
    deliver,
)

MODEL = memoryview(DATA)
MODES = pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name.lower())


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


def up(ticket: Ticket, text: bytes, *, before: int = 0) -> bytes:
    """A client's message, after so many chunks, as it is on the wire."""
    channel = ticket.channel(Direction.UP)
    if channel is not None:
        channel.chunks = before
    return message_chunk(channel, text)


class Listener:
    """A client of the library that notes what it is told, and how much of a model it had then."""

    def __init__(self, gateway: Gateway, mode: Mode) -> None:
        self.gateway, self.heard = gateway, list[tuple[bytes, int]]()
        self.hears: Callable[[bytes], None] = lambda _: None
        ticket = gateway.ticket(mode=mode, talks=True)
        self.bulk: BulkConnection = _connect(gateway, ticket, self._said)

    def _said(self, text: memoryview) -> None:
        self.heard.append((bytes(text), self.bulk.verified))
        self.hears(bytes(text))

    def until(self, many: int) -> None:
        """So many messages are there."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if len(self.heard) >= many:
                return
            if self.bulk.wait(0.001):
                self.bulk.receive()
            self.gateway.turn(1)
        pytest.fail(f"only {len(self.heard)} messages have come")


@pytest.fixture(params=list(Mode), ids=lambda mode: mode.name.lower())
def client(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Listener]:
    client = Listener(gateway, request.param)
    yield client
    client.bulk.close()


def sending(size: int = SIZE, transfer: int = 1) -> Sending:
    model = MODEL if size == SIZE else memoryview(bytes(size))
    return Sending(2, transfer, 0, size, lambda: model)


# -- to the gateway ------------------------------------------------------------------------------
@MODES
def test_a_message_goes_up_before_an_update_and_behind_it(gateway: Gateway, mode: Mode) -> None:
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        upload = gateway.grant()
        update = b"".join(chunks(ticket, before=1))
        deliver(gateway, sock, up(ticket, b"put") + update + up(ticket, b"get", before=4))
        assert gateway.said == [b"put", b"get"]
        assert bytes(upload.grant.view) == DATA
        assert gateway.errors == []


def grants_when_it_hears(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, size: int
) -> list[Uploading]:
    """As clients.py, so that little of an update is read before."""
    granted: list[Uploading] = []
    monkeypatch.setattr(
        gateway.connection().chunks, "_said", lambda _: granted.append(gateway.grant(size=size))
    )
    return granted


@pytest.mark.parametrize("size", [FIRST, 30_000, 100_000])
def test_a_chunk_that_is_whole_behind_its_put_is_opened_in_one_go(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ticket, data = gateway.ticket(), DATA[:size]
    monkeypatch.delattr(Channel, "open")  # which opens in pieces
    with gateway.client(ticket) as sock:
        granted = grants_when_it_hears(gateway, monkeypatch, size)
        sock.sendall(up(ticket, b"put") + chunks(ticket, data=data, before=1)[0])
        gateway.turn()
        assert (gateway.written, gateway.errors) == (granted, [])
        assert bytes(granted[0].grant.view) == data


@pytest.mark.parametrize("size", [1, 100, FIRST, 100_000])
@pytest.mark.parametrize("missing", [1, TAG, TAG + 1, TAG + HEAD])
def test_a_chunk_that_is_not_whole_behind_its_put_comes_all_the_same(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, size: int, missing: int
) -> None:
    ticket, data = gateway.ticket(), DATA[:size]
    with gateway.client(ticket) as sock:
        granted = grants_when_it_hears(gateway, monkeypatch, size)
        wire = up(ticket, b"put") + chunks(ticket, data=data, before=1)[0]
        sock.sendall(wire[:-missing])
        gateway.turn()
        assert (len(granted), gateway.written) == (1, [])
        sock.sendall(wire[-missing:])
        gateway.turn()
        assert (gateway.written, gateway.errors) == (granted, [])
        assert bytes(granted[0].grant.view) == data


def test_a_changed_message_ends_the_connection(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    for at in (HEAD, -1):  # the first byte of it, the last of its tag
        wire = bytearray(up(ticket, b"put"))
        wire[at] ^= 1
        with gateway.client(ticket) as sock:
            gateway.grant()
            deliver(gateway, sock, bytes(wire))
            assert "tag" in str(gateway.errors.pop())
            assert gateway.bulk.of("C" * 40, "job") is None
        ticket = gateway.ticket()
    assert gateway.said == []


def test_the_library_puts_with_the_first_chunk_and_ends_when_it_may(gateway: Gateway) -> None:
    client = Listener(gateway, Mode.SEALED)
    upload = gateway.grant(transfer=EARLY | 1)
    client.bulk.put(b"put", Upload({}, Whole(MODEL)), number=3, transfer=EARLY | 1)
    gateway.turn()
    gateway.bulk.look(gateway.connection())
    assert (gateway.said, len(gateway.written)) == ([b"put"], 1)
    assert upload.grant.written == CHUNK
    while not client.bulk.pump(1):
        gateway.turn(1)
    gateway.turn()
    gateway.bulk.look(gateway.connection())
    assert bytes(upload.grant.view) == DATA
    client.bulk.close()


def test_a_state_dict_that_broke_off_is_sealed_where_it_lies_once_more(gateway: Gateway) -> None:
    """Of several tensors and chunks, begun with its put; under new keys it has new seals."""
    random = np.random.default_rng(1)
    state = {
        "small": random.random(7, np.float32), "large": random.random(CHUNK // 2, np.float32),
        "count": np.array(3, np.int64),
    }  # fmt: skip
    layout = Layout.of(state)
    size, whole = layout.update_bytes, memoryview(bytearray(layout.update_bytes))
    layout.pack_into(state, whole)
    memory: list[memoryview] = []  # for a copy: none yet
    upload = Upload({}, Packing(layout, state, memory.pop))
    for number, is_whole in ((1, False), (2, True)):
        client = Listener(gateway, Mode.SEALED)
        granted = gateway.grant(EARLY | number, size)
        client.bulk.put(b"put", upload, number=3, transfer=EARLY | number)
        if is_whole:
            while not client.bulk.pump(1):
                gateway.turn(1)
        gateway.turn()
        gateway.bulk.look(gateway.connection())
        assert granted.grant.view[: granted.grant.written] == whole[: granted.grant.written]
        assert granted.grant.written == (size if is_whole else CHUNK)
        client.bulk.close()
        gateway.turn()
    upload.source.settle()
    memory.append(memoryview(bytearray(size)))
    assert upload.source.recover()
    assert upload.source.kept(0, size) == whole


def test_while_a_chunk_finds_no_room_the_library_hears_and_goes_on_with_it(
    gateway: Gateway, client: Listener
) -> None:
    """Also with another put behind it, when the first was given up."""
    sock = client.bulk._sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    gateway.connection().sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    gateway.pauses = True
    client.bulk.put(b"put", Upload({}, Whole(MODEL)), number=2, transfer=EARLY | 1)
    gateway.turn()
    assert client.bulk.has_rest
    gateway.bulk.say(gateway.connection(), b"reject")
    client.until(1)
    client.bulk.stop()
    client.bulk.put(b"put again", Upload({}, Whole(MODEL)), number=3, transfer=EARLY | 2)
    upload = None
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if upload is not None and upload.grant.written == CHUNK:
            break
        gateway.bulk.resume(gateway.connection())
        gateway.turn(1)
        if len(gateway.said) == 2 and upload is None:
            upload = gateway.grant(EARLY | 2)
        if not gateway.connection().is_paused:
            gateway.bulk.look(gateway.connection())
        client.bulk.push_rest()
    assert gateway.said == [b"put", b"put again"]
    assert not client.bulk.has_rest
    assert upload is not None
    assert upload.grant.view[:CHUNK] == MODEL[:CHUNK]


# -- an update that comes with its put -----------------------------------------------------------
@MODES
def test_an_update_that_has_to_wait_after_another_that_may_be_read_keeps_its_connection(
    gateway: Gateway, mode: Mode
) -> None:
    """As of a client that gives up, and puts again behind what it had begun."""
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        deliver(gateway, sock, up(ticket, b"put") + up(ticket, b"again", before=1))
        connection = gateway.connection()
        gateway.bulk.resume(connection)
        gateway.bulk.look(connection)  # more has come before its turn
        assert gateway.said == [b"put", b"again"]
        assert connection.is_paused
        gateway.turn()
        assert gateway.connection() is connection
        assert not gateway.bulk.is_due


@MODES
def test_nothing_of_an_early_update_is_read_until_it_has_a_slot(
    gateway: Gateway, mode: Mode
) -> None:
    ticket, transfer = gateway.ticket(mode=mode), EARLY | 1
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        wire = chunks(ticket, transfer, before=1)
        deliver(gateway, sock, up(ticket, b"put") + wire[0])
        connection = gateway.connection()
        assert (gateway.said, gateway.written, gateway.errors) == ([b"put"], [], [])
        assert connection.chunks is not None
        assert len(connection.chunks._kept) <= FIRST + HEAD + TAG  # the rest is the kernel's
        upload = gateway.grant(transfer)
        gateway.bulk.resume(connection)
        deliver(gateway, sock, b"".join(wire[1:]))
        assert gateway.written == [upload] * 3
        assert bytes(upload.grant.view) == DATA


@MODES
def test_an_early_update_that_gets_no_slot_is_thrown_away(gateway: Gateway, mode: Mode) -> None:
    ticket = gateway.ticket(mode=mode)
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        refused = chunks(ticket, EARLY | 1, before=1)
        taken = chunks(ticket, EARLY | 2, before=3)
        deliver(gateway, sock, up(ticket, b"put") + refused[0])
        gateway.bulk.resume(gateway.connection())
        deliver(gateway, sock, up(ticket, b"put again", before=2) + taken[0])
        assert gateway.said == [b"put", b"put again"]
        assert gateway.written == []
        upload = gateway.grant(EARLY | 2)
        gateway.bulk.resume(gateway.connection())
        deliver(gateway, sock, b"".join(taken[1:]))
        assert bytes(upload.grant.view) == DATA
        assert gateway.errors == []


def test_an_early_update_of_a_client_that_died_meanwhile(gateway: Gateway) -> None:
    """Nothing of it is read, but its end is seen, where the network has taken all before that."""
    ticket = gateway.ticket()
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        begun = chunks(ticket, EARLY | 1, before=1)[0][:10_000]
        deliver(gateway, sock, up(ticket, b"put") + begun)
        assert gateway.bulk.of("C" * 40, "job") is not None
    gateway.turn()
    assert gateway.bulk.of("C" * 40, "job") is None


def test_what_was_kept_is_the_end_of_a_connection(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its client cannot be told that the update counts."""
    ticket, small = gateway.ticket(), os.urandom(100)
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        wire = chunks(ticket, EARLY | 1, small, before=1)
        deliver(gateway, sock, up(ticket, b"put") + wire[0])
        upload, connection = gateway.grant(EARLY | 1, len(small)), gateway.connection()

        def wrote(_: object, __: Uploading) -> None:
            gateway.bulk.close(connection, Unreachable("it does not listen"))

        monkeypatch.setattr(gateway.bulk, "_wrote", wrote)
        gateway.bulk.resume(connection)
        assert gateway.bulk.is_due  # no byte comes that would wake the gateway up
        gateway.turn()
        assert bytes(upload.grant.view) == small
        assert gateway.bulk.of("C" * 40, "job") is None


# -- to the client -------------------------------------------------------------------------------
def test_messages_go_down_in_order(gateway: Gateway, client: Listener) -> None:
    texts = [b"%d" % number for number in range(port.UNREAD + 10)]
    for text in texts:
        gateway.bulk.say(gateway.connection(), text)
    client.until(len(texts))
    assert [text for text, _ in client.heard] == texts


def test_a_message_goes_between_two_chunks_of_a_model(gateway: Gateway, client: Listener) -> None:
    size = 32 * CHUNK
    gateway.connection().sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    client.bulk.expect(memoryview(bytearray(size)), number=2, transfer=1, at=0)
    gateway.bulk.send(gateway.connection(), sending(size))
    gateway.bulk.say(gateway.connection(), b"wait")  # while the network takes no more
    client.until(1)
    [(text, had)] = client.heard
    assert text == b"wait"
    assert 0 < had < size
    assert had % CHUNK == 0
    _receive_all(gateway, client.bulk)


def test_where_memory_is_short_a_message_waits_for_the_end_of_a_chunk(
    gateway: Gateway, client: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "HELD_BYTES", 0)
    test_a_message_goes_between_two_chunks_of_a_model(gateway, client)


def test_a_model_follows_the_message_that_says_so(gateway: Gateway, client: Listener) -> None:
    """And what was to be said before goes before."""
    buffer = memoryview(bytearray(SIZE))

    def hears(text: bytes) -> None:
        if text == b"round":
            client.bulk.expect(buffer, number=2, transfer=PUSHED, at=0)

    client.hears = hears
    connection = gateway.connection()
    gateway.bulk.say(connection, b"ack")
    gateway.bulk.push(connection, b"round", sending(transfer=PUSHED))
    gateway.bulk.say(connection, b"wait")
    client.until(2)
    _receive_all(gateway, client.bulk)
    assert buffer == DATA
    client.until(3)
    assert [text for text, _ in client.heard] == [b"ack", b"round", b"wait"]
    client.bulk.expect(buffer, number=2, transfer=1, at=0)  # it may be asked for like any other
    buffer[:] = bytes(SIZE)
    gateway.bulk.send(connection, sending())
    _receive_all(gateway, client.bulk)
    assert buffer == DATA


def test_models_begin_one_by_one_behind_what_has_come(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while something comes all the time, and where one has gone meanwhile."""
    monkeypatch.setattr(port, "TURN_S", 60.0)
    tickets = [gateway.ticket(name * 40) for name in "ABC"]
    socks = [gateway.client(ticket) for ticket in tickets]
    first, second, third = (gateway.connection(name * 40) for name in "ABC")
    order, pump = list[str](), gateway.bulk._pump
    channel = tickets[0].channel(Direction.UP)

    def said(text: memoryview) -> None:
        order.append(bytes(text).decode())
        if text[0] < ord("2"):
            socks[0].sendall(message_chunk(channel, bytes([text[0] + 1])))

    def pumps(connection: Connection) -> None:
        order.append(connection.key[0])
        pump(connection)

    monkeypatch.setattr(first.chunks, "_said", said)
    monkeypatch.setattr(gateway.bulk, "_pump", pumps)
    for connection in (first, second, third):
        gateway.bulk.push(connection, b"round", sending(100, transfer=PUSHED))
    gateway.bulk.say(third, b"wait")  # does not go before its turn
    gateway.bulk.close(second, Unreachable("it has gone"))
    assert gateway.bulk.is_due
    socks[0].sendall(message_chunk(channel, b"0"))
    gateway.bulk.turn()
    assert order == ["0", "A", "1", "2", "C"]
    assert not gateway.bulk.is_due
    assert gateway.errors == []
    for sock in socks:
        sock.close()


def test_no_model_waits_for_more_than_a_few_that_are_ready(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "TURN_S", 60.0)
    names = [chr(ord("a") + index) for index in range(3 * port.BEFORE)]
    tickets = {name: gateway.ticket(name * 40) for name in names}
    socks = {name: gateway.client(ticket) for name, ticket in tickets.items()}
    pumped = list[int]()  # messages that had been heard when a model began
    monkeypatch.setattr(gateway.bulk, "_pump", lambda _: pumped.append(len(gateway.said)))
    for name in names:
        socks[name].sendall(up(tickets[name], b"put"))
    for name in names[:2]:
        gateway.bulk.push(gateway.connection(name * 40), b"round", sending(transfer=PUSHED))
    gateway.bulk.turn()
    assert pumped == [port.BEFORE, 2 * port.BEFORE]
    assert len(gateway.said) == len(names)
    for sock in socks.values():
        sock.close()


def test_who_has_written_and_gone_is_heard(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    with gateway.client(ticket) as sock:
        sock.sendall(b"".join(up(ticket, b"%d" % number, before=number) for number in range(4)))
    gateway.turn()
    assert gateway.said == [b"0", b"1", b"2", b"3"]
    assert gateway.bulk.of("C" * 40, "job") is None


def test_what_was_kept_of_who_has_gone_is_heard(gateway: Gateway) -> None:
    ticket = gateway.ticket()
    with gateway.client(ticket) as sock:
        gateway.pauses = True
        sock.sendall(b"".join(up(ticket, b"%d" % number, before=number) for number in range(4)))
        gateway.turn()
        assert gateway.said == [b"0"]
        connection, gateway.pauses = gateway.connection(), False
    gateway.bulk.resume(connection)
    gateway.turn()
    assert gateway.said == [b"0", b"1", b"2", b"3"]


def test_who_does_not_read_what_it_is_told(gateway: Gateway) -> None:
    ticket = gateway.ticket(talks=True)
    with gateway.client(ticket) as sock:
        connection = gateway.connection()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        gateway.bulk.send(connection, sending(32 * CHUNK))  # the network takes no more
        for _ in range(port.UNREAD):
            gateway.bulk.say(connection, b"wait")
        assert gateway.bulk.of("C" * 40, "job") is connection
        gateway.bulk.say(connection, b"wait")
        assert gateway.bulk.of("C" * 40, "job") is None
        assert gateway.bulk._held == 0
        while sock.recv(1 << 20):
            pass


def test_a_message_that_was_changed_or_not_asked_for_ends_the_connection(
    gateway: Gateway,
) -> None:
    client = _connect(gateway, gateway.ticket())
    assert not client.talks
    gateway.bulk.say(gateway.connection(), b"round")
    with pytest.raises(Broken, match="none was asked for"):
        client.receive()
    listener = Listener(gateway, Mode.SEALED)
    down = gateway.connection().down
    assert down is not None
    wrong = Channel(bytes(32), Direction.DOWN, b"job")
    gateway.connection().sock.sendall(message_chunk(wrong, b"round"))
    with pytest.raises(Broken, match="tag"):
        listener.bulk.receive()
    assert listener.heard == []


STEPS_TO: dict[Stage, Callable[[Connection], object]] = {
    Stage.LISTENS: Connection.gets_verdict, Stage.TOLD: Connection.gets_round,
    Stage.WORKS: Connection.asks,
}  # fmt: skip


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("talks", [True, False])
def test_only_who_was_told_of_a_round_and_did_not_answer_hears_it_again(
    gateway: Gateway, stage: Stage, *, talks: bool
) -> None:
    with gateway.client(gateway.ticket(talks=talks)):
        connection = gateway.connection()
        STEPS_TO[stage](connection)
    gateway.turn()
    assert gateway.untold == ([connection] if talks and stage is Stage.TOLD else [])


def test_a_connection_that_is_replaced_has_told_nothing_more(gateway: Gateway) -> None:
    with gateway.client(gateway.ticket(talks=True)):
        before = gateway.connection()
        before.gets_round()
        with gateway.client(gateway.ticket(talks=True)):
            assert gateway.untold == [before]
            gateway.turn()
            assert gateway.untold == [before]


def test_of_a_job_that_has_left_nobody_is_told_again(gateway: Gateway) -> None:
    with gateway.client(gateway.ticket(talks=True)):
        gateway.connection().gets_round()
        gateway.bulk.close_job("job")
        assert gateway.untold == []


# -- a client that is told, or says, something else ------------------------------------------------
@pytest.fixture
def exchange(gateway: Gateway) -> Iterator[Exchange]:
    """A conversation with nobody over the control channel, and a bulk connection that talks."""
    keys = Keys.named("C" * 40)
    exchange = Exchange(Address("tcp://127.0.0.1:9", ""), job="job", keys=keys, timeout_s=1)
    exchange.layout = Layout.of({"w": np.zeros(50_000, np.float32)})
    ticket = gateway.ticket(mode=Mode.PLAIN, talks=True)
    exchange.fast.connection = _connect(gateway, ticket, exchange.fast._hear)
    yield exchange
    exchange.close()


def test_a_put_that_is_too_long_for_the_bulk_connection(
    gateway: Gateway, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Message] = []
    monkeypatch.setattr(
        exchange._connection, "send", lambda outgoing: said.extend(m for m, _ in outgoing)
    )
    put, upload = {"t": "put", "round": 3}, Upload({}, Whole(memoryview(bytes(200_000))))
    long = put | {"metrics": {"\u4e00" * 98 + f"{number:02}": 1.0 for number in range(64)}}
    assert exchange.fast._start(long, upload)[1] == 0
    assert said == [long]
    assert exchange.fast._start(put, upload)[1] & EARLY
    gateway.turn()
    assert said == [long]
    assert [decode(text)["t"] for text in gateway.said] == ["put"]


def pushes(gateway: Gateway, number: int) -> None:
    """The gateway says a round, with its model of 200,000 bytes behind it."""
    model = memoryview(bytes(200_000))
    news = encode({"t": "round", "job": "job", "round": number, "need": True, "model": True})
    going = Sending(number - 1, PUSHED, 0, len(model), lambda: model)
    gateway.bulk.push(gateway.connection(), news, going)
    gateway.turn()


def talks_anew(gateway: Gateway, exchange: Exchange, mode: Mode) -> BulkConnection:
    exchange.fast.close()
    ticket = gateway.ticket(mode=mode, talks=True)
    exchange.fast.connection = _connect(gateway, ticket, exchange.fast._hear)
    return exchange.fast.connection


def test_a_model_that_comes_in_place_of_the_one_that_was_asked_for_is_not_taken_for_it(
    gateway: Gateway, exchange: Exchange
) -> None:
    """A later round has begun, and what was asked for is gone."""
    bulk = exchange.fast.connection
    assert bulk is not None
    bulk.expect(memoryview(bytearray(200_000)), number=1, transfer=1, at=0)
    pushes(gateway, 3)
    assert not exchange.fast._receive(bulk, 1, 1, [])
    assert bulk.expected(2, PUSHED) is not None


@MODES
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_round_that_waited_unread_is_known_to_be_over(
    gateway: Gateway, exchange: Exchange, mode: Mode, rounds: int
) -> None:
    """Of two rounds with their models in one burst the client is given the second."""
    bulk = talks_anew(gateway, exchange, mode)
    for number in range(1, 1 + rounds):
        pushes(gateway, number)
        assert not gateway.connection().rest, "all of it has gone"
    while not exchange.fast.said or not bulk.has_all:
        exchange.fast.take_in()
    assert exchange.fast.said.popleft()["round"] == 1
    assert exchange.is_behind(1) == (rounds == 2)


def test_what_came_while_nobody_listened_is_looked_for(
    gateway: Gateway, exchange: Exchange
) -> None:
    """The last read left nothing, but that was long ago."""
    bulk = talks_anew(gateway, exchange, Mode.SEALED)
    pushes(gateway, 1)
    while not (exchange.fast.said and bulk.has_all):
        exchange.fast.take_in()
    pushes(gateway, 2)
    assert bulk.has_read_all
    assert exchange.wait_for("round")[0]["round"] == 1
    assert exchange.is_behind(1)


def test_the_last_go_counts_also_behind_one_of_an_upload_that_was_given_up(
    gateway: Gateway, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun unasked, sent as the stale `go` says, and ended as the one says that is meant."""
    size, early = CHUNK + 5, EARLY | 1
    upload = Upload({"t": "put", "job": "job", "round": 3}, Whole(memoryview(os.urandom(size))))
    answers: list[Message] = [
        {"t": "go", "round": 3, "transfer": 7}, {"t": "go", "round": 3, "transfer": early},
        {"t": "ack", "round": 3},
    ]  # fmt: skip
    monkeypatch.setattr(exchange, "wait_for", lambda *_, **__: (answers.pop(0), None))
    assert gateway.grant(7, size)  # what it had, and has given up
    gateway.connection().forget()
    granted = gateway.grant(early, size)
    is_sent = threading.Event()

    def turn() -> None:  # the network may not take all of it at once
        while not is_sent.wait(0.001):
            gateway.turn(1)

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        assert exchange.fast.upload(upload)
    finally:
        is_sent.set()
        thread.join()
    gateway.turn()
    assert granted.grant.written == size
    assert granted.grant.view == upload.source.kept(0, size)


def test_a_chunk_of_what_was_expected_before_is_none_of_what_is_expected_now(
    gateway: Gateway, exchange: Exchange
) -> None:
    """Who was interrupted in the middle of a model asks for another one."""
    bulk, connection = exchange.fast.connection, gateway.connection()
    assert bulk is not None
    first, second = memoryview(bytearray(300_000)), memoryview(bytearray(300_000))
    model = memoryview(os.urandom(300_000))
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    bulk.expect(first, number=1, transfer=1, at=0)
    gateway.bulk.send(connection, Sending(1, 1, 0, len(model), lambda: model))
    while not bulk.come:
        gateway.turn(1)
        assert not bulk.receive()
    bulk.expect(second, number=1, transfer=2, at=0)
    for _ in range(100):
        gateway.turn(1)
        bulk.receive()
    assert bulk.verified == 0
    assert bytes(second) == bytes(len(second))
