"""When runtimes are stopped between rounds: by hand, and what always holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.placement.idling import Idling
from lifl.placement.keepalive import RANGE_S, upper_s

BIT_S = 1e-6  # of rounding


def after(least_s: float, *gaps_s: float, limit_s: float = math.inf) -> tuple[Idling, float]:
    """Rounds without length, so many seconds apart; and when the last one was over."""
    idling, now_s = Idling(least_s=least_s, limit_s=limit_s), 0.0
    for number, gap_s in enumerate(gaps_s, 1):
        idling.round_over(now_s, number)
        now_s += gap_s
        idling.work(now_s, number + 1)
    idling.round_over(now_s, len(gaps_s) + 1)
    return idling, now_s


def test_nothing_is_stopped_before_the_first_round_is_over() -> None:
    idling = Idling(least_s=0.1)
    assert idling.turn(1e9) is None
    assert idling.next_in_s(1e9) is None


def test_a_pause_that_is_longer_than_all_before_stops_them_and_an_update_starts_them() -> None:
    idling, at_s = after(0.95, *[1.0] * 9)
    idling.round_over(at_s + 0.3, 10)  # a report that is asked for again
    until_s = idling.next_in_s(at_s)
    assert until_s is not None
    assert 1.0 < until_s < 1.0 * 2**0.5 * 1.11
    assert idling.turn(at_s + until_s - 0.001) is None
    assert idling.turn(at_s + until_s + BIT_S) == "stop"
    assert idling.asleep
    assert idling.turn(at_s + until_s + BIT_S) is None
    assert idling.next_in_s(at_s + until_s + BIT_S) is None
    idling.work(at_s - 0.1)  # somebody reports late what belongs to the round before
    assert idling.asleep
    idling.work(at_s + 100)
    assert not idling.asleep
    assert sum(idling.idle.counts) == 10


def test_work_that_is_heard_of_after_its_round_keeps_nobody_awake() -> None:
    idling, at_s = after(0.1, 1.0, limit_s=60.0)
    idling.round_over(at_s + 2.0, 3)  # before anybody has said what was done in it
    idling.work(at_s + 1.5, 3)
    assert idling.turn(at_s + 61.9) is None
    assert idling.turn(at_s + 62.0 + BIT_S) == "stop"
    idling.work(at_s + 100, 4)
    assert not idling.asleep


def test_a_plan_keeps_them_until_every_role_is_there_and_not_until_its_round_is_over() -> None:
    """A round in which nobody answers is as quiet as the time before it."""
    idling, at_s = after(0.1, 1.0, limit_s=5.0)
    idling.plan(at_s + 1.0)
    assert idling.turn(at_s + 100) is None, "somebody waits for every role"
    idling.ready(at_s + 100)
    idling.ready(at_s + 102)  # they are there already
    assert idling.turn(at_s + 104.9) is None
    assert idling.turn(at_s + 105) == "stop"
    idling.plan(at_s + 200)
    assert not idling.asleep
    idling.ready(at_s + 201)
    idling.work(at_s + 202, 3)
    assert idling.turn(at_s + 1e6) is None, "the round is under way"


@pytest.mark.parametrize("first", ["work", "plan"])
def test_a_plan_in_mid_round_does_not_end_its_work(first: str) -> None:
    idling, at_s = after(0.1, 1.0, limit_s=5.0)
    for what in ("work", "plan") if first == "work" else ("plan", "work"):
        if what == "work":
            idling.work(at_s + 1.0, 3)
        else:
            idling.plan(at_s + 1.0)
    idling.ready(at_s + 2.0)
    assert idling.turn(at_s + 1e6) is None
    idling.round_over(at_s + 10, 3)
    assert idling.turn(at_s + 15) == "stop"


def test_what_is_heard_late_of_the_round_before_does_not_make_a_plan_work() -> None:
    idling, at_s = after(0.1, 1.0, limit_s=5.0)
    idling.plan(at_s + 1.0)
    idling.work(at_s + 0.5, 2)  # the round that `after` ended
    idling.ready(at_s + 2.0)
    assert idling.turn(at_s + 7.0) == "stop"


def test_the_first_plan_waits_for_the_first_round() -> None:
    idling = Idling(least_s=0.1, limit_s=5.0)
    idling.plan(0.0)
    idling.ready(1.0)
    assert idling.turn(1e6) is None


def test_a_run_that_begins_again_has_its_rounds_again() -> None:
    idling, at_s = after(60.0, *[1.0] * 8)
    idling.plan(at_s + 1.0)
    idling.round_over(at_s + 2.0, 5)
    idling.work(at_s + 3.0, 6)
    assert idling.turn(at_s + 1e6) is None


def test_shorter_than_the_least_nothing_is_stopped() -> None:
    idling, at_s = after(60.0, *[1.0] * 9)
    assert idling.turn(at_s + 59) is None
    assert idling.turn(at_s + 60) == "stop"


def test_what_was_not_learned_keeps_them() -> None:
    idling, at_s = after(0.1, *[1.0] * 4)
    assert idling.turn(at_s + 1000) is None
    assert idling.turn(at_s + RANGE_S) == "stop"


def test_long_rounds_stop_them_at_once_and_have_them_there_before_the_next() -> None:
    idling, at_s = after(60.0, *[600.0] * 9)
    assert idling.next_in_s(at_s) == 0
    assert idling.turn(at_s) == "stop"
    again_s = idling.next_in_s(at_s)
    assert again_s is not None
    assert 0.6 * 600 < again_s < 600
    again_s += BIT_S
    assert idling.turn(at_s + again_s) == "start"
    assert (idling.asleep, idling.expecting) == (False, True)
    assert idling.turn(at_s + again_s) is None
    late_s = idling.next_in_s(at_s + again_s)
    assert late_s is not None
    assert again_s + late_s > 600
    assert idling.turn(at_s + again_s + late_s + BIT_S) == "stop"  # and the round has not come
    idling.work(at_s + 10_000)
    assert (idling.asleep, idling.expecting) == (False, False)


def test_a_limit_goes_before_what_was_learned() -> None:
    idling, at_s = after(0.1, limit_s=5.0)
    assert idling.turn(at_s + 4.9) is None
    assert idling.turn(at_s + 5.0) == "stop"
    idling, at_s = after(0.1, *[600.0] * 9, limit_s=5.0)
    assert idling.turn(at_s) == "stop"
    assert idling.turn(at_s + 599) is None


@settings(derandomize=True, deadline=None)
@given(
    st.floats(0.01, 100), st.lists(st.floats(0, 2 * upper_s(38)), max_size=30),
    st.lists(st.floats(0, 1e4), min_size=1, max_size=20),
)  # fmt: skip
def test_it_comes_to_rest(least_s: float, gaps_s: list[float], looks_s: list[float]) -> None:
    """Looking when it says so is enough: between two looks nothing is due, and they end."""
    idling, at_s = after(least_s, *gaps_s)
    done, now_s = [], at_s
    for _ in range(10):
        wait_s = idling.next_in_s(now_s)
        if wait_s is None:
            break
        now_s += wait_s + BIT_S
        done.append(idling.turn(now_s))
    else:
        pytest.fail(f"it never rests: {done}")
    assert idling.asleep
    assert [each for each in done if each] in (["stop"], ["stop", "start", "stop"])
