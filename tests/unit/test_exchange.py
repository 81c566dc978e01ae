"""A conversation with a gateway that forgot what it had asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lifl import exchange as module
from lifl.connection import Address
from lifl.exchange import AWAY_S, Away, Exchange, Interrupted
from lifl.functions.wire import Keys, Message
from tests.clock import Clock

REPORT: Message = {"t": "report", "job": "toy", "round": 1, "as": 7}


class Gateway:
    """A control connection that answers by a list, half a second apart, and then the same again."""

    is_quiet, is_up = False, True

    def __init__(self, clock: Clock, answers: list[str]) -> None:
        self.clock, self.answers, self.asked = clock, answers, 0
        self.address, self.down_at = Address("", ""), clock.now
        self._pair = socket.socketpair()
        self.fd, self.monitor_fd = (each.fileno() for each in self._pair)

    def send(self, _: object) -> None:
        self.asked += 1

    def reconnected(self) -> bool:
        return False

    def stop(self) -> None:
        """What the answer "stop" does."""

    def receive(self) -> tuple[Message, None] | None:
        self.clock.now += 0.5
        code = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if code == "stop":
            return self.stop()
        if code in ("work", "gone", "round"):
            return {"t": code, "job": "toy", "round": 1}, None
        if code == "ack":
            return {"t": "ack", "job": "toy", "round": 1, "as": 7}, None
        return {"t": "reject", "of": "report", "job": "toy", "round": 1, "code": code, "text": "",
                "retry": True, "as": 7}, None  # fmt: skip

    def close(self) -> None:
        for each in self._pair:
            each.close()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    clock, exchanges = Clock(), list[Exchange]()
    monkeypatch.setattr(module, "time", clock)

    def make(answers: list[str], *, moves: bool) -> tuple[Exchange, Clock]:
        monkeypatch.setattr(module, "Connection", lambda *_: Gateway(clock, answers))
        exchange = Exchange(
            Address("", ""), job="toy", keys=Keys("me", ""), timeout_s=60, moves=moves
        )
        exchange.speaks_for = 7
        exchanges.append(exchange)
        return exchange, clock

    yield make
    for exchange in exchanges:
        exchange.close()


def test_a_worker_leaves_a_gateway_that_came_back_without_the_round(made: Any) -> None:
    """Its node was lost, and what others ask for waits on their connections meanwhile."""
    exchange, clock = made(["not-started"], moves=False)
    began = clock.now
    with pytest.raises(Away):
        exchange.report(REPORT)
    assert AWAY_S <= clock.now - began <= AWAY_S + 1
    with pytest.raises(Away):  # each time it is given a while
        exchange.report(REPORT)
    assert clock.now - began >= 2 * AWAY_S


@pytest.mark.parametrize(
    ("answers", "moves"),
    [
        (["not-started"] * 4 + ["ack"], False),  # it was told of the round
        (["not-started", *["busy"] * 9, "not-started", "ack"], False),  # it knows it
        (["not-started", *["work"] * 9, "not-started", "ack"], False),  # it says so
        (["not-started", *["gone"] * 9, "not-started", "ack"], False),
        (["not-started"] * 99 + ["ack"], True),  # a client is told where it belongs
    ],
)
def test_a_gateway_that_is_told_of_the_round_has_the_answer(
    made: Any, answers: list[str], *, moves: bool
) -> None:
    exchange, _ = made(answers, moves=moves)
    assert exchange.report(REPORT)


def test_what_is_asked_next_is_given_a_while_of_its_own(made: Any) -> None:
    """What was asked before was given up, and the gateway has had time to be told since."""
    exchange, clock = made(["not-started", "stop", "not-started", "ack"], moves=False)
    exchange._connection.stop = exchange.interrupt
    with pytest.raises(Interrupted):
        exchange.report(REPORT)
    clock.now += AWAY_S
    assert exchange.report(REPORT)
