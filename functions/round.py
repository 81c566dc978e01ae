"""What an aggregator does next: a pure function of the shared words.

Owns the decisions of the crash protocol for a role (docs/crash-protocol.md): admit, fold,
release, finish, seal.  Does no I/O and keeps no state of its own, because a successor must come
to the same decision from the same words: what a process that died between two steps left behind
is an ordinary input here.  Called by functions/steps.py after every wake-up of
an aggregator, until it says Wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lifl.shm.slots import Payload, Phase

Kind = Literal["leaf", "middle", "top"]
PAIR: Final = 2  # inputs of an eager fold while more are expected
GROUP: Final = 4  # ... and while others are being written
MANY: Final = 16  # slots, free or being written: with fewer a role does not rest
REST_UPDATES: Final = 8  # a rest is as long as the gateway takes for so many of them,
INGRESS_BYTES_S: Final = 1e9  # at this speed,
LONGEST_REST_S: Final = 0.01  # and not longer than this


@dataclass(frozen=True)
class Role:
    """One place in the tree of a node.

    Args:
        endpoint: its number, 1 and up; the consumer that seals name.
        kind: what it is called; `top` alone turns the sum into the model.
        parent: endpoint of the consumer of its sums, 0 for the gateway.
        expected: updates of a complete sum; says when to send, never what is in it.
        slots: its own sum slots, two, or three for a top.
        lazy: fold when all expected are there, instead of in pairs as they arrive.
    """

    endpoint: int
    kind: Kind
    parent: int
    expected: int
    slots: tuple[int, ...]
    lazy: bool = False

    @property
    def is_root(self) -> bool:
        return self.parent == 0


@dataclass(frozen=True)
class Own:
    """One of the role's own slots as its words say."""

    slot: int
    generation: int
    phase: Phase
    released: bool
    round: int = 0
    clients: int = 0
    weight: float = 0.0
    payload: Payload = Payload.SUM


@dataclass(frozen=True)
class Queued:
    """A slot that is sealed for this role and not yet released."""

    slot: int
    generation: int
    round: int
    clients: int
    weight: float
    payload: Payload


@dataclass(frozen=True)
class Words:
    """Everything that a decision depends on, read once."""

    round: int
    closed: bool
    accepted: int
    own: tuple[Own, ...]
    queued: tuple[Queued, ...]
    free_inputs: int = 1  # input slots that nobody has
    arriving: int = 0  # ... and those that are being written for this role


@dataclass(frozen=True)
class Release:
    """Release these unread: folded already, or of an older round."""

    slots: tuple[Queued, ...]
    refused: bool = False  # the set overlaps in part: an error, reported, never folded


@dataclass(frozen=True)
class Fold:
    """into ← accumulator + Σ inputs, under `generation`, then OPEN."""

    into: int
    generation: int
    accumulator: Own | None
    inputs: tuple[Queued, ...]


@dataclass(frozen=True)
class Finish:
    """into ← the next global model from accumulator + Σ inputs, complete, then OPEN."""

    into: int
    generation: int
    accumulator: Own | None
    inputs: tuple[Queued, ...] = ()


@dataclass(frozen=True)
class Seal:
    """Seal this slot for the parent and send its descriptor."""

    slot: Own


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something arrives."""


Step = Release | Fold | Finish | Seal | Wait


def next_step(role: Role, words: Words) -> Step:
    """The next step of `role`; the same words give the same step."""
    newest = max(
        (own for own in words.own if own.phase in (Phase.OPEN, Phase.SEALED)),
        key=lambda own: own.generation,
        default=None,
    )
    if newest is not None and newest.round != words.round:
        newest = None  # of an older round: as if it were empty
    accumulator = newest if newest is not None and newest.phase == Phase.OPEN else None

    admitted, done, refused = _admit(words, newest.clients if newest else 0)
    if refused:
        return Release(tuple(refused), refused=True)
    if done:
        return Release(tuple(done))
    is_model = accumulator is not None and accumulator.payload is Payload.MODEL
    held = _union(accumulator, admitted)
    into = _free_slot(words.own, newest)
    if role.kind == "top" and not is_model and _is_complete(role, words, held):
        if into is None:
            return Wait()
        return Finish(into, _next_generation(words.own), accumulator, tuple(admitted))
    if admitted and _is_time(role, words, held, len(admitted)):
        if into is None:
            return Wait()  # the parent's release wakes us
        return Fold(into, _next_generation(words.own), accumulator, tuple(admitted))
    if accumulator is None or admitted or not _is_complete(role, words, held):
        return Wait()
    return Seal(accumulator)


def rest_s(role: Role, words: Words, update_bytes: int) -> float:
    """How long a role that waits lets the next updates lie, so that it wakes up less often.

    On a busy machine a wake-up costs as much as folding some MB.  A role rests while there is room
    for many, so that slots are not short, and more are expected than there is room for, so that
    what is left to do after the last arrival does not grow.
    """
    sums = (own.clients.bit_count() for own in words.own if own.round == words.round)
    to_come = role.expected - max(sums, default=0) - len(words.queued)
    room = words.arriving + words.free_inputs
    if words.closed or room < MANY or to_come <= room:
        return 0.0
    return min(LONGEST_REST_S, REST_UPDATES * update_bytes / INGRESS_BYTES_S)


def _admit(words: Words, taken: int) -> tuple[list[Queued], list[Queued], list[Queued]]:
    """(to be folded, to be released only, to be refused), by client sets."""
    admitted: list[Queued] = []
    done: list[Queued] = []
    refused: list[Queued] = []
    for queued in words.queued:
        overlap = queued.clients & taken
        if queued.round > words.round:
            continue  # sealed after the words were read: the next look sees its round
        if queued.round < words.round or (overlap and overlap == queued.clients):
            done.append(queued)
        elif overlap:
            refused.append(queued)
        else:
            admitted.append(queued)
            taken |= queued.clients
    return admitted, done, refused


def _union(accumulator: Own | None, admitted: Sequence[Queued]) -> int:
    """Clients of the sum as it will be when what is admitted is folded."""
    held = accumulator.clients if accumulator else 0
    for queued in admitted:
        held |= queued.clients
    return held


def _is_time(role: Role, words: Words, held: int, admitted: int) -> bool:
    """Eager folds in pairs, in fours while others arrive, the last alone; lazy when all are there.

    A fold reads and writes the accumulator however many inputs it has: eight updates one by one are
    23 passes over memory, in pairs 15, in fours 11, and what is left to do after the last arrival
    hardly grows.  Both fold whatever there is when nothing more can arrive: the round is closed, or
    no slot is free for those who are missing, be it that some are taken by slow uploads.  A top
    that has all that it expects waits for the end of the round, which is near, and finishes from
    what is queued in one pass.
    """
    count = held.bit_count()
    if words.closed:
        return True
    if words.free_inputs == 0 and (not role.lazy or count + words.arriving < role.expected):
        return True
    if count >= role.expected:
        return role.kind != "top"
    return not role.lazy and admitted >= (GROUP if words.arriving else PAIR)


def _is_complete(role: Role, words: Words, held: int) -> bool:
    if role.is_root:
        return words.closed and held == words.accepted
    return words.closed or held.bit_count() >= role.expected


def _free_slot(own: tuple[Own, ...], newest: Own | None) -> int | None:
    """A slot that nobody reads; WRITING is what a dead predecessor left half done."""
    for candidate in own:
        if newest is not None and candidate.slot == newest.slot:
            continue
        if candidate.phase != Phase.SEALED or candidate.released:
            return candidate.slot
    return None


def _next_generation(own: tuple[Own, ...]) -> int:
    return max(o.generation for o in own) + 1
