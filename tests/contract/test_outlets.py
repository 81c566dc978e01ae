"""What a gateway sends to another over the bulk port: real sockets, both ends, and no waiting."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
import zmq

from lifl.errors import Unreachable
from lifl.functions.outlets import Outlets
from lifl.functions.peers import Peer, Transfer
from lifl.functions.sealing import Mode
from lifl.functions.transfer import Upload, Whole
from lifl.functions.wire import Keys, Message, decode, encode
from tests.contract.test_bulk_port import CHUNK, DATA, GATEWAY, SIZE, Gateway

CLIENT = Keys("C" * 40, "")  # without a secret it must take a ticket of the plain mode
SEALED = Keys("C" * 40, "S" * 40)
LARGE = 64 * CHUNK
PUT = {"t": "put", "kind": "sum", "job": "job", "round": 3}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


class Sender:
    """Outlets whose questions the test answers."""

    def __init__(self, gateway: Gateway, mode: Mode) -> None:
        self.gateway, self.mode = gateway, mode
        self.asked: list[Message] = []
        self.opened: list[str] = []
        self.outlets = Outlets(
            CLIENT if mode is Mode.PLAIN else SEALED, f"tcp://127.0.0.1:{gateway.bulk.port}",
            GATEWAY, ask=self.asked.append, opened=self.opened.append, moved=lambda _: None,
        )  # fmt: skip

    def call(self) -> None:
        """As far as the ticket, with which a connection begins."""
        assert not self.outlets.is_open("job")
        ticket = self.gateway.ticket(mode=self.mode)
        self.outlets.admit({
            **self.asked[-1], "t": "ticket", "port": self.gateway.bulk.port, "id": ticket.id,
            "secret": ticket.secret, "mode": self.mode.name.lower(),
        })  # fmt: skip

    def open(self) -> None:
        self.call()
        self.turn(lambda: bool(self.opened))
        assert self.outlets.is_open("job")

    def turn(self, until: Callable[[], bool], times: int = 100_000) -> None:
        for _ in range(times):
            if until():
                return
            self.outlets.turn()
            self.gateway.turn(1)
        pytest.fail("it does not come to an end")


@pytest.fixture(params=[Mode.PLAIN, Mode.SEALED], ids=lambda mode: mode.name.lower())
def sender(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Sender]:
    sender = Sender(gateway, request.param)
    yield sender
    sender.outlets.close_all()


def test_a_connection_is_asked_for_once_and_used_again(sender: Sender, gateway: Gateway) -> None:
    assert not sender.outlets.is_open("job")
    assert not sender.outlets.is_open("job")
    assert [message["t"] for message in sender.asked] == ["ticket"]
    sender.outlets.close("job")
    sender.open()
    for transfer in (7, 8):
        upload = gateway.grant(transfer)
        work = Upload(PUT, Whole(memoryview(DATA)))
        sender.outlets.begin("job", work, number=3, transfer=transfer)
        sender.outlets.begin("job", work, number=3, transfer=transfer)  # said twice
        sender.turn(lambda upload=upload: upload.grant.written == SIZE)
        assert bytes(upload.grant.view) == DATA
        assert work.sent == SIZE
    assert sender.opened == ["job"]
    assert gateway.errors == []


def test_it_never_waits_for_one_that_does_not_read(sender: Sender, gateway: Gateway) -> None:
    sender.open()
    size = 64 * CHUNK
    upload = gateway.grant(7, size)
    work = Upload(PUT, Whole(memoryview(bytes(size))))
    sender.outlets.begin("job", work, number=3, transfer=7)
    for _ in range(100):
        sender.outlets.turn()  # and the gateway takes nothing
    assert work.sent < size
    sender.turn(lambda: upload.grant.written == size)


def test_a_newer_transfer_takes_the_place_of_one_that_was_begun(
    sender: Sender, gateway: Gateway
) -> None:
    sender.open()
    before = gateway.grant(7, LARGE)
    sender.outlets.begin("job", Upload(PUT, Whole(memoryview(bytes(LARGE)))), number=3, transfer=7)
    sender.outlets.turn()
    gateway.connection().forget()  # as the gateway does with a sum that has another one after it
    upload = gateway.grant(8)
    sender.outlets.begin("job", Upload(PUT, Whole(memoryview(DATA))), number=3, transfer=8)
    sender.turn(lambda: upload.grant.written == SIZE)
    assert bytes(upload.grant.view) == DATA
    assert before.grant.written < LARGE
    assert gateway.errors == []


def test_of_what_is_stopped_no_more_leaves_than_the_chunk_that_was_begun(
    sender: Sender, gateway: Gateway
) -> None:
    """Nobody reads until the system takes no more: that is in the middle of a chunk."""
    sender.open()
    upload = gateway.grant(7, LARGE)
    work = Upload(PUT, Whole(memoryview(bytes(LARGE))))
    sender.outlets.begin("job", work, number=3, transfer=7)
    before = -1
    while work.sent > before:
        before = work.sent
        sender.outlets.turn()
    sender.outlets.stop("job")
    sender.turn(lambda: upload.grant.written >= before)
    for _ in range(200):
        sender.outlets.turn()
        gateway.turn(1)
    assert upload.grant.written in (before, before + CHUNK)
    again = gateway.grant(8)  # the connection is as good as before
    sender.outlets.begin("job", Upload(PUT, Whole(memoryview(DATA))), number=3, transfer=8)
    sender.turn(lambda: again.grant.written == SIZE)
    assert bytes(again.grant.view) == DATA


def test_a_connection_that_breaks_is_asked_for_again(sender: Sender, gateway: Gateway) -> None:
    sender.open()
    gateway.grant(7)
    sender.outlets.begin("job", Upload(PUT, Whole(memoryview(DATA))), number=3, transfer=7)
    gateway.bulk.close(gateway.connection(), Unreachable("it was killed"))
    sender.turn(lambda: not sender.outlets._jobs)
    sender.opened.clear()
    sender.open()
    upload = gateway.grant(1)  # another gateway counts from elsewhere
    sender.outlets.begin("job", Upload(PUT, Whole(memoryview(DATA))), number=3, transfer=1)
    sender.turn(lambda: upload.grant.written == SIZE)


def test_nobody_listens_there(sender: Sender, gateway: Gateway) -> None:
    assert not sender.outlets.is_open("job")
    gateway.bulk.listener.close()
    sender.outlets.admit({
        **sender.asked[-1], "t": "ticket", "port": gateway.bulk.port, "id": bytes(16),
        "secret": bytes(32), "mode": "plain",
    })  # fmt: skip
    for _ in range(10_000):
        sender.outlets.turn()
        if not sender.outlets._jobs:
            break
    assert not sender.outlets._outlets


def test_it_is_tried_again_until_it_was_not_open_three_times_in_a_row(
    sender: Sender, gateway: Gateway, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Somebody listens there and does not answer; one that is open in between begins anew."""
    monkeypatch.setattr("lifl.functions.outlets.OPEN_S", 0.0)
    for _ in range(2):
        for _ in range(2):
            sender.call()
            assert not sender.outlets.is_open("job")  # it is too late by now
        assert not sender.outlets.is_shut
        sender.opened.clear()
        sender.open()
        sender.outlets.close("job")
    assert "the bulk port did not answer for 0 s" in caplog.text
    assert "over the control channel" not in caplog.text
    sender.opened.clear()
    for _ in range(3):
        sender.call()
        asked = len(sender.asked)
        assert not sender.outlets.is_open("job")
    assert sender.outlets.is_shut
    assert f"sums go to tcp://127.0.0.1:{gateway.bulk.port} over the control channel" in caplog.text
    assert len(sender.asked) == asked, "nobody asks for another ticket"
    monkeypatch.setattr(sender.outlets, "_shut_until", 0.0)  # five minutes later
    sender.open()
    assert not sender.outlets.is_shut


@pytest.mark.parametrize(
    ("lane", "is_shut", "said"),
    [
        ("fast", False, ["ticket", "put"]),
        ("fast", True, ["ticket", "ticket", "ticket", "put", "chunk", "chunk", "chunk"]),
        ("zmq", False, ["put", "chunk", "chunk", "chunk"]),
    ],
)
def test_a_sum_takes_the_lane_that_its_put_says(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, lane: str, is_shut: bool, said: list[str]
) -> None:
    """But the control channel where nobody listens at the bulk port."""
    monkeypatch.setattr("lifl.functions.peers.AGAIN_S", 0.0)
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    port = nobody.getsockname()[1] if is_shut else gateway.bulk.port
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    peer = Peer(context, CLIENT, endpoint, GATEWAY)
    done: list[str] = []
    work = Upload(PUT | {"lane": lane}, Whole(memoryview(DATA)))
    peer.start("job", Transfer(work, lambda: done.append("done"), lambda _: None))
    heard: list[str] = []
    came = bytearray()
    upload = None
    poller = zmq.Poller()
    for source in (router, peer.socket, peer.outlets.fileno(), gateway.bulk.fileno()):
        poller.register(source, zmq.POLLIN)
    while not done:
        if work.put["lane"] == "fast" and not peer.outlets._outlets:  # a try has failed
            peer.tick()
        assert poller.poll(10_000), heard
        if router.poll(0):
            who, head, *rest = router.recv_multipart()
            message = decode(head)
            heard.append(message["t"])
            came += b"".join(rest)
            answer: Message = {"job": "job", "round": 3}
            match message["t"]:
                case "ticket":
                    ticket = gateway.ticket(mode=Mode.PLAIN)
                    answer = {
                        "t": "ticket", "job": "job", "n": message["n"], "mode": "plain",
                        "port": port, "id": ticket.id, "secret": ticket.secret,
                    }  # fmt: skip
                case "put" if lane == "fast" and not is_shut:
                    upload = gateway.grant(7)
                    answer |= {"t": "go", "transfer": 7}
                case "put":
                    answer |= {"t": "go", "n": 9, "grant": 1}
                case _:
                    answer["t"] = "ack" if len(came) == SIZE else "more"
                    answer["n"] = 0
            router.send_multipart([who, encode(answer)])
        peer.receive()
        peer.outlets.turn()
        gateway.turn(1)
        if upload is not None and upload.grant.written == SIZE:
            came[:] = upload.grant.view
            router.send_multipart([who, encode({"t": "ack", "job": "job", "round": 3})])
            upload = None
    assert bytes(came) == DATA
    assert heard == said
    assert peer.outlets.is_shut is is_shut
    nobody.close()
    peer.close()
    router.close(0)
    context.term()


@pytest.mark.parametrize("retry", [False, True])
def test_a_sum_whose_ticket_is_refused_for_good_is_refused(retry: bool) -> None:
    """What is said of a ticket names no round; one that is refused for now is asked for again."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = Peer(context, CLIENT, "tcp://127.0.0.1:9", GATEWAY)
    refused: list[Message] = []
    work = Upload(PUT | {"lane": "fast"}, Whole(memoryview(DATA)))
    try:
        peer.start("job", Transfer(work, lambda: None, refused.append))
        rejection: Message = {
            "t": "reject", "of": "ticket", "job": "job", "round": None, "code": "not-allowed",
            "text": "a stranger gets no ticket", "retry": retry,
        }  # fmt: skip
        peer._handle("job", rejection, [])
        assert refused == ([] if retry else [rejection])
        assert peer.is_busy is retry
    finally:
        peer.close()
        context.destroy(linger=0)
