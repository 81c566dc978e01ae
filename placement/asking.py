"""A job's side of sharing nodes with other jobs: what it asks for, and what it may use.

    coordinator ─► event `ask` ─► whoever started it: arbiter.py ─► a line on standard input

Owns both, and whether the next round may be planned.  Where nobody else is on the nodes (a run of
one job) nothing is asked and everything may be used.  Called by course.py before each round and by
the coordinator, which reads the lines; planning.py makes what is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from lifl.events import emit

STDIN: Final = 0
ALL: Final = 1 << 30  # more than any node has


class Asking:
    """What a job has asked for, and been told.

    Args:
        is_shared: there is somebody to ask, at the other end of standard input.
    """

    def __init__(self, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._asked: Mapping[str, Any] | None = None
        self._parts: Mapping[str, tuple[int, int]] | None = None
        self._why = ""
        self._unread = b""

    @property
    def has_asked(self) -> bool:
        """Or has nobody to ask."""
        return self._asked is not None or not self.is_shared

    # -- before a round ----------------------------------------------------------------------
    def may_plan(self, want: Mapping[str, Any]) -> bool:
        """Whether the job has a share; asks for one where that is not what was asked last."""
        if not self.is_shared:
            return True
        if self._asked is None:
            self._parts = None
        if want != self._asked:
            self._asked = want
            emit("ask", **want)
        return bool(self._parts)

    def wants_nothing(self, want: Mapping[str, Any]) -> None:
        """The job cannot begin a round now: others may have its share meanwhile."""
        if self.is_shared and self._asked is not None:
            self._asked = self._parts = None
            emit("ask", **want)

    # -- what it may use ---------------------------------------------------------------------
    @property
    def is_crowded_out(self) -> bool:
        """The job was told that it has nothing now."""
        return self._parts is not None and not self._parts

    def updates(self, node: str) -> int:
        """Updates at once on a node."""
        return ALL if self._parts is None else self._parts.get(node, (0, 0))[0]

    def slots(self, node: str) -> int:
        """Input slots on a node."""
        return ALL if self._parts is None else self._parts.get(node, (0, 0))[1]

    # -- the line ----------------------------------------------------------------------------
    def hear(self) -> tuple[bool, bool]:
        """Read what there is: whether it is news, and whether more may come."""
        data, before = os.read(STDIN, 1 << 16), self._parts
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._parts = {name: (part[0], part[1]) for name, part in told["parts"].items()}
            if told["why"] and told["why"] != self._why:
                emit("crowded_out", text=told["why"])
            self._why = told["why"]
        return self._parts != before, bool(data)
