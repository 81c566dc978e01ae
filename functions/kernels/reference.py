"""Kernels in NumPy: the arithmetic of `contract.Kernels`, written to be read.

Works through a section a chunk at a time, so that temporaries stay within a few hundred
kilobytes whatever the model. bfloat16 is handled through its bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lifl.functions.kernels.checks import check_finish, check_fold
from lifl.functions.kernels.contract import Code, Input, Optimiser, Section

CHUNK_ELEMENTS = 1 << 15

Array = npt.NDArray[Any]


class Reference:
    """`Kernels` in NumPy."""

    name = "reference"
    isa = "numpy"

    def fold(
        self,
        out: memoryview,
        acc: memoryview | None,
        inputs: Sequence[Input],
        sections: Sequence[Section],
    ) -> None:
        """See `Kernels.fold`."""
        check_fold(out, acc, inputs, sections)
        with np.errstate(all="ignore"):
            for section, start, stop in _chunks(sections):
                _sums(out, section)[start:stop] = _folded(acc, inputs, section, start, stop)

    def finish(
        self,
        out: memoryview,
        total: memoryview | None,
        total_weight: float,
        sections: Sequence[Section],
        *,
        inputs: Sequence[Input] = (),
        base: memoryview | None = None,
        velocity_in: memoryview | None = None,
        velocity_out: memoryview | None = None,
        optimiser: Optimiser,
    ) -> None:
        """See `Kernels.finish`."""
        check_finish(
            out, total, inputs, total_weight, sections, base, velocity_in, velocity_out, optimiser
        )
        with np.errstate(all="ignore"):
            for section, start, stop in _chunks(sections):
                code = section.code
                sums = _folded(total, inputs, section, start, stop)
                model = (sums.astype(np.float64) / total_weight).astype(section.sum_dtype)
                if optimiser.name == "fedavgm" and code.is_float:
                    assert base is not None
                    assert velocity_out is not None  # check_finish
                    x = widen(_elements(base, section)[start:stop], code).astype(np.float64)
                    old: Array = (
                        np.zeros(stop - start)
                        if velocity_in is None
                        else _sums(velocity_in, section)[start:stop].astype(np.float64)
                    )
                    velocity = (optimiser.momentum * old + (x - model)).astype(section.sum_dtype)
                    _sums(velocity_out, section)[start:stop] = velocity
                    step = optimiser.learning_rate * velocity.astype(np.float64)
                    model = (x - step).astype(section.sum_dtype)
                _elements(out, section)[start:stop] = narrow(model, code)


def _folded(
    acc: memoryview | None, inputs: Sequence[Input], section: Section, start: int, stop: int
) -> Array:
    """(acc or 0) + Σ wᵢxᵢ over some elements of a section, in memory of its own."""
    total: Array = (
        np.zeros(stop - start, section.sum_dtype)
        if acc is None
        else _sums(acc, section)[start:stop].copy()  # += must not reach the accumulator
    )
    weight_type = section.sum_dtype.type
    for item in inputs:
        if item.is_sum:
            total += _sums(item.data, section)[start:stop]
        else:
            x = widen(_elements(item.data, section)[start:stop], section.code)
            total += weight_type(item.weight) * x
    return total


def _chunks(sections: Sequence[Section]) -> Iterator[tuple[Section, int, int]]:
    for section in sections:
        for start in range(0, section.count, CHUNK_ELEMENTS):
            yield section, start, min(start + CHUNK_ELEMENTS, section.count)


def _sums(data: memoryview, section: Section) -> Array:
    return np.frombuffer(data, section.sum_dtype, section.count, section.sum_offset)


def _elements(data: memoryview, section: Section) -> Array:
    """BOOL as bytes: NumPy's bool is undefined for a byte that is neither 0 nor 1."""
    dtype = np.dtype(np.uint8) if section.code is Code.BOOL else section.code.dtype
    return np.frombuffer(data, dtype, section.count, section.update_offset)


def widen(x: Array, code: Code) -> Array:
    """Elements of an update in the accumulator's dtype, same shape.

    Exact, save 64-bit integers beyond 2**53, which are rounded to nearest.
    """
    if code is Code.BF16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    if code is Code.BOOL:
        set_: Array = x != 0
        return set_.astype(np.float64)
    return x.astype(code.sum_dtype)


def narrow(model: Array, code: Code) -> Array:
    """Accumulators as elements of an update, same shape: rounding and clipping as `Kernels.finish`
    says; BF16 as uint16, BOOL as uint8.
    """
    if code is Code.BF16:
        # To nearest, ties to even: add just under half of the last kept bit, and that bit.
        bits = model.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(model), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    if code is Code.BOOL:
        at_least_half: Array = model >= 0.5
        return at_least_half.astype(np.uint8)
    if code.is_float:
        return model.astype(code.dtype)
    range_ = np.iinfo(code.dtype)
    above = float(2 ** (range_.bits - (range_.min < 0)))  # the greatest plus one, exact
    nearest = np.rint(model)
    fits = (nearest >= range_.min) & (nearest < above)  # False for NaN
    result = np.where(fits, nearest, 0.0).astype(code.dtype)
    result[nearest >= above] = range_.max
    result[nearest < range_.min] = range_.min
    return result
