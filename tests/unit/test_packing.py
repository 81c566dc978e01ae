"""An update on its way: in whatever parts it is read or copied, they are as pack_into has it."""

from __future__ import annotations

import itertools
import mmap
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import InvalidUpdate
from lifl.functions.layout import Layout
from lifl.functions.packing import Packing
from lifl.functions.sealing import CHUNK, HEAD, TAG, Channel, Direction, Seal

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


def used(size: int) -> memoryview:
    """Memory with something else in it."""
    return memoryview(bytearray(b"\xa5" * size))


def read(packing: Packing, start: int, end: int) -> memoryview:
    found = packing.lies(start, end)
    return packing.gathered(start, end, used(end - start)) if found is None else found


@checked
@given(seed=st.integers(0, 2**32 - 1), tensors=TENSORS, ends=st.lists(st.integers(0, 3000)))
def test_parts_of_any_length_come_to_the_whole(
    seed: int, tensors: Tensors, ends: list[int]
) -> None:
    layout, state, whole = made(seed, tensors)
    packing = Packing(layout, state, lambda: used(len(whole)))
    for end in ends:
        end = min(end, len(whole))
        assert packing.kept(0, end) == whole[:end]
    assert packing.kept(0, len(whole)) == whole


@checked
@given(
    seed=st.integers(0, 2**32 - 1), tensors=TENSORS,
    cuts=st.lists(st.integers(0, 3000)), copies=st.lists(st.booleans()),
)  # fmt: skip
def test_parts_that_are_not_kept_are_the_same(
    seed: int, tensors: Tensors, cuts: list[int], copies: list[bool]
) -> None:
    """In any order, and where some were copied before."""
    layout, state, whole = made(seed, tensors)
    packing = Packing(layout, state, lambda: used(len(whole)))
    ends = sorted(min(cut, len(whole)) for cut in cuts)
    for (start, end), is_copied in zip(itertools.pairwise(ends), itertools.cycle(copies or [0])):
        if is_copied:
            packing.kept(start, end)
        assert read(packing, start, end) == whole[start:end]
    for start, end in [*itertools.pairwise(ends)][::-1]:
        assert read(packing, start, end) == whole[start:end]
    assert read(packing, 0, len(whole)) == whole
    assert packing.kept(0, len(whole)) == whole


def test_nothing_is_copied_before_it_is_needed_and_nothing_twice() -> None:
    state = {"w": np.ones(1000, np.float32)}
    layout = Layout.of(state)
    packing = Packing(layout, state, lambda: used(layout.update_bytes))
    packing.kept(0, 400)
    state["w"][:] = 2
    values = np.frombuffer(packing.kept(0, 4000), np.float32)
    assert set(values[:100]) == {1.0}
    assert set(values[100:]) == {2.0}


def nowhere() -> memoryview:
    raise AssertionError("a copy was made")


class Rig:
    """A packing of tensors of which one is larger than two chunks, and what seals it."""

    def __init__(self) -> None:
        self.state: dict[str, np.ndarray] = {
            "small": np.arange(5, dtype=np.float32),
            "large": np.arange(CHUNK, dtype=np.float32),
            "count": np.array(3, np.int64),
        }
        self.layout = Layout.of(self.state)
        self.whole = memoryview(bytearray(self.layout.update_bytes))
        self.layout.pack_into(self.state, self.whole)
        self.takes = self._take
        self.packing = Packing(self.layout, self.state, lambda: self.takes())
        self._up = Channel(bytes(range(32)), Direction.UP, b"about")

    def _take(self) -> memoryview:
        return used(self.layout.update_bytes)

    def seal(self, until: int) -> None:
        """Whole chunks up to there, as a connection does."""
        out, head = memoryview(bytearray(HEAD + CHUNK + TAG)), bytes(HEAD)
        for at in range(0, until, CHUNK):
            part = read(self.packing, at, min(at + CHUNK, len(self.packing)))
            chunk = out[: self._up.seal_into(head, part, out)]
            self.packing.remember(at, self._up.last_seal(head, chunk))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_part_of_one_tensor_is_read_where_it_lies(rig: Rig) -> None:
    part = rig.packing.lies(CHUNK, 2 * CHUNK)
    assert part is not None
    assert np.shares_memory(np.frombuffer(part, np.uint8), rig.state["large"])
    assert rig.packing.lies(0, CHUNK) is None, "several tensors have it"


def test_what_is_sealed_is_not_copied(rig: Rig) -> None:
    rig.takes = nowhere
    rig.seal(len(rig.packing))
    rig.packing.settle()


def test_what_is_as_it_was_is_recovered_for_good(rig: Rig) -> None:
    rig.seal(len(rig.packing))
    rig.packing.settle()
    assert rig.packing.recover()
    rig.state["large"][:] = 7
    assert rig.packing.recover(), "it has a copy now"
    assert rig.packing.kept(0, len(rig.packing)) == rig.whole


@pytest.mark.parametrize("name", ["small", "large", "count"])
def test_one_changed_element_is_seen(rig: Rig, name: str) -> None:
    rig.seal(len(rig.packing))
    rig.packing.settle()
    rig.state[name].reshape(-1)[-1] += 1
    assert not rig.packing.recover()
    assert not rig.packing.recover(), "nor when asked again"


def test_what_was_sealed_in_part_is_copied_while_it_is_still_the_same(rig: Rig) -> None:
    rig.seal(CHUNK)
    rig.packing.settle()
    rig.state["large"][:] = 7
    assert rig.packing.recover()
    assert rig.packing.kept(0, len(rig.packing)) == rig.whole


def test_what_lies_in_mapped_memory_is_copied_before_that_goes() -> None:
    """As that of a `SharedMemory`, which an array made over its `buf` does not keep."""
    mapped = mmap.mmap(-1, 64)
    view = memoryview(mapped)
    array = np.ndarray(16, np.float32, view)
    array[:] = 3
    layout = Layout.of({"w": array})
    packing = Packing(layout, {"w": array}, lambda: used(layout.update_bytes))
    packing.remember(0, Seal(None, b"", b"", b""))
    packing.settle()
    del array
    view.release()
    mapped.close()
    assert packing.recover()
    assert set(np.frombuffer(packing.kept(0, 64), np.float32)) == {3.0}


@pytest.mark.parametrize("step", ["settle", "recover"])
def test_what_was_cut_short_is_not_taken_for_what_was_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """By Ctrl-C, or where memory is short; the arrays change behind it."""
    if step == "recover":
        rig.seal(len(rig.packing))
        rig.packing.settle()
        rig.state["large"][:] = 7
        monkeypatch.setattr(Seal, "fits", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr(rig, "takes", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        getattr(rig.packing, step)()
    monkeypatch.undo()
    rig.state["large"][:] = 7
    assert not rig.packing.recover()


def test_what_was_copied_from_elsewhere_is_held_no_longer(rig: Rig) -> None:
    """It may be memory of a device."""
    state = {"w": np.zeros((4, 4), np.float32).T}
    layout, there = Layout.of(state), weakref.ref(state["w"])
    packing = Packing(layout, state, lambda: used(layout.update_bytes))
    assert packing.lies(0, 64) is not None
    state.clear()
    assert there() is None
    assert packing.kept(0, 64) == bytes(64)


def test_another_layout_is_refused_before_memory_is_taken() -> None:
    layout = Layout.of({"w": np.ones(4, np.float32)})
    with pytest.raises(InvalidUpdate, match="has the shape"):
        Packing(layout, {"w": np.ones(5, np.float32)}, nowhere)
