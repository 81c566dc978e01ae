"""Client selection: how many, which, and independent of what."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import Busy
from lifl.placement.selection import select

KEYS = [f"key-{number}" for number in range(100)]

reproducible = settings(derandomize=True, deadline=None)


@pytest.mark.parametrize(
    ("fraction", "minimum", "count"),
    [(1.0, 1, 100), (0.1, 1, 10), (0.07, 1, 7), (0.101, 1, 11), (0.001, 0, 1), (0.1, 25, 25)],
)
def test_how_many(fraction: float, minimum: int, count: int) -> None:
    assert len(select(KEYS, fraction=fraction, minimum=minimum, round=1, seed=7)) == count


@reproducible
@given(
    st.lists(st.text(), min_size=1, unique=True),
    st.floats(0.01, 1.0),
    st.integers(0, 100),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)
def test_same_draw_whatever_the_order_of_arrival(
    keys: list[str], fraction: float, round_: int, seed: int, shuffler: random.Random
) -> None:
    chosen = select(keys, fraction=fraction, minimum=1, round=round_, seed=seed)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(keys)
    shuffled = [*keys, keys[0]]
    shuffler.shuffle(shuffled)
    assert chosen == select(shuffled, fraction=fraction, minimum=1, round=round_, seed=seed)


def test_rounds_and_seeds_draw_differently() -> None:
    draws = {
        tuple(select(KEYS, fraction=0.2, minimum=1, round=round_, seed=seed))
        for round_ in range(10)
        for seed in range(10)
    }
    assert len(draws) == 100


def test_every_client_is_as_likely() -> None:
    rounds = 2000
    drawn = Counter(
        key
        for round_ in range(rounds)
        for key in select(KEYS, fraction=0.1, minimum=1, round=round_, seed=3)
    )
    # binomial(2000, 0.1): mean 200, standard deviation 13.4; five of those either way
    assert all(133 < drawn[key] < 267 for key in KEYS)


def test_one_client_that_leaves_displaces_at_most_one() -> None:
    before = set(select(KEYS, fraction=0.5, minimum=50, round=1, seed=1))
    for gone in KEYS:
        after = set(
            select([k for k in KEYS if k != gone], fraction=0.5, minimum=50, round=1, seed=1)
        )
        assert len(before - after - {gone}) == 0


@pytest.mark.parametrize(("keys", "minimum"), [([], 0), ([], 3), (["a", "b", "a"], 3)])
def test_too_few_is_busy(keys: list[str], minimum: int) -> None:
    with pytest.raises(Busy, match="wait for more"):
        select(keys, fraction=1.0, minimum=minimum, round=1, seed=1)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        select(KEYS, fraction=fraction, minimum=1, round=1, seed=1)
