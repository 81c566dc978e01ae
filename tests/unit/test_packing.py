"""An update on its way: in whatever parts it is read or copied, they are as pack_into has it."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import InvalidUpdate
from lifl.functions.layout import Layout
from lifl.functions.packing import Packing
from lifl.functions.sealing import CHUNK, HEAD, TAG, Channel, Direction

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_)
FORMS = ["as it is", "transposed", "strided", "scalar", "fortran", "masked"]
TENSORS = st.lists(
    st.tuples(
        st.sampled_from(DTYPES), st.integers(0, 5), st.integers(1, 40), st.sampled_from(FORMS)
    ),
    max_size=6,
)
Tensors = list[tuple[Any, int, int, str]]
checked = settings(derandomize=True, deadline=None, max_examples=200)


def array(rng: np.random.Generator, dtype: Any, rows: int, columns: int, form: str) -> Any:
    """Values in one of the forms in which users have them."""
    found = (rng.integers(0, 2, (rows, columns)) * 3 + 1).astype(dtype)
    match form:
        case "transposed":
            return found.T
        case "strided":
            return np.repeat(found, 2, axis=1)[:, ::2]
        case "scalar":
            return found.dtype.type(3)
        case "fortran":
            return np.asfortranarray(found)
        case "masked":
            return np.ma.masked_array(found) if found.dtype.kind in "fib" else found
    return found


def made(seed: int, tensors: Tensors) -> tuple[Layout, dict[str, Any], bytes]:
    """A state_dict, and the bytes of its update."""
    rng = np.random.default_rng(seed)
    state = {
        f"t{i}": array(rng, dtype, rows, columns, form)
        for i, (dtype, rows, columns, form) in enumerate(tensors)
    }
    layout = Layout.of(state)
    whole = bytearray(layout.update_bytes)
    layout.pack_into(state, memoryview(whole))
    return layout, state, bytes(whole)


def fresh(size: int) -> memoryview:
    return memoryview(bytearray(size))


@checked
@given(seed=st.integers(0, 2**32 - 1), tensors=TENSORS, ends=st.lists(st.integers(0, 3000)))
def test_parts_of_any_length_come_to_the_whole(
    seed: int, tensors: Tensors, ends: list[int]
) -> None:
    layout, state, whole = made(seed, tensors)
    packing = Packing(layout, state, lambda: fresh(len(whole)))
    for end in ends:
        end = min(end, len(whole))
        assert packing.copied(0, end) == whole[:end]
    assert packing.copied(0, len(whole)) == whole


@checked
@given(
    seed=st.integers(0, 2**32 - 1), tensors=TENSORS,
    cuts=st.lists(st.integers(0, 3000)), copies=st.lists(st.booleans()),
)  # fmt: skip
def test_parts_that_are_read_where_they_lie_are_the_same(
    seed: int, tensors: Tensors, cuts: list[int], copies: list[bool]
) -> None:
    """In any order, and where some were copied before; what a room had in it shows nowhere."""
    layout, state, whole = made(seed, tensors)
    packing = Packing(layout, state, lambda: fresh(len(whole)))
    room = memoryview(bytearray(b"\xa5" * len(whole)))
    ends = sorted(min(cut, len(whole)) for cut in cuts)
    for (start, end), is_copied in zip(itertools.pairwise(ends), itertools.cycle(copies or [0])):
        if is_copied:
            packing.copied(start, end)
        assert packing.read(start, end, room) == whole[start:end]
    for start, end in [*itertools.pairwise(ends)][::-1]:
        assert packing.read(start, end, room) == whole[start:end]
    assert packing.read(0, len(whole), room) == whole
    assert packing.copied(0, len(whole)) == whole


def test_nothing_is_copied_before_it_is_needed_and_nothing_twice() -> None:
    state = {"w": np.ones(1000, np.float32)}
    layout = Layout.of(state)
    packing = Packing(layout, state, lambda: fresh(layout.update_bytes))
    packing.copied(0, 400)
    state["w"][:] = 2
    values = np.frombuffer(packing.copied(0, 4000), np.float32)
    assert set(values[:100]) == {1.0}
    assert set(values[100:]) == {2.0}


def nowhere() -> memoryview:
    raise AssertionError("a copy was made")


def sealed(packing: Packing, up: Channel, until: int) -> bytes:
    """Seal whole chunks up to there, as a connection does; what was in them."""
    out, room = (memoryview(bytearray(HEAD + CHUNK + TAG)) for _ in range(2))
    head, found = bytes(HEAD), b""
    for at in range(0, until, CHUNK):
        part = packing.read(at, min(at + CHUNK, len(packing)), room)
        found += part
        chunk = out[: up.seal_into(head, part, out)]
        packing.sealed(at, up.last_seal(head, chunk))
    return found


STATE = {
    "small": np.arange(5, dtype=np.float32),
    "large": np.arange(CHUNK, dtype=np.float32),
    "count": np.array(3, np.int64),
}


@pytest.fixture
def up() -> Channel:
    return Channel(bytes(range(32)), Direction.UP, b"about")


def test_what_is_sealed_is_never_copied_and_knows_whether_it_is_the_same(up: Channel) -> None:
    state = {name: value.copy() for name, value in STATE.items()}
    layout = Layout.of(state)
    packing = Packing(layout, state, nowhere)
    sent = sealed(packing, up, len(packing))
    packing.settle()
    packing._take = lambda: fresh(layout.update_bytes)
    assert packing.is_as_it_was()
    state["large"][:] = 7
    assert packing.is_as_it_was(), "it has a copy now"
    assert packing.copied(0, len(packing)) == sent


@pytest.mark.parametrize("name", [*STATE])
def test_one_changed_element_is_seen(up: Channel, name: str) -> None:
    state = {name: value.copy() for name, value in STATE.items()}
    layout = Layout.of(state)
    packing = Packing(layout, state, lambda: fresh(layout.update_bytes))
    sealed(packing, up, len(packing))
    packing.settle()
    state[name].reshape(-1)[-1] += 1
    assert not packing.is_as_it_was()


def test_what_was_sealed_in_part_is_copied_while_it_is_still_the_same(up: Channel) -> None:
    state = {name: value.copy() for name, value in STATE.items()}
    layout = Layout.of(state)
    whole = fresh(layout.update_bytes)
    layout.pack_into(state, whole)
    packing = Packing(layout, state, lambda: fresh(layout.update_bytes))
    sealed(packing, up, CHUNK)
    packing.settle()
    state["large"][:] = 7
    assert packing.is_as_it_was()
    assert packing.copied(0, len(packing)) == whole


def test_another_layout_is_refused_before_memory_is_taken() -> None:
    layout = Layout.of({"w": np.ones(4, np.float32)})
    with pytest.raises(InvalidUpdate, match="has the shape"):
        Packing(layout, {"w": np.ones(5, np.float32)}, nowhere)
