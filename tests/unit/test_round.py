"""The decisions of an aggregator, state by state, and over whole random histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.functions.round import (
    LONGEST_REST_S,
    MANY,
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
from lifl.shm.slots import Payload, Phase

LEAF = Role(endpoint=1, kind="leaf", parent=3, expected=2, slots=(0, 1))
TOP = Role(endpoint=4, kind="top", parent=0, expected=2, slots=(0, 1, 2))
FREE_PAIR = (
    Own(0, 0, Phase.FREE, released=True),
    Own(1, 0, Phase.FREE, released=True),
)


def update(slot: int, clients: int, round_: int = 1) -> Queued:
    return Queued(slot, 1, round_, clients, 1.0, Payload.UPDATE)


def words(*queued: Queued, own: tuple[Own, ...] = FREE_PAIR, **fields: object) -> Words:
    plain = {"round": 1, "closed": False, "accepted": 0, "own": own, "queued": queued}
    return Words(**(plain | fields))  # type: ignore[arg-type]


def open_sum(slot: int, generation: int, clients: int, round_: int = 1) -> Own:
    return Own(slot, generation, Phase.OPEN, False, round_, clients, 1.0)


def sealed(slot: int, generation: int, clients: int, *, released: bool, round_: int = 1) -> Own:
    return Own(slot, generation, Phase.SEALED, released, round_, clients, 1.0)


def test_nothing_queued_is_wait() -> None:
    assert next_step(LEAF, words()) == Wait()


def test_the_first_fold_has_no_accumulator() -> None:
    queued = update(5, 0b01), update(6, 0b10)
    assert next_step(LEAF, words(*queued)) == Fold(0, 1, None, queued)


def test_eager_folds_in_pairs_and_the_last_alone() -> None:
    leaf = replace(LEAF, expected=3)
    first, second, last = update(5, 0b001), update(6, 0b010), update(7, 0b100)
    assert next_step(leaf, words(first)) == Wait()
    assert next_step(leaf, words(first, second)) == Fold(0, 1, None, (first, second))
    accumulator = open_sum(0, 1, 0b011)
    own = (accumulator, FREE_PAIR[1])
    assert next_step(leaf, words(last, own=own)) == Fold(1, 2, accumulator, (last,))
    assert isinstance(next_step(leaf, words(first, free_inputs=0)), Fold)
    assert isinstance(next_step(leaf, words(first, closed=True)), Fold)


def test_eager_folds_in_fours_while_others_are_being_written() -> None:
    leaf = replace(LEAF, expected=8)
    queued = tuple(update(5 + i, 1 << i) for i in range(4))
    assert next_step(leaf, words(*queued[:3], arriving=1)) == Wait()
    assert isinstance(next_step(leaf, words(*queued[:3], arriving=0)), Fold)
    assert next_step(leaf, words(*queued, arriving=1)) == Fold(0, 1, None, queued)
    assert isinstance(next_step(leaf, words(*queued[:3], arriving=1, free_inputs=0)), Fold)


def test_a_role_rests_while_there_is_room_for_many_and_more_are_expected_than_that() -> None:
    leaf = replace(LEAF, expected=MANY + 4)
    own = (open_sum(0, 1, 0b001), FREE_PAIR[1])
    busy = words(update(5, 0b010), own=own, arriving=MANY, free_inputs=1)
    assert rest_s(leaf, busy, 1_000_000) == 0.008
    assert rest_s(leaf, busy, 1_000) == pytest.approx(8e-6)
    assert rest_s(leaf, busy, 1 << 30) == LONGEST_REST_S
    assert rest_s(leaf, replace(busy, arriving=1, free_inputs=MANY), 1_000_000) == 0.008
    assert rest_s(leaf, replace(busy, arriving=MANY - 2), 1_000_000) == 0, "slots may be short"
    assert rest_s(leaf, replace(busy, closed=True), 1_000_000) == 0
    last = replace(busy, own=(open_sum(0, 1, 0b101), FREE_PAIR[1]))
    assert rest_s(leaf, last, 1_000_000) == 0, "those in the slots are the last"
    before = replace(busy, own=(open_sum(0, 1, 0b101, round_=0), FREE_PAIR[1]))
    assert rest_s(leaf, before, 1_000_000) == 0.008, "what is held is of this round"


def test_a_fold_takes_all_that_is_queued_out_of_place() -> None:
    accumulator = open_sum(0, 4, 0b001)
    queued = update(5, 0b010), update(6, 0b100)
    step = next_step(LEAF, words(*queued, own=(accumulator, FREE_PAIR[1])))
    assert step == Fold(1, 5, accumulator, queued)


def test_what_is_in_the_sum_is_released_not_folded() -> None:
    queued = update(5, 0b01)
    step = next_step(LEAF, words(queued, own=(open_sum(0, 1, 0b01), FREE_PAIR[1])))
    assert step == Release((queued,))


def test_what_was_sent_already_is_released_not_folded() -> None:
    queued = update(5, 0b01)
    own = (sealed(0, 1, 0b01, released=False), FREE_PAIR[1])
    assert next_step(LEAF, words(queued, own=own)) == Release((queued,))


def test_two_copies_of_one_client_are_folded_once() -> None:
    first, second = update(5, 0b01), update(6, 0b01)
    assert next_step(LEAF, words(first, second)) == Release((second,))


def test_partial_overlap_is_refused() -> None:
    queued = replace(update(5, 0b11), payload=Payload.SUM)
    step = next_step(LEAF, words(queued, own=(open_sum(0, 1, 0b01), FREE_PAIR[1])))
    assert step == Release((queued,), refused=True)


def test_an_update_of_an_older_round_is_released_unread() -> None:
    queued = update(5, 0b01, round_=1)
    assert next_step(LEAF, words(queued, round=2)) == Release((queued,))


def test_a_sum_of_an_older_round_is_empty() -> None:
    queued = update(5, 0b01, round_=2), update(6, 0b10, round_=2)
    own = (open_sum(0, 7, 0b01, round_=1), FREE_PAIR[1])
    assert next_step(LEAF, words(*queued, own=own, round=2)) == Fold(0, 8, None, queued)


def test_a_sent_sum_is_not_overwritten_before_its_release() -> None:
    own = (sealed(0, 1, 0b01, released=False), open_sum(1, 2, 0b10))
    assert next_step(LEAF, words(update(5, 0b100), own=own)) == Wait()
    own = (sealed(0, 1, 0b01, released=True), open_sum(1, 2, 0b10))
    step = next_step(LEAF, words(update(5, 0b100), own=own))
    assert isinstance(step, Fold)
    assert step.into == 0


def test_half_a_fold_of_a_dead_predecessor_is_overwritten() -> None:
    own = (open_sum(0, 1, 0b01), Own(1, 2, Phase.WRITING, released=True))
    step = next_step(LEAF, words(update(5, 0b10), own=own))
    assert isinstance(step, Fold)
    assert (step.into, step.generation) == (1, 3)


def test_a_complete_sum_is_sealed() -> None:
    accumulator = open_sum(0, 1, 0b11)
    assert next_step(LEAF, words(own=(accumulator, FREE_PAIR[1]))) == Seal(accumulator)


def test_an_incomplete_sum_is_sealed_when_the_round_is_closed() -> None:
    accumulator = open_sum(0, 1, 0b01)
    own = (accumulator, FREE_PAIR[1])
    assert next_step(LEAF, words(own=own)) == Wait()
    assert next_step(LEAF, words(own=own, closed=True)) == Seal(accumulator)


def test_only_the_accepted_set_completes_the_top() -> None:
    own = (open_sum(0, 1, 0b11), *TRIPLE[1:])
    assert next_step(TOP, words(own=own)) == Wait()
    assert next_step(TOP, words(own=own, closed=True, accepted=0b111)) == Wait()
    step = next_step(TOP, words(own=own, closed=True, accepted=0b11))
    assert step == Finish(1, 2, own[0])


TRIPLE = (*FREE_PAIR, Own(2, 0, Phase.FREE, released=True))


def test_the_top_waits_for_the_end_of_the_round_and_finishes_in_one_pass() -> None:
    queued = replace(update(5, 0b01), payload=Payload.SUM), update(6, 0b10)
    assert next_step(TOP, words(*queued, own=TRIPLE)) == Wait()
    step = next_step(TOP, words(*queued, own=TRIPLE, closed=True, accepted=0b11))
    assert step == Finish(0, 1, None, queued)
    own = (open_sum(0, 1, 0b01), *TRIPLE[1:])
    step = next_step(TOP, words(queued[1], own=own, closed=True, accepted=0b11))
    assert step == Finish(1, 2, own[0], queued[1:])


def test_what_the_model_was_made_of_is_released_before_it_is_sealed() -> None:
    """Also by a successor of a top that died right after the commit."""
    queued = update(5, 0b01), update(6, 0b10)
    model = replace(open_sum(0, 1, 0b11), payload=Payload.MODEL)
    done = words(*queued, own=(model, *TRIPLE[1:]), closed=True, accepted=0b11)
    assert next_step(TOP, done) == Release(queued)
    assert next_step(TOP, replace(done, queued=())) == Seal(model)


def test_the_top_folds_early_where_slots_are_short_or_clients_are_missing() -> None:
    queued = update(5, 0b001), update(6, 0b010)
    top = replace(TOP, expected=3)
    assert isinstance(next_step(top, words(*queued, own=TRIPLE)), Fold)  # a pair
    assert isinstance(next_step(TOP, words(*queued, own=TRIPLE, free_inputs=0)), Fold)
    late = words(*queued, own=TRIPLE, closed=True, accepted=0b111)
    assert isinstance(next_step(top, late), Fold)  # one more is on its way up


def test_the_top_seals_the_model_not_the_sum() -> None:
    model = replace(open_sum(1, 2, 0b11), payload=Payload.MODEL)
    own = (open_sum(0, 1, 0b11), model, TRIPLE[2])
    assert next_step(TOP, words(own=own, closed=True, accepted=0b11)) == Seal(model)


def test_lazy_waits_for_all_or_for_the_end_of_room() -> None:
    lazy = replace(LEAF, lazy=True)
    one, two = update(5, 0b01), update(6, 0b10)
    assert next_step(lazy, words(one)) == Wait()
    assert next_step(lazy, words(one, two)) == Fold(0, 1, None, (one, two))
    assert isinstance(next_step(lazy, words(one, closed=True)), Fold)
    assert isinstance(next_step(lazy, words(one, free_inputs=0)), Fold)


def test_lazy_waits_for_uploads_under_way_but_keeps_nobody_from_a_slot() -> None:
    lazy = replace(LEAF, lazy=True, expected=3)
    one = update(5, 0b001)
    assert next_step(lazy, words(one, free_inputs=0, arriving=2)) == Wait()  # nobody is missing
    assert isinstance(next_step(lazy, words(one, free_inputs=0, arriving=1)), Fold)


@pytest.mark.parametrize("lazy", [False, True])
@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    clients=st.integers(1, 6),
    arrivals=st.lists(st.booleans(), max_size=12),
    crashes=st.sets(st.integers(0, 20), max_size=4),
)
def test_any_arrival_ends_in_one_sealed_sum_of_every_client(
    lazy: bool, clients: int, arrivals: list[bool], crashes: set[int]
) -> None:
    """Carry out what is decided, with crashes between words, and count each client."""
    role = replace(LEAF, expected=clients, lazy=lazy)
    own: dict[int, Own] = {o.slot: o for o in FREE_PAIR}
    folded: dict[int, list[int]] = {0: [], 1: []}
    queued: list[Queued] = []
    pending = list(range(clients))
    sums: list[list[int]] = []
    for turn in range(100):
        if pending and (turn >= len(arrivals) or arrivals[turn]):
            client = pending.pop()
            queued.append(update(10 + client, 1 << client))
        closed = not pending
        step = next_step(role, words(*queued, own=tuple(own.values()), closed=closed))
        match step:
            case Fold():
                before = folded[step.accumulator.slot] if step.accumulator else []
                new = [q.clients.bit_length() - 1 for q in step.inputs]
                if turn in crashes:  # half written: the slot says WRITING, no more
                    own[step.into] = Own(step.into, step.generation, Phase.WRITING, released=True)
                    continue
                folded[step.into] = before + new
                held = sum(1 << c for c in folded[step.into])
                own[step.into] = open_sum(step.into, step.generation, held)
            case Release():
                assert not step.refused
                gone = step.slots[:1] if turn in crashes else step.slots
                queued = [q for q in queued if q not in gone]
            case Seal():
                sums.append(folded[step.slot.slot])
                own[step.slot.slot] = replace(step.slot, phase=Phase.SEALED, released=True)
            case Wait() if closed and not queued:
                break
    assert sorted(client for part in sums for client in part) == list(range(clients))
