"""Cutting a model or an update into messages and putting it together again; no I/O.

Owns windows and offsets on the side that starts a transfer: clients, gateways towards other
gateways, the coordinator.  The other side keeps no window: a gateway answers each request by
itself, so that a restarted one can go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from lifl.functions.packing import Packing
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


@dataclass
class Upload:
    """An update, a sum or a model on its way to a gateway.

    Args:
        put: the message that asks for a slot; `length` is added.
        data: the payload, or what it is made from on the way; kept until its round is over.
        progress: told (bytes handed over, bytes in all) as they go; falls back to 0 when a
            gateway forgot what it had.
    """

    put: Message
    data: memoryview | Packing
    sent: int = 0
    window: int = 0
    granted: bool = False
    grant: int = 0  # which `go` the chunks answer
    progress: Callable[[int, int], None] | None = field(default=None, repr=False)
    size: int = field(init=False)  # of the payload (bytes)

    def __post_init__(self) -> None:
        self.size = len(self.data)

    def part(self, at: int, size: int) -> memoryview:
        """At most `size` bytes of the payload, which stay as they are."""
        end = min(at + size, self.size)
        return self.data[at:end] if isinstance(self.data, memoryview) else self.data.copied(at, end)

    def read(self, at: int, size: int, room: memoryview) -> memoryview:
        """The same, to be sealed at once: good until `room`, of `size` bytes, is used again."""
        end = min(at + size, self.size)
        if isinstance(self.data, memoryview):
            return self.data[at:end]
        return self.data.read(at, end, room)

    def sealed(self, at: int, seal: Seal) -> None:
        """What was read from there on was sealed, and need not be kept."""
        if not isinstance(self.data, memoryview):
            self.data.sealed(at, seal)

    def settle(self) -> None:
        """From now on, whatever it is made from may change."""
        if not isinstance(self.data, memoryview):
            self.data.settle()

    def is_as_it_was(self) -> bool:
        """Whether it can be sent again, and then it can for good."""
        return isinstance(self.data, memoryview) or self.data.is_as_it_was()

    def moved(self) -> None:
        """Tell how far it is; whoever moves `sent` calls this."""
        if self.progress is not None:
            self.progress(self.sent, self.size)

    def start(self) -> list[Outgoing]:
        """Ask for a slot; also to ask again after a gateway forgot."""
        self.sent = self.window = 0
        self.granted = False
        put = self.put | {"length": self.size}
        return [(put, self.part(0, INLINE) if self.size <= INLINE else None)]

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
            payload = self.part(self.sent, UP_CHUNK)
            head = {k: self.put[k] for k in ("job", "round", "kind", "as") if k in self.put}
            out.append((head | {"t": "chunk", "at": self.sent, "grant": self.grant}, payload))
            self.sent += len(payload)
            self.window -= 1
            self.moved()
        return out
