"""The crash protocol's properties hold in every state, and each of its rules is needed.

Searches every small configuration in two processes, once, and asserts on the results.  The
larger ones are searched by `python3 -m tests.model --full`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from lifl.faults import POINTS
from tests.model.configs import QUICK, WITHOUT
from tests.model.control import Model
from tests.model.rules import REDUNDANT, RULES
from tests.model.search import Result, explore
from tests.model.world import OPEN, SEALED, Config, Slot, put

pytestmark = pytest.mark.timeout(600)  # the first test to ask waits for the pool
Searches = dict[str, "Future[Result]"]


@pytest.fixture(scope="module")
def searches() -> Iterator[Searches]:
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    try:
        yield {config.name: pool.submit(explore, config) for config in (*QUICK, *WITHOUT.values())}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name)
def test_every_state_keeps_the_properties(config: Config, searches: Searches) -> None:
    result = searches[config.name].result()
    assert not result.violation, "\n".join((result.violation, *result.trace))


def test_a_crash_is_followed_after_every_fault_point(searches: Searches) -> None:
    followed = frozenset().union(*(searches[config.name].result().points for config in QUICK))
    assert followed == set(POINTS)


@pytest.mark.parametrize("rule", sorted(set(RULES) - REDUNDANT))
def test_without_the_rule_something_goes_wrong(rule: str, searches: Searches) -> None:
    result = searches[WITHOUT[rule].name].result()
    assert result.violation[:2] in {"S1", "S2", "S3", "S4", "L1"}, f"{rule} is not missed"
    assert result.trace


@pytest.mark.parametrize("rule", sorted(REDUNDANT))
def test_a_redundant_rule_is_not_missed(rule: str, searches: Searches) -> None:
    assert not searches[WITHOUT[rule].name].result().violation


def test_the_top_has_a_third_slot() -> None:
    """The published model keeps one; the accumulator alternates between the other two."""
    model = Model(Config(name=""))
    world = model.start()
    a, b, c = model.own[model.top]
    held = world._replace(slots=put(world.slots, a, Slot(gen=4, phase=SEALED)))
    assert model.newest(held, 0) == a
    assert model.free_sum(held, 0, a) == b
    folded = held._replace(slots=put(held.slots, b, Slot(gen=5, phase=OPEN)))
    assert model.newest(folded, 0) == b
    assert model.free_sum(folded, 0, b) == c
