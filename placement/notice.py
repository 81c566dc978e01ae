"""The jobs of a run, as its engine posts them for agents: a file, and SIGHUP when it has changed.

Owns reading it.  What follows is the agent's matter, as where an operator says it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from lifl.functions.wire import Message


class Notice:
    """The file of jobs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        signal.signal(signal.SIGHUP, lambda *_: os.eventfd_write(self._changed, 1))

    def fileno(self) -> int:
        """Readable when the file has changed."""
        return self._changed

    def jobs(self) -> list[Message]:
        """Name, number, endpoint and key of each, as there are now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._changed)
        found: list[Message] = json.loads(self._path.read_text())
        return found
