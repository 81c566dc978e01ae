"""Finding the first NaN or infinity of an update that comes in pieces of any length."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.functions.kernels import Code, lay_out, update_bytes
from lifl.functions.kernels.choice import isas
from lifl.functions.kernels.finite import FiniteCheck

FLOATS = {
    Code.F64: np.float64, Code.F32: np.float32, Code.F16: np.float16, Code.BF16: ml_dtypes.bfloat16,
}  # fmt: skip
KERNELS = [*isas(), "numpy"]
SECTIONS = lay_out([(Code.F64, 3), (Code.F32, 5001), (Code.F16, 7), (Code.BF16, 9), (Code.U8, 5)])


def update() -> bytearray:
    """Every float the largest that there is, every integer and every gap all ones."""
    data = bytearray(b"\xff" * update_bytes(SECTIONS))
    for section in SECTIONS:
        if section.code.is_float:
            dtype = FLOATS[section.code]
            most = np.full(section.count, -ml_dtypes.finfo(dtype).max, dtype)
            data[section.update_offset : section.update_end] = most.tobytes()
    return data


def first(data: bytearray, pieces: list[int], isa: str) -> int | None:
    check, at = FiniteCheck(SECTIONS, isa=isa), 0
    while at < len(data):
        size = pieces[at % len(pieces)]
        found = check.feed(at, memoryview(data)[at : at + size])
        if found is not None:
            return found
        at += size
    return None


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("pieces", [[1 << 20], [64], [7, 3, 1], [1000, 13]])
def test_the_largest_numbers_are_finite(isa: str, pieces: list[int]) -> None:
    assert first(update(), pieces, isa) is None


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_first_bad_one_is_found(isa: str, bad: float, data: st.DataObject) -> None:
    section = data.draw(st.sampled_from([s for s in SECTIONS if s.code.is_float]))
    size = section.code.size_bytes
    wrong = update()
    index = data.draw(st.integers(0, section.count - 1))
    later = data.draw(st.integers(index, section.count - 1))
    for at in (index, later):
        offset = section.update_offset + at * size
        wrong[offset : offset + size] = np.asarray(bad, FLOATS[section.code]).tobytes()
    pieces = data.draw(st.lists(st.integers(1, 5000), min_size=1, max_size=5))
    assert first(wrong, pieces, isa) == section.update_offset + index * size


def test_a_signalling_nan_is_one() -> None:
    for isa in KERNELS:
        for code, bits in ((Code.F32, 0x7F800001), (Code.F64, 0x7FF0000000000001)):
            wrong = bits.to_bytes(code.size_bytes, "little")
            assert FiniteCheck(lay_out([(code, 1)]), isa=isa).feed(0, wrong) == 0


def test_a_gap_is_a_mistake_and_zero_starts_again() -> None:
    check = FiniteCheck(SECTIONS)
    check.feed(0, bytes(10))
    with pytest.raises(ValueError, match="a chunk at byte 11, but the one before ended at 10"):
        check.feed(11, bytes(1))
    assert check.feed(0, update()) is None
