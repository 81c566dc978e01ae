"""What the processes of a run print, line by line, with who printed it.

Owns the pipes that are their standard output and error: reading them so that nobody waits for a
reader, cutting lines, and leaving lines out where somebody prints without end.  Knows no event
and no view.  Called by the local engine, and by the trainers' process for its clients.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

BURST_LINES: Final = 400  # of one process, at once
LINES_PER_S: Final = 50  # of one process, for as long as it likes
LONGEST_LINE: Final = 4096  # characters; the rest of a longer one is left out
_CHUNK: Final = 1 << 16
_WORD: Final = "\x1e"  # before a line that is JSON (RFC 7464) and not for people

Say = Callable[[str, str], None]


def last_words(**fields: Any) -> None:
    """Say to whoever reads this process's output what a person need not see as a line."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    data = f"\n{_WORD}{json.dumps(fields)}\n".encode()
    while data:
        data = data[os.write(2, data) :]


@dataclass
class Speaker:
    """One process that prints.

    Attributes:
        last: its last line that is not empty, printed or left out.
        words: what it said with `last_words`.
    """

    who: str
    say: Say
    last: str = ""
    words: dict[str, Any] = field(default_factory=dict)
    left_out: int = 0
    _begun: bytes = b""
    _allowed: float = BURST_LINES
    _at_s: float = 0.0

    def hear(self, data: bytes, now_s: float) -> None:
        """Bytes have come; whole lines of them are said."""
        *lines, begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._line(line, now_s)
        # A line that does not end is kept as far as it would be shown; of a progress bar, which
        # writes over itself, what was written last.
        begun = begun[begun.rstrip(b"\r").rfind(b"\r") + 1 :]
        self._begun = begun if begun.startswith(_WORD.encode()) else begun[: 4 * LONGEST_LINE]

    def ended(self, now_s: float) -> None:
        """Nothing more comes."""
        if self._begun:
            self._line(self._begun, now_s)
            self._begun = b""
        self._confess()

    def _line(self, line: bytes, now_s: float) -> None:
        text = line.decode(errors="replace").rstrip()
        if text.startswith(_WORD):
            try:
                words = json.loads(text[1:])
            except ValueError:
                words = None
            if isinstance(words, dict):
                self.words = words
                return
        text = text.rpartition("\r")[2]
        if not text:
            return
        text = text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + "..."
        self.last = text
        since_s, self._at_s = now_s - self._at_s, now_s
        self._allowed = min(BURST_LINES, self._allowed + since_s * LINES_PER_S)
        if self._allowed < (LINES_PER_S if self.left_out else 1):  # then for a second or so
            self.left_out += 1
            return
        self._allowed -= 1
        self._confess()
        self.say(self.who, text)

    def _confess(self) -> None:
        if self.left_out:
            number, self.left_out = self.left_out, 0
            lines = "1 line" if number == 1 else f"{number} lines"
            self.say(self.who, f"... {lines} left out, beyond {LINES_PER_S} a second")


class Outputs:
    """The pipes of several processes, in a selector of the caller's."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._speakers: dict[int, Speaker] = {}

    def __contains__(self, fd: object) -> bool:
        return fd in self._speakers

    def listen(self, fd: int, speaker: Speaker) -> None:
        """Take over the reading end of a pipe."""
        os.set_blocking(fd, False)
        self._speakers[fd] = speaker
        self._selector.register(fd, selectors.EVENT_READ, "output")

    def read(self, fd: int) -> bool:
        """What is there now; False where there was nothing, or will be nothing any more."""
        speaker = self._speakers[fd]
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            speaker.hear(data, time.monotonic())
            return True
        self.close(fd)
        return False

    def drain(self, speaker: Speaker) -> None:
        """All that a process has said, which is dead."""
        for fd in [fd for fd, other in self._speakers.items() if other is speaker]:
            self._drain(fd)

    def drain_all(self) -> None:
        for fd in list(self._speakers):
            self._drain(fd)

    def _drain(self, fd: int) -> None:
        for _ in range(_MOST_READS):  # others may hold the pipe and go on
            if fd not in self._speakers or not self.read(fd):
                return

    def close(self, fd: int) -> None:
        speaker = self._speakers.pop(fd)
        self._selector.unregister(fd)
        os.close(fd)
        if speaker not in self._speakers.values():
            speaker.ended(time.monotonic())

    def close_all(self) -> None:
        for fd in list(self._speakers):
            self.close(fd)


_MOST_READS: Final = 64  # a pipe holds one such chunk
