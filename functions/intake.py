"""How an update enters a node: the gateway's steps on the shared words.

Owns the gateway's half of docs/crash-protocol.md for one job: free slots, WRITING, SEALED, the
`accepted` set, `closed`, publishing and releasing.  Knows no network: uploads.py feeds it.  All
of it runs in one thread, so that nothing comes between the last look at `accepted` and the bit.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Literal

from lifl.errors import LiflError
from lifl.faults import fault
from lifl.functions.tally import Tally
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.proxy_ebpf.port import Port
from lifl.shm.slots import GATEWAY, Arena, Header, Payload, Phase, State

Verdict = Literal["accepted", "late", "overlap"]
NOBODY = 0xFFFF  # consumer of the model slot: it is read, never consumed


@dataclass(slots=True)
class Grant:
    """An input slot that is being written."""

    slot: int
    generation: int
    consumer: int
    round: int
    clients: int
    view: memoryview
    written: int = 0
    granted_at: float = field(default_factory=time.monotonic)


class Intake:
    """One job's inputs on this node."""

    def __init__(self, arena: Arena, ports: dict[int, Port]) -> None:
        self.arena = arena
        self.ports = ports  # lane to each role
        self.tally = Tally()
        self._writing: dict[int, Grant] = {}
        self._limit = arena.geometry.model_slot  # input slots that may be used, the first ones
        self._current = 0  # round that made the current model, which nobody else changes
        self._model: tuple[int, Header] | None = None
        self._look_at_model()

    def rebuild(self) -> None:
        """Join: what is sealed was accepted, whatever the last gateway still had to say."""
        arena = self.arena
        for slot in range(arena.geometry.model_slot):
            if arena.state(slot).phase == Phase.SEALED:
                header = arena.header(slot)
                if header.round == self.round:
                    arena.set_accepted(header.round, arena.accepted(header.round) | header.clients)
        fault("gateway_rebuilt", "gateway")

    @property
    def round(self) -> int:
        """The round that is under way: one past that of the current model."""
        return self._current + 1

    # -- one update --------------------------------------------------------------------------
    def look(self, clients: int) -> Verdict | None:
        """What is already known of this set of clients in this round."""
        overlap = self.arena.accepted(self.round) & clients
        if overlap:
            return "accepted" if overlap == clients else "overlap"
        return "late" if self.arena.is_closed(self.round) else None

    def begin(self, clients: int, consumer: int, length: int) -> Grant | None:
        """A slot to write into, or None when all are taken."""
        arena = self.arena
        slot = arena.writable_input(0, self._limit)
        while slot is not None and slot in self._writing:
            slot = arena.writable_input(slot + 1, self._limit)
        if slot is None:
            return None
        generation = arena.state(slot).generation + 1
        arena.set_state(slot, generation, Phase.WRITING, consumer)
        fault("gateway_writing", "gateway")
        view = arena.payload(slot, length)
        grant = Grant(slot, generation, consumer, self.round, clients, view)
        self._writing[slot] = grant
        return grant

    def write(self, grant: Grant, at: int, payload: memoryview) -> None:
        grant.view[at : at + len(payload)] = payload
        self.wrote(grant, len(payload))

    def wrote(self, grant: Grant, size: int) -> None:
        """The next bytes are in the slot, put there by who received them."""
        grant.written += size
        fault("gateway_payload_partial", "gateway")

    def drop(self, grant: Grant) -> None:
        """Forget an upload; its slot is free as it stands."""
        self._writing.pop(grant.slot, None)

    def finish(self, grant: Grant, *, payload: Payload, weight: float) -> Verdict:
        """Seal what was written, unless the set came another way meanwhile."""
        self.drop(grant)
        verdict = self.look(grant.clients) if grant.round == self.round else "late"
        if verdict is not None:
            return verdict
        self._seal(grant, payload, weight)
        self.tally.accepted(payload, len(grant.view), grant.granted_at)
        return "accepted"

    def _seal(self, grant: Grant, payload: Payload, weight: float) -> None:
        """Seal, then the bits, then the hint."""
        arena = self.arena
        self.drop(grant)
        arena.set_header(
            grant.slot,
            Header(grant.round, payload, grant.clients, weight, len(grant.view)),
        )
        arena.set_state(grant.slot, grant.generation, Phase.SEALED, grant.consumer)
        fault("gateway_sealed", "gateway")
        arena.set_accepted(grant.round, arena.accepted(grant.round) | grant.clients)
        fault("gateway_accepted", "gateway")
        self._send(
            grant.consumer,
            Descriptor(grant.slot, grant.generation, grant.round, lane(grant.consumer), Kind.UPDATE)
        )
        fault("gateway_sent", "gateway")

    # -- a share of the slots ----------------------------------------------------------------
    def limit(self, slots: int) -> None:
        """Use so many input slots from now on; other jobs have the memory of the others."""
        self._limit, arena = slots, self.arena
        for slot in range(slots):
            if self._is_withheld(slot):
                arena.set_state(slot, arena.state(slot).generation, Phase.FREE, 0)

    def withhold(self) -> bool:
        """Take what is free beyond the limit; True when nobody has anything there.

        A slot that is written for nobody is not free to aggregators, which fold what they have
        when no slot is; to a gateway after this one it is as free as any that nobody finished.
        """
        arena, is_done = self.arena, True
        for slot in range(self._limit, arena.geometry.model_slot):
            if slot in self._writing or arena.is_unreleased(slot):
                is_done = False
            elif not self._is_withheld(slot):
                arena.set_state(slot, arena.state(slot).generation + 1, Phase.WRITING, NOBODY)
        return is_done

    def _is_withheld(self, slot: int) -> bool:
        state = self.arena.state(slot)
        return state.phase == Phase.WRITING and state.consumer == NOBODY

    def nudge(self) -> None:
        """Somebody waits for a slot: whoever keeps a sealed one looks again.

        A role waits for a second update, or for all, unless every slot is taken.  That a slot was
        taken is no news to it; this is.
        """
        arena = self.arena
        slots = filter(arena.is_unreleased, range(arena.geometry.model_slot))
        for role in sorted({arena.state(slot).consumer for slot in slots}):
            self._send(role, Descriptor(0, 0, self.round, lane(role), Kind.FLUSH))

    def queued(self) -> int:
        """Updates that are sealed and not yet released."""
        return sum(map(self.arena.is_unreleased, range(self.arena.geometry.model_slot)))

    def in_use(self) -> int:
        """Slots that an update which is on its way cannot have."""
        return len(self._writing) + self.queued()

    # -- end of the round --------------------------------------------------------------------
    def close(self, round_: int) -> None:
        """No update of this round is taken any more; wake every role."""
        self.arena.close_round(round_)
        fault("gateway_closed", "gateway")
        for role in self.ports:
            self._send(role, Descriptor(0, 0, round_, lane(role), Kind.FLUSH))
        fault("gateway_flushed", "gateway")

    def reopen(self, round_: int) -> None:
        """Take updates of a round again that was closed here: the top is here now.

        What is accepted stays accepted: it is in a sum, or on its way into one.  Roles that are at
        work still seal what they have, for this gateway or for the top; either reaches the top.
        """
        if self.arena.is_closed(round_):
            self.arena.open_round(round_)
            fault("gateway_reopened", "gateway")

    def hand_over(self, slot: int, header: Header, top: int) -> bool:
        """Give the top a sum that was sealed for this gateway before the top was on this node.

        False where no input slot is free; killed between the two seals a successor does it again,
        and the top releases the second copy unread.
        """
        state = self.arena.state(slot)
        grant = self.begin(header.clients, top, header.length)
        if grant is None:
            return False
        self.write(grant, 0, self.arena.payload(slot, header.length))
        self._seal(grant, Payload.SUM, header.weight)
        self.release(slot, state, header)
        return True

    def _release_old(self) -> None:
        """Let go, unread, of what is of older rounds."""
        self.sealed()

    def sealed(self) -> list[tuple[int, Header]]:
        """What this round's roots have for this gateway; what is older is let go of, unread.

        The current model stays as it is: it is held until the next one.
        """
        arena, found = self.arena, []
        for slot in arena.sealed_for(GATEWAY):
            header = arena.header(slot)
            if slot == arena.model()[1] and header.payload is Payload.MODEL:
                continue
            if header.round < self.round:
                self.release(slot, arena.state(slot), header)
            else:
                found.append((slot, header))
        return found

    def publish(self, slot: int, header: Header) -> None:
        """Make the top's sealed slot the global model, and let go of the one before."""
        self.arena.set_accepted(header.round + 1, 0)  # held the round before last
        self.arena.set_model(header.round, slot)
        self._look_at_model()
        fault("gateway_published", "gateway")
        self._release_old()

    def release(self, slot: int, state: State, header: Header) -> None:
        """Let go of what `state` says: of nothing, if the slot has moved on since."""
        if self.arena.state(slot) != state:
            return
        self.arena.release(slot, state)
        fault("gateway_model_released", "gateway")
        self._send(
            header.source,
            Descriptor(slot, state.generation, header.round, header.source, Kind.RELEASE),
        )

    def _send(self, role: int, descriptor: Descriptor) -> None:
        """A hint: whoever misses it is poked by the agent and reads the words."""
        port = self.ports.get(role)
        if port:
            with contextlib.suppress(LiflError):
                port.send(descriptor)

    # -- a model from outside ----------------------------------------------------------------
    def begin_model(self, length: int) -> memoryview:
        """The model slot, no longer readable as a model, to be written."""
        arena, slot = self.arena, self.arena.geometry.model_slot
        arena.set_state(slot, arena.state(slot).generation + 1, Phase.WRITING, NOBODY)
        self._look_at_model()
        return arena.payload(slot, length)

    def finish_model(self, round_: int, length: int) -> None:
        arena, slot = self.arena, self.arena.geometry.model_slot
        arena.set_header(slot, Header(round_, Payload.MODEL, 0, 0.0, length))
        arena.set_state(slot, arena.state(slot).generation, Phase.SEALED, NOBODY)
        if arena.model()[0] != round_:
            arena.set_accepted(round_ + 1, 0)
        arena.set_model(round_, slot)
        self._look_at_model()
        self._release_old()  # an own model, for one

    def model(self) -> tuple[int, Header] | None:
        """(slot, header) of the current global model; None before there is one."""
        return self._model

    def _look_at_model(self) -> None:
        arena = self.arena
        self._model, (self._current, slot) = None, arena.model()
        if arena.state(slot).phase == Phase.SEALED:
            header = arena.header(slot)
            if header.payload is Payload.MODEL and header.round == self._current:
                self._model = slot, header
