"""What every kernel takes and gives; no arithmetic here.

Two layouts of the same coordinates, described by one sequence of sections:

    update layout   the job's own dtypes: client updates, the global model
    sum layout      accumulators: Σ wᵢxᵢ, and the server optimiser's velocity

A buffer may be longer than its layout (slots are rounded up to a page); bytes that no
section names are neither read nor written. Byte order is that of the machine, and all
supported machines are little-endian.

Both kernels do the same operations in the same order, each rounded to nearest even, with
no fused multiply-add, so that a sum does not depend on the node that computed it: results
are equal bit for bit, save the payload of a NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import isfinite
from typing import Any, Literal, Protocol

import numpy as np

ALIGNMENT_BYTES = 64
"""Of every section, in both layouts: a cache line, and the widest vector."""


class Code(IntEnum):
    """Dtype of a section. The values go on the wire and are never reused."""

    F64 = 0
    F32 = 1
    F16 = 2
    BF16 = 3
    I8 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    U8 = 8
    U16 = 9
    U32 = 10
    U64 = 11
    BOOL = 12

    @property
    def dtype(self) -> np.dtype[Any]:
        """How NumPy sees one element; bfloat16 is the uint16 that carries its bits."""
        return _DTYPES[self]

    @property
    def size_bytes(self) -> int:
        return _DTYPES[self].itemsize

    @property
    def sum_dtype(self) -> np.dtype[Any]:
        """float32 for F32, F16 and BF16; float64 for F64, integers and BOOL.

        Integers are therefore exact while every |partial sum| is at most 2**53.
        """
        return _F32 if self in (Code.F32, Code.F16, Code.BF16) else _F64

    @property
    def is_float(self) -> bool:
        return self <= Code.BF16


_F32: np.dtype[Any] = np.dtype(np.float32)
_F64: np.dtype[Any] = np.dtype(np.float64)
_DTYPES: dict[Code, np.dtype[Any]] = {
    Code.F64: _F64,
    Code.F32: _F32,
    Code.F16: np.dtype(np.float16),
    Code.BF16: np.dtype(np.uint16),
    Code.I8: np.dtype(np.int8),
    Code.I16: np.dtype(np.int16),
    Code.I32: np.dtype(np.int32),
    Code.I64: np.dtype(np.int64),
    Code.U8: np.dtype(np.uint8),
    Code.U16: np.dtype(np.uint16),
    Code.U32: np.dtype(np.uint32),
    Code.U64: np.dtype(np.uint64),
    Code.BOOL: np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A run of `count` elements of one dtype, contiguous in both layouts.

    Args:
        code: dtype of the update's elements.
        count: elements, 0 or more; a tensor of shape () has one.
        update_offset: bytes from the start of a buffer in update layout, a multiple of 64.
        sum_offset: bytes from the start of a buffer in sum layout, a multiple of 64.

    Raises:
        ValueError: a number is negative, or an offset is not a multiple of 64.
    """

    code: Code
    count: int
    update_offset: int
    sum_offset: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", Code(self.code))
        if self.count < 0:
            raise ValueError(f"count of a section is {self.count}; it must be 0 or more")
        for name in ("update_offset", "sum_offset"):
            offset = getattr(self, name)
            if offset < 0 or offset % ALIGNMENT_BYTES:
                raise ValueError(
                    f"{name} of a section is {offset}; it must be a multiple of "
                    f"{ALIGNMENT_BYTES}, 0 or more"
                )

    @property
    def sum_dtype(self) -> np.dtype[Any]:
        return self.code.sum_dtype

    @property
    def update_end(self) -> int:
        """Bytes: the first offset in update layout that is past this section."""
        return self.update_offset + self.count * self.code.size_bytes

    @property
    def sum_end(self) -> int:
        """Bytes: the first offset in sum layout that is past this section."""
        return self.sum_offset + self.count * self.code.sum_dtype.itemsize


def lay_out(fields: Iterable[tuple[Code, int]]) -> tuple[Section, ...]:
    """Sections for (dtype, elements) one after the other, each at the next multiple of 64."""
    sections: list[Section] = []
    update_offset = sum_offset = 0
    for code, count in fields:
        section = Section(code, count, update_offset, sum_offset)
        sections.append(section)
        update_offset = _round_up(section.update_end)
        sum_offset = _round_up(section.sum_end)
    return tuple(sections)


def _round_up(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def update_bytes(sections: Sequence[Section]) -> int:
    """The least length of a buffer in update layout."""
    return max((section.update_end for section in sections), default=0)


def sum_bytes(sections: Sequence[Section]) -> int:
    """The least length of a buffer in sum layout."""
    return max((section.sum_end for section in sections), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One queued update or sum.

    Args:
        data: C-contiguous bytes, read only or not, in update layout, or sum layout if `is_sum`.
        weight: w of this update, usually its number of examples. 0, or of a magnitude that
            float32 holds as a normal number (2**-126 to 3.4e38). Ignored for a sum.
        is_sum: the data are a Σ wᵢxᵢ already, and count once as they are.
    """

    data: memoryview
    weight: float
    is_sum: bool


@dataclass(frozen=True, slots=True)
class Optimiser:
    """What the top does with the mean of a round.

    `fedavg`  model ← mean                                (McMahan et al. 2017, arXiv 1602.05629)
    `fedavgm` v ← βv + (base − mean); model ← base − ηv   (Hsu, Qi, Brown 2019, arXiv 1909.06335)

    Args:
        learning_rate: η of `fedavgm`.
        momentum: β of `fedavgm`, at least 0 and less than 1.

    Raises:
        ValueError: an unknown name, or a number outside its range.
    """

    name: Literal["fedavg", "fedavgm"] = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.name not in ("fedavg", "fedavgm"):
            raise ValueError(f"optimiser is {self.name!r}; choose 'fedavg' or 'fedavgm'")
        if not isfinite(self.learning_rate):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be finite")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and less than 1")


class Kernels(Protocol):
    """The table of operations. Implementations hold no state and may be shared by threads."""

    @property
    def name(self) -> str:
        """`reference` or `native`."""

    @property
    def isa(self) -> str:
        """`numpy`, `scalar`, `neon`, `avx2` or `avx512f`."""

    def fold(
        self,
        out: memoryview,
        acc: memoryview | None,
        inputs: Sequence[Input],
        sections: Sequence[Section],
    ) -> None:
        """out ← (acc or 0) + Σ wᵢxᵢ, terms added in the order of `inputs`.

        Out of place: `out` overlaps neither `acc` nor an input, because a fold that dies
        half way must leave what it read intact. Each byte is read once and written once.

        float32 accumulators: wᵢ is rounded to float32 once, xᵢ is exact in float32.
        float64 accumulators: wᵢ and xᵢ are used as float64 (64-bit integers beyond 2**53 are
        rounded to nearest). ±inf and NaN follow IEEE 754: inf − inf and 0·inf are NaN.
        BOOL: any byte but 0 counts as 1.

        Args:
            out: writable, sum layout.
            acc: sum layout; None at the first fold.
            inputs: any number, updates and sums in any order.

        Raises:
            ValueError: a buffer too short, not C-contiguous, read only or overlapping
                another that it must not; sections that overlap; a weight outside float32.
                Nothing has been written then.
        """

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
        """out ← the next model, from Σ wᵢxᵢ and Σ wᵢ.

        Σ wᵢxᵢ = (total or 0) + the terms of `inputs`, as `fold` adds them: what a fold and then a
        finish of its sum would give, without the sum being written and read once more.

        mean = Σ wᵢxᵢ / total_weight, in float64, rounded to the accumulator's dtype.
        `fedavg`: model = mean. `fedavgm`, on sections of floats alone (the others take the
        mean): v ← βv + (base − mean), then model ← base − ηv, each right-hand side in
        float64 from left to right and rounded once to the accumulator's dtype.

        Then, by the section's dtype: F16 and BF16 are rounded to nearest even, and overflow
        to ±inf as IEEE 754 has it; integers are rounded half to even and clipped to their
        range, never truncated, NaN becomes 0; BOOL is True iff the mean is at least 0.5.

        Args:
            out: writable, update layout; overlaps no other buffer.
            total: sum layout; None where `inputs` are all that there is.
            total_weight: Σ wᵢ, those of `inputs` included, finite and more than 0.
            inputs: as of `fold`.
            base: update layout; the model that clients started from. `fedavgm` needs it;
                `fedavg` ignores it and both velocities.
            velocity_in: sum layout; None means zeros, as in the first round. Sections of
                integers and BOOL are not read.
            velocity_out: writable, sum layout; `fedavgm` needs it. Overlaps no other buffer.
                Sections of integers and BOOL are not written.

        Raises:
            ValueError: as for `fold`; or a total weight that is not finite and positive; or
                neither a total nor an input; or `fedavgm` without `base` or `velocity_out`.
        """
