"""Are all floats of an update finite: looked at chunk by chunk, while a chunk is in the cache.

    check = FiniteCheck(layout.sections)
    for at, chunk in upload:                  # in order, in pieces of any length
        if (offset := check.feed(at, chunk)) is not None:
            ...                               # the first NaN or infinity is at this byte

Owns the elements that two chunks share.  Integers are always finite.  Called where bytes are
written into a slot; in C where the extension was built, which reads 1 MB in a few tens of
microseconds, and in NumPy elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np

from lifl.functions.kernels.checks import layout_of
from lifl.functions.kernels.choice import isas
from lifl.functions.kernels.contract import Code, Section

WIDEST = 8  # bytes of the widest float; every section starts at a multiple of it

Search = Callable[[memoryview, int], int]
"""The first float that is not finite, of those that lie whole in the bytes from an offset on."""


class FiniteCheck:
    """One upload's check.

    Args:
        sections: of the update's layout.
        isa: of the kernel in C, `numpy` for the one in NumPy; the best that there is if not given.
    """

    def __init__(self, sections: Sequence[Section], *, isa: str | None = None) -> None:
        self.isa = isa or _best()
        self._search = _search(tuple(sections), self.isa)
        self._end = 0
        self._carry = b""  # the last bytes, from a multiple of WIDEST on

    def feed(self, at: int, chunk: memoryview | bytes) -> int | None:
        """Look at the update's bytes from `at` on; start again with `at` 0.

        Returns:
            Offset in bytes of the first element that is not finite, None if there is none.

        Raises:
            ValueError: `at` is not where the chunk before ended.
        """
        if at == 0:
            self._end, self._carry = 0, b""
        if at != self._end:
            raise ValueError(f"a chunk at byte {at}, but the one before ended at {self._end}")
        chunk = memoryview(chunk).cast("B")
        self._end += len(chunk)
        found = -1
        if self._carry:  # an element may lie across: put its bytes together
            more = WIDEST - len(self._carry)
            head, start = self._carry + bytes(chunk[:more]), at - len(self._carry)
            at, chunk = at + len(chunk[:more]), chunk[more:]
            self._carry = head if len(head) < WIDEST else b""
            found = self._search(memoryview(head), start)
        if len(chunk):
            self._carry = bytes(chunk[len(chunk) - self._end % WIDEST :])
            found = self._search(chunk, at) if found < 0 else found
        return None if found < 0 else found


@cache
def _best() -> str:
    """Asked for each upload, as the search is, which the sections of its job have in common."""
    return next(iter(isas()), "numpy")


@lru_cache(maxsize=256)
def _search(sections: tuple[Section, ...], isa: str) -> Search:
    if isa == "numpy":
        return lambda data, start: _in_numpy(data, start, sections)
    from lifl.functions.kernels import _fold

    table = layout_of(sections).table
    return lambda data, start: _fold.nonfinite(isa, data, start, table)


def _in_numpy(data: memoryview, start: int, sections: tuple[Section, ...]) -> int:
    for section in sections:
        if not section.code.is_float:
            continue
        size, offset = section.code.size_bytes, section.update_offset
        first = max(0, -(-(start - offset) // size))
        past = min(section.count, (start + len(data) - offset) // size)
        if past <= first:
            continue
        at = offset + first * size - start
        values = np.frombuffer(data, section.code.dtype, past - first, at)
        is_bf16 = section.code is Code.BF16  # which NumPy sees as its bits
        bad = values & 0x7F80 == 0x7F80 if is_bf16 else ~np.isfinite(values)
        if bad.any():
            return offset + (first + int(bad.argmax())) * size
    return -1
