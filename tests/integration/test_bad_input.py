"""Whatever a client sends: the right code, the round goes on to the right model, no slot is lost.

One job with four clients on two nodes of two slots each; every case is a round of it.  A case ends
with all clients holding a slot at the same time, which they could not if one had leaked.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import toy
from conftest import Runner, wait_until
from outsider import BulkLine, Field, Outsider

import lifl
from lifl.api.codes import CODES
from lifl.connection import Address
from lifl.errors import Refused
from lifl.functions.wire import UP_CHUNK, Keys

SIZE = 600_000  # three chunks an update


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    runtime_dir = Path(tempfile.mkdtemp(prefix="run-", dir="/tmp"))
    runner = Runner(tmp_path_factory.mktemp("bad-input"), runtime_dir)
    before, size = runner.leftovers(), toy.SIZE
    toy.SIZE = SIZE
    try:
        field = Field(
            runner, "--nodes", "2", env={"TOY_SIZE": str(SIZE)}, rounds=100_000,
            trainers=4, memory={"inputSlots": 2}, aggregation={"fanIn": 2},
        )  # fmt: skip
        yield field
        field.end()
        wait_until(
            lambda: not (runner.leftovers() - before),
            lambda: f"left: {runner.leftovers() - before}",
        )
    finally:
        toy.SIZE = size
        shutil.rmtree(runtime_dir, ignore_errors=True)


def rejected(client: Outsider, code: str, **fields: Any) -> str:
    """The rejection's sentence."""
    message = client.hear("reject", "ack", "go")
    assert message["t"] == "reject", message
    assert message["code"] == code, str(message)
    assert message["retry"] is CODES[code].retryable
    assert len(message["text"]) > 10
    for name, value in fields.items():
        assert message[name] == value
    text: str = message["text"]
    return text


NAN = {"weight": np.nan, "half": np.inf, "brain": -np.inf, "double": np.nan}

PUTS: list[tuple[str, dict[str, Any], str]] = [
    ("another layout", {"digest": b"\0" * 16}, "wrong-layout"),
    ("no layout", {"digest": None}, "wrong-layout"),
    ("too short", {"length": 1}, "wrong-length"),
    ("too long", {"length": 1 << 40}, "wrong-length"),
    ("less than nothing", {"length": -1}, "wrong-length"),
    ("a length that is none", {"length": "all"}, "malformed"),
    ("a round that is none", {"round": None}, "malformed"),
    ("no weight", {"weight": 0.0}, "bad-weight"),
    ("a weight below 0", {"weight": -1.0}, "bad-weight"),
    ("a weight that is NaN", {"weight": float("nan")}, "bad-weight"),
    ("a weight without end", {"weight": float("inf")}, "bad-weight"),
    ("a weight that no float32 holds", {"weight": 1e300}, "bad-weight"),
    ("a weight that a float32 makes 0", {"weight": 1e-300}, "bad-weight"),
    ("a weight in words", {"weight": "heavy"}, "bad-weight"),
    ("metrics that are a list", {"metrics": [1.0]}, "bad-metrics"),
    ("metrics in words", {"metrics": {"loss": "low"}}, "bad-metrics"),
    ("many metrics", {"metrics": {str(i): 0.0 for i in range(65)}}, "bad-metrics"),
    ("an unknown kind", {"kind": "gift"}, "not-allowed"),
    ("a sum", {"kind": "sum"}, "not-allowed"),
    ("a model", {"kind": "model"}, "not-allowed"),
    ("a round long ago", {"round": 0}, "past-round"),
    ("a round that is to come", {"round": 1 << 40}, "not-started"),
    ("another job", {"job": "nobody's"}, "unknown-job"),
    ("a job that is none", {"job": ["toy"]}, "malformed"),
]


@pytest.mark.parametrize(("put", "code"), [p[1:] for p in PUTS], ids=[p[0] for p in PUTS])
def test_a_put(field: Field, put: dict[str, Any], code: str) -> None:
    number, bad = field.round(), field.clients[0]
    bad.put(number, **put)
    rejected(bad, code)
    field.finish(number, field.clients)


MESSAGES: list[tuple[str, bytes, str]] = [
    ("not msgpack", b"\xc1\xff", "malformed"),
    ("nothing", b"", "malformed"),
    ("half a map", msgpack.packb({"t": "put"})[:-2], "malformed"),
    ("not a map", msgpack.packb([1, 2, 3]), "malformed"),
    ("a map of something", msgpack.packb({"t": 7}), "malformed"),
    ("nested deeply", b"\x91" * 5000, "malformed"),
    ("a header of 1 MB", msgpack.packb({"t": "put", "x": bytes(1 << 20)}), "malformed"),
    ("a put without anything", msgpack.packb({"t": "put", "job": "toy"}), "malformed"),
    ("a get without anything", msgpack.packb({"t": "get", "job": "toy"}), "malformed"),
    ("a chunk without bytes", msgpack.packb({"t": "chunk", "job": "toy"}), "malformed"),
    ("an unknown message", msgpack.packb({"t": "sing", "job": "toy"}), "not-allowed"),
    ("an observer's", msgpack.packb({"t": "metrics", "job": "toy"}), "not-allowed"),
]


@pytest.mark.parametrize(("data", "code"), [m[1:] for m in MESSAGES], ids=[m[0] for m in MESSAGES])
def test_a_message(field: Field, data: bytes, code: str) -> None:
    number, bad = field.round(), field.clients[1]
    bad.socket.send(data)
    rejected(bad, code)
    field.finish(number, field.clients)


@pytest.mark.parametrize("name", list(NAN))
def test_an_update_that_is_not_finite(field: Field, name: str) -> None:
    number, bad = field.round(), field.clients[2]
    bad.put(number)
    bad.hear("go", number=number)
    data = bad.update(number)
    bad.layout.views(data)[name].flat[-1] = NAN[name]
    for at in range(0, len(data), UP_CHUNK):
        bad.chunk(number, at, data[at : at + UP_CHUNK])
    assert f"tensor {name!r}, element " in rejected(bad, "not-finite", round=number)
    field.finish(number, field.clients)


@pytest.mark.parametrize(("at", "size"), [(1, 10), (0, (1 << 21) - 100), (-1, 10)])
def test_chunks_that_do_not_follow_one_another(field: Field, at: int, size: int) -> None:
    number, bad = field.round(), field.clients[0]
    bad.put(number)
    bad.hear("go", number=number)
    bad.chunk(number, at, bytes(size))
    if at == 0:  # as far as it goes; the next one is beyond the end
        bad.chunk(number, size, bytes(size))
    rejected(bad, "oversized", round=number)
    field.finish(number, field.clients)


def test_a_truncated_upload_is_begun_again(field: Field) -> None:
    number, bad = field.round(), field.clients[0]
    bad.put(number)
    bad.hear("go", number=number)
    bad.chunk(number, 0, bytes(UP_CHUNK))
    field.finish(number, field.clients)  # asks again, from the first byte


def test_a_client_that_dies_in_mid_upload_comes_back(field: Field) -> None:
    number, bad = field.round(), field.clients[3]
    bad.put(number)
    bad.hear("go", number=number)
    bad.chunk(number, 0, bytes(UP_CHUNK))
    bad.hear("more", number=number)
    bad.socket.close()
    bad.connect(*bad.at)
    bad.send("hello")
    bad.hear("round", number=number)
    field.finish(number, field.clients)


def test_a_duplicate(field: Field) -> None:
    number, bad = field.round(), field.clients[0]
    bad.play(number)
    for weight in (bad.index + 1.0, 1000.0):
        bad.put(number, weight=weight)
        assert bad.hear("ack", "go", "reject", number=number)["t"] == "ack"
    field.finish(number, field.clients[1:])


def test_a_duplicate_through_another_gateway(field: Field) -> None:
    number, bad = field.round(), field.clients[0]
    bad.play(number)
    other = next(client.at for client in field if client.at != bad.at)
    home = bad.socket
    bad.connect(*other)
    bad.put(number, weight=1000.0)
    assert "on another node" in rejected(bad, "not-started")
    bad.socket.close()
    bad.socket, bad.at = home, next(c.at for c in field if c.at != other)
    field.finish(number, field.clients[1:])


def test_a_job_that_nobody_has(field: Field) -> None:
    """And a gateway does not remember who asked for what."""
    number, bad = field.round(), field.clients[0]
    for name in ("nobody's", "", *map(str, range(100))):
        bad.send("hello", job=name)
        rejected(bad, "unknown-job")
    field.finish(number, field.clients)


def test_random_bytes_on_every_port(field: Field) -> None:
    number, generator = field.round(), random.Random(7)
    modules = "lifl.functions.gateway", "lifl.placement.coordinator", "lifl.placement.agent"
    ports = [port for module in modules for pid in field.runner.processes(module)
             for port in listening(pid)]  # fmt: skip
    for gateway in field.runner.processes("lifl.functions.gateway"):
        assert len(listening(gateway)) == 2  # control and bulk
    assert len(ports) >= 5  # two gateways and the coordinator; and where metrics are served
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00"
    for port in ports:
        for head in (b"", greeting + b"NULL", greeting + b"CURVE", greeting + b"PLAIN"):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.settimeout(0.05)
                stranger.sendall(head + generator.randbytes(20_000))
                with contextlib.suppress(OSError):  # a reset, an end or a greeting of its own
                    stranger.recv(1 << 16)
    field.finish(number, field.clients)


def test_a_stolen_ticket(field: Field) -> None:
    """Neither its number nor its secret is of use to another client, and to its owner they are."""
    number, owner, thief = field.round(), *field.clients[:2]
    ticket = owner.ticket()
    for line in (
        BulkLine(owner, ticket | {"secret": bytes(32)}),  # seen, but not what was said over CURVE
        BulkLine(owner, ticket, thief.keys.public),
        BulkLine(owner, ticket | {"id": bytes(16)}),
    ):
        assert not line.greet()
        line.socket.close()
    line = BulkLine(owner, ticket)
    assert line.greet()
    again = BulkLine(owner, ticket)
    assert not again.greet()  # it is used
    owner.put(number, lane="fast")
    transfer = owner.hear("go", number=number)["transfer"]
    for chunk in line.chunks(owner.update(number), number, transfer):
        line.socket.sendall(chunk)
    assert owner.hear("ack", "reject", number=number)["t"] == "ack"
    for each in (line, again):
        each.socket.close()
    field.finish(number, field.clients[1:])


@pytest.mark.parametrize("what", ["replayed", "changed", "of another round", "without a go"])
def test_a_chunk_that_was_not_granted(field: Field, what: str) -> None:
    """The connection ends, the slot is somebody else's, and the client may begin again."""
    number, bad = field.round(), field.clients[0]
    line = BulkLine(bad, bad.ticket())
    assert line.greet()
    transfer = 1
    if what != "without a go":
        bad.put(number, lane="fast")
        transfer = bad.hear("go", number=number)["transfer"]
    said = number + 1 if what == "of another round" else number
    first, second, _ = line.chunks(bad.update(number), said, transfer)
    if what == "changed":
        second = second[:-1] + bytes([second[-1] ^ 1])
    with contextlib.suppress(ConnectionError):
        line.socket.sendall(first)
        line.socket.sendall(first if what == "replayed" else second)
    assert line.is_closed()
    line.socket.close()
    if what != "without a go":
        assert bad.hear("reject", "ack", number=number)["t"] == "reject"
    field.finish(number, field.clients)


def listening(pid: int) -> list[int]:
    """TCP ports at which a process listens."""
    inodes = {os.readlink(fd)[8:-1] for fd in Path(f"/proc/{pid}/fd").iterdir()
              if os.readlink(fd).startswith("socket:")}  # fmt: skip
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(r[1].partition(":")[2], 16) for r in rows if r[3] == "0A" and r[9] in inodes]


def test_a_key_that_nobody_enrolled(field: Field) -> None:
    number = field.round()
    client = lifl.Client(Address(*field.clients[0].at), job="toy", keys=Keys.new(), timeout_s=20)
    with client, pytest.raises(Refused, match="lifl keys enroll") as caught:
        next(client.rounds())
    assert caught.value.code == "not-enrolled"
    field.finish(number, field.clients)


LIBRARY: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("a tensor missing", lambda m: m.pop("half"), "wrong-names"),
    ("a tensor too many", lambda m: m.update(extra=np.zeros(1)), "wrong-names"),
    ("another shape", lambda m: m.update(half=np.zeros((5, 3), np.float16)), "wrong-shape"),
    ("another dtype", lambda m: m.update(weight=np.zeros(SIZE)), "wrong-dtype"),
    ("NaN", lambda m: m["double"].fill(np.nan), "not-finite"),
]


def test_the_library_raises_what_the_gateway_says(field: Field) -> None:
    """And its client may correct what it sent."""
    number, bad = field.round(), field.clients[0]
    bad.socket.close()
    with lifl.Client.connect({"LIFL_CLIENT": str(field.folder / "client-0.json")}) as client:
        round_ = next(client.rounds())
        assert round_.number == number
        for what, spoil, code in LIBRARY:
            model, weight = toy.update(0, number)
            spoil(model)
            with pytest.raises(lifl.InvalidUpdate) as caught:
                round_.send(model, weight=weight)
            assert caught.value.code == code, what
            assert not caught.value.retryable
        with pytest.raises(lifl.InvalidUpdate) as caught:
            round_.send(toy.update(0, number)[0], weight=1e300)
        assert caught.value.code == "bad-weight"
        model, weight = toy.update(0, number)
        assert round_.send(model, weight=weight)
    bad.connect(*bad.at)
    bad.send("hello")
    field.finish(number, field.clients[1:])
