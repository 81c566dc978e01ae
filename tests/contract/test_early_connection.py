"""A bulk connection that a client opens when it is welcomed: real sockets, one process, no waiting.

The control channel is a list of what the client said over it, and what it hears is given to it.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lifl.connection import Address, Connection
from lifl.errors import Busy, Unreachable
from lifl.exchange import Exchange
from lifl.functions.bulk_client import BulkConnection
from lifl.functions.bulk_state import Sending
from lifl.functions.layout import Layout
from lifl.functions.sealing import (
    CHUNK,
    EARLY,
    NO_TAG,
    PUSHED,
    Head,
    Kind,
    Mode,
    message_chunk,
)
from lifl.functions.transfer import Outgoing, Upload, Whole
from lifl.functions.wire import Keys, Message, encode
from tests.contract.test_bulk_port import Gateway, _connect

CLIENT = "C" * 40
LARGE = Layout.of({"w": np.zeros(50_000, np.float32)})
TWO_CHUNKS = Layout.of({"w": np.zeros(300_000, np.float32)})
SMALL = Layout.of({"w": np.zeros(3, np.float32)})


class Stop(Exception):
    """Somebody waits for what this test does not give."""


class Client:
    """An exchange that hears what it is told here, and what it has said."""

    def __init__(self, gateway: Gateway, *, may_bulk: bool = True) -> None:
        self.gateway, self.said = gateway, list[Message]()
        self.exchange = Exchange(
            Address("tcp://127.0.0.1:9", "G" * 40), job="job", keys=Keys.named(CLIENT),
            timeout_s=0, may_bulk=may_bulk,
        )  # fmt: skip
        self.fast, self.port = self.exchange.fast, gateway.bulk.port

    def hears(self, t: str, **fields: Any) -> None:
        self.exchange._handle({"t": t, "job": "job", **fields})

    def is_welcome(
        self, layout: Layout = LARGE, lane: str = "fast", *, start: int = 1, all_drawn: bool = True
    ) -> None:
        settings = {"args": {}, "lane": lane, "start": start, "all_drawn": all_drawn}
        self.hears("welcome", layout=layout.to_wire(), settings=settings, elsewhere=[])

    def ticket(self, number: int, **fields: Any) -> Message:
        """An answer to the ticket of this number."""
        self.redeemed = ticket = self.gateway.ticket(CLIENT, Mode.PLAIN, talks=True)
        return {
            "t": "ticket", "n": number, "port": self.port, "id": ticket.id,
            "secret": ticket.secret, "mode": "plain", "talks": True, **fields,
        }  # fmt: skip

    def tickets(self) -> list[int]:
        """Numbers of those that it has asked for since the last call."""
        asked = [message["n"] for message in self.said if message["t"] == "ticket"]
        self.said.clear()
        return asked


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture
def called(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Makes clients."""
    clients: list[Client] = []

    def sends(connection: Connection, outgoing: list[Outgoing]) -> None:
        for client in clients:
            if client.exchange._connection is connection:
                client.said += [message for message, _ in outgoing]

    def call(**how: Any) -> Client:
        clients.append(Client(gateway, **how))
        return clients[-1]

    monkeypatch.setattr(Connection, "send", sends)
    yield call
    for client in clients:
        client.exchange.close()


@pytest.fixture
def client(called: Callable[..., Client]) -> Client:
    return called()


def waits_in_vain(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: str, **__: object) -> None:
        raise Stop

    monkeypatch.setattr(client.exchange, "wait_for", stop)


def test_who_is_welcome_gets_the_first_model_without_asking_for_it(
    client: Client, gateway: Gateway
) -> None:
    client.is_welcome()
    assert client.tickets() == [1]
    client.exchange._handle(client.ticket(1))
    gateway.turn()
    client.fast.take_in()
    model = memoryview(bytes(range(250)) * 800)
    news = {"t": "round", "job": "job", "round": 1, "need": True, "settings": {}, "model": True}
    sending = Sending(0, PUSHED, 0, len(model), lambda: model)
    gateway.bulk.push(gateway.connection(), encode(news), sending)
    gateway.turn()
    assert client.exchange.wait_for("round")[0] == news
    found = client.exchange.fetch(0)
    assert found is not None
    assert found["w"].tobytes() == model
    assert client.said == []


@pytest.mark.parametrize("start", [1, 2])
def test_parts_of_a_model_from_two_starts_of_the_run_are_no_model(
    client: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """What was made again is not the same to the bit; after a gateway's restart it is."""
    client.is_welcome(TWO_CHUNKS)
    client.exchange._handle(client.ticket(1))
    gateway.turn()
    client.fast.take_in()
    size, bulk = TWO_CHUNKS.update_bytes, client.fast.connection
    assert bulk is not None
    news = {"t": "round", "job": "job", "round": 1, "need": True, "settings": {}, "model": True}
    head = Head(Kind.MODEL, CHUNK, 0, PUSHED, 0).pack()
    rest = memoryview(message_chunk(None, encode(news)) + head + b"\1" * CHUNK + NO_TAG)
    while bulk.verified < CHUNK:
        rest = rest[gateway.connection().sock.send(rest) :] if rest else rest
        client.fast.take_in()

    def wait_for(*kinds: str, **_: object) -> tuple[Message, None]:
        if "ticket" in kinds:
            client.is_welcome(TWO_CHUNKS, start=start)
            return client.ticket(2), None
        if client.fast.connection is bulk:
            gateway.bulk.close(gateway.connection(), Unreachable("the gateway is killed"))
            client.fast.take_in()
            return {"t": "bulk"}, None
        (get,) = (message for message in client.said if message["t"] == "get")
        again = memoryview(b"\2" * size)
        sending = Sending(0, get["transfer"], get["at"], size, lambda: again)
        gateway.bulk.send(gateway.connection(), sending)
        gateway.turn()
        return {"t": "bulk"}, None

    def connect(*_: object, **__: object) -> BulkConnection:
        return _connect(gateway, client.redeemed, client.fast._hear)

    monkeypatch.setattr(client.exchange, "wait_for", wait_for)
    monkeypatch.setattr("lifl.fastlane.connect", connect)
    found = client.exchange.fetch(0)
    assert [m["at"] for m in client.said if m["t"] == "get"] == [CHUNK]
    assert (found is not None) == (start == 1)


@pytest.mark.parametrize(
    ("layout", "lane", "may_bulk"),
    [(SMALL, "fast", True), (LARGE, "zmq", True), (LARGE, "fast", False)],
)
def test_who_needs_no_bulk_connection_asks_for_no_ticket(
    called: Callable[..., Client], layout: Layout, lane: str, *, may_bulk: bool
) -> None:
    client = called(may_bulk=may_bulk)
    client.is_welcome(layout, lane)
    assert client.tickets() == []


def test_where_rounds_draw_a_few_only_those_connect(client: Client) -> None:
    client.is_welcome(all_drawn=False)
    assert client.tickets() == []


def test_a_welcome_that_comes_again_changes_nothing(client: Client, gateway: Gateway) -> None:
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    client.is_welcome()  # while it connects
    gateway.turn()
    client.fast.take_in()
    bulk = client.fast.connection
    client.is_welcome()
    assert client.tickets() == [1]
    assert client.fast.connection is bulk is not None


def test_a_round_takes_the_connection_that_was_begun(client: Client, gateway: Gateway) -> None:
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    gateway.turn()  # the answer is there, and nobody has looked
    assert client.fast.connection is None
    bulk = client.fast.open()
    assert bulk is not None
    assert bulk.talks
    assert client.tickets() == [1]


def test_a_round_waits_for_the_ticket_that_was_asked_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.is_welcome()
    waits_in_vain(client, monkeypatch)
    with pytest.raises(Stop):
        client.fast.open()
    assert client.tickets() == [1]


def test_a_ticket_that_was_refused_is_asked_for_again_when_it_is_needed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.is_welcome()
    error = Busy("not here yet", code="not-started")
    client.hears(
        "reject", of="ticket", round=None, code=error.code, text=str(error), retry=True
    )  # fmt: skip
    waits_in_vain(client, monkeypatch)
    with pytest.raises(Stop):
        client.fast.open()
    assert client.tickets() == [1, 2]


def test_who_waits_for_a_ticket_is_not_disturbed_by_a_welcome(
    client: Client, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a gateway's restart, in the middle of an upload."""
    answers = iter([True])

    def wait_for(*_: str, **__: object) -> tuple[Message, None]:
        client.is_welcome()
        assert client.tickets() == [1]
        assert next(answers)
        message = client.ticket(1)
        monkeypatch.setattr("lifl.fastlane.connect", lambda *_, **__: connection)
        return message, None

    connection: Any = type("Fit", (), {"is_fit": True, "close": lambda _: None})()
    monkeypatch.setattr(client.exchange, "wait_for", wait_for)
    assert client.fast.open() is connection
    assert client.tickets() == []


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_port_that_nobody_reaches_is_no_matter_until_it_is_needed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.port = closed_port()
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    while client.fast.fileno() >= 0:  # the kernel may say so at the second look
        client.fast.take_in()
    number = iter(range(2, 9))
    monkeypatch.setattr(
        client.exchange, "wait_for", lambda *_, **__: (client.ticket(next(number)), None)
    )
    with pytest.raises(Unreachable, match="open that port for clients"):
        client.fast.open()


def test_a_port_that_does_not_answer_delays_only_who_needs_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifl.functions.bulk_client.CONNECT_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client.port = silent.getsockname()[1]
        client.is_welcome()
        client.exchange._handle(client.ticket(1))
        opening = client.fast._opening
        assert opening is not None
        with pytest.raises(Unreachable, match="open that port for clients"):
            client.fast.open()
        assert opening.fileno() == -1


@pytest.mark.parametrize("wrong", [{"secret": bytes(32)}, {"id": bytes(16)}])
def test_a_ticket_that_is_not_taken_leaves_nothing(
    client: Client, gateway: Gateway, wrong: Message
) -> None:
    client.is_welcome()
    client.exchange._handle(client.ticket(1, **wrong))
    gateway.turn()
    client.fast.take_in()
    assert client.fast.fileno() == -1
    client.is_welcome()
    assert client.tickets() == [1, 2]


def test_sent_elsewhere_it_opens_its_connection_there(client: Client, gateway: Gateway) -> None:
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    client.hears("redirect", endpoint="tcp://127.0.0.1:9", key="H" * 40)
    gateway.turn()
    assert client.fast.fileno() == -1
    assert gateway.bulk.of(CLIENT, "job") is None
    client.is_welcome()
    assert client.said[-1]["n"] == 2
    client.exchange._handle(client.ticket(1))  # of the gateway before
    assert client.fast.fileno() == -1
    client.exchange._handle(client.ticket(2))
    assert client.fast.fileno() >= 0


def test_after_another_hello_a_connection_that_was_begun_is_none(
    client: Client, gateway: Gateway
) -> None:
    """The gateway says nothing over it any more."""
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    client.exchange.hello()
    assert client.fast.fileno() == -1
    client.is_welcome()
    assert client.said[-1]["n"] == 2


def test_who_leaves_while_it_connects_leaves_nothing(client: Client, gateway: Gateway) -> None:
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    opening = client.fast._opening
    assert opening is not None
    client.exchange.close()
    assert opening.fileno() == -1


def test_a_put_that_finds_no_room_keeps_nobody_waiting(client: Client, gateway: Gateway) -> None:
    """The rest of its chunk goes when there is room, while its client listens."""
    client.is_welcome()
    client.exchange._handle(client.ticket(1))
    gateway.turn()
    client.fast.take_in()
    bulk, here = client.fast.connection, gateway.connection()
    assert bulk is not None
    bulk._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    here.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    gateway.pauses = True
    put = {"t": "put", "job": "job", "round": 1}
    upload = Upload(put, Whole(memoryview(bytes(200_000))))
    assert client.fast._start(put, upload) == (bulk, EARLY | 1)
    assert client.fast.events == select.POLLIN | select.POLLOUT
    end = time.monotonic() + 20
    while bulk.has_rest and time.monotonic() < end:
        gateway.turn(1)
        gateway.bulk.resume(here)
        client.fast.take_in()
    assert client.fast.events == select.POLLIN
    assert gateway.errors == []
