"""Where everything lies in the two memfds of a job on a node: offsets, computed once.

Owns the layout of inputs and sums; both sides compute it from the same five numbers, which the
agent sends along with the descriptors of the files.  Touches no memory.

    page 0     the five numbers, for `lifl shm ls`; no word of the protocol lies at offset 0
    inputs     closed[2], accepted[2] by round parity; the word `model`
    states     one word a slot, a cache line each
    released   words that this memfd's writer stores about slots of either memfd
    headers    round, kind, weight, length, client set: one a slot
    payloads   page-aligned
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

PAGE: Final = 4096
LINE: Final = 64
FIXED_HEADER: Final = 64
CLOSED_AT: Final = PAGE  # two u32, by round parity
MODEL_AT: Final = PAGE + LINE  # u64: round << 32 | slot (descriptor numbering)
ACCEPTED_AT: Final = PAGE + 2 * LINE
LABEL: Final = struct.Struct("<8s5Q")
_MAGIC: Final = b"lifl-1\0\0"


def up(value: int, to: int) -> int:
    return -(-value // to) * to


@dataclass(frozen=True)
class Geometry:
    """Numbers of one job's arena on one node.

    Args:
        inputs: slots that the gateway writes; the last of them holds a model from outside.
        sums: slots that aggregators write.
        input_bytes: capacity of an input slot.
        sum_bytes: capacity of a sum slot (float32 or wider, or a model with its velocity).
        roster: most clients in one round; the width of every client set in bits.
    """

    inputs: int
    sums: int
    input_bytes: int
    sum_bytes: int
    roster: int

    def label(self) -> bytes:
        """What page 0 says, to whoever looks at the memory from outside."""
        return LABEL.pack(
            _MAGIC, self.inputs, self.sums, self.input_bytes, self.sum_bytes, self.roster
        )

    @classmethod
    def of_label(cls, label: bytes) -> Geometry | None:
        """None: no label of this version."""
        if len(label) != LABEL.size or not label.startswith(_MAGIC):
            return None
        _, *numbers = LABEL.unpack(label)
        return cls(*numbers)

    @cached_property
    def set_bytes(self) -> int:
        return up(max(1, -(-self.roster // 8)), LINE)

    @cached_property
    def header_bytes(self) -> int:
        return FIXED_HEADER + self.set_bytes

    @property
    def model_slot(self) -> int:
        """Input slot that holds a model which came from outside this node."""
        return self.inputs - 1

    def accepted_at(self, round_: int) -> int:
        return ACCEPTED_AT + (round_ & 1) * self.set_bytes

    @cached_property
    def for_inputs(self) -> Region:
        return Region.lay_out(
            ACCEPTED_AT + 2 * self.set_bytes,
            slots=self.inputs,
            released=self.sums,
            header_bytes=self.header_bytes,
            slot_bytes=self.input_bytes,
        )

    @cached_property
    def for_sums(self) -> Region:
        return Region.lay_out(
            PAGE,
            slots=self.sums,
            released=self.inputs + self.sums,
            header_bytes=self.header_bytes,
            slot_bytes=self.sum_bytes,
        )


@dataclass(frozen=True)
class Region:
    """Offsets in one memfd."""

    slots: int
    slot_bytes: int
    header_bytes: int
    states: int
    released: int
    headers: int
    payloads: int
    size_bytes: int

    @classmethod
    def lay_out(
        cls, start: int, *, slots: int, released: int, header_bytes: int, slot_bytes: int
    ) -> Region:
        slot_bytes = up(max(1, slot_bytes), PAGE)
        states = up(start, LINE)
        released_at = states + slots * LINE
        headers = released_at + released * LINE
        payloads = up(headers + slots * header_bytes, PAGE)
        return cls(
            slots, slot_bytes, header_bytes, states, released_at, headers, payloads,
            payloads + slots * slot_bytes,
        )  # fmt: skip

    def state_at(self, slot: int) -> int:
        return self.states + slot * LINE

    def header_at(self, slot: int) -> int:
        return self.headers + slot * self.header_bytes

    def payload_at(self, slot: int) -> int:
        return self.payloads + slot * self.slot_bytes
