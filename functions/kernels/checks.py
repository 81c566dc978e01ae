"""What is refused before a kernel starts, in words that name the value; the same for every kernel.

Owns no arithmetic. Called by `reference` and `native` first of all, so that a refused call has
written nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from math import isfinite

import numpy as np
import numpy.typing as npt

from lifl.functions.kernels.contract import (
    Input,
    Optimiser,
    Section,
    sum_bytes,
    update_bytes,
)

LEAST_WEIGHT = float(np.finfo(np.float32).tiny)
MOST_WEIGHT = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Layout:
    """What sections come to: least lengths in bytes, and the table that C reads.

    `table` is int64, four for each section: code, count, update_offset, sum_offset.
    """

    update_bytes: int
    sum_bytes: int
    table: memoryview


_Part = tuple[str, npt.NDArray[np.uint8]]
_NOTHING = np.zeros(0, np.uint8)


def check_fold(
    out: memoryview, acc: memoryview | None, inputs: Sequence[Input], sections: Sequence[Section]
) -> Layout:
    """The layout of a fold's sections.

    Raises:
        ValueError: as `Kernels.fold` says.
    """
    layout = layout_of(tuple(sections))
    target = _part("out", out, layout.sum_bytes, writable=True)
    if acc is not None:
        _apart(target, _part("acc", acc, layout.sum_bytes))
    for part in _parts_of(inputs, layout):
        _apart(target, part)
    return layout


def _parts_of(inputs: Sequence[Input], layout: Layout) -> list[_Part]:
    """The bytes of each input, its weight looked at."""
    parts = []
    for i, item in enumerate(inputs):
        needed = layout.sum_bytes if item.is_sum else layout.update_bytes
        parts.append(_part(f"inputs[{i}]", item.data, needed))
        weight = abs(item.weight)
        if not (item.is_sum or weight == 0 or LEAST_WEIGHT <= weight <= MOST_WEIGHT):
            raise ValueError(
                f"weight of inputs[{i}] is {item.weight!r}; it must be 0 or of a magnitude from "
                f"{LEAST_WEIGHT:.8g} to {MOST_WEIGHT:.8g}, which float32 holds"
            )
    return parts


def check_finish(
    out: memoryview,
    total: memoryview | None,
    inputs: Sequence[Input],
    total_weight: float,
    sections: Sequence[Section],
    base: memoryview | None,
    velocity_in: memoryview | None,
    velocity_out: memoryview | None,
    optimiser: Optimiser,
) -> Layout:
    """The layout of a finish's sections.

    Raises:
        ValueError: as `Kernels.finish` says.
    """
    if not (isfinite(total_weight) and total_weight > 0):
        raise ValueError(f"total_weight is {total_weight!r}; it must be finite and more than 0")
    layout = layout_of(tuple(sections))
    target = _part("out", out, layout.update_bytes, writable=True)
    if total is None and not inputs:
        raise ValueError("total is None and there are no inputs: there is nothing to finish")
    read = _parts_of(inputs, layout)
    if total is not None:
        read.append(_part("total", total, layout.sum_bytes))
    if optimiser.name == "fedavgm":
        if base is None or velocity_out is None:
            missing = "base" if base is None else "velocity_out"
            raise ValueError(f"{missing} is None; fedavgm needs base and velocity_out")
        read.append(_part("base", base, layout.update_bytes))
        if velocity_in is not None:
            read.append(_part("velocity_in", velocity_in, layout.sum_bytes))
        velocity = _part("velocity_out", velocity_out, layout.sum_bytes, writable=True)
        for other in (target, *read):
            _apart(velocity, other)
    for other in read:
        _apart(target, other)
    return layout


@lru_cache(maxsize=256)
def layout_of(sections: tuple[Section, ...]) -> Layout:
    """Computed once per job, not per fold.

    Raises:
        ValueError: two sections share bytes.
    """
    for name, spans in (
        ("update", [(s.update_offset, s.update_end, i) for i, s in enumerate(sections) if s.count]),
        ("sum", [(s.sum_offset, s.sum_end, i) for i, s in enumerate(sections) if s.count]),
    ):
        spans.sort()
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                raise ValueError(
                    f"sections[{first}] and sections[{second}] overlap in the {name} layout: "
                    f"one ends at byte {end}, the other starts at {start}"
                )
    rows = ((int(s.code), s.count, s.update_offset, s.sum_offset) for s in sections)
    table = memoryview(array("q", chain.from_iterable(rows))).toreadonly()
    return Layout(update_bytes(sections), sum_bytes(sections), table)


def _part(name: str, view: memoryview, needed: int, *, writable: bool = False) -> _Part:
    """The bytes of `view` that the sections use."""
    if not view.c_contiguous:
        raise ValueError(f"{name} is not C-contiguous (strides {view.strides}); pass whole runs")
    if view.nbytes < needed:
        raise ValueError(f"{name} has {view.nbytes} bytes; the sections need {needed}")
    if writable and view.readonly:
        raise ValueError(f"{name} is read only; pass a writable buffer")
    return name, np.frombuffer(view, np.uint8, needed) if needed else _NOTHING


def _apart(written: _Part, other: _Part) -> None:
    if np.may_share_memory(written[1], other[1]):  # of contiguous arrays, exact
        raise ValueError(
            f"{written[0]} overlaps {other[0]}; kernels work out of place, so that a crash "
            "leaves what they read intact: pass another buffer"
        )
