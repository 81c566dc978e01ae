"""Cutting a model or an update into messages and putting it together again; no I/O.

Owns windows and offsets on the side that starts a transfer: clients, gateways towards other
gateways, the coordinator.  The other side keeps no window: a gateway answers each request by
itself, so that a restarted one can go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from lifl.functions.sealing import Seal
from lifl.functions.wire import DOWN_CHUNK, DOWN_WINDOW, INLINE, UP_CHUNK, Message

UNDER_WAY_S: Final = 15.0
"""A chunk over ZeroMQ may be on its way for so long: to ask sooner is to begin again, for ever on a
slow link."""

Outgoing = tuple[Message, memoryview | None]


@dataclass
class Download:
    """A model on its way into `buffer`."""

    job: str
    round: int
    buffer: memoryview
    asked: int = 0
    under_way: set[int] = field(default_factory=set)

    @property
    def done(self) -> bool:
        return self.asked >= len(self.buffer) and not self.under_way

    def ask(self) -> list[Outgoing]:
        """Requests that fit into the window."""
        out: list[Outgoing] = []
        while len(self.under_way) < DOWN_WINDOW and self.asked < len(self.buffer):
            out.append(self._get(self.asked))
            self.under_way.add(self.asked)
            self.asked += DOWN_CHUNK
        return out

    def again(self) -> list[Outgoing]:
        """The requests under way once more: their answers were lost."""
        return [self._get(at) for at in sorted(self.under_way)]

    def take(self, message: Message, payload: memoryview) -> list[Outgoing]:
        """A chunk has come; further requests."""
        at = message["at"]
        if message["round"] == self.round and at in self.under_way:
            self.buffer[at : at + len(payload)] = payload
            self.under_way.discard(at)
        return self.ask()

    def _get(self, at: int) -> Outgoing:
        size = min(DOWN_CHUNK, len(self.buffer) - at)
        return {"t": "get", "job": self.job, "round": self.round, "at": at, "n": size}, None


class Source(Protocol):
    """Where the bytes of an upload come from."""

    def __len__(self) -> int: ...

    def lies(self, start: int, end: int) -> memoryview | None:
        """These bytes where they lie, until they change; None where they lie in several places."""

    def gathered(self, start: int, end: int, room: memoryview) -> memoryview:
        """These bytes at the beginning of `room`."""

    def kept(self, start: int, end: int) -> memoryview:
        """These bytes, in memory that stays as it is."""

    def remember(self, start: int, seal: Seal) -> None:
        """The chunk from there on was sealed, and need not be kept."""

    def settle(self) -> None:
        """From now on, whatever the bytes are made from may change."""

    def recover(self) -> bool:
        """Have them once more, to be sent again; False where they are others by now."""


class Whole:
    """Bytes that lie in one piece, and stay as they are."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def lies(self, start: int, end: int) -> memoryview:
        return self.data[start:end]

    kept = lies

    def gathered(self, start: int, end: int, room: memoryview) -> memoryview:
        return self.data[start:end]

    def remember(self, start: int, seal: Seal) -> None:
        """They are kept all the same."""

    def settle(self) -> None:
        """They stay."""

    def recover(self) -> bool:
        return True


@dataclass
class Upload:
    """An update, a sum or a model on its way to a gateway.

    Args:
        put: the message that asks for a slot; `length` is added.
        source: of the payload; held until its round is over.
        progress: told (bytes handed over, bytes in all) as they go; falls back to 0 when a
            gateway forgot what it had.
    """

    put: Message
    source: Source
    sent: int = 0
    window: int = 0
    granted: bool = False
    grant: int = 0  # which `go` the chunks answer
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)
    size: int = field(init=False)  # of the payload (bytes)

    def __post_init__(self) -> None:
        self.size = len(self.source)

    def moved(self) -> None:
        """Tell how far it is; whoever moves `sent` calls this."""
        if self.progress is not None:
            self.progress(self.sent, self.size)

    def start(self) -> list[Outgoing]:
        """Ask for a slot; also to ask again after a gateway forgot."""
        self.sent = self.window = 0
        self.granted = False
        put = self.put | {"length": self.size}
        return [(put, self.source.kept(0, self.size) if self.size <= INLINE else None)]

    def take(self, message: Message) -> list[Outgoing]:
        """`go` and `more` open the window; what may be sent now."""
        if message.get("round") != self.put["round"]:
            return []
        if message["t"] == "go":
            self.sent, self.window, self.granted = 0, message["n"], True
            self.grant = message.get("grant", 0)
        elif message["t"] == "more" and self.granted:
            self.window += message["n"]
        out: list[Outgoing] = []
        while self.window > 0 and self.granted and self.sent < self.size:
            payload = self.source.kept(self.sent, min(self.sent + UP_CHUNK, self.size))
            head = {k: self.put[k] for k in ("job", "round", "kind", "as") if k in self.put}
            out.append((head | {"t": "chunk", "at": self.sent, "grant": self.grant}, payload))
            self.sent += len(payload)
            self.window -= 1
            self.moved()
        return out
