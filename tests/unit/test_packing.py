"""Packing ahead of the sender: whatever is asked for when, the buffer ends as pack_into has it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import InvalidUpdate
from lifl.functions.layout import Layout
from lifl.functions.packing import Packing

DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.int64, np.bool_)


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


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    tensors=st.lists(
        st.tuples(
            st.sampled_from(DTYPES), st.integers(0, 5), st.integers(1, 40),
            st.sampled_from(["as it is", "transposed", "strided", "scalar", "fortran", "masked"]),
        ),
        max_size=6,
    ),
    ends=st.lists(st.integers(0, 3000), max_size=8),
)  # fmt: skip
def test_pieces_of_any_length_come_to_the_whole(
    seed: int, tensors: list[tuple[Any, int, int, str]], ends: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    state = {
        f"t{i}": array(rng, dtype, rows, columns, form)
        for i, (dtype, rows, columns, form) in enumerate(tensors)
    }
    layout = Layout.of(state)
    whole, buffer = bytearray(layout.update_bytes), bytearray(layout.update_bytes)
    layout.pack_into(state, memoryview(whole))
    packing = Packing(layout, state, memoryview(buffer))
    for end in ends:
        packing.reach(end)
        assert buffer[:end] == whole[:end]
    packing.reach(layout.update_bytes)
    assert buffer == whole


def test_nothing_is_read_before_it_is_needed_and_nothing_twice() -> None:
    state = {"w": np.ones(1000, np.float32)}
    layout = Layout.of(state)
    buffer = np.zeros(layout.update_bytes, np.uint8)
    packing = Packing(layout, state, buffer.data)
    packing.reach(400)
    state["w"][:] = 2
    packing.reach(4000)
    values = buffer[:4000].view(np.float32)
    assert set(values[:100]) == {1.0}
    assert set(values[100:]) == {2.0}


def test_another_layout_is_refused_before_a_byte_is_written() -> None:
    layout = Layout.of({"w": np.ones(4, np.float32)})
    buffer = bytearray(b"\xa5" * layout.update_bytes)
    with pytest.raises(InvalidUpdate, match="has the shape"):
        Packing(layout, {"w": np.ones(5, np.float32)}, memoryview(buffer))
    assert buffer == b"\xa5" * layout.update_bytes
