"""Who may do what, job by job: one coordinator's list says nothing of another's job."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.connection import Address, Connection
from lifl.errors import Busy, PermanentError, Refused
from lifl.functions.gateway import Gateway
from lifl.functions.jobs import Job
from lifl.functions.rights import Enrolment, Rights
from lifl.functions.sealing import Mode, Ticket
from lifl.functions.wire import Keys
from tests.unit.test_gateway import NOWHERE, enrol, lead

TRAINS, LOOKS = "key of a client", "key of an observer"


class Node:
    """A gateway with the jobs a and b, each with a coordinator, and what it says."""

    def __init__(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gateway, self.clients = gateway, gateway.clients
        self.reported: list[dict[str, Any]] = []
        self.sent: list[tuple[bytes, dict[str, Any]]] = []
        self.dropped: list[object] = []
        self.served: list[str] = []
        intake: Any = SimpleNamespace(ports={}, drop=self.dropped.append, model=lambda: None)
        for number, name in enumerate("ab", 1):
            gateway.jobs[name] = Job(name, number, intake, (0, 0, 0))
        for each in (self.clients, self.clients.uploads):
            monkeypatch.setattr(each, "send", lambda peer, said: self.sent.append((peer, said)))
        monkeypatch.setattr(self.clients, "report", self.reported.append)
        lead(gateway, Keys.new(), "a", "b")

    def says(self, key: str, what: str, job: object, **fields: object) -> None:
        self.clients._handle(key.encode(), key, {"t": what, "job": job, **fields}, None)

    def occupies(self, job: Job, key: str) -> None:
        """This client has a slot of the job, and a place in its queue."""
        upload: Any = SimpleNamespace(
            asking=SimpleNamespace(key=key, peer=key.encode(), message={}), grant=job.name,
            connection=None,
        )  # fmt: skip
        job.uploads[key] = job.waiting[key] = upload

    def opens(self, ticket: Ticket) -> bool:
        """Whether the bulk port lets somebody in."""
        bulk = self.clients.bulk
        with socket.create_connection(("127.0.0.1", bulk.port), timeout=10) as sock:
            sock.sendall(ticket.greeting())
            until = time.monotonic() + 10
            while not select.select([sock], [], [], 0.01)[0] and time.monotonic() < until:
                bulk.turn()
            try:
                return bool(sock.recv(1))
            except ConnectionError:
                return False


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    keys = Keys.new()
    gateway = Gateway(tmp_path / "agent.sock", "n", "tcp://127.0.0.1:*", keys, None)
    yield Node(gateway, monkeypatch)
    gateway.lines.lead_to({})
    gateway.context.destroy(linger=0)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_list_says_nothing_of_another_job(node: Node, order: str) -> None:
    """Neither who observes there, nor who trains, nor who is nobody; whichever comes last."""
    lists = {
        "a": {TRAINS: "client", LOOKS: "observer"},
        "b": {TRAINS: "observer", LOOKS: "client", "X": "node"},
    }
    for name in order:
        enrol(node.gateway, name, lists[name])
    node.says(TRAINS, "hello", "a")
    node.says(LOOKS, "hello", "a")
    assert ([*node.gateway.jobs["a"].clients], [*node.gateway.jobs["a"].observers]) == (
        [TRAINS],
        [LOOKS],
    )
    assert [(said["key"], said["observer"]) for said in node.reported] == [
        (TRAINS, False),
        (LOOKS, True),
    ]
    node.reported.clear()
    with pytest.raises(Refused, match="a client may not send a 'metrics'"):
        node.says(TRAINS, "metrics", "a", round=1, metrics={"accuracy": 1.0})
    assert node.reported == []
    node.says(LOOKS, "metrics", "a", round=1, metrics={"accuracy": 0.5})
    assert node.reported == [node.gateway.jobs["a"].evaluation]
    with pytest.raises(Refused, match="not enrolled"):
        node.says("X", "put", "a", kind="sum", round=1, length=8)


def test_a_line_speaks_of_its_own_job_alone(node: Node) -> None:
    enrol(node.gateway, "a", {LOOKS: "observer"})
    enrol(
        node.gateway, "b", {TRAINS: "observer", LOOKS: "client"}, jobs=["a", "b"], ports={LOOKS: 9}
    )
    rights = node.clients.rights
    assert [rights.of(job, key) for job in "ab" for key in (TRAINS, LOOKS)] == [
        "", "observer", "observer", "client",
    ]  # fmt: skip
    assert [rights.port(job, LOOKS) for job in "ab"] == [None, 9]
    for said in ("end", "job", "round", "elsewhere", "redirect"):
        node.gateway.orders.obey("b", {"t": said, "job": "a"})
    assert not node.gateway.jobs["a"].ended
    assert node.gateway.orders.early == {}


def test_the_one_line_of_a_local_run_speaks_of_its_job(node: Node) -> None:
    node.gateway.orders.coordinators({"": ("tcp://127.0.0.1:9", Keys.new().public)})
    enrol(node.gateway, "", {TRAINS: "client"}, jobs=["a"])
    assert node.clients.rights.of("a", TRAINS) == "client"
    node.gateway.orders.obey("", {"t": "round", "job": "a"})
    assert [*node.gateway.orders.early] == ["a"]


class Door:
    """Who has called at a gateway with a key, by name, and what has become of it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.calling: dict[str, Connection] = {}

    def call(self, name: str, keys: Keys) -> None:
        """Until the doorkeeper was asked, and has decided or not."""
        connection = Connection(keys, Address(self.gateway.endpoint, self.gateway.keys.public))
        self.calling[name] = connection
        assert self.gateway.door.socket.poll(10_000)
        self.gateway.door.answer()

    def is_in(self, name: str) -> bool:
        """Wait for the end of the handshake; Refused where it is that."""
        assert self.calling[name].monitor.poll(10_000)
        self.calling[name].reconnected()
        return self.calling[name].is_up

    def waits(self) -> list[str]:
        return [
            name for name, each in self.calling.items()
            if not (each.is_up or each.monitor.poll(0))
        ]  # fmt: skip

    def close(self) -> None:
        for each in self.calling.values():
            each.close()


@pytest.fixture
def door(node: Node) -> Iterator[Door]:
    door = Door(node.gateway)
    yield door
    door.close()


@pytest.mark.parametrize("then", ["enrols", "is gone"])
def test_a_client_whose_coordinator_is_slower_than_others_waits_at_the_door(
    node: Node, door: Door, then: str
) -> None:
    """As after a gateway's restart; and not for ever, where that coordinator is gone for good."""
    mine, others, stranger = Keys.new(), Keys.new(), Keys.new()
    enrol(node.gateway, "b", {others.public: "client"})
    for name, keys in (("mine", mine), ("stranger", stranger), ("others", others)):
        door.call(name, keys)
    assert door.is_in("others")
    assert door.waits() == ["mine", "stranger"]
    if then == "enrols":
        enrol(node.gateway, "a", {mine.public: "client"})
        assert door.is_in("mine")
    else:
        node.gateway.orders.coordinators({"b": (NOWHERE, node.gateway.lines.key("b"))})
        with pytest.raises(Refused, match="does not know this client's key"):
            door.is_in("mine")
    with pytest.raises(Refused, match="does not know this client's key"):
        door.is_in("stranger")
    assert node.gateway.door.refused == (1 if then == "enrols" else 2)


@pytest.mark.parametrize("name", ["c", "b"], ids=["new", "of the name of one before"])
def test_of_a_job_that_has_just_come_nobody_is_refused(node: Node, door: Door, name: str) -> None:
    """Its coordinator may be about to say who takes part."""
    keys, coordinator = Keys.new(), node.gateway.lines.key("a")
    for each in "ab":
        enrol(node.gateway, each, {})
    door.call("before", keys)
    with pytest.raises(Refused):
        door.is_in("before")
    node.gateway.orders.coordinators({
        "a": (NOWHERE, coordinator), "b": (NOWHERE, coordinator),
        name: (NOWHERE, Keys.new().public),
    })  # fmt: skip
    door.call("after", keys)
    enrol(node.gateway, name, {keys.public: "client"})
    assert door.is_in("after")


@pytest.mark.parametrize("right", [{TRAINS: "client"}, {}])
def test_before_its_coordinator_has_said_who_takes_part_a_job_is_nobodys(
    node: Node, right: dict[str, str]
) -> None:
    """A key of another job is let in by the doorkeeper, and has to wait, or is wrong here."""
    enrol(node.gateway, "b", {TRAINS: "client"})
    with pytest.raises(PermanentError, match="there is no job 'c' here, only b"):
        node.says(TRAINS, "hello", "c")
    with pytest.raises(Busy, match="of job 'a' here yet"):
        node.says(TRAINS, "ticket", "a", n=1)
    node.says(TRAINS, "hello", "a")
    assert (node.sent, node.gateway.jobs["a"].clients) == ([], {})
    enrol(node.gateway, "a", right)
    heard = [(said["job"], said["code"]) for _, said in node.sent]
    assert [*node.gateway.jobs["a"].clients] == [*right]
    assert heard == ([] if right else [("a", "not-enrolled")])
    assert node.clients.unlisted == {}


@pytest.mark.parametrize("other", [{TRAINS: "client"}, {}], ids=["in b still", "nowhere"])
def test_who_is_revoked_in_one_job_has_nothing_there(node: Node, other: dict[str, str]) -> None:
    enrol(node.gateway, "a", {TRAINS: "client"})
    enrol(node.gateway, "b", other)
    here = [node.gateway.jobs[name] for name in ("ab" if other else "a")]
    for job in here:
        job.clients[TRAINS] = TRAINS.encode()
        node.occupies(job, TRAINS)
    enrol(node.gateway, "a", {})
    assert {**here[0].clients, **here[0].waiting, **here[0].uploads} == {}
    assert node.dropped == ["a"]
    assert {(said["job"], said["code"]) for _, said in node.sent} == {("a", "revoked")}
    for job in here[1:]:
        assert [*job.clients] == [*job.waiting] == [*job.uploads] == [TRAINS]
    with pytest.raises(Refused, match="was revoked"):
        node.says(TRAINS, "hello", "a")


def test_who_is_revoked_before_the_memory_is_here_waits_no_more(node: Node) -> None:
    enrol(node.gateway, "a", {TRAINS: "client"})
    enrol(node.gateway, "b", {TRAINS: "client"})
    node.gateway.jobs.clear()
    for name in "ab":
        node.says(TRAINS, "hello", name)
    enrol(node.gateway, "a", {})
    assert node.clients.unknown == {"a": {}, "b": {TRAINS: TRAINS.encode()}}


def test_a_ticket_ends_with_the_right(node: Node) -> None:
    """As does the connection that was opened with the one before; in the other job both stay."""
    key = Keys.new().public
    for name in "ab":
        enrol(node.gateway, name, {key: "client"})
    tickets = {name: node.clients.bulk.tickets.issue(key, name, Mode.SEALED) for name in "ab"}
    enrol(node.gateway, "a", {})
    assert not node.opens(tickets["a"])
    assert node.opens(tickets["b"])
    assert node.clients.bulk.refused == {"unknown": 1}


def test_a_bulk_connection_ends_with_the_right(node: Node) -> None:
    key = Keys.new().public
    enrol(node.gateway, "a", {key: "client"})
    enrol(node.gateway, "b", {key: "client"})
    bulk = node.clients.bulk
    assert node.opens(bulk.tickets.issue(key, "a", Mode.SEALED))
    assert bulk.of(key, "a") is not None
    enrol(node.gateway, "a", {})
    assert bulk.of(key, "a") is None


def test_revoked_keys_are_known_as_long_as_their_job() -> None:
    rights = Rights()
    one, none = Enrolment({TRAINS: "client"}), Enrolment({})
    assert rights.replace({"a": one, "b": one}) == {}
    assert rights.replace({"a": none, "b": one}) == {"a": {TRAINS}, "b": set()}
    assert rights.keys == {TRAINS}
    codes = [rights.stranger(TRAINS, job).code for job in ("a", "b", None)]
    assert codes == ["revoked", "not-enrolled", "revoked"]
    assert rights.replace({"a": one, "b": one}) == {"a": set(), "b": set()}
    assert rights.stranger(TRAINS, "a").code == "not-enrolled"
    assert rights.replace({"b": one}) == {"a": {TRAINS}, "b": set()}
    assert rights.stranger(TRAINS).code == "not-enrolled"
