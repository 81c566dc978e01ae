"""Client selection: how many, which, and independent of what."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import Busy
from lifl.placement.history import History, Seen
from lifl.placement.selection import enough, oort, over_provisioned, power_of_choice, select

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


# -- by what clients have shown ---------------------------------------------------------------
def shown(losses: dict[str, float | None], *, times: dict[str, float] | None = None) -> History:
    history = History()
    for number, (key, loss) in enumerate(losses.items()):
        metrics = {} if loss is None else {"loss": loss}
        history.accepted(1, (times or {}).get(key, 1.0 + number / 1000), [(1.0, metrics, key)])
    return history


def drawn_often(
    rounds: int, choose: Callable[[int], list[str]], *, count: int
) -> Counter[str]:  # fmt: skip
    often: Counter[str] = Counter()
    for number in range(1, rounds + 1):
        chosen = choose(number)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == count
        often.update(chosen)
    return often


def test_power_of_choice_prefers_high_losses_and_draws_the_unknown_first() -> None:
    keys = [f"k{at}" for at in range(10)]
    history = shown({key: float(at) for at, key in enumerate(keys)})
    often = drawn_often(
        400, lambda n: power_of_choice(keys, history.clients, count=2, round=n, seed=1), count=2
    )
    assert often["k9"] > often["k7"] > often["k5"] > often["k3"]
    assert often["k0"] == often["k1"] == 0  # of four that are drawn two are always higher
    # the highest of ten wins whenever it is among the four drawn: 0.4 · 400 ± 3 · 9.8
    assert 130 < often["k9"] < 190
    del history.clients["k0"]
    often = drawn_often(
        400, lambda n: power_of_choice(keys, history.clients, count=2, round=n, seed=1), count=2
    )
    assert 130 < often["k0"] < 190


def test_power_of_choice_draws_candidates_by_weight() -> None:
    keys = [f"k{at}" for at in range(10)]
    seen = {key: Seen(round=1, weight=1.0, loss=1.0, time_s=1.0) for key in keys}
    seen["k0"] = replace(seen["k0"], weight=20.0)
    often = drawn_often(
        300, lambda n: power_of_choice(keys, seen, count=1, round=n, seed=1), count=1
    )
    # of two candidates one is nearly always k0, which of the two is then a toss
    assert 120 < often["k0"] < 180


def test_oort_explores_less_and_less_and_exploits_loss() -> None:
    keys = [f"k{at:02}" for at in range(40)]
    history = shown({key: float(at) for at, key in enumerate(keys[:20])})
    first = oort(keys, history, count=10, round=1, seed=1)
    assert sum(key >= "k20" for key in first) == 9  # ε = 0.9
    late = oort(keys, history, count=10, round=200, seed=1)
    assert sum(key >= "k20" for key in late) == 2  # ε = 0.2
    assert {key for key in late if key < "k20"} <= {f"k{at:02}" for at in range(10, 20)}


def test_oort_leaves_out_the_slow() -> None:
    keys = [f"k{at}" for at in range(10)]
    losses: dict[str, float | None] = dict.fromkeys(keys, 1.0)
    history = shown(losses, times=dict.fromkeys(keys[:3], 100.0))
    often = drawn_often(100, lambda n: oort(keys, history, count=5, round=n, seed=1), count=5)
    assert not {"k0", "k1", "k2"} & set(often)


def test_oort_looks_again_at_what_it_saw_long_ago() -> None:
    """Equal utilities: the one seen in round 1 has the larger bonus in round 100."""
    history = History()
    for key, number in (("old", 1), ("new", 90)):
        history.accepted(number, 1.0, [(1.0, {"loss": 1.0}, key)])
    assert oort(["new", "old"], history, count=1, round=100, seed=1) == ["old"]


def test_the_pacer_allows_more_time_when_utility_runs_dry() -> None:
    keys = [f"k{at}" for at in range(10)]
    history = shown(dict.fromkeys(keys, 1.0), times={k: 1.0 + at for at, k in enumerate(keys)})
    history.utilities = {number: 10.0 if number <= 20 else 1.0 for number in range(1, 61)}

    def cut_off(round_: int) -> set[str]:
        return set(drawn_often(1, lambda _: oort(keys, history, count=4, round=round_, seed=1),
                               count=4))  # fmt: skip

    early = {number: cut_off(number) for number in range(30, 40)}
    late = {number: cut_off(number) for number in range(42, 60)}
    assert set().union(*early.values()) == {"k0", "k1", "k2", "k3"}  # the rest is too slow
    assert set().union(*late.values()) == {"k0", "k1", "k2", "k3", "k4"}


def test_a_client_without_a_loss_counts_by_its_weight() -> None:
    assert Seen(round=1, weight=3.0, loss=None, time_s=1.0).utility == 3.0
    assert Seen(round=1, weight=3.0, loss=-2.0, time_s=1.0).utility == 6.0


def test_what_is_told_again_counts_once() -> None:
    history = History()
    history.accepted(1, 1.0, [(2.0, {}, "a")])
    history.accepted(1, 9.0, [(2.0, {"loss": 0.5}, "a"), (1.0, {"loss": math.nan}, "b")])
    assert history.clients["a"] == Seen(round=1, weight=2.0, loss=0.5, time_s=1.0)
    assert history.clients["b"].loss is None
    assert history.utilities == {1: 3.0}


@reproducible
@given(
    st.sets(st.sampled_from(KEYS), min_size=1),
    st.dictionaries(st.sampled_from(KEYS), st.floats(0, 1e6), max_size=20),
    st.integers(1, 500),
    st.data(),
)
def test_any_history_gives_so_many_of_those_that_are_there(
    keys: set[str], losses: dict[str, float | None], round_: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(keys)))
    history = shown(losses)
    for chosen in (
        oort(list(keys), history, count=count, round=round_, seed=1),
        power_of_choice(list(keys), history.clients, count=count, round=round_, seed=1),
    ):
        assert len(chosen) == count
        assert set(chosen) <= keys
        assert chosen == sorted(chosen)


@pytest.mark.parametrize(
    ("count", "of", "factor", "drawn", "closes_with"),
    [(10, 100, 1.3, 13, 10), (10, 11, 1.3, 11, 9), (10, 10, 1.0, 10, None), (3, 100, 2.0, 6, 3)],
)
def test_over_provisioning(
    count: int, of: int, factor: float, drawn: int, closes_with: int | None
) -> None:
    assert over_provisioned(count, of=of, factor=factor) == drawn
    assert enough(drawn, factor=factor, minimum=1) == closes_with
    assert enough(drawn, factor=factor, minimum=9) in (None, 9, 10, drawn)
