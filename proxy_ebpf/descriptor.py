"""The 16-byte descriptor: the mirror of descriptor.h in Python.

Owns packing and unpacking.  Knows nothing of sockets or slots.  Called by every process.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

VERSION: Final = 1
SIZE: Final = 16
LANE: Final = 0x8000
SUMS_BIT: Final = 1 << 31
_LAYOUT: Final = struct.Struct("<IIIHBB")


class Kind(IntEnum):
    UPDATE = 1
    SUM = 2
    EXPECT = 3
    FLUSH = 4
    RELEASE = 5
    MODEL = 6


_KINDS: Final = {int(kind): kind for kind in Kind}  # a look-up costs a tenth of calling the enum


class Descriptor(NamedTuple):
    """One descriptor; a hint that sends its receiver to the slot's state word."""

    slot: int
    generation: int
    round: int
    source: int
    kind: Kind

    def pack(self) -> bytes:
        return _LAYOUT.pack(self.slot, self.generation, self.round, self.source, self.kind, VERSION)


def unpack(data: bytes | memoryview) -> list[Descriptor]:
    """Descriptors in `data`, whose length is a multiple of 16; unknown kinds are left out."""
    return [
        Descriptor(slot, generation, round_, source, _KINDS[kind])
        for slot, generation, round_, source, kind, version in _LAYOUT.iter_unpack(data)
        if version == VERSION and kind in _KINDS
    ]


def lane(role: int) -> int:
    """The endpoint of the gateway's socket towards `role`."""
    return LANE | role
