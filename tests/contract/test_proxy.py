"""The contract of a router (proxy_ebpf/contract.py), held to both implementations."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lifl.errors import Busy, Refused, Unreachable, Unsupported
from lifl.proxy_ebpf.contract import BURST, FLUSHES, Counters
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.proxy_ebpf.open import open_router
from lifl.proxy_ebpf.port import Port, make_pair

if TYPE_CHECKING:
    from conftest import Rig

pytestmark = pytest.mark.timeout(60)
LEAF, MIDDLE, TOP, NOBODY = 1, 2, 3, 77


def test_a_descriptor_goes_to_the_next_hop_unchanged(rig: Rig) -> None:
    gateway, leaf, top = rig.peer(lane(LEAF)), rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, lane(LEAF), LEAF)
    rig.router.route(1, LEAF, TOP)
    rig.router.route(1, TOP, lane(LEAF))
    for sender, receiver, kind in [
        (gateway, leaf, Kind.UPDATE),
        (gateway, leaf, Kind.FLUSH),
        (leaf, top, Kind.SUM),
        (top, gateway, Kind.MODEL),
    ]:
        sent = Descriptor(0x81234567, 0xFFFFFFFF, 9, sender.endpoint, kind)
        sender.port.send(sent)
        assert rig.receive(receiver) == [sent]
    assert rig.returned == []


def test_one_change_of_the_map_moves_a_child(rig: Rig) -> None:
    leaf, middle, top = rig.peer(LEAF), rig.peer(MIDDLE), rig.peer(TOP)
    rig.router.route(1, LEAF, MIDDLE)
    leaf.send(slot=1)
    assert rig.slots(middle) == [1]
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=2)
    assert rig.slots(top) == [2]
    rig.router.route(1, LEAF, None)
    leaf.send(slot=3)
    assert [(s, d.slot) for s, d in rig.at_agent()] == [(LEAF, 3)]
    assert middle.port.receive() == []


def test_release_goes_down_to_its_source(rig: Rig) -> None:
    one, two, top = rig.peer(LEAF), rig.peer(MIDDLE), rig.peer(TOP)
    for child in (one, two):
        rig.router.route(1, child.endpoint, TOP)
        child.send(Kind.SUM)
    rig.receive(top, 2)
    top.send(Kind.RELEASE, slot=5, source=MIDDLE)
    top.send(Kind.RELEASE, slot=6, source=LEAF)
    assert rig.slots(two) == [5]
    assert rig.slots(one) == [6]


def test_release_by_another_than_the_parent_goes_to_the_agent(rig: Rig) -> None:
    leaf, middle, top = rig.peer(LEAF), rig.peer(MIDDLE), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send()
    rig.receive(top)
    middle.send(Kind.RELEASE, slot=4, source=LEAF)
    assert rig.at_agent() == [(MIDDLE, middle.descriptor(Kind.RELEASE, slot=4, source=LEAF))]
    assert leaf.port.receive() == []
    assert rig.counts(middle).quarantined == 0  # after a re-plan the old parent does so rightly


def test_releases_that_answer_nothing_do_not_flood_the_child(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send()
    rig.receive(top)
    for slot in range(20):
        top.send(Kind.RELEASE, slot=slot, source=LEAF)
    assert len(rig.at_agent(19)) == 19
    assert rig.slots(leaf) == [0]
    assert rig.counts(top).credit_limited == 19


def test_expect_is_the_agents_alone(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send(Kind.EXPECT)
    assert [d.kind for _, d in rig.at_agent()] == [Kind.EXPECT]
    assert top.port.receive() == []


def test_a_misroute_handed_back_reaches_the_agent(rig: Rig) -> None:
    """Sealed for the old parent, routed to the new one: it returns what is not its own."""
    leaf, middle, top = rig.peer(LEAF), rig.peer(MIDDLE), rig.peer(TOP)
    rig.router.route(1, LEAF, MIDDLE)
    rig.router.route(1, MIDDLE, TOP)
    leaf.send(Kind.SUM, slot=3)
    (misrouted,) = rig.receive(middle)
    middle.port.send(misrouted)
    assert rig.at_agent() == [(MIDDLE, misrouted)]
    assert top.port.receive() == []
    assert rig.counts(middle) == Counters(sent=1, passed=1, bytes=16)


def test_a_forged_source_reaches_the_agent_and_is_counted(rig: Rig) -> None:
    leaf, _middle, top = rig.peer(LEAF), rig.peer(MIDDLE), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    rig.router.route(1, MIDDLE, TOP)
    leaf.send(Kind.SUM, source=MIDDLE)
    rig.at_agent()
    assert top.port.receive() == []
    assert rig.counts(leaf) == Counters(sent=1, passed=1, quarantined=1, bytes=16)


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.SUM, Kind.MODEL, Kind.FLUSH])
def test_without_a_route_or_a_receiver_it_goes_to_the_agent_and_nothing_sticks(
    rig: Rig, kind: Kind
) -> None:
    leaf = rig.peer(LEAF)
    leaf.send(kind, slot=1)
    rig.router.route(1, LEAF, TOP)
    leaf.send(kind, slot=2)
    leaf.send(kind, slot=3)
    assert [(s, d.slot) for s, d in rig.at_agent(3)] == [(LEAF, 1), (LEAF, 2), (LEAF, 3)]
    top = rig.peer(TOP)
    leaf.send(kind, slot=4)
    assert rig.slots(top) == [4]


def test_a_receiver_that_died_is_replaced(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=1)
    rig.slots(top)
    top.die()
    rig.until(lambda: rig.closed() == [TOP])
    leaf.send(slot=2)
    assert [d.slot for _, d in rig.at_agent()] == [2]
    successor = rig.peer(TOP)
    leaf.send(slot=3)
    assert rig.slots(successor) == [3]


def test_a_receiver_that_dies_between_two_sends_breaks_no_sender(rig: Rig) -> None:
    """Before the agent has seen the death; what the kernel took for the dead may be lost."""
    leaf = rig.peer(LEAF)
    rig.router.route(1, LEAF, TOP)
    for slot in range(8):
        rig.peer(TOP).die()
        leaf.send(slot=slot)
        rig.router.returned()
    rig.router.reset_credit(1)
    top = rig.peer(TOP)
    leaf.send(slot=99)
    assert rig.slots(top)[-1] == 99


@pytest.mark.parametrize("length", [1, 15, 17, 31, 4095])
def test_odd_bytes_are_quarantined_and_what_follows_is_read_right(rig: Rig, length: int) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    leaf.write(b"\xff" * length)
    rig.until(lambda: bool(rig.returned))
    assert sum(r.quarantined for r in rig.returned) == length
    assert not any(r.descriptors for r in rig.returned)
    leaf.send(slot=4)  # no route: behind the odd bytes on the same way
    assert [d.slot for _, d in rig.at_agent()] == [4]
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=5)
    assert rig.slots(top) == [5]
    odd = -(-length // 16)
    assert rig.counts(leaf) == Counters(
        sent=odd + 2, redirected=1, passed=odd + 1, quarantined=odd, bytes=length + 32
    )


@pytest.mark.parametrize(("at", "value"), [(15, 0), (15, 2), (14, 0), (14, 7), (14, 255)])
def test_unknown_versions_and_kinds_are_quarantined(rig: Rig, at: int, value: int) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    alien = bytearray(leaf.descriptor().pack())
    alien[at] = value
    leaf.write(bytes(alien))
    rig.until(lambda: sum(r.quarantined for r in rig.returned) == 16)
    assert top.port.receive() == []
    assert rig.counts(leaf) == Counters(sent=1, passed=1, quarantined=1, bytes=16)


def test_credit_ends_and_releases_give_it_back(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    for slot in range(10):  # of 8
        leaf.send(slot=slot)
    assert [d.slot for _, d in rig.at_agent(2)] == [8, 9]
    assert rig.slots(top, 8) == list(range(8))
    assert rig.counts(leaf) == Counters(
        sent=10, redirected=8, passed=2, credit_limited=2, bytes=160
    )
    for slot in range(2):
        top.send(Kind.RELEASE, slot=slot, source=LEAF)
    assert rig.slots(leaf, 2) == [0, 1]
    for slot in range(20, 23):
        leaf.send(slot=slot)
    assert rig.slots(top, 2) == [20, 21]
    assert [d.slot for _, d in rig.at_agent()] == [22]
    rig.router.reset_credit(2)
    leaf.send(slot=30)
    rig.at_agent()
    rig.router.reset_credit(1)
    leaf.send(slot=31)
    assert rig.slots(top) == [31]


def test_flushes_are_bounded_until_a_release(rig: Rig) -> None:
    gateway, leaf = rig.peer(lane(LEAF)), rig.peer(LEAF)
    rig.router.route(1, lane(LEAF), LEAF)
    for _ in range(FLUSHES + 3):
        gateway.send(Kind.FLUSH)
    assert len(rig.at_agent(3)) == 3
    assert len(rig.receive(leaf, FLUSHES)) == FLUSHES
    gateway.send()
    assert [d.kind for d in rig.receive(leaf)] == [Kind.UPDATE]
    leaf.send(Kind.RELEASE, source=lane(LEAF))
    assert [d.kind for d in rig.receive(gateway)] == [Kind.RELEASE]
    gateway.send(Kind.FLUSH)
    assert [d.kind for d in rig.receive(leaf)] == [Kind.FLUSH]


def test_two_jobs_never_meet(rig: Rig) -> None:
    mine, yours = rig.peer(LEAF, job=1), rig.peer(LEAF, job=2)
    my_top, your_top = rig.peer(TOP, job=1), rig.peer(TOP, job=2)
    rig.router.route(1, LEAF, TOP)
    rig.router.route(2, LEAF, TOP)
    mine.send(slot=1)
    yours.send(slot=2)
    assert rig.slots(my_top) == [1]
    assert rig.slots(your_top) == [2]
    my_top.send(Kind.RELEASE, slot=3, source=LEAF)
    assert rig.slots(mine) == [3]
    rig.router.forget(2)
    mine.send(slot=4)
    assert rig.slots(my_top) == [4]
    assert (yours.port.receive(), your_top.port.receive()) == ([], [])
    rig.router.route(1, LEAF, NOBODY)
    rig.peer(NOBODY, job=2)
    mine.send(slot=5)
    assert [d.slot for _, d in rig.at_agent()] == [5]


def test_several_descriptors_in_one_message(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    alike = b"".join(leaf.descriptor(slot=slot).pack() for slot in range(5))
    leaf.write(alike)
    assert rig.slots(top, 5) == list(range(5))
    leaf.write(alike)  # 3 left of 8: judged whole
    assert len(rig.at_agent(5)) == 5
    assert rig.counts(leaf).credit_limited == 5
    rig.router.reset_credit(1)
    mixed = leaf.descriptor(slot=6).pack() + leaf.descriptor(Kind.SUM, slot=7).pack()
    leaf.write(mixed)
    assert [d.slot for _, d in rig.at_agent(2)] == [6, 7]
    leaf.write(leaf.descriptor(slot=8).pack() * (BURST + 1))
    assert len(rig.at_agent(BURST + 1)) == BURST + 1
    assert top.port.receive() == []


def test_descriptors_that_are_sent_at_once_are_messages_of_a_burst(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.port.send(*(leaf.descriptor(slot=slot) for slot in range(BURST + 2)))
    assert rig.slots(top, 2) == [BURST, BURST + 1]
    assert len(rig.at_agent(BURST)) == BURST, "a whole burst is over the credit of 8"


def test_releases_in_one_message_give_back_as_many(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    for slot in range(8):
        leaf.send(slot=slot)
    rig.receive(top, 8)
    top.write(top.descriptor(Kind.RELEASE, source=LEAF).pack() * 3)
    rig.receive(leaf, 3)
    for slot in range(10, 14):
        leaf.send(slot=slot)
    assert rig.slots(top, 3) == [10, 11, 12]
    assert [d.slot for _, d in rig.at_agent()] == [13]


def test_a_burst_is_read_at_once(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    for slot in range(8):
        leaf.send(slot=slot)
    rig.until(lambda: rig.counts(leaf).redirected == 8)
    assert [d.slot for d in top.port.receive()] == list(range(8))
    assert top.port.receive() == []


def test_poke_passes_routing_and_credit(rig: Rig) -> None:
    leaf = rig.peer(LEAF)
    poke = Descriptor(1, 2, 3, 0, Kind.EXPECT)
    rig.router.poke(1, LEAF, poke)
    rig.router.poke(1, NOBODY, poke)
    rig.router.poke(2, LEAF, poke)
    assert rig.receive(leaf) == [poke]
    assert rig.counts(leaf) == Counters()


def test_pokes_that_nobody_reads_neither_block_nor_tear(rig: Rig) -> None:
    leaf = rig.peer(LEAF)
    poke = Descriptor(1, 2, 3, 4, Kind.EXPECT)
    for _ in range(30_000):
        rig.router.poke(1, LEAF, poke)
    read = 0
    while found := leaf.port.receive():
        assert set(found) == {poke}
        read += len(found)
    assert 0 < read <= 30_000
    rig.router.poke(1, LEAF, poke)
    assert set(rig.receive(leaf)) == {poke}


def test_an_agent_that_does_not_read_meets_back_pressure(rig: Rig) -> None:
    """A sender without a route is stopped by the far end's buffer, and goes on when it is read."""
    leaf = rig.peer(LEAF)
    sent = 0
    with contextlib.suppress(Busy):
        while sent < 200_000:
            leaf.send(slot=sent)
            sent += 1
    assert 0 < sent < 200_000
    got = [d.slot for _, d in rig.at_agent(sent)]
    assert got == list(range(sent))
    leaf.send(slot=7)
    assert [d.slot for _, d in rig.at_agent()] == [7]


def test_the_identity_is_the_registration_in_force(rig: Rig) -> None:
    first = rig.peer(LEAF)
    assert rig.router.identity(first.near) == (1, LEAF)
    second = rig.peer(LEAF)
    assert rig.router.identity(second.near) == (1, LEAF)
    assert rig.router.identity(first.near) is None
    assert rig.router.identity(second.far) is None
    stranger, other = make_pair(rig.router.name)
    with stranger, other:
        assert rig.router.identity(stranger) is None
    rig.router.unregister(1, LEAF)
    assert rig.router.identity(second.near) is None


def test_a_replaced_socket_speaks_for_nobody(rig: Rig) -> None:
    first, second, top = rig.peer(LEAF), rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    first.send(slot=1)
    second.send(slot=2)
    assert rig.slots(top) == [2]
    assert rig.counts(second).sent == 1


def test_a_socket_speaks_for_one_endpoint(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.register(1, MIDDLE, leaf.near, leaf.far)
    assert rig.router.identity(leaf.near) == (1, MIDDLE)
    rig.router.route(1, TOP, LEAF)
    top.send(slot=1)
    assert [d.slot for _, d in rig.at_agent()] == [1]
    rig.router.route(1, TOP, MIDDLE)
    top.send(slot=2)
    assert rig.slots(leaf) == [2]


def test_registering_again_loses_nothing(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=1)
    rig.until(lambda: rig.counts(leaf).redirected == 1)
    rig.router.register(1, TOP, top.near, top.far)
    leaf.send(slot=2)
    assert rig.slots(top, 2) == [1, 2]


def test_the_death_of_a_runtime_is_told_once(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send()
    rig.receive(top)
    leaf.die()
    rig.until(lambda: bool(rig.closed()))
    rig.router.poke(1, LEAF, Descriptor(0, 0, 0, 0, Kind.EXPECT))
    rig.router.unregister(1, LEAF)
    rig.returned += rig.router.returned()
    assert rig.closed() == [LEAF]
    assert rig.router.routes(1) == {LEAF: TOP}
    rig.peer(LEAF).send(slot=9)
    assert rig.slots(top) == [9]


def test_the_routers_end_is_no_eof_for_a_runtime(rig: Rig) -> None:
    leaf = rig.peer(LEAF)
    rig.router.unregister(1, LEAF)
    assert leaf.port.receive() == []
    leaf.send()
    leaf.far.close()
    rig.until(lambda: _unreachable(leaf.port.receive))
    rig.until(lambda: _unreachable(leaf.send))


def _unreachable(call: Callable[[], object]) -> bool:
    try:
        call()
    except Unreachable:
        return True
    return False


def test_routes_and_counters_are_by_job_and_are_forgotten(rig: Rig) -> None:
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    rig.router.route(1, TOP, lane(LEAF))
    rig.router.route(2, LEAF, MIDDLE)
    rig.router.route(2, TOP, None)
    leaf.send()
    rig.receive(top)
    assert rig.router.routes(1) == {LEAF: TOP, TOP: lane(LEAF)}
    assert rig.router.routes(2) == {LEAF: MIDDLE}
    assert rig.router.counters(1) == {
        LEAF: Counters(sent=1, redirected=1, bytes=16),
        TOP: Counters(),
    }
    assert rig.router.counters(2) == {}
    rig.router.forget(1)
    assert (rig.router.routes(1), rig.router.counters(1)) == ({}, {})
    assert rig.router.routes(2) == {LEAF: MIDDLE}
    assert rig.router.identity(leaf.near) is None


def test_only_a_pair_is_registered(rig: Rig) -> None:
    other = "unix" if rig.router.name == "ebpf" else "ebpf"
    near, far = make_pair(other)
    with near, far, pytest.raises(Refused):
        rig.router.register(1, LEAF, near, far)
    with socket.socket() as alone, pytest.raises(Refused):
        rig.router.register(1, LEAF, alone, alone)
    assert rig.router.counters(1) == {}


def test_the_next_hop_may_be_the_sender(rig: Rig) -> None:
    leaf = rig.peer(LEAF)
    rig.router.route(1, LEAF, LEAF)
    leaf.send(slot=3)
    assert rig.slots(leaf) == [3]


def test_a_port_puts_descriptors_together() -> None:
    near, far = make_pair("ebpf")
    port = Port(near)
    sent = [Descriptor(slot, 1, 1, 1, Kind.SUM) for slot in range(3)]
    data = b"".join(descriptor.pack() for descriptor in sent)
    found: list[Descriptor] = []
    with far:
        for byte in data:
            far.send(bytes([byte]))
            found += port.receive()
        while len(found) < 3:
            found += port.receive()
    assert found == sent
    port.close()


def test_auto_says_why_it_is_not_ebpf(tmp_path: Path) -> None:
    router = open_router("auto", path=tmp_path / "route.bpf.o")
    assert router.name == "unix"
    assert "python -m lifl.proxy_ebpf.build" in router.reason
    router.close()
    with pytest.raises(Unsupported, match=r"route\.bpf\.o"):
        open_router("ebpf", path=tmp_path / "route.bpf.o")
    assert open_router("unix").reason == ""
