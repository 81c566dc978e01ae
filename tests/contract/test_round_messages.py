"""What a gateway says of a round over a client's bulk connection, and what follows a put there.

A gateway with one job in its memory, turned by hand; its clients' control channels are a list of
what was said over them.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifl.errors import Busy, InvalidUpdate, Refused
from lifl.functions.bulk_state import Connection, Stage
from lifl.functions.gateway import Gateway
from lifl.functions.intake import Intake
from lifl.functions.jobs import Job
from lifl.functions.layout import Layout
from lifl.functions.sealing import (
    CHUNK,
    EARLY,
    HEAD,
    MESSAGE,
    NO_TAG,
    PUSHED,
    TAG,
    Channel,
    Direction,
    Head,
    Kind,
    Ticket,
    message_chunk,
)
from lifl.functions.wire import Keys, Message, decode, encode
from lifl.shm.arena import ArenaFiles, map_arena
from lifl.shm.geometry import Geometry
from lifl.shm.slots import Header, Payload
from tests.unit.test_gateway import enrol, lead

SMALL, LARGE = 50_000, 300_000  # elements: an update of one chunk, and of two
NAMES = ["ann", "bob"]


class Deaf:
    """A lane on which nobody listens."""

    def send(self, *_: object, **__: object) -> bool:
        return True


class Node:
    """A gateway, its job of one input slot, and the round that is under way."""

    def __init__(self, folder: Path, elements: int) -> None:
        self.gateway = Gateway(folder / "agent.sock", "n", "tcp://127.0.0.1:*", Keys.new(), None)
        self.clients, self.bulk = self.gateway.clients, self.gateway.clients.bulk
        self.layout = Layout.of({"w": np.zeros(elements, np.float32)})
        size = self.layout.velocity_at + self.layout.sum_bytes
        geometry = Geometry(inputs=2, sums=4, input_bytes=size, sum_bytes=size, roster=70)
        self.files = ArenaFiles.make("test", geometry)
        arena = map_arena(geometry, self.files.inputs, self.files.sums, write_inputs=True)
        ports: Any = {1: Deaf()}
        self.intake = Intake(arena, ports)
        self.job = Job("job", 1, self.intake, (0, 0, 0), layout=self.layout)
        self.sent: list[tuple[bytes, Message]] = []  # over control channels
        self.clients.send = self.clients.uploads.send = self._send  # type: ignore[method-assign]
        self.clients.downlink._send = self.clients.welcomes._send = self._send
        lead(self.gateway, Keys.new(), "job")
        enrol(self.gateway, "job", dict.fromkeys(NAMES, "client"))
        self.gateway.jobs["job"] = self.job
        self.job.clients |= {name: name.encode() for name in NAMES}
        self.model = np.arange(elements, dtype=np.float32)
        view = self.intake.begin_model(self.layout.update_bytes)
        view[:] = self.model.tobytes()
        slot = geometry.model_slot
        self.intake.finish_model(0, len(view))
        assert arena.header(slot) == Header(0, Payload.MODEL, 0, 0.0, len(view))

    def _send(self, peer: bytes, message: Message, _: object = None) -> bool:
        self.sent.append((peer, message))
        return True

    def heard(self, name: str) -> list[str]:
        """Over the control channel since the last call."""
        found = [message["t"] for peer, message in self.sent if peer == name.encode()]
        self.sent.clear()
        return found

    def round(self, number: int = 1, **settings: Any) -> None:
        self.gateway.orders.obey("job", {
            "t": "round", "job": "job", "round": number, "epoch": 1, "roster": NAMES,
            "excused": b"", "settings": settings, "lanes": {"0": 1, "1": 1}, "nodes": {}, "top": 9,
            "forward": None, "model_from": None, "elapsed_s": 0.0,
            "made": 1,
        })  # fmt: skip

    def next_model(self) -> None:
        """The round ends with the same model, and another begins."""
        view = self.intake.begin_model(self.layout.update_bytes)
        self.intake.finish_model(self.job.round, len(view))
        self.round(self.job.round + 1)

    def says(self, name: str, t: str, **fields: Any) -> None:
        """Over the control channel."""
        self.clients._handle(name.encode(), name, {"t": t, "job": "job", **fields}, None)

    def turn(self) -> None:
        for _ in range(50):
            self.bulk.turn()
        for connection in list(self.bulk._clients.values()):
            if not connection.is_paused:
                self.bulk.look(connection)  # what is not worth a wake-up

    def frees(self) -> None:
        """The slot is another's to use."""
        for upload in list(self.job.uploads.values()):
            self.clients.uploads.drop(self.job, upload)
        self.gateway._serve(self.job)
        self.turn()

    def close(self) -> None:
        self.bulk.close_job("job")
        self.gateway.lines.lead_to({})
        self.gateway.context.destroy(linger=0)
        self.files.close()


class Talker:
    """A client with a bulk connection, on which each side says what it likes."""

    def __init__(self, node: Node, name: str, *, talks: bool = True) -> None:
        self.node, self.name = node, name
        node.says(name, "ticket", n=1, talks=talks)
        peer, said = node.sent.pop()
        assert (peer, said["talks"]) == (name.encode(), talks)
        ticket = next(
            issued.ticket for issued in node.bulk.tickets._by_id.values()
            if issued.ticket.id == said["id"]
        )  # fmt: skip
        self.sock = socket.create_connection(("127.0.0.1", said["port"]), timeout=10)
        self.sock.sendall(ticket.greeting())
        node.turn()
        assert self.sock.recv(32) == ticket.answer()
        self._up, self._down = (self._channel(ticket, way) for way in Direction)
        self._transfers, self._data = 0, bytearray()
        self.messages: list[Message] = []
        self.model = bytearray()  # the last one, as far as it has come
        self.order = ""  # of what came: a letter each for messages and models
        self.update = node.layout.update_bytes

    @staticmethod
    def _channel(ticket: Ticket, way: Direction) -> Channel:
        channel = ticket.channel(way)
        assert channel is not None
        return channel

    @property
    def connection(self) -> Connection:
        found = self.node.bulk.of(self.name, "job")
        assert found is not None
        return found

    def message(self, t: str, **fields: Any) -> bytes:
        return message_chunk(self._up, encode({"t": t, "job": "job", **fields}))

    def part(self, number: int, transfer: int, at: int) -> bytes:
        """A chunk of an update of nothing but zeros."""
        payload = bytes(min(CHUNK, self.update - at))
        head = Head(Kind.UPDATE, len(payload), number, transfer, at).pack()
        return head + self._up.sealed(head, payload)

    def says(self, *wire: bytes) -> None:
        self.sock.sendall(b"".join(wire))
        self.node.turn()

    def asking(self, number: int = 1, **fields: Any) -> Message:
        return {
            "kind": "update", "round": number, "length": self.update, "weight": 1.0,
            "digest": self.node.layout.digest, "lane": "fast", **fields,
        }  # fmt: skip

    def puts_early(self, number: int = 1) -> int:
        """A put, and the first chunk; its transfer."""
        self._transfers += 1
        transfer = EARLY | self._transfers
        put = self.message("put", **self.asking(number, transfer=transfer))
        self.says(put, self.part(number, transfer, 0))
        return transfer

    def hears(self) -> list[str]:
        """Messages since the last call; what has come of a model is in `model`."""
        self.messages.clear()
        self.sock.setblocking(False)
        while True:
            self.node.turn()
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            if not data:
                break
            self._data += data
        self.sock.setblocking(True)
        while len(self._data) >= HEAD:
            head = Head.unpack(self._data)
            end = HEAD + head.length + TAG
            assert len(self._data) >= end
            payload = bytearray(head.length)
            sealed = memoryview(bytes(self._data[HEAD:end]))
            self._down.open_into(head.pack(), sealed, memoryview(payload))
            del self._data[:end]
            if head.kind == Kind.MESSAGE:
                self.messages.append(decode(bytes(payload)))
                self.order += "m"
            else:
                assert (head.kind, head.transfer) == (Kind.MODEL, PUSHED)
                self.model[head.offset :] = payload
                self.order += "M"
        return [message["t"] for message in self.messages]

    def resets(self) -> None:
        """Its connection ends in a way that makes the next write to it fail."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, SMALL)
    yield node
    node.close()


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, LARGE)
    yield node
    node.close()


def takes_part(talker: Talker, number: int = 1) -> None:
    """As far as the answer that ends the round for it."""
    transfer = talker.puts_early(number)
    if talker.update > CHUNK:
        assert talker.hears() == ["go"]
        assert talker.messages[0]["transfer"] == transfer
        talker.says(talker.part(number, transfer, CHUNK))
    assert talker.hears() == ["ack"]


# -- down ----------------------------------------------------------------------------------------
def test_a_round_and_behind_it_its_model_go_to_who_listens(node: Node) -> None:
    """Who asks for a ticket before it has heard of a round, and who has answered one for good."""
    ann = Talker(node, "ann")
    node.round(1, lr=0.5)
    assert ann.hears() == ["round"]
    said = ann.messages[0]
    assert (said["round"], said["need"], said["model"]) == (1, True, True)
    assert said["settings"] == {"lr": 0.5}
    assert ann.order == "mM"
    assert ann.model == node.model.tobytes()
    assert node.heard("ann") == []
    assert node.heard("bob") == []  # the list is one, and was emptied
    takes_part(ann)
    ann.model.clear()
    node.frees()
    node.next_model()
    assert ann.hears() == ["round"]
    assert ann.messages[0]["model"]
    assert len(ann.model) == ann.update
    assert node.heard("ann") == []


def test_a_round_that_is_said_again_is_encoded_again(node: Node) -> None:
    """Once for all who hear it, and not once for ever."""
    job = node.gateway.jobs["job"]
    for lr in (0.5, 0.25):
        node.round(1, lr=lr)
        assert decode(job.news_with_model()) == job.news(need=True) | {
            "settings": {"lr": lr}, "model": True
        }  # fmt: skip
        assert job.news_with_model() is job.news_with_model()


def test_who_does_not_ask_for_it_is_told_over_the_control_channel(node: Node) -> None:
    ann = Talker(node, "ann", talks=False)
    node.round()
    assert node.heard("ann") == ["round"]
    assert ann.hears() == []
    node.says("ann", "put", **ann.asking())
    assert node.heard("ann") == ["go"]
    assert ann.hears() == []


def test_who_has_not_answered_a_round_is_told_of_the_next_without_its_model(node: Node) -> None:
    ann = Talker(node, "ann")
    node.round(1)
    assert ann.hears() == ["round"]
    node.next_model()
    assert ann.hears() == ["round"]
    assert (ann.messages[0]["round"], "model" in ann.messages[0]) == (2, False)
    assert len(ann.model) == ann.update  # that of the first round


def test_who_was_told_of_the_round_before_its_ticket_asks_for_the_model(node: Node) -> None:
    node.round(1)
    assert node.heard("ann") == ["round"]
    ann = Talker(node, "ann")
    assert ann.connection.stage is Stage.WORKS
    node.next_model()
    assert ann.hears() == ["round"]
    assert "model" not in ann.messages[0]


def before_its_memory(node: Node) -> None:
    """The job's coordinator has said what it is, and its memory is not here."""
    del node.gateway.jobs["job"]
    node.job.clients.clear()
    node.gateway.orders.obey("job", {
        "t": "job", "job": "job", "layout": node.layout.to_wire(),
        "settings": {"lane": "fast"},
    })  # fmt: skip


def test_who_comes_before_the_memory_of_a_job_prepares_for_its_first_round(node: Node) -> None:
    before_its_memory(node)
    node.says("ann", "hello")
    (welcome,) = [message for _, message in node.sent if message["t"] == "welcome"]
    assert Layout.from_wire(welcome["layout"]) == node.layout
    assert welcome["digest"] == node.layout.digest
    ann = Talker(node, "ann")
    with pytest.raises(Busy):  # of the job itself there is nothing yet
        node.says("ann", "get", round=0, at=0, n=1, transfer=1)
    node.gateway.jobs["job"] = node.job
    node.clients.adopt(node.job)
    assert node.clients.welcomes.coming == {}
    node.sent.clear()
    node.round()
    assert ann.hears() == ["round"]
    assert ann.messages[0]["model"]
    assert bytes(ann.model) == node.model.tobytes()
    assert node.heard("ann") == []


def test_a_round_that_was_ordered_before_the_job_was_said_again_begins(node: Node) -> None:
    before_its_memory(node)
    node.says("ann", "hello")
    ann = Talker(node, "ann")
    (job,) = node.gateway.orders.early["job"]
    node.round()
    node.gateway.orders.obey("job", job)  # as with each plan
    node.gateway.jobs["job"], node.job.layout = node.job, None
    node.clients.adopt(node.job)
    node.gateway.orders.catch_up(node.job)
    assert ann.hears() == ["round"]
    assert ann.messages[0]["model"]


def test_who_waits_for_a_job_is_welcome_when_something_is_known_of_it(node: Node) -> None:
    del node.gateway.jobs["job"]
    node.says("ann", "hello")
    with pytest.raises(Busy):
        node.says("ann", "ticket", n=1)
    assert node.heard("ann") == []
    job = {"t": "job", "job": "job", "layout": node.layout.to_wire(), "settings": {}}
    node.gateway.orders.obey("job", job)
    assert node.heard("ann") == ["welcome"]


def test_who_is_revoked_before_the_memory_is_here_has_no_connection(node: Node) -> None:
    before_its_memory(node)
    node.says("ann", "hello")
    ann = Talker(node, "ann")
    node.says("bob", "hello")
    node.says("bob", "ticket", n=1)
    enrol(node.gateway, "job", {})
    assert node.bulk.of("ann", "job") is None
    assert ann.sock.recv(1) == b""
    assert node.bulk.tickets._by_id == {}


def test_a_worker_is_nobody_else_where_something_of_its_clients_would_stay(node: Node) -> None:
    """It has numbers without end, and what is theirs is not found where its key is revoked."""
    worker, here = "w" * 40, len(node.job.clients)
    enrol(node.gateway, "job", dict.fromkeys(NAMES, "client") | {worker: "worker"})
    for number in range(3):
        node.says(worker, "hello", **{"as": number})
        with pytest.raises(Refused, match="worker gets no ticket"):
            node.says(worker, "ticket", n=1, talks=True, **{"as": number})
    assert node.job.workers == {worker: worker.encode()}
    assert len(node.job.clients) == here
    assert not node.bulk.tickets._by_id


@pytest.mark.parametrize(
    "said",
    [
        {"round": 1, "metrics": [1]},
        {"round": 1},
        {"round": "1", "metrics": {}},
        {"round": 1, "metrics": {"loss": "low"}},
    ],
    ids=str,
)
def test_an_observer_says_figures_or_nothing(node: Node, said: Message) -> None:
    """The coordinator hears them as they are, and again when it comes back."""
    enrol(node.gateway, "job", {"eve": "observer"})
    node.says("eve", "metrics", round=1, metrics={"loss": 0.5})
    before = node.job.evaluation
    assert before["metrics"] == {"loss": 0.5}
    with pytest.raises(InvalidUpdate):
        node.says("eve", "metrics", **said)
    assert node.job.evaluation is before


def test_a_report_is_answered_where_the_next_round_is_told(node: Node) -> None:
    """Its answer must not be overtaken by that; and its sender has nothing more to do."""
    ann = Talker(node, "ann")
    node.round(1)
    assert ann.hears() == ["round"]
    node.says("ann", "report", round=1, weight=2.0)
    node.next_model()
    assert ann.hears() == ["ack", "round"]
    assert ann.messages[1]["model"]
    assert node.heard("ann") == []


def test_a_message_that_is_too_long_goes_over_the_control_channel(node: Node) -> None:
    ann = Talker(node, "ann")
    node.round(1, text="x" * MESSAGE)
    assert node.heard("ann") == ["round"]
    assert ann.hears() == []
    assert ann.model == b""


def test_after_hello_everything_is_said_over_the_control_channel(node: Node) -> None:
    ann = Talker(node, "ann")
    node.says("ann", "hello")
    node.sent.clear()
    node.round(1)
    assert node.heard("ann") == ["round"]
    ann.puts_early()  # what the client says there is heard all the same
    assert node.heard("ann") == ["ack"]
    assert ann.hears() == []
    again = Talker(node, "ann")
    node.frees()
    node.next_model()
    assert again.hears() == ["round"]
    assert node.heard("ann") == []


def test_a_round_that_was_told_and_not_answered_is_told_again(node: Node) -> None:
    ann = Talker(node, "ann")
    node.round(1)
    ann.sock.close()
    node.turn()
    assert node.heard("ann") == ["round"]


def test_a_round_that_was_answered_is_not_told_again(node: Node) -> None:
    ann = Talker(node, "ann")
    node.round(1)
    assert ann.hears() == ["round"]
    takes_part(ann)
    ann.sock.close()
    node.turn()
    assert node.heard("ann") == []


# -- up ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", ["node", "large"])
def test_an_early_update_counts(size: str, request: pytest.FixtureRequest) -> None:
    """Of one chunk without another word; of several after a go that names its transfer."""
    node: Node = request.getfixturevalue(size)
    ann = Talker(node, "ann")
    node.round(1)
    ann.hears()
    takes_part(ann)
    assert node.job.answered == 1
    assert node.heard("ann") == []


@pytest.mark.parametrize("size", ["node", "large"])
def test_an_early_update_without_a_slot_waits_and_counts(
    size: str, request: pytest.FixtureRequest
) -> None:
    node: Node = request.getfixturevalue(size)
    ann, bob = (Talker(node, name) for name in NAMES)
    node.round(1)
    bob.hears()
    node.says("ann", "put", **ann.asking())  # the only slot is hers
    transfer = bob.puts_early()
    assert bob.connection.is_paused
    node.says("bob", "put", **bob.asking())  # as he says when nothing comes for a while
    assert bob.hears() == []
    node.frees()
    if bob.update > CHUNK:
        assert bob.hears() == ["go"]
        assert bob.messages[0]["transfer"] == transfer
        bob.says(bob.part(1, transfer, CHUNK))
    assert bob.hears() == ["ack"]
    assert node.job.answered == 2


def test_who_asks_again_while_its_update_waits_is_told_again_that_it_waits(node: Node) -> None:
    """Or it would think that nobody is here any more."""
    ann, bob = (Talker(node, name) for name in NAMES)
    node.round(1)
    bob.hears()
    node.says("ann", "put", **ann.asking())
    bob.puts_early()
    now = time.monotonic()
    node.clients.uploads.expire(now + 2)
    assert bob.hears() == ["wait"]
    node.clients.uploads.expire(now + 4)
    assert bob.hears() == []
    node.says("bob", "put", **bob.asking())
    node.clients.uploads.expire(now + 6)
    assert bob.hears() == ["wait"]


def test_an_early_update_that_is_refused_is_thrown_away_and_the_next_put_works(
    node: Node,
) -> None:
    ann, bob = (Talker(node, name) for name in NAMES)
    node.round(1)
    bob.hears()
    node.says("ann", "put", **ann.asking())
    bob.puts_early()
    node.clients.uploads.leaves_queue(node.job, node.job.waiting["bob"])  # as if he had left
    node.frees()
    assert (bob.hears(), node.job.answered) == ([], 0)
    takes_part(bob)
    assert node.job.answered == 2


def test_an_update_that_is_too_late_is_told_so_while_it_waits(node: Node) -> None:
    ann, bob = (Talker(node, name) for name in NAMES)
    node.round(1)
    bob.hears()
    node.says("ann", "put", **ann.asking())
    bob.puts_early()
    node.gateway.orders.obey("job", {"t": "close", "job": "job", "round": 1})
    node.turn()
    assert bob.hears() == ["reject"]
    assert (bob.messages[0]["code"], bob.messages[0]["retry"]) == ("late", False)
    assert not bob.connection.is_paused
    node.next_model()
    assert bob.hears() == ["round"]
    takes_part(bob, 2)


@pytest.mark.parametrize("puts_again", [True, False])
@pytest.mark.parametrize("size", ["node", "large"])
def test_what_followed_a_put_is_lost_with_its_connection(
    size: str, request: pytest.FixtureRequest, *, puts_again: bool
) -> None:
    """The place in the queue is not, and its go asks for all of the update."""
    node: Node = request.getfixturevalue(size)
    ann, before = (Talker(node, name) for name in NAMES)
    node.round(1)
    node.says("ann", "put", **ann.asking())
    before.puts_early()
    bob = Talker(node, "bob")
    assert bob.hears() == []
    if puts_again:
        node.says("bob", "put", **bob.asking())
    node.frees()
    assert bob.hears() == ["go"]
    transfer = bob.messages[0]["transfer"]
    assert 0 < transfer < EARLY
    bob.says(*(bob.part(1, transfer, at) for at in range(0, bob.update, CHUNK)))
    assert bob.hears() == ["ack"]
    before.sock.close()


def test_a_client_that_is_gone_when_its_turn_comes(large: Node) -> None:
    """The write that tells it so fails before anything else has shown that it is gone."""
    ann, bob = (Talker(large, name) for name in NAMES)
    large.round(1)
    bob.hears()
    large.says("ann", "put", **ann.asking())
    bob.puts_early()
    bob.resets()
    for upload in list(large.job.uploads.values()):
        large.clients.uploads.drop(large.job, upload)
    large.gateway._serve(large.job)
    assert large.bulk.of("bob", "job") is None
    assert (large.job.uploads, [*large.job.waiting]) == ({}, [])


def test_an_early_put_without_a_bulk_payload_is_an_ordinary_one(node: Node) -> None:
    """Its number means nothing: what comes over the control channel is said over that."""
    ann = Talker(node, "ann")
    node.round(1)
    ann.hears()
    ann.says(ann.message("put", **ann.asking(lane="zmq", transfer=EARLY | 1)))
    assert ann.hears() == ["go"]
    assert "grant" in ann.messages[0]
    assert not ann.connection.is_paused


@pytest.mark.parametrize("said", ["hello", "ticket", "chunk"])
def test_only_what_belongs_to_a_round_is_said_there(node: Node, said: str) -> None:
    ann = Talker(node, "ann")
    ann.says(ann.message(said, n=1))
    assert ann.hears() == ["reject"]
    assert (ann.messages[0]["code"], ann.messages[0]["of"]) == ("malformed", said)
    ann.says(message_chunk(ann._up, b"\xc1"))
    assert ann.hears() == ["reject"]
    assert node.heard("ann") == []


@pytest.mark.parametrize("transfer", [0, -1, 1 << 32, 1.5, "1", None])
def test_a_transfer_that_is_none(node: Node, transfer: object) -> None:
    """It would not fit into a head, and the next message would find it in its way."""
    ann = Talker(node, "ann")
    node.round(1)
    ann.hears()
    get = {"round": 0, "at": 0, "n": 8, "transfer": transfer}
    with pytest.raises(InvalidUpdate, match="must be from 1 to"):
        node.says("ann", "get", **get)
    ann.says(ann.message("get", **get))
    assert ann.hears() == ["reject"]
    takes_part(ann)


def test_plain_bytes_where_they_are_sealed(node: Node) -> None:
    ann = Talker(node, "ann")
    put = encode({"t": "put", "job": "job"})
    ann.says(Head.of_message(len(put)).pack() + put + NO_TAG)
    assert node.bulk.of("ann", "job") is None
