"""Clients of one process share what ZeroMQ costs."""

from __future__ import annotations

import os

import pytest
import zmq

from lifl.connection import Address, Connection
from lifl.functions.wire import Keys

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
