"""Keep-alive: what a histogram of idle times says, by hand and beside a constant."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.placement.keepalive import (
    BINS,
    RANGE_S,
    Idle,
    Window,
    is_warm,
    seen,
    upper_s,
    verdict,
    window,
)

reproducible = settings(derandomize=True, deadline=None)


def after(*gaps_s: float) -> Idle:
    idle = Idle()
    for gap_s in gaps_s:
        idle = seen(idle, gap_s)
    return idle


def test_nothing_seen_is_kept_for_the_whole_range() -> None:
    assert window(Idle()) == Window(from_s=0.0, until_s=RANGE_S, learned=False)


def test_rounds_every_two_seconds_keep_runtimes_a_little_longer() -> None:
    made = window(after(*[2.0] * 20))
    assert made.learned
    assert 2.0 < made.until_s < 2.0 * 2**0.5 * 1.11
    assert made.from_s == pytest.approx(0.9 * upper_s(14 + 1))  # of the bin that holds 2 s


def test_short_gaps_are_not_worth_a_stop() -> None:
    made = window(after(*[0.3] * 20))
    assert made.from_s == 0.0
    assert verdict(made, 0.2) == "keep"
    assert verdict(made, 0.6) == "stop"


def test_a_round_an_hour_stops_at_once_and_starts_before_the_next() -> None:
    made = window(after(*[3600.0] * 20))
    assert verdict(made, 10.0) == "stop"
    assert verdict(made, made.from_s) == "start"
    assert made.from_s < 3600 < made.until_s
    assert not is_warm(made, 10.0)
    assert is_warm(made, 3600.0)


def test_gaps_without_a_pattern_are_not_learned_from() -> None:
    spread = [upper_s(at) * 0.99 for at in range(BINS)]
    assert not window(after(*spread)).learned


def test_gaps_beyond_the_range_are_not_learned_from() -> None:
    assert not window(after(*[1.0] * 9, *[2 * RANGE_S] * 10)).learned


@reproducible
@given(st.floats(0, RANGE_S), st.integers(5, 50))
def test_a_steady_gap_is_always_within_its_window(gap_s: float, times: int) -> None:
    made = window(after(*[gap_s] * times))
    assert made.learned
    assert is_warm(made, gap_s)


def test_learned_windows_waste_less_than_a_constant_and_start_cold_no_more_often() -> None:
    """Gaps around 20 s, beside ten minutes for everybody, which is what platforms had."""
    chance = random.Random(7)
    gaps = [chance.lognormvariate(3.0, 0.1) for _ in range(400)]
    idle, cold, warm_s = Idle(), 0, 0.0
    for gap_s in [*gaps, 86_400.0]:  # at last the job is over
        made = window(idle)
        cold += not is_warm(made, gap_s) and gap_s < 600
        warm_s += max(0.0, min(gap_s, made.until_s) - made.from_s)
        idle = seen(idle, gap_s)
    constant_s = sum(min(gap_s, 600.0) for gap_s in [*gaps, 86_400.0])
    assert cold <= 0.02 * len(gaps)
    assert warm_s < 0.7 * constant_s


@pytest.mark.parametrize("gap_s", [-1.0, float("nan")])
def test_what_is_no_time_is_refused(gap_s: float) -> None:
    with pytest.raises(ValueError, match="idle time"):
        seen(Idle(), gap_s)
