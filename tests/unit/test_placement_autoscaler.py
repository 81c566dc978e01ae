"""The autoscaler: the estimate by hand, bounds, to zero and from zero, and what always holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.placement.autoscaler import (
    Queue,
    Room,
    Scale,
    Settings,
    change,
    leaves,
    measured,
    pass_time,
    scale,
    smoothed,
)

PLAIN = Settings(alpha=0.7, period_s=10.0, idle_s=30.0)
ROOMY = Room(cores=16, input_slots=16)
reproducible = settings(derandomize=True, deadline=None)


def test_a_period_counts_its_average_and_the_next_one_three_tenths() -> None:
    queue = change(Queue(), 0.0, 8, PLAIN)
    queue = change(queue, 5.0, -4, PLAIN)  # 8 for 5 s, 4 for 5 s
    queue = pass_time(queue, 10.0, PLAIN)
    assert queue.estimate == pytest.approx(6.0)
    queue = pass_time(queue, 20.0, PLAIN)  # 4 throughout
    assert queue.estimate == pytest.approx(0.7 * 6 + 0.3 * 4)


@reproducible
@given(
    st.lists(st.tuples(st.floats(0, 25), st.integers(0, 9)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.3, 0.7, 0.95]),
)
def test_the_estimate_is_that_of_a_queue_looked_at_all_the_time(
    steps: list[tuple[float, int]], alpha: float
) -> None:
    """Looking in between changes nothing, and neither do periods that pass unseen."""
    chosen = Settings(alpha=alpha, period_s=10.0, idle_s=1e9)
    rare, often, now = Queue(), Queue(), 0.0
    for wait_s, length in steps:
        for step in range(1, 8):
            often = pass_time(often, now + wait_s * step / 8, chosen)
        now += wait_s
        rare = change(rare, now, length - rare.length, chosen)
        often = change(often, now, length - often.length, chosen)
    if rare.estimate is None:
        assert often.estimate is None
    else:
        assert often.estimate == pytest.approx(rare.estimate, abs=1e-9)
        assert -1e-9 <= rare.estimate <= max(length for _, length in steps) + 1e-9


def test_what_somebody_else_has_measured_counts_like_what_was_seen() -> None:
    """8 for 5 s, then 4 for 5 s, then nothing for a period; told in one piece each."""
    queue = measured(Queue(), 10.0, update_s=60.0, length=4, settings=PLAIN)
    assert (queue.estimate, queue.length, queue.busy_s) == (pytest.approx(6.0), 4, 10.0)
    queue = measured(queue, 20.0, update_s=0.0, length=0, settings=PLAIN)
    assert queue.estimate == pytest.approx(0.7 * 6)
    assert queue.busy_s == 10.0
    queue = measured(queue, 20.0, update_s=0.0, length=0, settings=PLAIN)  # at the same moment
    assert queue.looked_s == 20.0


@pytest.mark.parametrize(
    ("queued", "fan_in", "room", "expected"),
    [
        (8, 4, ROOMY, 2),
        (9, 4, ROOMY, 3),
        (1, 4, ROOMY, 1),
        (100, 4, Room(cores=4, input_slots=8), 4),
        (100, 4, Room(cores=8, input_slots=3), 3),
    ],
)
def test_leaves_for_a_queue(queued: int, fan_in: int, room: Room, expected: int) -> None:
    queue = pass_time(change(Queue(), 0.0, queued, PLAIN), 10.0, PLAIN)
    assert leaves(queue, 10.0, fan_in=fan_in, room=room, settings=PLAIN) == expected


def test_to_zero_after_the_idle_time_and_from_zero_at_once() -> None:
    def wanted(queue: Queue, now_s: float) -> int:
        return leaves(queue, now_s, fan_in=4, room=ROOMY, settings=PLAIN)

    assert wanted(Queue(), 5.0) == 0
    queue = change(Queue(), 5.0, 1, PLAIN)
    assert wanted(queue, 5.0) == 1
    queue = change(queue, 7.0, -1, PLAIN)
    assert wanted(queue, 36.9) == 1
    assert wanted(queue, 37.0) == 0
    assert wanted(change(queue, 100.0, 1, PLAIN), 100.0) == 1


def test_a_middle_above_several_leaves_and_the_top_where_most_waits() -> None:
    queues = {
        name: pass_time(change(Queue(), 0.0, count, PLAIN), 10.0, PLAIN)
        for name, count in (("a", 3), ("b", 9), ("c", 9))
    } | {"idle": Queue()}
    made = scale(queues, 10.0, fan_in=4, rooms=dict.fromkeys(queues, ROOMY), settings=PLAIN)
    assert made == {
        "a": Scale(leaves=1),
        "b": Scale(leaves=3, middle=True, top=True),
        "c": Scale(leaves=3, middle=True),
        "idle": Scale(),
    }
    assert made["b"].roles == 5


def test_nobody_anywhere_has_no_top() -> None:
    assert scale({"a": Queue()}, 1.0, fan_in=1, rooms={"a": ROOMY}, settings=PLAIN) == {
        "a": Scale()
    }


@pytest.mark.parametrize(
    "wrong", [{"alpha": 1.0}, {"alpha": -0.1}, {"period_s": 0.0}, {"idle_s": 0.0}]
)
def test_settings_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Settings(**wrong)


def test_neither_time_nor_queues_go_below_what_was() -> None:
    with pytest.raises(ValueError, match="time goes back"):
        pass_time(Queue(looked_s=5.0), 4.0, PLAIN)
    with pytest.raises(ValueError, match="leave a queue of 0"):
        change(Queue(), 1.0, -1, PLAIN)
    assert smoothed(None, 3.0, 0.7) == 3.0
