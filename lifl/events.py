"""The story of a run, one JSON object a line.

Owns the stream of it: standard output as it was when the process started.  User code may print
what it likes, which goes to standard error from then on.  Each writer has a pipe of its own, so
that a line arrives whole.  Called by the coordinator, the engine and the trainers; read by
`lifl run`.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

_stream: int | None = None


def keep_stdout() -> None:
    """From now on events alone go to standard output; what else is printed, to standard error."""
    global _stream
    if _stream is None:
        sys.stdout.flush()
        _stream = os.dup(1)  # not inheritable: children have streams of their own
        os.dup2(2, 1)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # as on a terminal: lines when they end


def emit(event: str, **fields: Any) -> None:
    """Write one event."""
    line = json.dumps({"event": event, **fields}) + "\n"
    if _stream is None:
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    data = line.encode()
    while data:
        data = data[os.write(_stream, data) :]


def say(who: str, text: str) -> None:
    """A line that a process of the run has printed, as an event."""
    emit("output", who=who, text=text)
