"""Rounds whose messages go over the bulk connection: what is left for the control channel, and
what becomes of a round when that connection ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import PROXY, Runner, wait_until
from outsider import Field
from test_runs import check

import lifl
from lifl.connection import Connection
from lifl.exchange import Exchange
from lifl.fastlane import FastLane
from lifl.functions.wire import Message, decode

SIZE = 600_000  # an update of three chunks


class Said:
    """What clients of this process say over control channels, and hear over bulk connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.control: list[str] = []
        self.bulk: list[Message] = []
        self.refused: list[str] = []
        send, hear, does_without = Connection.send, FastLane._hear, Exchange._does_without

        def sends(connection: Connection, outgoing: Any) -> None:
            self.control += [message["t"] for message, _ in outgoing]
            send(connection, outgoing)

        def hears(lane: FastLane, data: memoryview) -> None:
            self.bulk.append(decode(data))
            hear(lane, data)

        def is_refused(exchange: Exchange, rejection: Message) -> bool:
            self.refused.append(rejection["code"])
            return does_without(exchange, rejection)

        monkeypatch.setattr(Connection, "send", sends)
        monkeypatch.setattr(FastLane, "_hear", hears)
        monkeypatch.setattr(Exchange, "_does_without", is_refused)

    def heard(self, kind: str) -> list[Message]:
        return [message for message in self.bulk if message["t"] == kind]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Of updates of several chunks, which nobody offers again because a machine is slow."""
    monkeypatch.setattr("toy.SIZE", SIZE)
    monkeypatch.setattr("lifl.exchange.AGAIN_S", 600.0)
    monkeypatch.setattr("lifl.exchange.AGAIN_MS", 600_000)
    return Said(monkeypatch)


@pytest.fixture
def field(runner: Runner) -> Iterator[Field]:
    """Two clients, and one slot."""
    field = Field(
        runner, rounds=100_000, trainers=2, memory={"inputSlots": 1}, env={"TOY_SIZE": str(SIZE)}
    )  # fmt: skip
    try:
        yield field
    finally:
        field.end()


def client_of(path: Path) -> lifl.Client:
    return lifl.Client.connect({"LIFL_CLIENT": str(path)})


@contextmanager
def bounded(client: lifl.Client) -> Iterator[None]:
    """What waits for ever otherwise raises after a minute."""
    timer = threading.Timer(60, client.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.mark.parametrize("insecure", [False, True])
def test_after_the_ticket_the_control_channel_is_silent(
    runner: Runner, said: Said, monkeypatch: pytest.MonkeyPatch, *, insecure: bool
) -> None:
    """No model is asked for any more, no update offered, and every sum is right."""
    path = runner.job_file(
        rounds=3, trainer=None, clients={"min": 4}, aggregation={"fanIn": 2},
        memory={"inputSlots": 2}, insecure=insecure,
    )  # fmt: skip
    process = runner.start(path, "--proxy", PROXY, env={"TOY_SIZE": str(SIZE)})
    monkeypatch.setenv("TOY_MODELS", str(runner.folder / "models"))
    files = [runner.folder / f"runs/latest/clients/client-{index}.json" for index in range(4)]
    try:
        wait_until(lambda: all(map(Path.exists, files)), lambda: "no client files", 60)

        def take_part(path: Path) -> None:
            with client_of(path) as client:
                toy.train(client)

        threads = [threading.Thread(target=take_part, args=(path,)) for path in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        check(runner.finish(process), rounds=3, clients=4)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert set(said.control) <= {"hello", "ticket", "get"}
    assert said.control.count("hello") == said.control.count("ticket") == 4
    rounds = sorted((message["round"], message.get("model")) for message in said.heard("round"))
    first = 4 - said.control.count("get")  # where nobody was late, all of them
    assert rounds == [(1, True)] * first + [(2, True)] * 4 + [(3, True)] * 4
    assert len(said.heard("ack")) == 12
    assert said.refused == []


def test_an_update_that_came_with_its_put_waits_for_a_slot_and_counts(
    field: Field, said: Said
) -> None:
    first, other = field.clients
    number = field.round()
    other.close()
    first.put(number)
    first.hear("go", number=number)  # the slot
    counts: list[bool] = []

    def take_part() -> None:
        with client_of(field.folder / "client-1.json") as client:
            round_ = next(client.rounds())
            model, weight = toy.update(1, number)
            counts.append(round_.send(model, weight=weight))

    thread = threading.Thread(target=take_part)
    thread.start()
    wait_until(lambda: said.heard("wait"), field.say, 60)
    assert said.heard("go") == []
    assert first.upload(number, first.update(number))["t"] == "ack"
    thread.join(60)
    field.clients = [first]
    assert counts == [True]
    assert "put" not in said.control
    field.check(number, [first, other])


@pytest.mark.parametrize("has_read", [False, True])
def test_who_loses_its_connection_with_a_round_on_it_takes_part(
    field: Field, said: Said, *, has_read: bool
) -> None:
    """It is told again, over the control channel; also where it had read of it, and knows."""
    first, other = field.clients
    other.close()
    field.clients = [first]
    with client_of(field.folder / "client-1.json") as client, bounded(client):
        for number in (1, 2):
            assert field.round() == number
            first.put(number)
            first.hear("go", number=number)
            assert first.upload(number, first.update(number))["t"] == "ack"
            round_ = client.next_round()
            assert round_ is not None
            model, weight = toy.update(1, number)
            assert round_.send(model, weight=weight)
            field.check(number, [first, other])
            bulk = client._exchange.fast.connection
            assert bulk is not None
            if number == 1:
                assert bulk.wait(60)  # the next round
                if has_read:
                    bulk.receive()
                bulk.close()
    assert 2 in [message["round"] for message in said.heard("round")] or not has_read
    assert said.refused == []
    assert said.control.count("ticket") == 2
