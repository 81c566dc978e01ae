"""The memory that a client's models lie in, and updates that have to be copied.

Called by exchange.py and fastlane.py for models, by packing.py for updates.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any, Final

import numpy as np

from lifl.functions.wire import INLINE

MOST: Final = 4  # arrays that are kept


def own(size: int) -> memoryview:
    """Memory of so many bytes that is used once."""
    return memoryview(bytearray(size))


class Buffers:
    """Memory for models and updates that is used again once nobody looks at it.

    Fresh pages cost more than receiving into them.  An array is free when no view of it is left:
    every view, a torch tensor's too, holds a reference to it.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray[Any, Any]] = []

    def prepare(self, size: int) -> None:
        """Have pages for two before the first round needs them: the model that a loop still has in
        its hands when the next one comes, and that one.
        """
        if size > INLINE and not self._arrays:
            self._arrays += [np.zeros(size, np.uint8) for _ in range(2)]
            for array in self._arrays:
                array[:: mmap.PAGESIZE] = 0

    def take(self, size: int) -> memoryview:
        for index in range(len(self._arrays)):
            # two references: the list's and getrefcount's own
            if self._arrays[index].size == size and sys.getrefcount(self._arrays[index]) == 2:
                return self._arrays[index].data
        array = np.zeros(size, np.uint8)  # padding that nobody writes tells nothing
        if len(self._arrays) == MOST:
            self._arrays.pop(0)
        self._arrays.append(array)
        return array.data
