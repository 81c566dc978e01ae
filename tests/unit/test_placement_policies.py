"""Formulas on examples worked by hand: capacity, residual capacity, the policies."""

from __future__ import annotations

import pytest

from lifl.errors import InvalidJob
from lifl.placement import policies
from lifl.placement.capacity import Capacity, capacity
from lifl.placement.snapshot import Node

MB, GB = 1e6, 1e9


@pytest.mark.parametrize(
    ("ingress_bytes_s", "fold_bytes_s", "slots", "expected"),
    [
        (1.25 * GB, 10 * GB, 8, Capacity(updates=8, bound_by="slots")),  # 26.7, 213
        (0.125 * GB, 10 * GB, 8, Capacity(updates=2, bound_by="ingress")),  # 2.67
        (1.25 * GB, 0.2 * GB, 8, Capacity(updates=4, bound_by="fold")),  # 4.27
        (0.001 * GB, 10 * GB, 8, Capacity(updates=1, bound_by="ingress")),  # 0.02, one always goes
        (1.25 * GB, 10 * GB, 0, Capacity(updates=0, bound_by="slots")),  # no room for a single one
    ],
)
def test_capacity_is_the_least_of_slots_fold_and_link(
    ingress_bytes_s: float, fold_bytes_s: float, slots: int, expected: Capacity
) -> None:
    assert expected == capacity(
        update_bytes=int(46.8 * MB),
        fold_bytes_s=fold_bytes_s,
        ingress_bytes_s=ingress_bytes_s,
        input_slots=slots,
    )


def test_capacity_grows_with_the_time_that_counts_as_served() -> None:
    one, four = (
        capacity(
            update_bytes=100,
            fold_bytes_s=1000.0,
            ingress_bytes_s=300.0,
            input_slots=64,
            service_s=service_s,
        )
        for service_s in (1.0, 4.0)
    )
    assert (one.updates, four.updates) == (3, 12)


def test_an_update_without_bytes_is_bound_by_slots() -> None:
    figures = capacity(update_bytes=0, fold_bytes_s=1.0, ingress_bytes_s=1.0, input_slots=5)
    assert figures == Capacity(updates=5, bound_by="slots")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_capacity_refuses_what_was_not_measured(rate: float) -> None:
    with pytest.raises(ValueError, match="measured"):
        capacity(update_bytes=1, fold_bytes_s=1.0, ingress_bytes_s=rate, input_slots=1)


# MC 10, half used by other jobs; MC 8 idle; MC 4 idle
BUSY = Node(name="a", capacity_updates=10, arrival_per_s=2.5, service_s=2.0)
LARGE = Node(name="b", capacity_updates=8)
SMALL = Node(name="c", capacity_updates=4)


def test_residual_is_capacity_less_what_is_in_service() -> None:
    assert policies.residual(BUSY, 0) == 5.0
    assert policies.residual(BUSY, 3) == 2.0
    assert policies.residual(SMALL, 6) == -2.0


def test_one_more_fits_up_to_the_last_place() -> None:
    assert policies.fits(SMALL, 3)
    assert not policies.fits(SMALL, 4)
    rounded = Node(name="r", capacity_updates=8, arrival_per_s=0.1 * 3, service_s=10.0)
    assert policies.fits(rounded, 4)  # 8 − 3.0000000000000004 − 4
    assert not policies.fits(rounded, 5)


@pytest.mark.parametrize(
    ("name", "placed", "chosen"),
    [
        ("bestfit", (0, 0, 0), "c"),  # RC 5, 8, 4
        ("bestfit", (2, 0, 0), "a"),  # RC 3, 8, 4
        ("firstfit", (3, 0, 0), "a"),
        ("worstfit", (0, 0, 0), "b"),  # RC 5, 8, 4
        ("worstfit", (0, 4, 0), "a"),  # RC 5, 4, 4
        ("least-connections", (0, 0, 0), "b"),  # in service 5, 0, 0
        ("least-connections", (0, 3, 1), "c"),  # in service 5, 3, 1
    ],
)
def test_policy_chooses(name: str, placed: tuple[int, int, int], chosen: str) -> None:
    rank = policies.policy(name)
    nodes = zip((BUSY, LARGE, SMALL), placed, strict=True)
    assert chosen == min((rank(node, count), node.name) for node, count in nodes)[1]


def test_unknown_policy_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidJob, match=r"'tightest'.*bestfit, firstfit"):
        policies.policy("tightest")
