"""The story of a run, one JSON object a line on standard output.

Owns writing a line whole, since several processes share the stream.  Called by the coordinator,
the engine and the trainers; read by `lifl run`.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def emit(event: str, **fields: Any) -> None:
    """Write one event."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()
