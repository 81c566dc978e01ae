"""A whole model on its way between the coordinator and a gateway: how long, and what ends it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lifl.errors import Unreachable
from lifl.functions.peers import Transfer
from lifl.functions.transfer import Upload, Whole
from lifl.placement import models
from lifl.placement.membership import Known
from lifl.placement.models import LIMIT_S, NotServed, move
from tests.clock import Clock

STEP_S = LIMIT_S / 3


class Gateway:
    """In the place of a peer: takes `bytes_` of an upload, one each step, then says `last`."""

    bytes_: int = 0
    last: dict[str, Any] | None = None
    is_closed = False

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.socket = SimpleNamespace(poll=self._poll)

    def __call__(self, *_: object) -> Gateway:
        return self

    def _poll(self, _: int) -> bool:
        self.clock.now += STEP_S
        return False

    def start(self, _: str, transfer: Transfer) -> None:
        self.transfer = transfer

    def tick(self) -> None:
        work = self.transfer.work
        assert isinstance(work, Upload)
        if work.sent < self.bytes_:
            work.sent += 1
        elif self.last is not None:
            self.transfer.refused(self.last)
        elif self.bytes_ == work.size:
            self.transfer.done()

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    clock = Clock()
    gateway = Gateway(clock)
    monkeypatch.setattr(models, "time", clock)
    monkeypatch.setattr(models, "Peer", gateway)
    return gateway


def put(size: int = 20, **more: Any) -> None:
    nothing: Any = None
    work = Upload({"t": "put", "round": 0}, Whole(memoryview(bytes(size))))
    move(nothing, nothing, Known("node-0", "key"), "digits", work, **more)


def test_a_model_may_take_as_long_as_it_moves(gateway: Gateway) -> None:
    gateway.bytes_ = 20
    put()
    assert gateway.clock.now - 1000.0 > 3 * LIMIT_S
    assert gateway.is_closed


@pytest.mark.parametrize("bytes_", [0, 5])
def test_one_that_moves_no_more_is_given_up(gateway: Gateway, bytes_: int) -> None:
    gateway.bytes_ = bytes_
    with pytest.raises(Unreachable, match="node-0 did not answer") as caught:
        put()
    assert not isinstance(caught.value, NotServed)
    took_s = gateway.clock.now - 1000.0
    assert LIMIT_S + bytes_ * STEP_S <= took_s <= LIMIT_S + (bytes_ + 3) * STEP_S
    assert gateway.is_closed


def test_a_gateway_that_refuses_is_not_away(gateway: Gateway) -> None:
    gateway.last = {"t": "reject", "text": "not enrolled"}
    with pytest.raises(NotServed, match="not enrolled"):
        put()


def test_a_model_that_is_gone_went_with_the_memory(gateway: Gateway) -> None:
    gateway.last = {"t": "gone"}
    with pytest.raises(Unreachable) as caught:
        put()
    assert not isinstance(caught.value, NotServed)


def test_whoever_waits_may_end_it(gateway: Gateway) -> None:
    """The node is silent, as far as everybody else can tell."""

    def meanwhile() -> None:
        raise Unreachable("silent for 2 s")

    with pytest.raises(Unreachable, match="silent"):
        put(meanwhile=meanwhile)
    assert gateway.is_closed
