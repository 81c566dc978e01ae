"""Shared words, views and locks of an arena."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifl.cli.memory import find
from lifl.functions.intake import Intake
from lifl.shm import _words
from lifl.shm.arena import ArenaFiles, arena_bytes, lock_role, map_arena, unlock_role
from lifl.shm.geometry import LINE, PAGE, Geometry
from lifl.shm.slots import GATEWAY, SUMS_BIT, Arena, Header, Payload, Phase, State

GEOMETRY = Geometry(inputs=3, sums=4, input_bytes=5000, sum_bytes=9000, roster=70)


@pytest.fixture
def files() -> Iterator[ArenaFiles]:
    files = ArenaFiles.make("test", GEOMETRY)
    yield files
    files.close()


@pytest.fixture
def gateway(files: ArenaFiles) -> Arena:
    return map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True)


@pytest.fixture
def role(files: ArenaFiles) -> Arena:
    return map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=False)


def test_who_only_looks_reads_geometry_and_phases(gateway: Arena, role: Arena) -> None:
    gateway.set_state(1, 5, Phase.SEALED, 3)
    gateway.set_state(2, 1, Phase.WRITING, 3)
    role.set_state(3 | SUMS_BIT, 1, Phase.OPEN, 0)
    pid = os.getpid()
    found = {m.part: m.slots for m in find() if m.job == "test" and pid in m.pids}
    assert found["inputs"] == {"FREE": 1, "WRITING": 1, "OPEN": 0, "SEALED": 1}
    assert found["sums"] == {"FREE": 3, "WRITING": 0, "OPEN": 1, "SEALED": 0}
    assert found["locks"] is None


def test_pages_of_input_slots_come_and_go() -> None:
    """What a job may not use is nobody's, also not by being mapped; what stays, stays as it is."""
    page, files = PAGE, ArenaFiles.make("test", GEOMETRY, 0)
    try:
        least = files.resident_bytes()
        files.reserve_inputs(2)
        arena = map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True, slots=2)
        assert files.resident_bytes() == least + 2 * 2 * page  # 5000 bytes are two pages
        for slot in (0, 1, GEOMETRY.model_slot):
            arena.payload(slot)[:1] = b"x"
        files.give_back_inputs(1)
        assert files.resident_bytes() == least + 2 * page
        assert [bytes(arena.payload(slot)[:1]) for slot in (0, 1, 2)] == [b"x", b"\0", b"x"]
    finally:
        files.close()
    files = ArenaFiles.make("test", GEOMETRY, 0)
    try:
        map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True, slots=0)
        map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=False, slots=0)
        assert files.resident_bytes() == least
        assert arena_bytes(GEOMETRY, 0, inputs=0) == least
    finally:
        files.close()


def test_slots_beyond_a_limit_are_free_to_nobody(gateway: Arena, role: Arena) -> None:
    """The slot that is in use is waited for; a limit that rises gives slots back."""
    intake = Intake(gateway, {})
    first, second = (intake.begin(1 << at, 3, 8) for at in range(2))
    assert first is not None
    assert second is not None
    intake.limit(1)
    assert not intake.withhold()  # the second is being written
    intake.drop(second)
    assert intake.withhold()
    assert gateway.state(1).phase == Phase.WRITING
    intake.drop(first)
    assert intake.begin(4, 3, 8) is not None
    assert intake.begin(8, 3, 8) is None
    intake.limit(2)
    assert gateway.state(1).phase == Phase.FREE
    assert intake.begin(8, 3, 8) is not None


@settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    states=st.lists(
        st.tuples(st.sampled_from(Phase), st.integers(1, 3), st.booleans()), min_size=2, max_size=2
    ),
    first=st.integers(0, 3), count=st.integers(0, 2),
)  # fmt: skip
def test_a_slot_may_be_written_that_is_not_unreleased(
    gateway: Arena, role: Arena, states: list[tuple[Phase, int, bool]], first: int, count: int
) -> None:
    for slot, (phase, generation, is_released) in enumerate(states):
        gateway.set_state(slot, generation, phase, 3)
        role.release(slot, State(generation if is_released else 0, phase, 3))
    free = (slot for slot in range(first, count) if not gateway.is_unreleased(slot))
    assert gateway.writable_input(first, count) == next(free, None)


def test_a_slot_that_is_being_written_is_not_given_away(gateway: Arena, role: Arena) -> None:
    intake = Intake(gateway, {})
    mine = intake.begin(1, 3, 8)
    assert mine is not None
    other = intake.begin(2, 3, 8)
    assert other is not None
    assert {mine.slot, other.slot} == {0, 1}
    assert intake.begin(4, 3, 8) is None
    assert intake.finish(mine, payload=Payload.UPDATE, weight=1.0) == "accepted"
    assert intake.begin(4, 3, 8) is None, "its consumer needs it"
    role.release(mine.slot, role.state(mine.slot))
    again = intake.begin(4, 3, 8)
    assert again is not None
    assert (again.slot, again.generation) == (mine.slot, mine.generation + 1)


def test_a_label_of_something_else_is_none() -> None:
    assert Geometry.of_label(GEOMETRY.label()) == GEOMETRY
    assert Geometry.of_label(bytes(len(GEOMETRY.label()))) is None
    assert Geometry.of_label(b"") is None


def test_a_sealed_slot_is_seen_by_the_consumer_that_it_names(gateway: Arena, role: Arena) -> None:
    gateway.set_state(1, 5, Phase.SEALED, 3)
    assert role.sealed_for(3) == [1]
    assert role.sealed_for(2) == []
    role.release(1, role.state(1))
    assert role.sealed_for(3) == []
    assert not gateway.is_unreleased(1)
    gateway.set_state(1, 6, Phase.SEALED, 3)
    assert role.sealed_for(3) == [1]


def test_a_look_at_inputs_counts_who_has_none_and_who_is_written_for_whom(
    gateway: Arena, role: Arena
) -> None:
    """The model's slot, the last one, is none of them."""
    assert role.inputs_for(3) == ([], 2, 0)
    gateway.set_state(0, 1, Phase.WRITING, 3)
    gateway.set_state(2, 1, Phase.SEALED, 3)
    assert role.inputs_for(3) == ([], 1, 1)
    assert role.inputs_for(4) == ([], 1, 0)
    gateway.set_state(0, 1, Phase.SEALED, 3)
    assert role.inputs_for(3) == ([0], 1, 0)
    assert role.inputs_for(4) == ([], 1, 0), "somebody else's is not free"
    role.release(0, role.state(0))
    assert role.inputs_for(3) == ([], 2, 0)


def test_the_gateway_releases_a_roots_sum_in_its_own_memory(gateway: Arena, role: Arena) -> None:
    slot = 2 | SUMS_BIT
    role.set_state(slot, 9, Phase.SEALED, GATEWAY)
    assert gateway.sealed_for(GATEWAY) == [slot]
    gateway.release(slot, gateway.state(slot))
    assert not role.is_unreleased(slot)


def test_a_parent_releases_a_childs_sum_in_sums(role: Arena) -> None:
    slot = 1 | SUMS_BIT
    role.set_state(slot, 2, Phase.SEALED, 7)
    assert role.sealed_for(7) == [slot]
    role.release(slot, role.state(slot))
    assert role.sealed_for(7) == []


def test_aggregators_cannot_write_inputs_nor_the_gateway_sums(gateway: Arena, role: Arena) -> None:
    with pytest.raises((TypeError, BufferError, ValueError)):
        role.set_state(0, 1, Phase.SEALED, 1)
    with pytest.raises((TypeError, BufferError, ValueError)):
        gateway.set_state(SUMS_BIT, 1, Phase.SEALED, 1)


def test_a_read_only_descriptor_stays_read_only(files: ArenaFiles) -> None:
    fd = files.read_only_inputs()
    with pytest.raises(PermissionError):
        map_arena(GEOMETRY, fd, files.sums, write_inputs=True)
    os.close(fd)


def test_memory_cannot_be_resized(files: ArenaFiles) -> None:
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(files.inputs, size)
    assert os.fstat(files.inputs).st_mode & 0o777 == 0o600


@settings(derandomize=True, deadline=None)
@given(
    st.integers(0, (1 << 70) - 1),
    st.floats(0, 1e300),
    st.integers(0, 2**32 - 1),
    st.sampled_from(Payload),
)
def test_headers_hold_what_they_are_given(
    clients: int, weight: float, round_: int, payload: Payload
) -> None:
    files = ArenaFiles.make("test", GEOMETRY)
    arena = map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True)
    header = Header(round_, payload, clients, weight, 5000, source=4)
    arena.set_header(2, header)
    assert arena.header(2) == header
    files.close()


def test_rounds_have_words_of_their_own(gateway: Arena) -> None:
    gateway.set_accepted(1, 1 << 69)
    gateway.set_accepted(2, 0b11)
    gateway.close_round(1)
    assert gateway.accepted(1) == 1 << 69
    assert gateway.accepted(2) == 0b11
    assert gateway.is_closed(1)
    assert not gateway.is_closed(2)
    assert not gateway.is_closed(3)


def test_a_view_keeps_its_arena_alive() -> None:
    files = ArenaFiles.make("test", GEOMETRY)
    arena = map_arena(GEOMETRY, files.inputs, files.sums, write_inputs=True)
    array = np.frombuffer(arena.payload(0), np.float32)
    array[:] = 7
    files.close()
    del arena
    gc.collect()
    assert array.sum() == 7 * array.size


def test_regions_do_not_overlap() -> None:
    for region in (GEOMETRY.for_inputs, GEOMETRY.for_sums):
        assert region.states + region.slots * LINE <= region.released
        assert region.header_at(region.slots) <= region.payloads
        assert region.payloads % PAGE == 0
        assert region.slot_bytes % PAGE == 0
    assert GEOMETRY.for_inputs.states >= GEOMETRY.accepted_at(1) + GEOMETRY.set_bytes


def test_words_refuse_what_is_outside_or_unaligned() -> None:
    buffer = bytearray(64)
    for offset in (-8, 60, 4, 64):
        with pytest.raises(ValueError, match="word of 8 bytes"):
            _words.load_u64(buffer, offset)
    with pytest.raises(ValueError, match="word of"):
        _words.scan(buffer, 0, 64, 2, buffer, 0, 64, 3, 1, 1)
    for wrong in (
        (buffer, 0, 64, 0, 2, buffer, 0, 64, 3), (buffer, 4, 64, 0, 1, buffer, 0, 64, 3),
        (buffer, 0, 8, 0, 8, buffer, 8, 8, 3),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="word of"):
            _words.writable(*wrong)
    with pytest.raises(ValueError, match="first slot is -1"):
        _words.writable(buffer, 0, 64, -1, 1, buffer, 0, 64, 3)
    for call in (
        lambda: _words.load_set(buffer, 0, 9),
        lambda: _words.store_set(buffer, 60, bytes(8)),
    ):
        with pytest.raises(ValueError, match="word of 8 bytes"):
            call()
    with pytest.raises(ValueError, match="whole words"):
        _words.store_set(buffer, 0, bytes(7))
    assert buffer == bytes(64)


def test_sets_are_words_side_by_side() -> None:
    buffer = bytearray(64)
    value = bytes(range(1, 25))
    _words.store_set(buffer, 8, value)
    assert buffer[8:32] == value
    assert _words.load_set(buffer, 8, 3) == value
    assert _words.load_set(buffer, 8, 0) == b""


def test_a_role_is_held_by_one_process(files: ArenaFiles) -> None:
    assert lock_role(files.locks, 3, wait=False)
    other = (
        "import sys; from lifl.shm.arena import lock_role;"
        "print([lock_role(int(sys.argv[1]), role, wait=False) for role in (3, 4)])"
    )

    def ask() -> str:
        return subprocess.run(
            [sys.executable, "-c", other, str(files.locks)],
            pass_fds=[files.locks], capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    assert ask() == "[False, True]"
    unlock_role(files.locks, 3)
    assert ask() == "[True, True]"
