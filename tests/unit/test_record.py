"""Rows of rounds: on disk as they come, in memory only until then, and what they come to."""

from __future__ import annotations

import gc
import json
import math
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from lifl.api.job import FLJob
from lifl.functions.layout import Layout
from lifl.placement import course
from lifl.placement.course import LAST_METRICS_S, Course
from lifl.placement.membership import Membership
from lifl.placement.planner import plan
from lifl.placement.record import PROGRESS_S, Recorder
from lifl.placement.rounds import Round
from lifl.placement.rows import cut_to_whole_lines, rows_of, summary_of
from lifl.placement.snapshot import Client, Node, Snapshot
from lifl.placement.store import Saved

MODEL = {"w": np.zeros(4, np.float32)}
PLAN = plan(
    Snapshot(
        nodes=(Node(name="node-0", capacity_updates=64),),
        clients=tuple(Client(key=f"key {n}", name=f"client-{n}") for n in range(16)), fan_in=2,
    )
)  # fmt: skip


def job(**spec: Any) -> FLJob:
    return FLJob.model_validate(
        {"apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": "rows"},
         "spec": {"rounds": 10_000, "model": {"initial": "m:f"}, **spec}}
    )  # fmt: skip


def play(record: Recorder, number: int, *, accuracy: float | None = None) -> None:
    """One round as the coordinator tells of it."""
    round_ = Round(number, {"node-0": 0xFFFF}, "node-0")
    record.start(round_, PLAN, epoch=1)
    reported = [(1.0, {"loss": 1 / number}, "a")]
    record.taken("node-0", {"again": False, "bytes": 100, "metrics": reported})
    round_.on_accepted("node-0", 0xFFFF)
    record.published(round_)
    record.take_unsaved()
    record.work("node-0", {
        "round": number, "handoffs": {"ebpf": 9}, "cold": 0, "zygote": int(number == 1),
        "warm": 2, "start_s": {"cold": 0.0, "zygote": 0.02 * (number == 1)},
        "work": {"fold_seconds": 0.5, "fold_bytes": 10}, "folds": [], "model_at": None,
    })  # fmt: skip
    if accuracy is not None:
        record.metrics(number, {"accuracy": accuracy})


def summary(record: Recorder) -> dict[str, Any]:
    layout = Layout.of(MODEL)
    return record.finish(layout, memoryview(bytearray(layout.update_bytes)), 1)


def test_progress_is_said_now_and_then_and_the_last_of_it_before_the_round_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    times = SimpleNamespace(monotonic=lambda: clock.now_s, time=lambda: clock.now_s)
    monkeypatch.setattr("lifl.placement.record.time", times)
    recorder = Recorder(job(), tmp_path, False)
    round_ = Round(1, {"node-0": 0xFFFF}, "node-0")
    recorder.start(round_, PLAN, epoch=1)

    def more(clients: int) -> None:
        round_.on_accepted("node-0", clients)
        recorder.progress(round_)

    def said() -> list[int]:
        events = map(json.loads, capsys.readouterr().out.splitlines())
        return [event["accepted"] for event in events if event["event"] == "progress"]

    more(0b1)
    assert (said(), recorder.next_word_at) == ([1], math.inf)
    more(0b11)
    more(0b111)
    assert (said(), recorder.next_word_at) == ([], 1000.0 + PROGRESS_S)
    clock.now_s += PROGRESS_S
    recorder.say_progress()
    assert (said(), recorder.next_word_at) == ([3], math.inf)
    more(0xFFFF)
    recorder.published(round_)
    assert said() == [16]


def test_memory_does_not_grow_with_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two thousand rows of this tree are more than 4 MB."""
    record = Recorder(job(stop={"metric": "loss", "atMost": 1e-9}), tmp_path, False)
    for number in range(1, 101):
        play(record, number)
    capsys.readouterr()
    tracemalloc.start()
    for number in range(101, 2101):
        play(record, number)
        if number % 100 == 0:
            capsys.readouterr()
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000
    assert len(record.rows) <= 1
    end = summary(record)
    assert (end["rounds"], end["updates"], end["bytes"]) == (2100, 2100 * 16, 210_000)
    assert (end["cold_starts"], end["zygote_starts"], end["warm_starts"]) == (0, 1, 4200)
    assert end["start_seconds"] == {"cold": 0.0, "zygote": pytest.approx(0.02)}
    assert end["handoffs"] == {"ebpf": 18_900, "unix": 0}
    assert end["metrics"] == {"loss": pytest.approx(1 / 2100)}
    assert end["accuracy"] is None
    assert end["evaluation"] == {}


def test_a_row_waits_for_its_figures_and_its_node(tmp_path: Path) -> None:
    record = Recorder(job(evaluator={"entrypoint": "m:f"}), tmp_path, True)
    play(record, 1)
    play(record, 2)
    assert list(rows_of(record.path)) == []
    record.metrics(2, {"accuracy": 0.5})  # the evaluator has skipped round 1
    assert [row["accuracy"] for row in rows_of(record.path)] == [None, 0.5]
    record.metrics(2, {"accuracy": 0.5})  # said again
    play(record, 3, accuracy=0.75)
    end = summary(record)
    assert (end["accuracy"], end["evaluation"], end["rounds"]) == (0.75, {"accuracy": 0.75}, 3)


def test_a_coordinator_that_comes_back_counts_what_is_on_disk(tmp_path: Path) -> None:
    """Also the time: its own is what the run took before, and what it takes now."""
    first = Recorder(job(), tmp_path, False)
    for number in (1, 2, 3):
        play(first, number)
    with first.path.open("a") as file:
        file.write('{"round": 4, "half')
    second = Recorder(job(), tmp_path, False)
    second.has_run_for(100.0)
    second.go_on(Saved(job="{}", rows={n: {"round": n} for n in (1, 2, 3)}))
    assert (second.rows, second.written) == ({}, 3)
    play(second, 4)
    end = summary(second)
    assert end["rounds"] == 4
    assert 100.0 <= end["wall_s"] < 160.0
    assert json.loads((tmp_path / "summary.json").read_text()) == end


@pytest.mark.parametrize(
    ("written", "whole"),
    [("", ""), ("half", ""), ("1\n", "1\n"), ("1\n2", "1\n"), ("1\n" + "x" * 200_000, "1\n")],
)
def test_half_a_line_is_cut_off(tmp_path: Path, written: str, whole: str) -> None:
    path = tmp_path / "rounds.jsonl"
    cut_to_whole_lines(path)  # not there: nothing to do
    path.write_text(written)
    cut_to_whole_lines(path)
    assert path.read_text() == whole


def test_the_last_figures_are_those_of_the_last_round_that_has_some() -> None:
    row = {"seconds": 1.0, "clients": 1, "accuracy": None, "bytes": 1, "handoffs": {"unix": 1},
           "cold_starts": 0, "warm_starts": 0, "metrics": {}}  # fmt: skip
    rows = [row | {"accuracy": 0.5, "evaluation": {"accuracy": 0.5}, "metrics": {"loss": 1.0}},
            row | {"seconds": 3.0}]  # fmt: skip
    said = summary_of(rows, evaluated=True)
    assert said["evaluations"] == {"measured": 1, "skipped": 1}
    without = summary_of([row], evaluated=False)
    assert without["evaluations"] == {"measured": 0, "skipped": 0}
    assert said["accuracy"] == 0.5
    assert said["evaluation"] == {"accuracy": 0.5}
    assert said["metrics"] == {"loss": 1.0}
    assert said["round_s_median"] == 2.0


# -- how long a run waits for what its last model is worth -------------------------------------
@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    """A job whose last round is over, and whose patience is, too, on a clock that stands still."""
    monkeypatch.setattr(course.time, "monotonic", lambda: 100.0)
    members = Membership({}, {}, ["observer"])
    record = Recorder(job(rounds=1, evaluator={"entrypoint": "m:f"}), tmp_path, True)
    nothing: Any = None
    found = Course(
        record.job, members, nothing, record, nothing, send=lambda *_: None,
        put_model=lambda *_: None, must_be_kept=lambda _: None, offer=lambda *_: None,
    )  # fmt: skip
    found.plan, found.done_at = cast(Any, object()), 99.0
    play(record, 1)
    return found


def test_who_measures_the_last_model_is_waited_for(
    late: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    late.members.is_observed = True
    for _ in range(3):
        late.done_at = 99.0
        late.wait_for_the_last_figures()
        assert not late.is_over
        assert late.done_at == 100.0 + LAST_METRICS_S
    assert capsys.readouterr().out.count("still measures the model of round 1") == 1
    late.record.metrics(1, {"accuracy": 0.5})
    late.wait_for_the_last_figures()
    assert late.is_over


def test_nobody_waits_for_an_evaluator_that_never_called(late: Course) -> None:
    late.wait_for_the_last_figures()
    assert late.is_over
