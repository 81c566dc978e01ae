"""Clients of one process share what ZeroMQ costs; a gateway that is gone is not a silent one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from lifl.client import Client
from lifl.connection import Address, Connection
from lifl.errors import LiflError, Refused, Unreachable
from lifl.functions.wire import Keys, bind, bound_endpoint, decode, encode, server

NOWHERE = Address("tcp://127.0.0.1:9", "")
KEYS = Keys("somebody", "")


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_any_number_of_connections_has_the_threads_of_one() -> None:
    before = threads()
    first = Connection(KEYS, NOWHERE)
    one = threads() - before
    others = [Connection(KEYS, NOWHERE) for _ in range(20)]
    assert threads() - before == one
    assert {id(other.socket.context) for other in others} == {id(first.socket.context)}
    for connection in (first, *others):
        connection.close()
        connection.close()
    assert threads() == before


def test_the_next_one_after_the_last_has_a_context_again() -> None:
    Connection(KEYS, NOWHERE).close()
    connection = Connection(KEYS, NOWHERE)
    assert not connection.socket.context.closed
    connection.close()


def test_a_child_has_a_context_of_its_own() -> None:
    parents = Connection(KEYS, NOWHERE)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            own = Connection(KEYS, NOWHERE)
            status = 0 if own.socket.context is not parents.socket.context else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    parents.close()


def test_a_child_that_closes_its_parents_connection_keeps_its_own() -> None:
    parents = Connection(KEYS, NOWHERE)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            own = Connection(KEYS, NOWHERE)
            parents.close()
            status = 2 if own.socket.context.closed else 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    parents.close()


def test_a_bad_endpoint_costs_no_thread() -> None:
    before = threads()
    for _ in range(3):
        with pytest.raises(zmq.ZMQError):
            Connection(KEYS, Address("nonsense", ""))
    assert threads() == before


class Hours:
    """A clock that stands still until it `runs`; then it is a minute later at every look."""

    def __init__(self) -> None:
        self.now_s, self.runs, self.looks = 1000.0, False, 0
        self.much = threading.Event()

    def monotonic(self) -> float:
        if self.runs:
            self.now_s += 61.0
            self.looks += 1
            if self.looks > 60:
                self.much.set()
        return self.now_s


class Gateway:
    """Hears one client, and says nothing unless told to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], at: str) -> None:
        self.socket = server(context, Keys.named("gateway"))
        bind(self.socket, at)
        self.endpoint = bound_endpoint(self.socket)

    def hello(self) -> None:
        assert self.socket.poll(30_000)
        self.peer, head = self.socket.recv_multipart()
        assert decode(head)["t"] == "hello"

    def say(self, **message: Any) -> None:
        self.socket.send_multipart([self.peer, encode({"job": "toy", **message})])

    def leave(self) -> None:
        self.socket.close(linger=0)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    clock = Hours()
    for module in ("exchange", "connection"):
        monkeypatch.setattr(f"lifl.{module}.time", clock)
    monkeypatch.setattr("lifl.exchange.AGAIN_MS", 10)
    return clock


def waiting(play: Callable[[Gateway, zmq.Context[zmq.Socket[bytes]]], None]) -> LiflError | None:
    """What a client in rounds() hears of a gateway that plays so."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gateway = Gateway(context, "tcp://127.0.0.1:*")
    heard: list[LiflError | None] = []

    def take_part() -> None:
        address = Address(gateway.endpoint, "")
        with Client(address, job="toy", keys=Keys.named("client-0"), timeout_s=60) as client:
            try:
                assert list(client.rounds()) == []
                heard.append(None)
            except LiflError as error:
                heard.append(error)

    thread = threading.Thread(target=take_part)
    thread.start()
    try:
        gateway.hello()
        play(gateway, context)
        thread.join(30)
        assert not thread.is_alive()
    finally:
        context.destroy(linger=0)
    return heard[0]


def test_a_gateway_may_be_silent_for_hours_also_one_that_came_back(hours: Hours) -> None:
    def play(gateway: Gateway, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        gateway.leave()
        again = Gateway(context, gateway.endpoint)
        again.hello()
        hours.runs = True
        assert hours.much.wait(30)
        again.say(t="done")

    assert waiting(play) is None


def test_who_waits_for_rounds_gives_up_a_gateway_that_is_gone(hours: Hours) -> None:
    def play(gateway: Gateway, _: object) -> None:
        hours.runs = True
        assert hours.much.wait(30)  # still silent, and waited for
        gateway.leave()

    error = waiting(play)
    assert isinstance(error, Unreachable)
    assert "for 60 s: see whether the run is still under way" in error.sentence


def test_who_was_displaced_is_told(hours: Hours) -> None:
    def play(gateway: Gateway, _: object) -> None:
        gateway.say(t="reject", round=None, of="", code="displaced", text="two", retry=False)

    error = waiting(play)
    assert isinstance(error, Refused)
    assert error.code == "displaced"
