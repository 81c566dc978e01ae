"""`fanIn: auto`: what the model says by hand, and that the choice is its minimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.placement.fanin import Means, Work, choose, leaves_bound, seconds
from lifl.placement.planner import plan
from lifl.placement.snapshot import Client, Node, Snapshot

MB = 1_000_000
WORK = Work(update_bytes=100 * MB, sum_bytes=100 * MB, start_s=0.0, handoff_s=0.0)
# memory 10 GB/s for each core; a link that brings an update in 0.1 s, or in 1 ms
SLOW = Means(cores=4, input_slots=8, fold_bytes_s=8e9, ingress_bytes_s=1e9)
FAST = replace(SLOW, ingress_bytes_s=1e11)

reproducible = settings(derandomize=True, deadline=None)


def test_by_hand_behind_a_slow_link() -> None:
    """8 · 0.1 s for the link, 0.03 s for the last fold, 0.02 s for the top."""
    assert seconds(8, 1, WORK, SLOW) == pytest.approx(0.85)
    assert seconds(8, 2, WORK, SLOW) == pytest.approx(0.85 + 0.03)  # and a middle


def test_by_hand_where_folding_is_slow() -> None:
    """8 pairs' work of 0.02 s on one leaf, on two, and on four of four cores."""
    assert seconds(8, 1, WORK, FAST) == pytest.approx(8 * 0.02 + 0.02)
    assert seconds(8, 2, WORK, FAST) == pytest.approx(4 * 0.02 + 0.03 + 0.02)
    assert seconds(8, 4, WORK, FAST) == pytest.approx((8 * 0.02 + 4 * 0.02) / 4 + 0.03 + 0.02)


def test_lazy_folds_when_all_are_there() -> None:
    lazy = replace(WORK, lazy=True)
    assert seconds(8, 1, lazy, SLOW) == pytest.approx(0.8 + 0.09 + 0.02)
    assert seconds(8, 4, lazy, SLOW) == pytest.approx(0.8 + 0.03 + 0.05 + 0.02)


def test_starts_are_spread_over_cores_and_rounds() -> None:
    starting = replace(WORK, start_s=0.4, rounds=10)
    cold = seconds(8, 4, starting, FAST) - seconds(8, 4, WORK, FAST)
    assert cold == pytest.approx(2 * 0.4 / 10)  # 6 roles on 4 cores: twice
    warm = replace(FAST, runtimes_warm=6)
    assert seconds(8, 4, starting, warm) == seconds(8, 4, WORK, FAST)


def test_one_leaf_where_the_link_is_slow_and_one_for_each_core_where_folding_is() -> None:
    assert choose(8, WORK, SLOW).leaves == 1
    assert choose(64, WORK, FAST).leaves == 4
    assert choose(64, WORK, replace(FAST, input_slots=3)).leaves == 3


def test_nobody_and_nothing_measured() -> None:
    assert choose(0, WORK, SLOW).fan_in == 1
    assert choose(9, WORK, replace(SLOW, fold_bytes_s=0.0)).fan_in == 9
    assert leaves_bound(cores=4, input_slots=0) == 4


@reproducible
@given(
    clients=st.integers(1, 300),
    cores=st.integers(1, 16),
    slots=st.integers(1, 16),
    fold=st.sampled_from([1e8, 1e9, 1e10]),
    ingress=st.sampled_from([1e7, 1e9, 1e11]),
    lazy=st.booleans(),
    warm=st.integers(0, 9),
)
def test_the_choice_is_the_least_of_what_can_be(
    *, clients: int, cores: int, slots: int, fold: float, ingress: float, lazy: bool, warm: int
) -> None:
    work = Work(update_bytes=MB, sum_bytes=2 * MB, lazy=lazy)
    means = Means(
        cores=cores, input_slots=slots, fold_bytes_s=fold, ingress_bytes_s=ingress,
        runtimes_warm=warm,
    )  # fmt: skip
    made = choose(clients, work, means)
    assert made.leaves == -(-clients // made.fan_in) <= min(clients, cores, slots)
    for leaves in range(1, min(clients, cores, slots) + 1):
        if -(-clients // -(-clients // leaves)) == leaves:
            assert made.expected_s <= seconds(clients, leaves, work, means)


def test_each_node_of_a_plan_gets_its_own() -> None:
    nodes = tuple(
        Node(
            name=name, capacity_updates=8, cores=cores, input_slots=8, fold_bytes_s=8e9,
            ingress_bytes_s=1e11,
        )
        for name, cores in (("large", 4), ("small", 1))
    )  # fmt: skip
    clients = tuple(Client(key=f"k{at:02}") for at in range(16))
    made = plan(Snapshot(nodes=nodes, clients=clients, fan_in=None, work=WORK))
    leaves = {
        name: sum(role.kind == "leaf" for role in node.roles) for name, node in made.nodes.items()
    }
    assert leaves == {"large": 3, "small": 1}  # 8 · 0.02 s / 4 cores and three sums, not four
    again = plan(Snapshot(nodes=nodes, clients=clients, fan_in=None, work=WORK, previous=made))
    assert again.nodes == made.nodes


def test_newcomers_in_mid_round_move_nobody_though_the_choice_is_another() -> None:
    node = Node(
        name="n", capacity_updates=20, cores=4, input_slots=8, fold_bytes_s=8e9,
        ingress_bytes_s=1e11,
    )  # fmt: skip
    clients = tuple(Client(key=f"k{at:02}") for at in range(13))
    first = plan(Snapshot(nodes=(node,), clients=clients[:1], fan_in=None, work=WORK))
    second = plan(
        Snapshot(
            nodes=(node,), clients=clients, fan_in=None, work=WORK, previous=first, mid_round=True
        )
    )
    (leaf,) = (role.endpoint for role in first.nodes["n"].roles if role.kind == "leaf")
    assert second.nodes["n"].lanes["k00"] == leaf
    assert set(second.nodes["n"].lanes) == {client.key for client in clients}


def test_without_fan_in_there_is_work_to_choose_by() -> None:
    with pytest.raises(ValueError, match="chosen by what work costs"):
        Snapshot(nodes=(), clients=(), fan_in=None)
