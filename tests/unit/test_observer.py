"""Which models somebody who watches a job gets to see, from what gateways say to it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from lifl.connection import Address
from lifl.functions.clients import Clients
from lifl.functions.jobs import Job
from lifl.functions.layout import Layout
from lifl.functions.rights import Rights
from lifl.functions.transfer import Outgoing
from lifl.functions.welcomes import Welcomes
from lifl.functions.wire import Keys, Message
from lifl.observer import Observer

LAYOUT = Layout.of({"w": np.zeros(1, np.float32)})


class Gateway:
    """The other end of a connection: the newest model alone can be had, as from a real one."""

    is_up = True
    called: ClassVar[dict[Address, Gateway]] = {}

    def __init__(self, _: Keys, address: Address) -> None:
        self.called[address] = self
        self.socket = os.eventfd(1)  # always readable
        self.said: deque[tuple[Message, memoryview | None]] = deque()
        self.heard: list[Message] = []
        self.newest = -1
        self.others: list[list[str]] = []
        self.is_new = False
        self.is_up = True
        self.follows = deque[int]()  # published as soon as a model is asked for

    def publish(self, number: int) -> None:
        self.newest = number
        self.said.append(({"t": "published", "round": number}, None))

    def send(self, outgoing: list[Outgoing]) -> None:
        for message, _ in outgoing:
            self.heard.append(message)
            if message["t"] == "hello":
                welcome = {
                    "t": "welcome", "layout": LAYOUT.to_wire(), "settings": {"start": 0},
                    "elsewhere": self.others,
                }  # fmt: skip
                self.said.append((welcome, None))
            if message["t"] == "metrics" and self.heard.count(message) == 2:
                self.said.append(({"t": "done"}, None))
            if message["t"] == "get":
                if self.follows:
                    self.publish(self.follows.popleft())
                if message["round"] != self.newest:
                    self.said.append(({"t": "gone", "round": message["round"]}, None))
                    continue
                model = memoryview(bytearray(np.float32(self.newest).tobytes()))
                answer = {"t": "model", "round": self.newest, "at": 0}
                self.said.append((answer, model.cast("B")))

    def receive(self) -> tuple[Message, memoryview | None] | None:
        return self.said.popleft() if self.said else None

    def reconnected(self) -> bool:
        was_new, self.is_new = self.is_new, False
        return was_new

    def close(self) -> None:
        os.close(self.socket)


@pytest.fixture
def observer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    monkeypatch.setattr("lifl.observer.Connection", Gateway)
    Gateway.called.clear()
    found = Observer([Address("tcp://a", "key")], job="j", keys=Keys("public", "secret"))
    yield found
    found.close()


def gateway_of(observer: Observer) -> Any:
    return observer._connections[0]


def test_the_newest_is_next_and_the_last_is_never_skipped(observer: Observer) -> None:
    gateway, seen = gateway_of(observer), []
    gateway.publish(0)
    rounds = {0: (1,), 1: (2, 3, 4), 4: (5,), 5: ()}  # published while one is measured
    for number, model in observer.models():
        assert model["w"] == [number]
        seen.append(number)
        for newer in rounds[number]:
            gateway.publish(newer)
        if not rounds[number]:
            gateway.said.append(({"t": "done"}, None))
    assert seen == [0, 1, 4, 5]


def test_a_model_that_is_replaced_on_its_way_leads_to_the_newer_one(observer: Observer) -> None:
    gateway = gateway_of(observer)
    gateway.follows.extend([2, 3])
    gateway.publish(1)
    assert next(observer.models())[0] == 3


def test_a_gateway_that_comes_back_hears_the_last_figures_again(observer: Observer) -> None:
    """It may have died before it passed them on, and the run waits for those of its last round."""
    gateway = gateway_of(observer)
    gateway.publish(7)
    models = observer.models()
    number, _ = next(models)
    observer.report(number, {"accuracy": 0.5})
    gateway.is_new = True
    assert list(models) == []
    figures = {"t": "metrics", "job": "j", "round": 7, "metrics": {"accuracy": 0.5}}
    assert [message for message in gateway.heard if message["t"] == "metrics"] == [figures] * 2


@pytest.mark.parametrize("by", ["welcome", "elsewhere"])
def test_a_node_that_joins_is_called_and_its_models_are_seen(observer: Observer, by: str) -> None:
    """The top may be there from now on, and then nobody else says what is published."""
    gateway, models = gateway_of(observer), observer.models()
    gateway.publish(1)
    assert next(models)[0] == 1
    others = [["tcp://a", "key"], ["tcp://b", "key of b"]]
    if by == "elsewhere":
        gateway.said.extend([({"t": "elsewhere", "gateways": others}, None)] * 2)
    else:
        gateway.others, gateway.is_new = others, True
    for number in (2, 3):
        gateway.publish(number)
        assert next(models)[0] == number
    joined = Gateway.called[Address("tcp://b", "key of b")]
    joined.publish(4)
    assert next(models)[0] == 4
    assert len(observer._connections) == 2
    assert joined.heard[0] == {"t": "hello", "job": "j"}
    observer.report(4, {"accuracy": 1.0})
    assert joined.heard[-1]["t"] == "metrics"


def test_a_gateway_tells_observers_of_the_others() -> None:
    clients, told = Clients.__new__(Clients), []
    intake: Any = None
    job = Job("j", 1, intake, (0, 0, 0))
    job.clients, job.workers, job.observers = {"c": b"1"}, {"w": b"2"}, {"o": b"3"}
    clients.jobs = {"j": job}
    clients.unknown = {}
    clients.send = lambda peer, message: told.append((peer, message))  # type: ignore[assignment]
    clients.welcomes = Welcomes("n", Rights(), clients.send)
    others = [["tcp://b", "key of b"]]
    clients.tell_elsewhere("j", others, [])
    news = {"t": "elsewhere", "job": "j", "gateways": others}
    assert told == [(b"1", news), (b"2", news), (b"3", news)]
