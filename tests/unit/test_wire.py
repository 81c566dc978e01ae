"""Whose message it is: a key that the door let in, or without CURVE a name that nobody proves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from lifl.errors import TransientError
from lifl.functions.wire import (
    Doorkeeper,
    Keys,
    bind,
    bound_endpoint,
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


def test_two_cannot_listen_at_one_address(context: Context) -> None:
    first, second = (server(context, Keys.new()) for _ in range(2))
    bind(first, "tcp://127.0.0.1:*")
    with pytest.raises(TransientError, match=r"already in use.*: end what listens") as caught:
        bind(second, bound_endpoint(first))
    assert caught.value.code == "port-in-use"
