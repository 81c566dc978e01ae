"""What a role stores and sends: a real arena, and a socket that only remembers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lifl.functions.kernels import Optimiser, choose
from lifl.functions.kernels.contract import Code, lay_out
from lifl.functions.round import MANY, Role
from lifl.functions.steps import Aggregator
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.shm.arena import ArenaFiles, map_arena
from lifl.shm.geometry import Geometry
from lifl.shm.slots import SUMS_BIT, Arena, Header, Payload, Phase

LEAF, CHILD = 1, 3
COUNT = 1000
SIZE = 4 * COUNT
GEOMETRY = Geometry(inputs=MANY + 9, sums=5, input_bytes=SIZE, sum_bytes=SIZE, roster=64)
SECTIONS = lay_out([(Code.F32, COUNT)])


class Port:
    def __init__(self) -> None:
        self.sent: list[tuple[Descriptor, ...]] = []

    def send(self, *descriptors: Descriptor) -> None:
        self.sent.append(descriptors)


@pytest.fixture
def files() -> Iterator[ArenaFiles]:
    files = ArenaFiles.make("test", GEOMETRY)
    yield files
    files.close()


@pytest.fixture
def gateway(files: ArenaFiles) -> Arena:
    return map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True)


@pytest.fixture
def leaf(files: ArenaFiles) -> Aggregator:
    port: Any = Port()
    return Aggregator(
        role=Role(LEAF, "leaf", parent=2, expected=40, slots=(SUMS_BIT, SUMS_BIT | 1)),
        arena=map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=False),
        port=port, kernels=choose(), sections=SECTIONS, update_bytes=SIZE, sum_bytes=SIZE,
        velocity_at=SIZE, optimiser=Optimiser(),
    )  # fmt: skip


def seal(arena: Arena, slot: int, client: int, payload: Payload, source: int = 0) -> None:
    """Of this client, whose number is its update."""
    np.frombuffer(arena.payload(slot, SIZE), np.float32)[:] = client
    arena.set_header(slot, Header(1, payload, 1 << client, 1.0, SIZE, source))
    arena.set_state(slot, 1, Phase.SEALED, LEAF)


def test_inputs_of_a_fold_are_released_at_once_and_each_allocator_is_told_in_one_message(
    gateway: Arena, leaf: Aggregator
) -> None:
    for slot in (4, 7, 9):
        seal(gateway, slot, slot, Payload.UPDATE)
    child = SUMS_BIT | 3
    seal(leaf.arena, child, 20, Payload.SUM, source=CHILD)
    leaf.advance()
    assert leaf.arena.sealed_for(LEAF) == []
    total = np.frombuffer(leaf.arena.payload(SUMS_BIT, SIZE), np.float32)
    assert (total == 4 + 7 + 9 + 20).all()
    port: Any = leaf.port
    assert [[(d.kind, d.slot, d.source) for d in sent] for sent in port.sent] == [
        [(Kind.RELEASE, slot, lane(LEAF)) for slot in (4, 7, 9)],
        [(Kind.RELEASE, child, CHILD)],
    ]
    assert leaf.work.updates == 4
    assert not leaf.work.has_sealed


def test_a_sum_that_is_sealed_is_news_for_the_agent(gateway: Arena, leaf: Aggregator) -> None:
    seal(gateway, 0, 0, Payload.UPDATE)
    gateway.set_accepted(1, 1)
    gateway.close_round(1)
    leaf.advance()
    assert leaf.work.has_sealed


def test_it_rests_until_the_round_is_closed(
    gateway: Arena, leaf: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = list[float]()
    monkeypatch.setattr("time.sleep", rests.append)
    leaf.advance()
    leaf.rest()
    assert rests == [leaf.rest_s]
    assert leaf.rest_s > 0
    gateway.close_round(1)
    leaf.rest()
    leaf.advance()
    leaf.rest()
    assert rests[1:] == []
    assert leaf.rest_s == 0
