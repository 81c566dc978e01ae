"""Slots: state words, headers, payload views of one job's arena.

Owns reading and writing of every shared word of the crash protocol.  Does not decide anything:
who may store which word when is said by functions/round.py (aggregators) and
functions/intake.py (gateway).  Slots are numbered as in descriptors: inputs from 0, sums with
bit 31 set.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from lifl.shm import _words
from lifl.shm.geometry import CLOSED_AT, LINE, MODEL_AT, Geometry, Region

SUMS_BIT: Final = 1 << 31
GATEWAY: Final = 0  # consumer of a root's sum
_FIXED: Final = struct.Struct("<IHHIdQI")


class Phase(IntEnum):
    FREE = 0
    WRITING = 1
    OPEN = 2
    SEALED = 3


class Payload(IntEnum):
    """What a slot's payload is laid out as."""

    UPDATE = 1  # the job's own dtypes
    SUM = 2  # accumulator dtypes, already weighted
    MODEL = 3  # the job's own dtypes, then the velocity in accumulator dtypes if there is one


class State(NamedTuple):
    """The state word: stored by the slot's allocator, in one store."""

    generation: int
    phase: Phase
    consumer: int

    def pack(self) -> int:
        return self.generation | self.consumer << 32 | int(self.phase) << 48

    @classmethod
    def unpack(cls, word: int) -> State:
        return cls(word & 0xFFFFFFFF, _PHASES[word >> 48 & 0xFF], word >> 32 & 0xFFFF)


_PHASES = {int(phase): phase for phase in Phase}  # a look-up costs a tenth of calling the enum
_PAYLOADS = {int(payload): payload for payload in Payload}


class Header(NamedTuple):
    """What a payload is.  `clients` is a set over the round's roster, one bit a client."""

    round: int
    payload: Payload
    clients: int
    weight: float
    length: int
    source: int = 0  # endpoint of the role that wrote a sum
    segment: int = 0
    segments: int = 1


def phases(memory: mmap.mmap | memoryview, region: Region) -> dict[str, int]:
    """How many slots of one memory are in each phase, as somebody sees who only looks."""
    words = (_words.load_u64(memory, region.state_at(slot)) for slot in range(region.slots))
    found = [word >> 48 & 0xFF for word in words]
    return {phase.name: found.count(phase) for phase in Phase}


@dataclass(frozen=True)
class Arena:
    """One job's memory on this node, mapped; `inputs` may be a read-only mapping."""

    geometry: Geometry
    inputs: memoryview
    sums: memoryview

    def _region(self, slot: int) -> tuple[memoryview, Region, int]:
        if slot & SUMS_BIT:
            return self.sums, self.geometry.for_sums, slot & ~SUMS_BIT
        return self.inputs, self.geometry.for_inputs, slot

    # -- state and released words ------------------------------------------------------------
    def state(self, slot: int) -> State:
        memory, region, index = self._region(slot)
        return State.unpack(_words.load_u64(memory, region.state_at(index)))

    def set_state(self, slot: int, generation: int, phase: Phase, consumer: int) -> None:
        memory, region, index = self._region(slot)
        _words.store_u64(memory, region.state_at(index), State(generation, phase, consumer).pack())

    def _released_at(self, slot: int, consumer: int) -> tuple[memoryview, int]:
        """The consumer's word about a slot lies in the memory that the consumer may write."""
        geometry, index = self.geometry, slot & ~SUMS_BIT
        if consumer == GATEWAY:
            return self.inputs, geometry.for_inputs.released + index * LINE
        if slot & SUMS_BIT:
            index += geometry.inputs
        return self.sums, geometry.for_sums.released + index * LINE

    def is_released(self, slot: int, state: State) -> bool:
        memory, at = self._released_at(slot, state.consumer)
        return _words.load_u32(memory, at) == state.generation

    def release(self, slot: int, state: State) -> None:
        """Store `released`; only the consumer that `state` names may."""
        memory, at = self._released_at(slot, state.consumer)
        _words.store_u32(memory, at, state.generation)

    def is_unreleased(self, slot: int) -> bool:
        """Sealed and not yet released by the consumer that its seal names."""
        state = self.state(slot)
        return state.phase == Phase.SEALED and not self.is_released(slot, state)

    def inputs_for(self, consumer: int) -> tuple[list[int], int, int]:
        """Of the input slots but the model's, as one look at each of them shows.

        Returns:
            Those that are sealed for this consumer and not released, how many nobody has, and how
            many are being written for it, by uploads that were given up as well.
        """
        geometry = self.geometry
        return _words.scan(
            self.inputs, geometry.for_inputs.states, LINE, geometry.model_slot,
            self.sums, geometry.for_sums.released, LINE, Phase.SEALED, Phase.WRITING, consumer,
        )  # fmt: skip

    def writable_input(self, first: int, count: int) -> int | None:
        """The first input slot from `first` on, of the first `count`, that is not `is_unreleased`.

        One that is being written is among them: its writer knows its own.  Inputs are sealed for
        aggregators, whose words about them lie in `sums`.
        """
        geometry = self.geometry
        found = _words.writable(
            self.inputs, geometry.for_inputs.states, LINE, first, count,
            self.sums, geometry.for_sums.released, LINE, Phase.SEALED,
        )  # fmt: skip
        return None if found < 0 else found

    def sums_for(self, consumer: int) -> list[int]:
        """The sum slots that are sealed for this consumer and not released."""
        memory, at = self._released_at(SUMS_BIT, consumer)
        found, _, _ = _words.scan(
            self.sums, self.geometry.for_sums.states, LINE, self.geometry.sums,
            memory, at, LINE, Phase.SEALED, Phase.WRITING, consumer,
        )  # fmt: skip
        return [index | SUMS_BIT for index in found]

    def sealed_for(self, consumer: int) -> list[int]:
        """Every unreleased slot that names this consumer (the scan of the protocol)."""
        inputs = [] if consumer == GATEWAY else self.inputs_for(consumer)[0]
        return inputs + self.sums_for(consumer)

    # -- headers and payloads ----------------------------------------------------------------
    def header(self, slot: int) -> Header:
        memory, region, index = self._region(slot)
        at = region.header_at(index)
        round_, segment, segments, payload, weight, length, source = _FIXED.unpack_from(memory, at)
        start = at + region.header_bytes - self.geometry.set_bytes
        clients = int.from_bytes(memory[start : start + self.geometry.set_bytes], "little")
        return Header(
            round_, _PAYLOADS[payload], clients, weight, length, source, segment, segments
        )

    def set_header(self, slot: int, header: Header) -> None:
        memory, region, index = self._region(slot)
        at, width = region.header_at(index), self.geometry.set_bytes
        _FIXED.pack_into(
            memory, at, header.round, header.segment, header.segments,
            header.payload, header.weight, header.length, header.source,
        )  # fmt: skip
        start = at + region.header_bytes - width
        memory[start : start + width] = header.clients.to_bytes(width, "little")

    def payload(self, slot: int, length: int | None = None) -> memoryview:
        """A view of the payload, no copy; it keeps the mapping alive."""
        memory, region, index = self._region(slot)
        at = region.payload_at(index)
        return memory[at : at + (region.slot_bytes if length is None else length)]

    # -- words of the round ------------------------------------------------------------------
    def is_closed(self, round_: int) -> bool:
        return _words.load_u32(self.inputs, CLOSED_AT + 4 * (round_ & 1)) == round_

    def close_round(self, round_: int) -> None:
        _words.store_u32(self.inputs, CLOSED_AT + 4 * (round_ & 1), round_)

    def open_round(self, round_: int) -> None:
        """Undo `close_round`."""
        _words.store_u32(self.inputs, CLOSED_AT + 4 * (round_ & 1), 0)

    def accepted(self, round_: int) -> int:
        geometry = self.geometry
        found = _words.load_set(self.inputs, geometry.accepted_at(round_), geometry.set_bytes // 8)
        return int.from_bytes(found, "little")

    def set_accepted(self, round_: int, clients: int) -> None:
        geometry = self.geometry
        _words.store_set(
            self.inputs, geometry.accepted_at(round_),
            clients.to_bytes(geometry.set_bytes, "little"),
        )  # fmt: skip

    def model(self) -> tuple[int, int]:
        """(round that made the current global model, its slot); (0, 0) before the first."""
        word = _words.load_u64(self.inputs, MODEL_AT)
        return word >> 32, word & 0xFFFFFFFF

    def set_model(self, round_: int, slot: int) -> None:
        _words.store_u64(self.inputs, MODEL_AT, round_ << 32 | slot)
