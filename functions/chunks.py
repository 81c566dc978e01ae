"""What comes on one direction of a bulk connection, cut into chunks, opened and verified.

Owns where in a chunk the bytes are, for both sides: bulk.py (gateway) and bulk_client.py say where
a chunk's payload goes and hear when it is there.  Formats and keys are sealing.py's.  Payloads go
straight where they belong; what it keeps is small: the beginning of a head or tag, a message, and
what came behind one where nothing more may be looked at for now, or more is to come first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from lifl.errors import InvalidUpdate, Unreachable
from lifl.functions.sealing import (
    HEAD,
    MESSAGE,
    NO_TAG,
    TAG,
    Channel,
    Head,
    Kind,
    verify,
)


class Chunks:
    """The chunks of one direction, one after the other.

    Args:
        channel: what opens them; None: they are plain.
        begin: takes a head and returns where its payload goes, None where nobody wants it; raises
            what ends the connection.
        end: takes that head when the payload is there and its tag was right.
        said: takes a message of the control channel that came in a chunk.

    Attributes:
        head: of the chunk that is on its way; None between two.
        filled, left: bytes of its payload that have come, and that are still to come; 0 between.
        is_paused: what follows the last message is kept and not looked at.
    """

    def __init__(
        self, channel: Channel | None, *, begin: Callable[[Head], memoryview | None],
        end: Callable[[Head], None], said: Callable[[memoryview], None],
    ) -> None:  # fmt: skip
        self._channel, self._begin, self._end, self._said = channel, begin, end, said
        self.head: Head | None = None
        self.filled = self.left = 0
        self._target: memoryview | None = None
        self._open: Any = None
        self._small = bytearray()  # a head or tag that has come in part
        self.is_paused, self._kept = False, b""
        self._has_heard = False  # a message has ended in what is being fed

    @property
    def is_sealed(self) -> bool:
        return self._channel is not None

    @property
    def begun(self) -> int:
        """Bytes that have come of the next head or tag."""
        return len(self._small)

    def forget(self) -> None:
        """Nobody wants the payload of this chunk any more; its memory may be another's at once."""
        if self.head is None or self.head.kind != Kind.MESSAGE:  # which belongs to no transfer
            self._target = self._open = None

    @property
    def may_go_on(self) -> bool:
        """Something is kept, and nothing forbids to look at it."""
        return bool(self._kept) and not self.is_paused

    def take_kept(self, scratch: memoryview) -> int:
        """Put what was kept first into `scratch`, to be fed with what follows; its length."""
        size, kept = len(self._kept), self._kept
        if size:
            scratch[:size], self._kept = kept, b""
        return size

    def receive_plain(
        self, sock: socket.socket, scratch: memoryview, *, after: int, flags: int = 0
    ) -> int:
        """Read once, a payload straight into its place; the number of bytes that came.

        Args:
            scratch: for all that is no payload.
            after: most bytes to read beyond this chunk's payload: its tag, and the next head.
        """
        if self.left and self._target is not None:
            place = self._target[self.filled : self.filled + self.left]
            size: int = sock.recvmsg_into([place, scratch[:after]], 0, flags)[0]
            into = min(size, self.left)
            self.filled += into
            self.left -= into
            self.feed(scratch[: size - into])
            return size
        ask = self.left or (HEAD if self.head is None else after) - len(self._small)
        size = sock.recv_into(scratch, ask, flags)
        self.feed(scratch[:size])
        return size

    def feed(self, data: memoryview, *, stops_at_message: bool = False) -> None:
        """Take bytes as they came, wherever they were cut.

        Args:
            stops_at_message: keep what follows one; the caller takes it with `take_kept`, to be
                opened in one go with what comes next.

        Raises:
            Unreachable: a chunk does not match its tag.
            InvalidUpdate: a plain chunk has a tag that is not zeros.
        """
        at, size, self._has_heard = 0, 0, False
        while (at := at + size) < len(data):
            if self.is_paused or (stops_at_message and self._has_heard):
                self._kept += bytes(data[at:])
                return
            if self.left:
                size = min(self.left, len(data) - at)
                if self._target is not None:
                    place = self._target[self.filled : self.filled + size]
                    if self._open is not None:
                        self._open.update_into(data[at : at + size], place)
                    else:
                        place[:] = data[at : at + size]
                self.filled += size
                self.left -= size
                continue
            need = HEAD if self.head is None else TAG
            size = min(need - len(self._small), len(data) - at)
            self._small += data[at : at + size]
            if len(self._small) == need:
                small = bytes(self._small)
                self._small.clear()
                if self.head is None:
                    size += self._begin_chunk(small, data[at + size :])
                else:
                    self._end_chunk(self.head, small)

    def _begin_chunk(self, small: bytes, follows: memoryview) -> int:
        """Find its place; where all of it `follows`, take it, and return how many bytes it has."""
        head = Head.unpack(small)
        self._target = self._message(head) if head.kind == Kind.MESSAGE else self._begin(head)
        self.head, self.left, self.filled = head, head.length, 0
        if self._channel is None:
            return 0
        whole = head.length + TAG
        if self._target is None:
            self._channel.skip()
        elif len(follows) >= whole:
            self._channel.open_into(small, follows[:whole], self._target)
            self.left, self.filled = 0, head.length
            self._has_come(head)
            return whole
        else:
            self._open = self._channel.open(small)
        return 0

    def _message(self, head: Head) -> memoryview:
        if not 0 < head.length <= MESSAGE or head[2:] != (0, 0, 0):
            raise Unreachable(
                f"a message says {head}: it has 1 to {MESSAGE} bytes, and no place in a transfer"
            )
        return memoryview(bytearray(head.length))

    def _end_chunk(self, head: Head, tag: bytes) -> None:
        if self._target is None:
            self.head, self.filled = None, 0
            return
        if self._open is not None:
            verify(self._open, tag)
        elif tag != NO_TAG:
            raise InvalidUpdate("a chunk of a plain connection ends with something else than zeros")
        self._has_come(head)

    def _has_come(self, head: Head) -> None:
        """All of a chunk is there and verified."""
        payload, self.head, self.filled = self._target, None, 0
        self._target = self._open = None
        if head.kind == Kind.MESSAGE:
            assert payload is not None
            self._has_heard = True
            self._said(payload)
        else:
            self._end(head)
