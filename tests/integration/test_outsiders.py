"""Clients that stall, trickle, die or talk nonsense at a real gateway: the round goes on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import PROXY, Runner, wait_until
from test_runs import check

import lifl
from lifl.connection import Address
from lifl.exchange import Exchange
from lifl.functions.bulk_client import BulkConnection
from lifl.functions.sealing import CHUNK, Head, Kind
from lifl.functions.wire import Keys

SIZE = 700_001


class Outsider:
    """A client that is driven by hand as far as its `go`."""

    def __init__(self, path: Path) -> None:
        fields = json.loads(path.read_text())
        self.endpoint: str = fields["endpoint"]
        keys = Keys(fields["public_key"], fields["secret_key"])
        address = Address(self.endpoint, fields["server_key"])
        self.exchange = Exchange(address, job=fields["job"], keys=keys, timeout_s=30)

    def granted(self) -> tuple[BulkConnection, dict[str, Any]]:
        """Offer an update of round 1 and get a slot for it."""
        exchange = self.exchange
        self.exchange.wait_for("round")
        assert exchange.layout is not None
        bulk = exchange.fast.open()
        assert bulk is not None
        put = {
            "t": "put", "kind": "update", "job": exchange.job, "round": 1, "weight": 1.0,
            "digest": exchange.layout.digest, "length": exchange.layout.update_bytes,
            "lane": "fast",
        }  # fmt: skip
        exchange._connection.send([(put, None)])
        go, _ = exchange.wait_for("go")
        return bulk, go

    def begin(self) -> tuple[BulkConnection, memoryview]:
        """A slot, and the bytes of a first chunk that belongs into it."""
        bulk, go = self.granted()
        assert bulk._up is not None
        head = Head(Kind.UPDATE, CHUNK, 1, go["transfer"], 0).pack()
        sealed = bytearray(CHUNK)
        seal = bulk._up.seal(head)
        seal.update_into(bytes(CHUNK), sealed)
        seal.finalize()
        return bulk, memoryview(head + bytes(sealed) + seal.tag)


@pytest.fixture
def job(runner: Runner) -> Iterator[tuple[Runner, Any, list[Path]]]:
    """A job of one round that waits for four clients from outside, with two slots."""
    path = runner.job_file(
        rounds=1, trainer=None, clients={"min": 4}, aggregation={"fanIn": 2},
        memory={"inputSlots": 2, "stallS": 2.0, "minUploadRate": "256Ki"},
    )  # fmt: skip
    process = runner.start(path, "--proxy", PROXY, env={"TOY_SIZE": str(SIZE)})
    files = [runner.folder / f"runs/latest/clients/client-{index}.json" for index in range(4)]
    wait_until(lambda: all(map(Path.exists, files)), lambda: "no client files", 30)
    try:
        yield runner, process, files
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def send_all(files: list[Path], which: list[int]) -> list[bool]:
    """These clients take part as they should; True for each whose update counts."""
    found: dict[int, bool] = {}

    def take_part(index: int) -> None:
        with lifl.Client.connect({"LIFL_CLIENT": str(files[index])}) as client:
            for round_ in client.rounds():
                array, weight = toy.update(index, round_.number)
                model = {
                    name: value if name != "weight" else round_.model[name] * 0 + value[0]
                    for name, value in array.items()
                }
                found[index] = round_.send(model, weight=weight)
                return

    threads = [threading.Thread(target=take_part, args=(index,)) for index in which]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found.get(index, False) for index in which]


def test_two_that_stall_do_not_hold_up_the_others(job: tuple[Runner, Any, list[Path]]) -> None:
    """One sends nothing, one trickles; both have all the slots there are."""
    runner, process, files = job
    outsiders = [Outsider(path) for path in files[2:]]
    others: list[bool] = []
    rest = threading.Thread(target=lambda: others.extend(send_all(files, [0, 1])))
    present = [lifl.Client.connect({"LIFL_CLIENT": str(path)}) for path in files[:2]]
    (_, _), (bulk, chunk) = outsiders[0].begin(), outsiders[1].begin()
    for client in present:
        client.close()
    stop = threading.Event()

    def trickle() -> None:
        at = 0
        while not stop.wait(0.1) and at < len(chunk):
            with contextlib.suppress(OSError):
                bulk._sock.sendall(chunk[at : at + 1000])
            at += 1000

    trickling = threading.Thread(target=trickle)
    trickling.start()
    rest.start()
    try:
        for outsider in outsiders:
            said, _ = outsider.exchange.wait_for("reject")
            assert (said["code"], said["retry"], said["of"]) == ("too-slow", True, "put")
    finally:
        stop.set()
        trickling.join()
    rest.join(60)
    assert others == [True, True]
    for outsider in outsiders:
        outsider.exchange.close()
    assert send_all(files, [2, 3]) == [True, True]
    check(runner.finish(process), rounds=1, clients=4)


def test_nonsense_and_sudden_deaths(job: tuple[Runner, Any, list[Path]]) -> None:
    """Bytes of no protocol on both ports, uploads that end in the middle, a wrong tag."""
    runner, process, files = job
    outsiders = [Outsider(path) for path in files]
    bulk, chunk = outsiders[0].begin()
    bulk._sock.sendall(chunk[: CHUNK // 2])
    bulk.close()  # a client that died
    said, _ = outsiders[0].exchange.wait_for("reject")
    assert said["retry"]

    bulk, chunk = outsiders[1].begin()
    bulk._sock.sendall(bytes([*chunk[:-1], chunk[-1] ^ 1]))
    said, _ = outsiders[1].exchange.wait_for("reject")
    assert said["retry"]
    assert "tag" in said["text"]

    control = int(outsiders[0].endpoint.rpartition(":")[2])
    spare = outsiders[2].exchange.fast.open()
    assert spare is not None
    for port in (control, spare._sock.getpeername()[1]):
        for size in (1, 64, 100_000):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            with sock, contextlib.suppress(OSError):
                sock.sendall(os.urandom(size))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
    assert spare.is_alive
    for outsider in outsiders:
        outsider.exchange.close()
    assert send_all(files, [0, 1, 2, 3]) == [True] * 4
    check(runner.finish(process), rounds=1, clients=4)
