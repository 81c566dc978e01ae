"""How many functions there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lifl.placement.cluster.scaling import Numbers


def test_more_at_once_fewer_after_a_while() -> None:
    numbers = Numbers(idle_s=30)
    numbers.want("n1", {"a": 4}, 0)
    assert numbers.due(0) == {("a", "n1"): 4}
    numbers.done(("a", "n1"), 4)
    numbers.want("n1", {"a": 2}, 10)
    assert numbers.due(39.9) == {}
    assert numbers.next_due_s(10) == 30
    assert numbers.due(40) == {("a", "n1"): 2}
    numbers.done(("a", "n1"), 2)
    assert (numbers.due(100), numbers.next_due_s(100)) == ({}, None)


def test_a_job_that_comes_meanwhile_finds_them_warm() -> None:
    numbers = Numbers(idle_s=30)
    numbers.want("n1", {"a": 3}, 0)
    numbers.done(("a", "n1"), 3)
    numbers.want("n1", {}, 5)
    numbers.want("n1", {"a": 3}, 20)
    assert numbers.due(100) == {}


def test_to_zero_when_nobody_names_them() -> None:
    numbers = Numbers(idle_s=30)
    numbers.want("n1", {"a": 3, "b": 1}, 0)
    for place, number in numbers.due(0).items():
        numbers.done(place, number)
    numbers.want("n1", {"b": 1}, 5)
    assert numbers.due(35) == {("a", "n1"): 0}


def test_nodes_do_not_speak_for_one_another() -> None:
    numbers = Numbers(idle_s=0)
    numbers.want("n1", {"a": 3}, 0)
    numbers.done(("a", "n1"), 3)
    numbers.want("n2", {}, 1)
    assert numbers.due(1) == {}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_in_the_end_there_are_as_many_as_were_wanted_last(wanted: list[int]) -> None:
    numbers = Numbers(idle_s=10)
    for at, number in enumerate(wanted):
        numbers.want("n1", {"a": number} if number else {}, at)
        for place, due in numbers.due(at).items():
            assert due >= numbers.scaled.get(place, 0)  # nothing falls within these 10 s at once
            numbers.done(place, due)
        if at >= 9:
            break
    last = wanted[min(len(wanted) - 1, 9)]
    for place, due in numbers.due(1000).items():
        numbers.done(place, due)
    assert numbers.scaled.get(("a", "n1"), 0) == last
