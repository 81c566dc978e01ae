"""Chunks as they come: cut anywhere, sealed and plain, wanted and not."""

from __future__ import annotations

import random
import socket
from itertools import pairwise

import pytest

from lifl.errors import InvalidUpdate, LiflError, Unreachable
from lifl.functions.chunks import Chunks
from lifl.functions.sealing import (
    HEAD,
    MESSAGE,
    NO_TAG,
    TAG,
    Channel,
    Direction,
    Head,
    Kind,
    Mode,
    Ticket,
    message_chunk,
)

SIZES = (1, 70, 300)
WHOLE = random.Random(5).randbytes(sum(SIZES))


def channel(mode: Mode) -> Channel | None:
    return Ticket(bytes(16), bytes(32), mode, b"job").channel(Direction.UP)


def wire(mode: Mode, messages: dict[int, bytes] | None = None) -> bytes:
    """One update in chunks of several sizes, each of a transfer of its own.

    Args:
        messages: by the transfer that they go before; 4: behind the last.
    """
    found, at, sealer, messages = b"", 0, channel(mode), messages or {}
    for transfer, size in enumerate(SIZES, 1):
        if transfer in messages:
            found += message_chunk(sealer, messages[transfer])
        head = Head(Kind.UPDATE, size, 3, transfer, at).pack()
        part, at = WHOLE[at : at + size], at + size
        if sealer is None:
            found += head + part + NO_TAG
        else:
            out = memoryview(bytearray(HEAD + size + TAG))
            found += out[: sealer.seal_into(head, memoryview(part), out)]
    return found + (message_chunk(sealer, messages[4]) if 4 in messages else b"")


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


# -- messages ------------------------------------------------------------------------------------
MESSAGES = {1: b"put", 2: bytes(range(256)) * 64, 3: b"!", 4: b"get"}  # the second is a largest


@pytest.mark.parametrize("mode", Mode)
def test_what_follows_a_message_can_be_kept_for_what_comes_next(mode: Mode) -> None:
    data, receiver = memoryview(wire(mode, {2: b"put"})), Receiver(mode)
    until = HEAD + 1 + TAG + HEAD + len(b"put") + TAG + 30  # a head, and some bytes
    receiver.chunks.feed(data[:until], stops_at_message=True)
    assert (receiver.messages, receiver.ended) == ([b"put"], [1])
    assert receiver.chunks.head is None, "nothing of the chunk is looked at yet"
    assert receiver.chunks.may_go_on
    scratch = memoryview(bytearray(len(data)))
    kept = receiver.chunks.take_kept(scratch)
    assert (kept, receiver.chunks.may_go_on) == (30, False)
    scratch[kept : kept + len(data) - until] = data[until:]
    receiver.chunks.feed(scratch[: kept + len(data) - until], stops_at_message=True)
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", range(10))
def test_messages_between_chunks_however_the_bytes_are_cut(mode: Mode, seed: int) -> None:
    data, receiver = wire(mode, MESSAGES), Receiver(mode)
    cuts = sorted(random.Random(seed).sample(range(1, len(data)), 20 * seed))
    for start, end in pairwise([0, *cuts, len(data)]):
        receiver.chunks.feed(memoryview(data)[start:end])
    assert receiver.messages == list(MESSAGES.values())
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])


def test_plain_messages_where_payloads_go_straight_to_their_place() -> None:
    ours, theirs = socket.socketpair()
    receiver, scratch = Receiver(Mode.PLAIN), memoryview(bytearray(1 << 16))
    with ours, theirs:
        theirs.sendall(wire(Mode.PLAIN, MESSAGES))
        theirs.close()
        while receiver.chunks.receive_plain(ours, scratch, after=TAG + HEAD):
            pass
    assert receiver.messages == list(MESSAGES.values())
    assert bytes(receiver.buffer) == WHOLE


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    "head",
    [
        Head(Kind.MESSAGE, 0, 0, 0, 0),
        Head(Kind.MESSAGE, MESSAGE + 1, 0, 0, 0),
        Head(Kind.MESSAGE, 5, 1, 0, 0),
        Head(Kind.MESSAGE, 5, 0, 1, 0),
        Head(Kind.MESSAGE, 5, 0, 0, 1),
    ],
)
def test_a_message_that_says_it_is_something_else(mode: Mode, head: Head) -> None:
    receiver = Receiver(mode)
    with pytest.raises(Unreachable, match="a message says"):
        receiver.chunks.feed(memoryview(head.pack()))
    assert receiver.messages == []


@pytest.mark.parametrize(
    ("mode", "error"), [(Mode.SEALED, Unreachable), (Mode.PLAIN, InvalidUpdate)]
)
@pytest.mark.parametrize("cut", [0, HEAD + 1])
def test_a_message_whose_tag_is_wrong_says_nothing(
    mode: Mode, error: type[LiflError], cut: int
) -> None:
    """Whether all of it comes at once or not."""
    data, receiver = bytearray(message_chunk(channel(mode), b"put")), Receiver(mode)
    data[-1] ^= 1
    receiver.chunks.feed(memoryview(data)[:cut])
    with pytest.raises(error):
        receiver.chunks.feed(memoryview(data)[cut:])
    assert receiver.messages == []


def go_on(chunks: Chunks) -> None:
    """As a gateway reads on after a pause."""
    scratch = memoryview(bytearray(1 << 20))
    chunks.is_paused = False
    chunks.feed(scratch[: chunks.take_kept(scratch)])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("piece", [1, 50, 100_000])
def test_what_follows_a_pause_is_kept(mode: Mode, piece: int) -> None:
    """A second message pauses again, and what is behind that is kept, too."""
    data, receiver = memoryview(wire(mode, {1: b"put", 3: b"put again"})), Receiver(mode)
    chunks = receiver.chunks

    def said(message: memoryview) -> None:
        receiver.said(message)
        chunks.is_paused = True

    receiver.chunks = chunks = Chunks(
        channel(mode), begin=receiver.begin, end=receiver.end, said=said
    )
    for at in range(0, len(data), piece):
        chunks.feed(data[at : at + piece])
    assert (receiver.messages, receiver.ended) == ([b"put"], [])
    assert bytes(receiver.buffer) == bytes(len(WHOLE))
    go_on(chunks)
    assert (receiver.messages, receiver.ended) == ([b"put", b"put again"], [1, 2])
    go_on(chunks)
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])


@pytest.mark.parametrize("mode", Mode)
def test_a_message_belongs_to_no_transfer_that_could_be_forgotten(mode: Mode) -> None:
    data, receiver = memoryview(wire(mode, MESSAGES)), Receiver(mode)
    middle = HEAD + 2  # of the first message
    receiver.chunks.feed(data[:middle])
    receiver.chunks.forget()
    receiver.chunks.feed(data[middle:])
    assert receiver.messages == list(MESSAGES.values())
    assert (bytes(receiver.buffer), receiver.ended) == (WHOLE, [1, 2, 3])
