"""Waiting until something can be read, whatever the numbers of descriptors: select(2) takes none
above 1023.

Owns no source, and keeps none: loops that wait for the same ones again and again have polling.py,
which needs ZeroMQ.  Called by aggregators, and by whoever waits once.
"""

from __future__ import annotations

import math
import select
from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasFileno(Protocol):
    """What stands for a file descriptor."""

    def fileno(self) -> int: ...


Source = TypeVar("Source", bound=int | HasFileno)


def readable(sources: Sequence[Source], timeout_s: float | None = None) -> list[Source]:
    """Those that can be read, or have ended.

    Args:
        timeout_s: how long to wait for the first, rounded up to 1 ms; None: for ever.
    """
    poll = select.poll()
    by_fd = {each if isinstance(each, int) else each.fileno(): each for each in sources}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    ready = poll.poll(None if timeout_s is None else math.ceil(timeout_s * 1000))
    return [by_fd[fd] for fd, _ in ready]
