"""The phases of a round add up to its time, whatever nodes say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.functions.tally import Tally, merged
from lifl.metrics import PHASES
from lifl.placement.phases import Timeline, split
from lifl.shm.slots import Payload


def test_a_round_as_it_goes() -> None:
    timeline = Timeline()
    timeline.ingested("a", 1000.0, [(1001, 1002), (1003, 1004)])
    timeline.ingested("b", 50.0, [(53.5, 56)])  # another node's clock
    timeline.folded("a", [(1002, 1002.5), (1004, 1007), (1008, 1009)], 1009.0)
    timeline.folded("b", [(56, 56.5)], None)
    assert split(timeline, 10.0) == pytest.approx({
        "wait": 1.5,  # 0-1, 2.5-3
        "ingest": 4.0,  # 1-2, 3-6
        "fold": 2.5,  # 2-2.5, 6-7, 8-9
        "hand_off": 1.0,  # 7-8
        "publish": 1.0,
    })  # fmt: skip


def test_a_round_of_which_nothing_is_known_is_waiting() -> None:
    assert split(Timeline(), 3.0) == dict.fromkeys(PHASES, 0.0) | {"wait": 3.0}


def test_a_node_whose_gateway_said_nothing_is_left_out() -> None:
    timeline = Timeline()
    timeline.folded("a", [(7, 8)], 8.0)
    assert split(timeline, 2.0)["wait"] == 2.0


times = st.floats(-5, 30, allow_nan=False)
spans = st.lists(st.tuples(times, times).map(lambda pair: (min(pair), max(pair))), max_size=20)


@given(ingest=spans, fold=spans, model_at=st.none() | times, seconds=st.floats(0, 20))
def test_phases_add_up(
    ingest: list[tuple[float, float]], fold: list[tuple[float, float]],
    model_at: float | None, seconds: float,
) -> None:  # fmt: skip
    timeline = Timeline(ingest=ingest, fold=fold, model_at=model_at)
    phases = split(timeline, seconds)
    assert tuple(phases) == PHASES
    assert all(share >= 0 for share in phases.values())
    assert sum(phases.values()) == pytest.approx(seconds)


@given(spans, st.integers(1, 8))
def test_merged_spans_cover_the_same(given_spans: list[tuple[float, float]], most: int) -> None:
    union = merged(given_spans, most)
    assert len(union) <= most
    assert union == sorted(union)
    for start, end in given_spans:
        assert any(a <= start and end <= b for a, b in union)
    if given_spans:
        assert union[0][0] == min(start for start, _ in given_spans)
        assert max(end for _, end in union) == max(end for _, end in given_spans)


def test_the_smallest_gaps_are_closed_first() -> None:
    assert merged([(0, 1), (1.1, 2), (5, 6), (6.2, 7)], 3) == [(0, 2), (5, 6), (6.2, 7)]
    assert merged([(0, 1), (1.1, 2), (5, 6), (6.2, 7)], 2) == [(0, 2), (5, 7)]


def test_a_tally_counts_updates_apart_from_sums() -> None:
    tally = Tally()
    tally.start_round(4, elapsed_s=2.0)
    tally.accepted(Payload.UPDATE, 100, tally.round_began_at + 1)
    tally.accepted(Payload.SUM, 400, tally.round_began_at)
    tally.granted(tally.round_began_at, waited=True)
    assert len(tally.of_round()["ingest"]) == 1
    counts = tally.take()
    assert (counts["updates"], counts["update_bytes"]) == (1, 100)
    assert (counts["peer_sums"], counts["peer_sum_bytes"]) == (1, 400)
    assert counts["slot_waits"] == 1
    assert counts["slot_wait_seconds"] >= 2.0
    assert tally.take() == {}
    tally.start_round(5, elapsed_s=0.0)
    assert tally.of_round()["ingest"] == []
