"""A running job's side of its key directory: who has which rights now.

Owns the names of the clients that may take part and the socket at which `lifl keys` says that they
changed.  Does not own the file (keyring.py) and tells nobody: attendance.py does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifl.placement.keyring import Keyring, short

ANSWER_S = 2.0  # whoever changed the keys waits no longer for a gateway that does not answer


@dataclass(frozen=True)
class Change:
    """Names by key of clients that came and that went."""

    enrolled: dict[str, str]
    revoked: dict[str, str]


class Enrolment:
    """Who may take part.

    Args:
        directory: the key directory that the job goes by.
        own: names by key of clients whose keys the run made.
    """

    def __init__(self, directory: Path, own: dict[str, str]) -> None:
        self.looks = 0  # how often the directory was read; gateways say which they go by
        self.answer_by = math.inf  # monotonic seconds
        self._own = own
        self._keyring = Keyring(directory)
        self.names: dict[str, str] = {}
        self._asking: list[socket.socket] = []
        self._path = directory / f"{os.getpid()}.sock"
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        with short(self._path) as where:
            self._listener.bind(where)
        self._listener.listen()
        self._listener.setblocking(False)
        self.look()

    def fileno(self) -> int:
        """Readable when somebody asks to look again."""
        return self._listener.fileno()

    def look(self) -> Change:
        """Read the directory again, since somebody asks for it or because the job begins."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._asking.append(self._listener.accept()[0])
                self.answer_by = min(self.answer_by, time.monotonic() + ANSWER_S)
        self.looks += 1
        names = dict(self._own)
        for entry in self._keyring.entries:
            if entry.revoked_at is None:
                names[entry.public_key] = entry.name
            else:
                names.pop(entry.public_key, None)
        before, self.names = self.names, names
        return Change(
            {key: name for key, name in names.items() if key not in before},
            {key: name for key, name in before.items() if key not in names},
        )

    def answer(self, **fields: Any) -> None:
        """Tell those who asked that it is done and in force; they read until the end."""
        for asking in self._asking:
            with contextlib.suppress(OSError):
                asking.sendall(json.dumps(fields).encode())
            asking.close()
        self._asking.clear()
        self.answer_by = math.inf

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)
