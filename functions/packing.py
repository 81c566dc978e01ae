"""A state_dict on its way to a gateway: sealed where it lies, or copied into a buffer on the way.

    packing = Packing(layout, state, take)     # checked, nothing read yet
    packing.lies(0, 1 << 20)                   # to be sealed at once: where it lies, if one tensor
    packing.gathered(0, 1 << 20, room)         #   has all of it, else put together
    packing.remember(0, seal)                  # and that is all that is kept of it
    packing.kept(0, 1 << 20)                   # to stay: in a buffer, which is copied so far by now

A part that was copied last is still in the cache when it is sent, and the first byte leaves before
the last one is read.  Seals tell later whether the user's arrays are as they were, should a gateway
ask once more.  Where a tensor lies is layout.py's, how one is read tensors.py's.  The contract is
transfer.py's `Source`.  Made by the client library; until `settle` the arrays must not change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lifl.functions.layout import Layout
from lifl.functions.sealing import CHUNK, Seal
from lifl.functions.tensors import flat, stays, write


class Packing:
    """A state_dict: of each part the user's own bytes, a copy in the buffer, or a seal.

    Args:
        take: gives the buffer, at least `layout.update_bytes` long, once one is needed.

    Raises:
        InvalidUpdate: a tensor is missing, unknown, or has another shape or dtype.
    """

    def __init__(
        self, layout: Layout, state: Mapping[str, Any], take: Callable[[], memoryview]
    ) -> None:
        layout.check(state)
        self._rows, self._size, self._take = layout.by_offset, layout.update_bytes, take
        # of each tensor, None once it was written into the buffer as a whole
        self._values: list[Any] = [state[tensor.name] for _, tensor in self._rows]
        self._bytes: list[memoryview | None] = [None] * len(self._rows)  # of each, once looked at
        self._own: memoryview | None = None
        self._copied = 0  # bytes of the buffer that are as they will be
        self._seals: dict[int, Seal] = {}  # by the offset of the chunk
        self._is_safe = False  # the copy is whole, and what was sent or is to be sent

    def __len__(self) -> int:
        return self._size

    def lies(self, start: int, end: int) -> memoryview | None:
        """These bytes of one tensor or of the copy; None where several tensors have them."""
        if end <= self._copied:
            return self._buffer[start:end]
        index = self._first(start)
        if index < len(self._rows):
            offset, data = self._rows[index][0], self._data(index)
            if offset <= start and end <= offset + len(data):
                return data[start - offset : end - offset]
        return None

    def gathered(self, start: int, end: int, room: memoryview) -> memoryview:
        """These bytes at the beginning of `room`."""
        self._write(start, end, room)
        return room[: end - start]

    def kept(self, start: int, end: int) -> memoryview:
        """These bytes, in a buffer that has every byte below `end` then."""
        if end > self._copied:
            self._write(self._copied, end, self._buffer[self._copied : end], is_own=True)
            self._copied = end
            if end == self._size:  # the user's arrays are of no use here any more
                self._rows, self._values, self._bytes = (), [], []
        return self._buffer[start:end]

    def remember(self, start: int, seal: Seal) -> None:
        """The chunk from there on was sealed as it was."""
        self._seals[start] = seal

    def settle(self) -> None:
        """From now on the user's arrays may change: all is copied, unless every chunk has a seal
        and the arrays will be there.
        """
        here = (value for value in self._values if value is not None)
        if not self._has_seals or not all(map(stays, here)):
            self.kept(0, self._size)
            self._is_safe = True

    def recover(self) -> bool:
        """Copy it, to be sent again; False where it is not what was sealed any more.

        Only a copy that was compared is sent: arrays may change at any time after `settle`.
        """
        if not self._is_safe and self._has_seals:
            data = self.kept(0, self._size)
            self._is_safe = all(
                seal.fits(data[at : at + CHUNK]) for at, seal in self._seals.items()
            )
        return self._is_safe

    @property
    def _has_seals(self) -> bool:
        """Of every chunk."""
        return all(at in self._seals for at in range(0, self._size, CHUNK))

    @property
    def _buffer(self) -> memoryview:
        if self._own is None:
            self._own = self._take()
        return self._own

    def _first(self, start: int) -> int:
        """The tensor that has this byte, or ends before it where none does."""
        return max(0, bisect_right(self._rows, start, key=lambda row: row[0]) - 1)

    def _write(self, start: int, end: int, part: memoryview, *, is_own: bool = False) -> None:
        """These bytes into `part`: what tensors have of them, and zeros between tensors.

        Args:
            is_own: `part` is of the buffer, where some tensors are already.
        """
        at = start
        for index in range(self._first(start), len(self._rows)):
            offset, data = self._rows[index][0], self._data(index)
            first, past = max(offset, start), min(offset + len(data), end)
            if first >= end:
                break
            if first < past:
                part[at - start : first - start] = bytes(first - at)
                if not is_own or self._values[index] is not None:
                    part[first - start : past - start] = data[first - offset : past - offset]
                at = past
        part[at - start : end - start] = bytes(end - at)

    def _data(self, index: int) -> memoryview:
        """The bytes of a tensor: where they lie, or in their place in the buffer if they are
        strided, on a device or a scalar.
        """
        if (found := self._bytes[index]) is None:
            (offset, tensor), value = self._rows[index], self._values[index]
            lies = flat(value)
            if lies is not None:
                found = lies.data
            else:
                found = self._buffer[offset : offset + tensor.size_bytes]
                write(value, np.frombuffer(found, tensor.dtype).reshape(tensor.shape))
                self._values[index] = None  # which may be much memory elsewhere
            self._bytes[index] = found
        return found
