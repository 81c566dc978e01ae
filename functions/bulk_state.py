"""One connection to the bulk port, as its gateway knows it: a client's, or a stranger's.

Owns what is remembered of a connection; bulk.py, which has the events of all, changes it.  Sends
and receives nothing by itself.  Where its client is in the round is a state machine, of which each
step may be taken from anywhere, since messages cross:

    greeting ─ opens ─► LISTENS ─ gets_round ─► TOLD ─ asks ─► WORKS ─ gets_verdict ─► LISTENS
                  └───► WORKS, where it was in a round already when it asked for its ticket

A model goes down unasked to who listens.  Who was told and has said nothing since may not have
heard it, should the connection end.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from lifl.functions.chunks import Chunks
from lifl.functions.jobs import Uploading
from lifl.functions.sealing import CHUNK, HEAD, TAG, Channel

TAKEN: Final = 2 * CHUNK  # in one go: each read also costs its sender a wake-up
FIRST: Final = 512  # bytes to read where a message may come: what follows it may have to wait


@dataclass(slots=True)
class Sending:
    """A model on its way down.

    Args:
        transfer: number that its receiver gave it when it asked, or PUSHED.
        model: its bytes while they are there, None once another round has replaced them.
    """

    round: int
    transfer: int
    at: int
    end: int
    model: Callable[[], memoryview | None]
    left: int = 0  # of the chunk that was begun
    seal: Any = None


class Stage(Enum):
    """Where a client is in its round, as its connection knows."""

    LISTENS = "has nothing to do"
    TOLD = "has been told of a round and not answered"
    WORKS = "has asked or answered"


@dataclass(eq=False, slots=True)
class Connection:
    """One client's connection, or a stranger's before its greeting.

    Attributes:
        talks: messages of rounds go over it, and not over the control channel.
    """

    sock: socket.socket
    since: float
    key: str = ""
    job: str = ""
    greeting: bytearray = field(default_factory=bytearray)  # as far as it has come
    # what comes
    chunks: Chunks | None = None  # None: a stranger's, or closed
    upload: Uploading | None = None
    newest: int = 0  # transfer that was granted last, of the gateway's own numbers
    least: int = 1  # bytes that wake the gateway up
    # what goes
    down: Channel | None = None
    sending: Sending | None = None
    asked: int = -1  # transfer that was asked for last
    talks: bool = False
    _stage: Stage = field(default=Stage.WORKS, init=False)
    words: deque[bytes] = field(default_factory=deque)  # messages that go next
    rest: list[memoryview] = field(default_factory=list)  # what the network has not taken yet
    held: int = 0  # bytes of that, where they are sealed and kept
    writing: bool = False  # there is more to write: epoll says when

    # -- where its client is in the round -------------------------------------------------------
    @property
    def stage(self) -> Stage:
        return self._stage

    def opens(self, *, listens: bool) -> None:
        """Its ticket says whether its client was in no round yet when it asked."""
        self._stage = Stage.LISTENS if listens else Stage.WORKS

    def gets_round(self) -> bool:
        """Its client is told of a round that needs it; True where that had nothing to do."""
        listened, self._stage = self._stage is Stage.LISTENS, Stage.TOLD
        return listened

    def asks(self) -> None:
        """Its client asks for the round's model, or answers: it has heard of the round."""
        self._stage = Stage.WORKS

    def gets_verdict(self) -> None:
        """Its client is told that its answer counts, or never will: it waits for the next round."""
        self._stage = Stage.LISTENS

    @property
    def has_untold(self) -> bool:
        """What it had to tell of the round may have been lost with it."""
        return self.talks and self._stage is Stage.TOLD

    # -- its bytes ---------------------------------------------------------------------------
    @property
    def is_paused(self) -> bool:
        """An update that came with its put waits for a slot."""
        return self.chunks is not None and self.chunks.is_paused

    @property
    def events(self) -> int:
        """What epoll is to report."""
        reading = 0 if self.is_paused else select.EPOLLIN
        return reading | select.EPOLLRDHUP | (select.EPOLLOUT if self.writing else 0)

    @property
    def is_stranger(self) -> bool:
        return not self.job

    def forget(self) -> None:
        """What it writes is not wanted any more; the slot may be another's at once."""
        self.upload = None
        if self.chunks is not None:
            self.chunks.forget()
        self.wake_at(1)

    @property
    def filled(self) -> int:
        """Bytes that have come of a chunk which is not whole yet."""
        return self.chunks.filled if self.chunks is not None else 0

    @property
    def wanted(self) -> int:
        """Bytes to read at a time: little of what follows a message, which may have to wait."""
        if self.upload is not None:
            grant = self.upload.grant
            here = len(grant.view) - grant.written + 2 * (HEAD + TAG)
        else:
            here = self.chunks.left + TAG if self.chunks is not None else 0
        return min(TAKEN, here + FIRST)

    def wake_at(self, size: int) -> None:
        """Wake up when so many bytes are there, or the end."""
        if size != self.least and self.sock.fileno() >= 0:
            self.least = size
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
