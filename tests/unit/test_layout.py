"""From a state_dict to one flat buffer and back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import InvalidUpdate
from lifl.functions.layout import Layout

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "bfloat16"]
TENSOR = st.tuples(
    st.text(max_size=8),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


def dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@settings(derandomize=True, deadline=None)
@given(st.lists(TENSOR, max_size=8, unique_by=lambda t: t[0]), st.integers(0, 2**31))
def test_what_is_packed_is_what_comes_out(
    tensors: list[tuple[str, str, tuple[int, ...]]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    state = {n: rng.integers(0, 2, shape).astype(dtype(kind)) for n, kind, shape in tensors}
    layout = Layout.of(state)
    buffer = memoryview(bytearray(layout.update_bytes))
    layout.pack_into(state, buffer)
    found = Layout.from_wire(layout.to_wire()).views(buffer)
    assert list(found) == list(state)
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)


def test_views_do_not_copy() -> None:
    layout = Layout.of({"w": np.zeros(3, np.float32)})
    buffer = bytearray(layout.update_bytes)
    view = layout.views(memoryview(buffer))["w"]
    buffer[0:4] = np.float32(5).tobytes()
    assert view[0] == 5


def test_the_digest_tells_layouts_apart() -> None:
    one = Layout.of({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    other = Layout.of({"b": np.zeros(2, np.float32), "a": np.zeros(2, np.float32)})
    assert one.digest != other.digest
    assert one.digest == Layout.from_wire(one.to_wire()).digest


@pytest.mark.parametrize("bad", [np.zeros(2, complex), np.array(["x"]), np.array([object()])])
def test_what_has_no_mean_is_refused_by_name(bad: np.ndarray) -> None:
    with pytest.raises(InvalidUpdate, match="tensor 'w' has dtype"):
        Layout.of({"w": bad})


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "'w' of this job's model is missing"),
        ({"w": np.zeros(3, np.float32), "x": 1}, "'x' is not part"),
        ({"w": np.zeros(4, np.float32)}, r"shape \[4\]; this job's model has \[3\]"),
        ({"w": np.zeros(3, np.float64)}, "float64"),
    ],
)
def test_another_state_dict_is_refused(state: dict[str, object], sentence: str) -> None:
    layout = Layout.of({"w": np.zeros(3, np.float32)})
    with pytest.raises(InvalidUpdate, match=sentence):
        layout.pack_into(state, memoryview(bytearray(layout.update_bytes)))
