"""A state_dict on its way into an update's buffer, piece by piece, ahead of whoever sends it.

    packing = Packing(layout, state, buffer)      # checked, nothing copied yet
    packing.reach(1 << 20)                        # the first MiB is there now

A piece that was copied last is still in the cache when it is sealed, so that packing costs one pass
over the user's arrays and no second one over the buffer; and the first byte leaves before the last
one is copied.  Owns what is copied already.  Where a tensor lies is layout.py's, how one is read
tensors.py's.  Called by the client library; the user's arrays must not change until all is packed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from lifl.functions.layout import Layout, Tensor
from lifl.functions.tensors import flat, write


class Packing:
    """A state_dict and how much of it is in `buffer` (at least `layout.update_bytes` long).

    Raises:
        InvalidUpdate: a tensor is missing, unknown, or has another shape or dtype.
    """

    def __init__(self, layout: Layout, state: Mapping[str, Any], buffer: memoryview) -> None:
        layout.check(state)
        self._buffer = np.frombuffer(buffer, np.uint8)
        self._left: deque[tuple[int, Tensor, Any]] = deque(
            (offset, tensor, state[tensor.name]) for offset, tensor in layout.by_offset
        )
        self._packed = 0  # bytes of the buffer that are as they will be

    def reach(self, end: int) -> None:
        """Have every byte of the buffer below `end` in place."""
        while self._left and self._left[0][0] < end:
            offset, tensor, value = self._left[0]
            past = offset + tensor.size_bytes
            source = flat(value)
            if source is None:  # strided, on a device, a scalar: as a whole
                target = self._buffer[offset:past].view(tensor.dtype)
                write(value, target.reshape(tensor.shape))
            else:
                start, stop = max(offset, self._packed), min(past, end)
                self._buffer[start:stop] = source[start - offset : stop - offset]
                if stop < past:
                    break
            self._left.popleft()
        self._packed = max(self._packed, end)
