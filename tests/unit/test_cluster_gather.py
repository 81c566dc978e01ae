"""The figures of several coordinators as one text."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from lifl.metrics import Figures
from lifl.placement.cluster.gather import fetched, together
from lifl.placement.exposition import text as rendered
from lifl.placement.operator import own_figures


def text(rounds: int) -> str:
    figures = Figures("coordinator")
    figures.add("lifl_rounds", rounds)
    figures.observe("lifl_round_seconds", 0.3)
    return rendered(figures)[0].decode()


def test_each_figure_says_whose_it_is_and_each_family_is_there_once() -> None:
    own = own_figures(leads=True)
    own.add("lifl_sink_events", 4, outcome="dropped")
    said = together({"a/toy": text(3), "toy": text(5)}, own)
    found = {f.name: f for f in text_string_to_metric_families(said)}
    rounds = {s.labels["fljob"]: s.value for s in found["lifl_rounds"].samples
              if s.name.endswith("_total")}  # fmt: skip
    assert rounds == {"a/toy": 3, "toy": 5}
    assert found["lifl_round_seconds"].type == "histogram"
    assert found["lifl_operator_leads"].samples[0].value == 1
    dropped = found["lifl_sink_events"].samples[0]
    assert (dropped.name, dropped.labels, dropped.value) == (
        "lifl_sink_events_total", {"outcome": "dropped"}, 4,
    )  # fmt: skip
    assert said.count("# TYPE lifl_rounds_total") == 1


def test_a_coordinator_that_does_not_answer_is_left_out() -> None:
    assert fetched({"toy": "http://127.0.0.1:1/metrics"}) == {}
