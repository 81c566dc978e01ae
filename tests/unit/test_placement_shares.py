"""Several jobs on the same nodes: fair shares by hand, priorities, and what always holds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import Busy
from lifl.placement.shares import Ask, fair_shares, plan_jobs
from lifl.placement.snapshot import Client, Node, Plan, Snapshot

reproducible = settings(derandomize=True, deadline=None, max_examples=200)


def ask(
    job: str, count: int, *capacities: int, priority: int = 0, weight: float = 1.0
) -> Ask:  # fmt: skip
    nodes = tuple(Node(name=f"n{at}", capacity_updates=c) for at, c in enumerate(capacities))
    clients = tuple(Client(key=f"{job}-{at:03}") for at in range(count))
    snapshot = Snapshot(nodes=nodes, clients=clients, fan_in=4)
    return Ask(job=job, snapshot=snapshot, priority=priority, weight=weight)


def served(outcome: Plan | Busy) -> int:
    assert isinstance(outcome, Plan)
    return len(outcome.homes()) - len(outcome.oversubscribed)


@pytest.mark.parametrize(
    ("wanted", "weights", "expected"),
    [
        ({"a": 0.2, "b": 0.3}, {"a": 1, "b": 1}, {"a": 0.2, "b": 0.3}),
        ({"a": 2.0, "b": 2.0}, {"a": 1, "b": 3}, {"a": 0.25, "b": 0.75}),
        ({"a": 0.1, "b": 2.0, "c": 2.0}, {"a": 1, "b": 1, "c": 2}, {"a": 0.1, "b": 0.3, "c": 0.6}),
        ({"a": 0.0}, {"a": 1}, {"a": 0.0}),
    ],
)
def test_fair_shares_by_hand(
    wanted: dict[str, float], weights: dict[str, float], expected: dict[str, float]
) -> None:
    assert fair_shares(wanted, weights) == pytest.approx(expected)


@reproducible
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 9)), min_size=1, max_size=6))
def test_fair_shares_are_max_min(asked: list[tuple[float, float]]) -> None:
    wanted = {f"j{at}": want for at, (want, _) in enumerate(asked)}
    weights = {f"j{at}": weight for at, (_, weight) in enumerate(asked)}
    shares = fair_shares(wanted, weights)
    assert sum(shares.values()) == pytest.approx(min(1, sum(wanted.values())))
    level = max(shares[job] / weights[job] for job in shares)
    for job, share in shares.items():
        assert share <= wanted[job] + 1e-12
        assert share == pytest.approx(wanted[job]) or share / weights[job] == pytest.approx(level)


def test_two_jobs_of_one_priority_share_by_weight() -> None:
    made = plan_jobs([ask("a", 30, 8, 8), ask("b", 30, 8, 8, weight=3)])
    assert (served(made["a"]), served(made["b"])) == (4, 12)
    assert all(isinstance(one, Plan) and len(one.homes()) == 30 for one in made.values())


def test_what_a_small_job_does_not_want_the_other_gets() -> None:
    made = plan_jobs([ask("a", 3, 8, 8), ask("b", 30, 8, 8)])
    assert (served(made["a"]), served(made["b"])) == (3, 13)


def test_higher_priority_comes_first() -> None:
    made = plan_jobs([ask("a", 12, 8, 8), ask("z", 10, 8, 8, priority=1)])
    assert (served(made["z"]), served(made["a"])) == (10, 6)


def test_updates_of_other_sizes_are_shares_of_the_same_nodes() -> None:
    """b's updates are twice as large: its MC is half as much."""
    made = plan_jobs([ask("a", 8, 8, 8), ask("b", 8, 4, 4)])
    assert (served(made["a"]), served(made["b"])) == (8, 4)


def test_a_job_without_a_node_is_busy_and_hinders_nobody() -> None:
    made = plan_jobs([ask("a", 4, 0), ask("b", 4, 8)])
    assert isinstance(made["a"], Busy)
    assert served(made["b"]) == 4


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight of job 'a' is 0"):
        ask("a", 1, 1, weight=0)


@reproducible
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0])),
        min_size=1, max_size=5,
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_jobs_in_any_order_and_never_more_than_nodes_hold(
    jobs: list[tuple[int, int, float]], capacities: list[int], shuffler: random.Random
) -> None:
    asks = [
        ask(f"j{at}", count, *capacities, priority=priority, weight=weight)
        for at, (count, priority, weight) in enumerate(jobs)
    ]
    made = plan_jobs(asks)
    shuffled = list(asks)
    shuffler.shuffle(shuffled)
    again = plan_jobs(shuffled)
    assert {job: one for job, one in made.items() if isinstance(one, Plan)} == {
        job: one for job, one in again.items() if isinstance(one, Plan)
    }
    for at, capacity in enumerate(capacities):
        name = f"n{at}"
        here = [
            key
            for one in made.values()
            if isinstance(one, Plan)
            for key in one.nodes[name].clients
            if key not in one.oversubscribed
        ]
        assert len(here) <= capacity
