"""When gateway and aggregators end by themselves: their run is over, and nobody was left to say so.

An agent that dies is started again, and whoever waits for it must wait.  Only where everybody who
could start it is dead, too, nobody would ever end those who wait.  Of a local run that can be seen:
`lifl run` holds a lock on the run's directory for as long as it lives, and its engine lives no
longer than that.  A node that belongs to no local run has no such directory, and waits.  Called by
lanes.py and aggregator.py when the agent cannot be reached.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger("lifl.node")

LOST_S: Final = 20.0  # without an agent and without a run
LOOK_S: Final = 1.0
_OF_A_RUN: Final = "engine.json"  # what `lifl run` writes into its directory before all else
_MNT_DETACH: Final = 2


def is_held(run: Path) -> bool:
    """Somebody holds the lock of a run's directory: the `lifl run` that lives.

    Raises:
        OSError: there is no such directory.
    """
    fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Orphaned:
    """What a process of a node knows of the run that it belongs to.

    Args:
        socket_path: of the agent, DIRECTORY/NODE/agent.sock in a local run.
        clock: monotonic seconds.
    """

    def __init__(self, socket_path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = socket_path.parent
        self._run = self._node.parent
        self._clock = clock
        self._looked_at = self._since = -1.0  # -1: the run lives, as far as is known

    def is_over(self) -> bool:
        """The agent cannot be reached: will nobody start it again?"""
        if not self._node.exists():
            return True
        now = self._clock()
        if self._looked_at >= 0 and now - self._looked_at < LOOK_S:
            return False
        if self._looked_at >= 0 and now - self._looked_at > LOST_S:
            self._since = -1.0  # there was an agent meanwhile
        self._looked_at = now
        if not self._is_given_up():
            self._since = -1.0
        elif self._since < 0:
            self._since = now
        elif now - self._since >= LOST_S:
            self._clear_up()
            return True
        return False

    def _is_given_up(self) -> bool:
        """Nobody holds the lock of the directory of a local run."""
        if not (self._run / _OF_A_RUN).exists():
            return False
        try:
            return not is_held(self._run)
        except OSError:
            return False

    def _clear_up(self) -> None:
        """The first to see it removes the directory; the others of the node see that."""
        log.warning("the run of %s is gone, and so is its agent: this process ends", self._run)
        pins = self._run / "bpf"
        if pins.is_dir():  # of this mount namespace, which dies with the last of us
            ctypes.CDLL(None).umount2(os.fsencode(pins), _MNT_DETACH)
        shutil.rmtree(self._run, ignore_errors=True)  # others do the same
