"""A clock that tests move: in the place of the module `time`, or of `time.monotonic`."""

from __future__ import annotations

UNIX_S = 1_800_000_000.0  # of a clock that begins


class Clock:
    """Stands still until somebody sets `now`, which is what `monotonic` says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return UNIX_S + self.now

    __call__ = monotonic
