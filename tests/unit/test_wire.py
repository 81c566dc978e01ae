"""Whose message it is: a key that the door let in, or without CURVE a name that nobody proves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from lifl.errors import TransientError
from lifl.functions import wire
from lifl.functions.wire import (
    Doorkeeper,
    Keys,
    Line,
    bind,
    bits,
    bound_endpoint,
    clients_of,
    dealer,
    encode,
    sender,
    server,
)

Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


def heard(router: zmq.Socket[bytes], door: Doorkeeper) -> tuple[str, bytes]:
    """(sender, bytes) of the next message, while the door is kept."""
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(door.socket, zmq.POLLIN)
    while ready := dict(poller.poll(10_000)):
        if door.socket in ready:
            door.answer()
        if router in ready:
            peer, data = router.recv_multipart(copy=False)
            return sender(peer), data.bytes
    raise AssertionError("nothing came")


def test_with_curve_it_is_the_key(context: Context) -> None:
    door, keys, known, stranger = Doorkeeper(context), Keys.new(), Keys.new(), Keys.new()
    door.keys = {known.public}
    router = server(context, keys)
    bind(router, "tcp://127.0.0.1:*")
    where = bound_endpoint(router), keys.public
    callers = [dealer(context, caller, *where) for caller in (stranger, known)]
    for caller in callers:
        caller.send(encode({"t": "hello"}))
    assert heard(router, door) == (known.public, encode({"t": "hello"}))
    assert not router.poll(0)


def test_who_may_be_named_yet_waits_at_the_door_and_then_is_answered(context: Context) -> None:
    """Neither let in nor refused; who is known already does not wait for that."""
    door, keys = Doorkeeper(context), Keys.new()
    late, stranger, known = Keys.new(), Keys.new(), Keys.new()
    door.hear({known.public}, are_all=False)
    router = server(context, keys)
    bind(router, "tcp://127.0.0.1:*")
    lines = {
        caller.public: Line(context, caller, bound_endpoint(router), keys.public)
        for caller in (late, stranger, known)
    }
    for key in (late.public, stranger.public):
        lines[key].socket.send(encode({"t": "hello"}))
        assert door.socket.poll(10_000)
        door.answer()
    lines[known.public].socket.send(encode({"t": "hello"}))
    assert heard(router, door)[0] == known.public
    assert not router.poll(0)
    assert door.refused == 0
    door.hear({known.public, late.public}, are_all=True)
    assert heard(router, door)[0] == late.public
    assert door.refused == 1
    assert [line.came_back() for line in lines.values()] == [False] * 3, "nobody called twice"
    assert not router.poll(0)


def test_no_more_wait_at_the_door_than_there_is_room_for(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited longest goes without an answer, and calls again."""
    monkeypatch.setattr(wire, "MOST_WAITING", 1)
    door, keys, first, second = Doorkeeper(context), Keys.new(), Keys.new(), Keys.new()
    door.hear(set(), are_all=False)
    router = server(context, keys)
    bind(router, "tcp://127.0.0.1:*")
    where = bound_endpoint(router), keys.public
    callers = []
    for caller in (first, second):
        callers.append(dealer(context, caller, *where))
        assert door.socket.poll(10_000)
        door.answer()
    door.hear(set(), are_all=True)
    assert door.refused == 1


def test_without_curve_it_is_what_it_calls_itself(context: Context) -> None:
    door, router = Doorkeeper(context), server(context, Keys.named("gateway"))
    bind(router, "tcp://127.0.0.1:*")
    clinic = dealer(context, Keys.named("clinic"), bound_endpoint(router), "gateway")
    clinic.send(b"x")
    assert heard(router, door) == ("clinic", b"x")
    nameless = context.socket(zmq.DEALER)
    nameless.connect(bound_endpoint(router))
    nameless.send(b"y")
    assert heard(router, door) == ("", b"y")


@pytest.mark.parametrize(("made", "name"), [(b"\0an/y", ""), (b"an/y", "an")])
def test_who_calls_itself_nothing_has_no_name_whatever_libzmq_calls_it(
    made: bytes, name: str
) -> None:
    assert sender(zmq.Frame(made)) == name


def test_two_cannot_listen_at_one_address(context: Context) -> None:
    first, second = (server(context, Keys.new()) for _ in range(2))
    bind(first, "tcp://127.0.0.1:*")
    with pytest.raises(TransientError, match=r"already in use.*: end what listens") as caught:
        bind(second, bound_endpoint(first))
    assert caught.value.code == "port-in-use"


@pytest.mark.parametrize("clients", [0, 1, 0x80, 0x1FF, 1 << 999])
def test_a_set_of_clients_there_and_back(clients: int) -> None:
    data = bits(clients)
    assert clients_of(data) == clients
    assert not data or data[-1], "no byte too many"


# -- the list of messages ----------------------------------------------------------------------
ROOT = Path(__file__).parents[2]
ON_THE_AGENTS_SOCKET = {
    "arena", "assign", "close-job", "fork", "forked", "held-job", "held-lane", "join", "joined",
    "keys", "leave", "left", "limited", "other-keys", "ping", "pong", "runtime",
}  # fmt: skip
NO_MESSAGE = {"", "bulk"}  # what cannot be read, and bytes on the bulk connection


def listed() -> dict[str, set[str]]:
    """By whom to whom, as the module's docstring has it."""
    assert wire.__doc__ is not None
    found: dict[str, set[str]] = {}
    for line in wire.__doc__.splitlines():
        if row := re.fullmatch(r"    (\S.* ─► \S.*?)  +(.*)", line):
            words = found.setdefault(row[1], set())
        elif not line.startswith("        "):
            continue
        words |= set(re.findall(r"[\w-]+", row[2] if row else line))
    return found


def words(tree: ast.AST) -> set[str]:
    return {
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }  # fmt: skip


def said(tree: ast.AST) -> set[str]:
    """Types of the messages that a module makes."""
    return {
        word
        for node in ast.walk(tree) if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "t"
        for word in (words(value) if isinstance(value, ast.Constant) else ())
    }  # fmt: skip


def test_the_list_has_every_message_and_no_other() -> None:
    paths = [
        path for folder in ("functions", "placement") for path in (ROOT / folder).rglob("*.py")
    ]
    trees = [ast.parse(path.read_text()) for path in (*paths, *(ROOT / "lifl").glob("*.py"))]
    there = set().union(*listed().values())
    unlisted = set().union(*map(said, trees)) - there
    assert unlisted == ON_THE_AGENTS_SOCKET | NO_MESSAGE
    assert there <= set().union(*map(words, trees)), "some types come from a variable"


def test_an_observer_reads_what_it_is_told() -> None:
    source = (ROOT / "lifl" / "observer.py").read_text()
    cases = set(re.findall(r'case "([a-z]+)"', source))
    assert listed()["gateway ─► observer"] - cases == {"reject", "here"}
    assert cases <= listed()["gateway ─► observer"]


# -- what a client of another kind goes by -----------------------------------------------------
TABLES = [
    line for line in (ROOT / "docs" / "protocol.md").read_text().splitlines() if line[:1] == "|"
]
TO_CLIENTS = listed()["gateway ─► client"]


def rows_of(kind: str) -> str:
    """All that the tables say of messages of this type, which is the first word in its rows."""
    return "\n".join(row for row in TABLES if re.match(rf"\| (?:[→←] \| )?[^|]*`{kind}`", row))


@pytest.mark.parametrize("kind", sorted(TO_CLIENTS | listed()["client ─► gateway"]))
def test_the_protocol_has_each_message_of_a_client(kind: str) -> None:
    assert rows_of(kind)


def test_the_protocol_has_each_field_that_a_client_is_sent() -> None:
    sent = set[tuple[str, str]]()
    for name in ("clients", "downlink", "jobs", "uploads", "welcomes"):
        for node in ast.walk(ast.parse((ROOT / "functions" / f"{name}.py").read_text())):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                fields = {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
                kind = fields.pop("t", None)
                if isinstance(kind, ast.Constant) and kind.value in TO_CLIENTS:
                    sent |= {(kind.value, field) for field in fields}
    assert {kind for kind, _ in sent} >= {"welcome", "round", "ticket", "reject", "redirect"}
    missing = {(kind, field) for kind, field in sent if f"`{field}`" not in rows_of(kind)}
    assert missing == {("gone", "key")}, "which a coordinator is told of a client"
