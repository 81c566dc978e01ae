"""One role of one job: the steps that round.py decides, carried out on the shared words.

Owns their execution, in the order and with the fault points of docs/crash-protocol.md.  Does not
decide, and knows no agent: aggregator.py, the process that holds a role, calls this.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field, replace

from lifl.errors import LiflError
from lifl.faults import fault
from lifl.functions.kernels import Input, Kernels, Optimiser, Section
from lifl.functions.round import (
    Finish,
    Fold,
    Own,
    Queued,
    Release,
    Role,
    Seal,
    Wait,
    Words,
    next_step,
    rest_s,
)
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.proxy_ebpf.port import Port
from lifl.shm.slots import SUMS_BIT, Arena, Header, Payload, Phase

log = logging.getLogger("lifl.aggregator")


@dataclass
class Work:
    """What a role did since the last report."""

    folds: int = 0
    updates: int = 0
    bytes: int = 0
    seconds: float = 0.0
    spans: list[tuple[int, float, float]] = field(default_factory=list)  # round, from, to
    models: dict[int, float] = field(default_factory=dict)  # round -> when its model was written
    has_sealed: bool = False


@dataclass
class Terms:
    """What is added up: `acc` in sum layout or None, the inputs, and who is in both."""

    acc: memoryview | None
    inputs: list[Input]
    clients: int
    weight: float


class Aggregator:
    """One role of one job, held by this process: its words, its socket, its arithmetic."""

    def __init__(
        self,
        *,
        role: Role,
        arena: Arena,
        port: Port,
        kernels: Kernels,
        sections: tuple[Section, ...],
        update_bytes: int,
        sum_bytes: int,
        velocity_at: int,
        optimiser: Optimiser,
    ) -> None:
        self.role = role
        self.arena = arena
        self.port = port
        self.kernels = kernels
        self.sections = sections
        self.update_bytes = update_bytes
        self.sum_bytes = sum_bytes
        self.velocity_at = velocity_at
        self.optimiser = optimiser
        self.work = Work()
        self.rest_s = 0.0  # before the next look

    def _send(self, *descriptors: Descriptor) -> None:
        """Hints: whoever misses one is poked by the agent and reads the words."""
        with contextlib.suppress(LiflError):
            self.port.send(*descriptors)

    # -- reading -------------------------------------------------------------------------
    def rest(self) -> None:
        """Let the next updates lie for as long as the last look said, unless no more can come."""
        if self.rest_s and not self.arena.is_closed(self.arena.model()[0] + 1):
            time.sleep(self.rest_s)

    def drain(self) -> None:
        """Take what descriptors say that the words do not: where the parent is, and misroutes."""
        for descriptor in self.port.receive():
            if descriptor.kind is Kind.EXPECT:
                self.role = replace(
                    self.role, parent=descriptor.slot, expected=descriptor.generation
                )
            elif descriptor.kind in (Kind.UPDATE, Kind.SUM) and self._is_for_another(descriptor):
                self._send(descriptor)  # back to the agent, which pokes the consumer

    def _is_for_another(self, descriptor: Descriptor) -> bool:
        state = self.arena.state(descriptor.slot)
        return (
            state.phase == Phase.SEALED
            and state.generation == descriptor.generation
            and state.consumer != self.role.endpoint
            and not self.arena.is_released(descriptor.slot, state)
        )

    def words(self) -> Words:
        arena = self.arena
        round_ = arena.model()[0] + 1
        closed = arena.is_closed(round_)  # before `accepted`: closed means that it is final
        inputs, free, arriving = arena.inputs_for(self.role.endpoint)
        return Words(
            round=round_,
            closed=closed,
            accepted=arena.accepted(round_) if closed else 0,
            own=tuple(self._own(slot) for slot in self.role.slots),
            queued=tuple(map(self._queued, inputs + arena.sums_for(self.role.endpoint))),
            free_inputs=free,
            arriving=arriving,
        )

    def _own(self, slot: int) -> Own:
        state = self.arena.state(slot)
        if state.phase not in (Phase.OPEN, Phase.SEALED):
            return Own(slot, state.generation, state.phase, released=True)
        header = self.arena.header(slot)
        return Own(
            slot,
            state.generation,
            state.phase,
            state.phase == Phase.SEALED and self.arena.is_released(slot, state),
            header.round,
            header.clients,
            header.weight,
            header.payload,
        )

    def _queued(self, slot: int) -> Queued:
        header = self.arena.header(slot)
        generation = self.arena.state(slot).generation
        return Queued(slot, generation, header.round, header.clients, header.weight, header.payload)

    def may_leave(self) -> bool:
        """No slot names this role, and none of its own holds what somebody still needs."""
        words = self.words()
        return not words.queued and all(
            own.released or own.round < words.round or own.payload is Payload.MODEL
            for own in words.own
        )

    # -- doing ---------------------------------------------------------------------------
    def advance(self) -> bool:
        """Do every step that can be done now; True if there was any."""
        moved = False
        while True:
            words = self.words()
            step = next_step(self.role, words)
            match step:
                case Wait():
                    self.rest_s = rest_s(self.role, words, self.update_bytes)
                    return moved
                case Release():
                    self._release(step)
                case Fold():
                    self._fold(step, words.round)
                    self._release(Release(step.inputs))  # as the words would say now
                case Finish():
                    self._finish(step, words.round)
                    self._release(Release(step.inputs))
                case Seal():
                    self._seal(step.slot)
            moved = True

    def _fold(self, step: Fold, round_: int) -> None:
        arena, began = self.arena, time.monotonic()
        arena.set_state(step.into, step.generation, Phase.WRITING, 0)
        fault("fold_writing", self.role.kind)
        terms = self._terms(step)
        self.kernels.fold(
            arena.payload(step.into, self.sum_bytes), terms.acc, terms.inputs, self.sections
        )
        self._commit(step, Payload.SUM, round_, terms, self.sum_bytes)
        self._count(terms, round_, began)

    def _finish(self, step: Finish, round_: int) -> None:
        arena, sums, began = self.arena, self.arena.payload(step.into), time.monotonic()
        arena.set_state(step.into, step.generation, Phase.WRITING, 0)
        fault("fold_writing", self.role.kind)
        base = velocity_in = velocity_out = None
        length = self.update_bytes
        if self.optimiser.name == "fedavgm":
            base_slot = arena.model()[1]
            header = arena.header(base_slot)
            length = self.velocity_at + self.sum_bytes
            velocity_out = sums[self.velocity_at : length]
            base = arena.payload(base_slot, self.update_bytes)
            if header.length >= length:
                velocity_in = arena.payload(base_slot, length)[self.velocity_at :]
        terms = self._terms(step)
        self.kernels.finish(
            sums[: self.update_bytes],
            terms.acc,
            terms.weight,
            self.sections,
            inputs=terms.inputs,
            base=base,
            velocity_in=velocity_in,
            velocity_out=velocity_out,
            optimiser=self.optimiser,
        )
        self._commit(step, Payload.MODEL, round_, terms, length)
        self._count(terms, round_, began)
        self.work.models[round_] = time.monotonic()

    def _terms(self, step: Fold | Finish) -> Terms:
        """What a step adds up: the accumulator, and what is queued."""
        payload = self.arena.payload
        acc, clients, weight = None, 0, 0.0
        if step.accumulator:
            acc = payload(step.accumulator.slot, self.sum_bytes)
            clients, weight = step.accumulator.clients, step.accumulator.weight
        inputs = []
        for queued in step.inputs:
            is_sum = queued.payload is Payload.SUM
            length = self.sum_bytes if is_sum else self.update_bytes
            inputs.append(Input(payload(queued.slot, length), queued.weight, is_sum))
            clients |= queued.clients
            weight += queued.weight
        return Terms(acc, inputs, clients, weight)

    def _commit(
        self, step: Fold | Finish, payload: Payload, round_: int, terms: Terms, length: int
    ) -> None:
        """The payload is written: its header, and then the one word after which it counts."""
        header = Header(
            round_, payload, terms.clients, terms.weight, length, source=self.role.endpoint
        )
        self.arena.set_header(step.into, header)
        fault("fold_written", self.role.kind)
        self.arena.set_state(step.into, step.generation, Phase.OPEN, 0)
        fault("fold_committed", self.role.kind)

    def _count(self, terms: Terms, round_: int, began: float) -> None:
        ended = time.monotonic()
        if terms.inputs:
            self.work.folds += 1
            self.work.updates += len(terms.inputs)
            self.work.bytes += sum(len(i.data) for i in terms.inputs)
            self.work.seconds += ended - began
        self.work.spans.append((round_, began, ended))

    def _release(self, step: Release) -> None:
        """Release all of them, then tell who wrote them, each allocator at once."""
        arena, told = self.arena, dict[int, list[Descriptor]]()
        for queued in step.slots:
            if step.refused:
                log.error("slot %#x holds clients that are partly folded: refused", queued.slot)
            owner = lane(self.role.endpoint)
            if queued.slot & SUMS_BIT:
                owner = arena.header(queued.slot).source
            arena.release(queued.slot, arena.state(queued.slot))
            fault("input_released", self.role.kind)
            told.setdefault(owner, []).append(
                Descriptor(queued.slot, queued.generation, queued.round, owner, Kind.RELEASE)
            )
        for descriptors in told.values():
            self._send(*descriptors)
            fault("release_sent", self.role.kind)

    def _seal(self, own: Own) -> None:
        self.arena.set_state(own.slot, own.generation, Phase.SEALED, self.role.parent)
        self.work.has_sealed = True
        fault("sum_sealed", self.role.kind)
        kind = Kind.MODEL if own.payload is Payload.MODEL else Kind.SUM
        self._send(Descriptor(own.slot, own.generation, own.round, self.role.endpoint, kind))
        fault("sum_sent", self.role.kind)
