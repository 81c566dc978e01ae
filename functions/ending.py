"""How the processes of a node end or begin anew: when asked to, and when nothing else helps.

Owns what whoever starts them must know of it.  That nobody is left to ask is orphaned.py's matter.
Called by the `main` of gateway, aggregator and of a job's own pods.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

HOPELESS: Final = 3  # exit status of a process that would fail again if it were started again


def end_on_sigterm() -> None:
    """End when asked to: the first process of a container ignores what it has no handler for."""

    def end(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)


def start_again() -> NoReturn:
    """The same command in the place of this process, with nothing of what it holds.

    A container that ends instead is started again by the kubelet, which waits the longer the more
    often it happens.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.closerange(3, 1 << 30)  # descriptors that came over a socket would stay open
    os.execv(sys.executable, sys.orig_argv)
