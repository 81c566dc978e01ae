"""What the bulk port carries, byte by byte: the greeting, the keys, the chunks.

Owns formats and cryptography of docs/protocol.md, section "The bulk port", for both sides.  Does no
I/O and keeps no buffer: bulk.py (gateway), bulk_client.py and, for both, chunks.py do.

    greeting   "LIFL" version mode 0 0, ticket id, proof                    client -> gateway, once
    answer     proof                                                        gateway -> client, once
    chunk      head, up to 1 MiB of payload, tag                            both, any number

What a chunk carries is a part of an update or of a model, or one message of the control channel.

A ticket's secret came over the control channel.  Four keys and proofs follow from it, each with a
label of its own, and from everything that they are for, so that nothing fits another connection:

    K(label) = HMAC-SHA256(secret, "lifl bulk 1 " ‖ label ‖ 0 ‖ greeting[0:24] ‖ about)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from lifl.errors import Unreachable

VERSION: Final = 1
CHUNK: Final = 1 << 20  # most bytes of payload under one tag
MESSAGE: Final = 1 << 14  # most bytes of a message; a larger one goes over the control channel
PUSHED: Final = 0  # transfer of a model that comes with its round, unasked
EARLY: Final = 1 << 31  # bit of a transfer's number that its sender chose, and begins unasked
TAG: Final = 16
NO_TAG: Final = bytes(TAG)
GREETING: Final = 56
ANSWER: Final = 32
_OPENING: Final = struct.Struct("<4sBBxx16s")
_HEAD: Final = struct.Struct("<BxxxIIIQ")
HEAD: Final = _HEAD.size
_NONCE: Final = struct.Struct("<IQ")
MAGIC: Final = b"LIFL"


class Mode(IntEnum):
    """How chunks travel."""

    PLAIN = 0
    SEALED = 1  # AES-256-GCM


class Direction(IntEnum):
    UP = 1  # client to gateway
    DOWN = 2


class Kind(IntEnum):
    """What a chunk carries."""

    UPDATE = 1
    MODEL = 2
    MESSAGE = 3


class Head(NamedTuple):
    """Before every chunk, in the clear, and bound to it by the tag."""

    kind: int
    length: int
    round: int
    transfer: int
    offset: int

    def pack(self) -> bytes:
        return _HEAD.pack(*self)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> Head:
        return cls(*_HEAD.unpack_from(data))

    @classmethod
    def of_message(cls, size: int) -> Head:
        return cls(Kind.MESSAGE, size, 0, 0, 0)


@dataclass(frozen=True)
class Ticket:
    """The right to open one bulk connection, once.

    Args:
        about: who and what it is for (`about()`); known to both sides, never sent.
    """

    id: bytes
    secret: bytes
    mode: Mode
    about: bytes

    @property
    def opening(self) -> bytes:
        """The first 24 bytes of the greeting."""
        return _OPENING.pack(MAGIC, VERSION, self.mode, self.id)

    def greeting(self) -> bytes:
        return self.opening + self._key(b"hello")

    def answer(self) -> bytes:
        """What a gateway says that knows the secret, too."""
        return self._key(b"welcome")

    def admits(self, greeting: bytes) -> bool:
        return hmac.compare_digest(greeting, self.greeting())

    def channel(self, direction: Direction) -> Channel | None:
        """One direction of the connection; None when it is plain."""
        if self.mode is Mode.PLAIN:
            return None
        label = b"up" if direction is Direction.UP else b"down"
        return Channel(self._key(label), direction, self.about)

    def _key(self, label: bytes) -> bytes:
        text = b"lifl bulk 1 " + label + b"\0" + self.opening + self.about
        return hmac.new(self.secret, text, hashlib.sha256).digest()


def about(mode: Mode, *, gateway: str, client: str, job: str) -> bytes:
    """What a ticket is for.  Without CURVE there are no keys to name, and the job stands alone."""
    who = f"{gateway}{client}" if mode is Mode.SEALED else ""
    return f"{who}{job}".encode()


def ticket_id(greeting: bytes) -> bytes | None:
    """The id in a greeting, or None when it is not one."""
    magic, version, mode, found = _OPENING.unpack_from(greeting)
    known = magic == MAGIC and version == VERSION and mode in (Mode.PLAIN, Mode.SEALED)
    return found if known else None


class Seal(NamedTuple):
    """What a chunk was sealed with, and the tag that came of it: enough to know its bytes again."""

    cipher: Any
    nonce: bytes
    bound: bytes  # what is under the tag beside the payload
    tag: bytes

    def fits(self, payload: memoryview) -> bool:
        """Whether these are the bytes that were sealed, as surely as a tag says it.

        What is sealed here under a nonce that was used stays here: with other bytes it would give
        the key away.
        """
        again: bytes = self.cipher.encrypt(self.nonce, payload, self.bound)
        return hmac.compare_digest(again[-TAG:], self.tag)


def preload() -> None:
    """Import what sealing needs, before the first round has to wait for that.

    Not with this module: a client of the simple lane does not need it.
    """
    from cryptography.hazmat.primitives.ciphers import aead  # noqa: F401


class Channel:
    """One direction of a sealed connection: its key, and the nonce that comes next.

    The nonce is the direction and the number of chunks before, so that no two chunks under a key
    have the same, and a chunk that is repeated, left out or moved does not open.
    """

    def __init__(self, key: bytes, direction: Direction, about: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid = InvalidTag
        self._cipher, self._modes, self._whole = Cipher, modes, AESGCM(key)
        self._key = algorithms.AES(key)
        self._direction, self._about = direction, about
        self.chunks = 0

    def _nonce(self) -> bytes:
        nonce = _NONCE.pack(self._direction, self.chunks)
        self.chunks += 1
        return nonce

    def _next(self) -> Any:
        return self._cipher(self._key, self._modes.GCM(self._nonce()))

    def skip(self) -> None:
        """A chunk that nobody wants: its nonce is used up all the same."""
        self.chunks += 1

    def seal_into(self, head: bytes, payload: memoryview, out: memoryview) -> int:
        """A whole chunk, head and tag included, into `out`; its length."""
        end = HEAD + len(payload) + TAG
        out[:HEAD] = head
        self._whole.encrypt_into(self._nonce(), payload, head + self._about, out[HEAD:end])
        return end

    def last_seal(self, head: bytes, chunk: memoryview) -> Seal:
        """Of a whole chunk, right behind its `seal_into`."""
        nonce = _NONCE.pack(self._direction, self.chunks - 1)
        return Seal(self._whole, nonce, head + self._about, bytes(chunk[-TAG:]))

    def sealed(self, head: bytes, payload: bytes) -> bytes:
        """A whole small chunk after `head`, its tag included."""
        sealed: bytes = self._whole.encrypt(self._nonce(), payload, head + self._about)
        return sealed

    def open_into(self, head: bytes, sealed: memoryview, place: memoryview) -> None:
        """A whole chunk after `head`, its tag included, into `place`.

        Raises:
            Unreachable: it is not what was sent under this key at this place.
        """
        try:
            self._whole.decrypt_into(self._nonce(), sealed, head + self._about, place)
        except self._invalid:
            raise _wrong_tag() from None

    def seal(self, head: bytes) -> Any:
        """An encryptor for the chunk after `head`, where it is sealed in parts: `update_into`,
        `finalize`, `tag`.
        """
        encryptor = self._next().encryptor()
        encryptor.authenticate_additional_data(head + self._about)
        return encryptor

    def open(self, head: bytes) -> Any:
        """A decryptor for the chunk after `head`: `update_into`, then `verify` with the tag."""
        decryptor = self._next().decryptor()
        decryptor.authenticate_additional_data(head + self._about)
        return decryptor


def verify(decryptor: Any, tag: bytes) -> None:
    """End a chunk.

    Raises:
        Unreachable: it is not what was sent under this key at this place.
    """
    from cryptography.exceptions import InvalidTag

    try:
        decryptor.finalize_with_tag(tag)
    except InvalidTag:
        raise _wrong_tag() from None


def message_chunk(channel: Channel | None, message: bytes) -> bytes:
    """A message as it goes over the wire; `channel` is None where that is plain."""
    head = Head.of_message(len(message)).pack()
    if channel is None:
        return head + message + NO_TAG
    return head + channel.sealed(head, message)


def _wrong_tag() -> Unreachable:
    return Unreachable(
        "a chunk does not match its tag: it was changed, repeated or left out on the way; "
        "ask for a new ticket"
    )
