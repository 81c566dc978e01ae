"""How the processes of a node end: when they are asked to, and when nothing else can help.

Owns what whoever starts them must know of it.  That nobody is left to ask is orphaned.py's matter.
Called by the `main` of gateway, aggregator and of a job's own pods.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

HOPELESS: Final = 3  # exit status of a process that would fail again if it were started again


def end_on_sigterm() -> None:
    """End when asked to: the first process of a container ignores what it has no handler for."""

    def end(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
