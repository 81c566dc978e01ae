"""Chunks as they come: cut anywhere, sealed and plain, wanted and not."""

from __future__ import annotations

import random
import socket
from itertools import pairwise

import pytest

from lifl.errors import InvalidUpdate, LiflError, Unreachable
from lifl.functions.chunks import Chunks
from lifl.functions.sealing import HEAD, NO_TAG, TAG, Channel, Direction, Head, Kind, Mode, Ticket

SIZES = (1, 70, 300)
WHOLE = random.Random(5).randbytes(sum(SIZES))


def channel(mode: Mode) -> Channel | None:
    return Ticket(bytes(16), bytes(32), mode, b"job").channel(Direction.UP)


def wire(mode: Mode) -> bytes:
    """One update in chunks of several sizes, each of a transfer of its own."""
    found, at, sealer = b"", 0, channel(mode)
    for transfer, size in enumerate(SIZES, 1):
        head = Head(Kind.UPDATE, size, 3, transfer, at).pack()
        part, at = WHOLE[at : at + size], at + size
        if sealer is None:
            found += head + part + NO_TAG
        else:
            out = memoryview(bytearray(HEAD + size + TAG))
            found += out[: sealer.seal_into(head, memoryview(part), out)]
    return found


class Receiver:
    """Takes an update, but for the transfers that it does not want."""

    def __init__(self, mode: Mode, unwanted: int = 0) -> None:
        self.buffer, self.ended = bytearray(len(WHOLE)), list[int]()
        self.unwanted, self.messages = unwanted, list[bytes]()
        self.chunks = Chunks(channel(mode), begin=self.begin, end=self.end, said=self.said)

    def said(self, message: memoryview) -> None:
        self.messages.append(bytes(message))

    def begin(self, head: Head) -> memoryview | None:
        if head.transfer == self.unwanted:
            return None
        return memoryview(self.buffer)[head.offset : head.offset + head.length]

    def end(self, head: Head) -> None:
        self.ended.append(head.transfer)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", range(20))
def test_however_the_bytes_are_cut(mode: Mode, seed: int) -> None:
    data, receiver = wire(mode), Receiver(mode)
    cuts = sorted(random.Random(seed).sample(range(1, len(data)), 3 * seed))
    for start, end in pairwise([0, *cuts, len(data)]):
        receiver.chunks.feed(memoryview(data)[start:end])
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])
    assert (receiver.chunks.head, receiver.chunks.filled, receiver.chunks.left) == (None, 0, 0)


@pytest.mark.parametrize("mode", Mode)
def test_an_unwanted_chunk_is_passed_over_and_the_next_one_opens(mode: Mode) -> None:
    receiver = Receiver(mode, unwanted=2)
    receiver.chunks.feed(memoryview(wire(mode)))
    assert receiver.ended == [1, 3]
    assert bytes(receiver.buffer) == WHOLE[:1] + bytes(70) + WHOLE[71:]


@pytest.mark.parametrize("mode", Mode)
def test_what_is_forgotten_midway_is_not_written_any_more(mode: Mode) -> None:
    data, receiver = memoryview(wire(mode)), Receiver(mode)
    first = HEAD + 1 + TAG + HEAD + 10  # into the second chunk
    receiver.chunks.feed(data[:first])
    assert (receiver.chunks.filled, receiver.chunks.left) == (10, 60)
    receiver.chunks.forget()
    receiver.chunks.feed(data[first:])
    assert receiver.ended == [1, 3]
    assert bytes(receiver.buffer) == WHOLE[:11] + bytes(60) + WHOLE[71:]


@pytest.mark.parametrize(
    ("mode", "error"), [(Mode.SEALED, Unreachable), (Mode.PLAIN, InvalidUpdate)]
)
def test_a_tag_that_is_wrong(mode: Mode, error: type[LiflError]) -> None:
    data, receiver = bytearray(wire(mode)), Receiver(mode)
    data[-1] ^= 1
    with pytest.raises(error):
        receiver.chunks.feed(memoryview(data))
    assert receiver.ended == [1, 2]


def test_plain_bytes_go_straight_to_their_place() -> None:
    """Whatever the network gives at once: no payload comes through the scratch buffer."""
    ours, theirs = socket.socketpair()
    receiver, scratch = Receiver(Mode.PLAIN), memoryview(bytearray(400))
    with ours, theirs:
        data = wire(Mode.PLAIN)
        for start in range(0, len(data), 37):
            theirs.sendall(data[start : start + 37])
            came = 0
            while came < len(data[start : start + 37]):
                came += receiver.chunks.receive_plain(ours, scratch, after=TAG + HEAD)
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])
    assert not bytes(scratch[TAG + HEAD :]).strip(b"\0")
