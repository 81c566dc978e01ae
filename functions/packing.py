"""A state_dict on its way to a gateway: read where it lies, or copied into a buffer on the way.

    packing = Packing(layout, state, take)        # checked, nothing read yet
    packing.read(0, 1 << 20, room)                # to be sealed at once: where it lies, if one
    packing.sealed(0, seal)                       #   tensor has all of it
    packing.copied(0, 1 << 20)                    # to stay: in a buffer that has the first MiB now

A part that was copied last is still in the cache when it is sent, and the first byte leaves before
the last one is read.  What was sealed needs no copy: its seals tell later whether the user's arrays
are as they were, should a gateway ask once more.  Where a tensor lies is layout.py's, how one is
read tensors.py's.  Called by the client library; the user's arrays must not change until `settle`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lifl.functions.layout import Layout
from lifl.functions.sealing import CHUNK, Seal
from lifl.functions.tensors import flat, write


class Packing:
    """A state_dict, and how much of it has been copied or sealed.

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
        self._values = [state[tensor.name] for _, tensor in self._rows]
        self._bytes: list[memoryview | None] = [None] * len(self._rows)  # of each, once looked at
        self._own: memoryview | None = None
        self._packed = 0  # bytes of the buffer that are as they will be
        self._seals: dict[int, Seal] = {}  # by the offset of the chunk

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, end: int, room: memoryview) -> memoryview:
        """These bytes, where they lie or, if several tensors have them, in `room`.

        They are good until `room` is used again or an array changes.
        """
        if end <= self._packed:
            return self._buffer[start:end]
        index = self._first(start)
        if index < len(self._rows):
            offset, data = self._rows[index][0], self._data(index)
            if offset <= start and end <= offset + len(data):
                return data[start - offset : end - offset]
        self._write(start, end, room)
        return room[: end - start]

    def copied(self, start: int, end: int) -> memoryview:
        """These bytes, in a buffer that has every byte below `end` then."""
        if end > self._packed:
            self._write(self._packed, end, self._buffer[self._packed : end])
            self._packed = end
            if end == self._size:  # the user's arrays are of no use here any more
                self._rows, self._values, self._bytes = (), [], []
        return self._buffer[start:end]

    def sealed(self, start: int, seal: Seal) -> None:
        """The chunk from there on was sealed as `read` gave it."""
        self._seals[start] = seal

    def settle(self) -> None:
        """From now on the user's arrays may change: what has no seal is copied."""
        if len(self._seals) < -(-self._size // CHUNK):
            self.copied(0, self._size)

    def is_as_it_was(self) -> bool:
        """Whether it can be sent again; from now on the user's arrays may change once more."""
        if self._packed < self._size:
            data = self.copied(0, self._size)
            return all(seal.fits(data[at : at + CHUNK]) for at, seal in self._seals.items())
        return True

    @property
    def _buffer(self) -> memoryview:
        if self._own is None:
            self._own = self._take()
        return self._own

    def _first(self, start: int) -> int:
        """The tensor that has this byte, or ends before it where none does."""
        return max(0, bisect_right(self._rows, start, key=lambda row: row[0]) - 1)

    def _write(self, start: int, end: int, part: memoryview) -> None:
        """These bytes into `part`: what tensors have of them, and zeros between tensors."""
        at = start
        for index in range(self._first(start), len(self._rows)):
            offset, data = self._rows[index][0], self._data(index)
            first, past = max(offset, start), min(offset + len(data), end)
            if first >= end:
                break
            if first < past:
                part[at - start : first - start] = bytes(first - at)
                if data.obj is not part.obj:  # there already
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
            self._bytes[index] = found
        return found
