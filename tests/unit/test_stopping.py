"""When a job ends early, and which settings hold in a round."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lifl.api.entrypoints import check_parameters, takes_round
from lifl.api.job import Change, Clients, Model, Spec, Stop, Trainer
from lifl.api.load import load_job
from lifl.errors import InvalidJob
from lifl.placement.rounds import Order, Round
from lifl.placement.stopping import Watch, verdict
from lifl.placement.tree import leaf_count, wide_enough

HIGH = Stop(metric="accuracy", at_least=0.9)
LOW = Stop(metric="loss", at_most=0.5, patience=2)


@pytest.mark.parametrize(
    ("stop", "values", "why"),
    [
        (None, {1: 1.0}, None),
        (HIGH, {}, None),
        (HIGH, {1: 0.5, 2: 0.89}, None),
        (HIGH, {1: 0.5, 2: 0.9}, "accuracy was 0.9 in round 2; the goal is at least 0.9"),
        (HIGH, {1: 0.95, 2: 0.2}, "accuracy was 0.95 in round 1; the goal is at least 0.9"),
        (HIGH, {1: 0.8, 2: 0.7, 3: 0.6, 9: 0.5}, None),  # without patience it goes on
        (LOW, {1: 2.0, 2: 1.0, 3: 1.0}, None),
        (LOW, {1: 2.0, 2: 1.0, 3: 1.0, 5: 1.5},
         "loss has not been better than 1 of round 2 for 2 measured rounds; patience is 2"),
        (LOW, {1: 2.0, 2: 3.0, 3: 1.0, 4: 1.5}, None),
        (LOW, {1: 2.0, 2: 0.5}, "loss was 0.5 in round 2; the goal is at most 0.5"),
    ],
)  # fmt: skip
def test_verdict(stop: Stop | None, values: dict[int, float], why: str | None) -> None:
    assert verdict(stop, values) == why


NUMBERS = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


@given(values=NUMBERS, low=st.booleans(), patience=st.none() | st.integers(1, 4))
def test_what_is_kept_decides_as_everything_would(
    values: list[float], low: bool, patience: int | None
) -> None:
    stop = Stop(metric="x", patience=patience, **{"at_most" if low else "at_least": 0.0})
    watch, known = Watch(stop, evaluated=False, rounds=99), dict[int, float]()
    for number, value in enumerate(values, 1):
        known[number] = value
        watch.take(number, {"x": value}, None)
        assert watch.verdict() == verdict(stop, known)
        if watch.verdict() is not None:
            return
        assert len(watch._values["clients"]) <= (patience or 1)


def test_the_evaluators_figure_goes_before_that_of_clients() -> None:
    watch = Watch(HIGH, evaluated=True, rounds=9)
    watch.take(1, {"accuracy": 0.99}, None)
    assert watch.verdict() is None  # the evaluator may report it, too
    watch.take(1, {"accuracy": 0.99}, {"accuracy": 0.5})
    assert watch.verdict() is None
    watch.take(2, {}, {"accuracy": 0.91})
    assert watch.verdict() == "accuracy was 0.91 in round 2; the goal is at least 0.9"
    other = Watch(HIGH, evaluated=True, rounds=9)
    other.take(1, {"accuracy": 0.99}, {"loss": 0.5})
    assert other.verdict() == "accuracy was 0.99 in round 1; the goal is at least 0.9"


def test_a_misspelt_metric_is_said_once_with_the_names_that_there_are() -> None:
    watch = Watch(Stop(metric="acuracy", at_least=0.9), evaluated=True, rounds=9)
    watch.take(1, {"loss": 1.0}, None)
    assert watch.unheard_of(1) is None  # the evaluator is still to come
    watch.take(2, {"loss": 1.0}, {"accuracy": 0.5})
    assert watch.unheard_of(2) == (
        "spec.stop.metric is 'acuracy', which nobody has reported by round 2 (evaluator: accuracy, "
        "clients: loss); unless somebody does, all 9 rounds are run"
    )
    assert watch.unheard_of(3) is None
    silent = Watch(HIGH, evaluated=False, rounds=9)
    silent.take(1, {}, None)
    assert "by round 1 (clients: nothing);" in str(silent.unheard_of(1))
    right = Watch(HIGH, evaluated=False, rounds=9)
    right.take(1, {"accuracy": 0.1}, None)
    assert right.unheard_of(1) is None


def test_a_goal_is_one_of_two() -> None:
    for goals in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValidationError, match="atLeast"):
            Stop(metric="loss", **goals)


def test_changes_add_up_round_by_round() -> None:
    trainer = Trainer(
        entrypoint="m:f", args={"rate": 0.1, "epochs": 2},
        schedule=(Change(from_round=3, args={"rate": 0.05}),
                  Change(from_round=5, args={"rate": 0.01, "frozen": True})),
    )  # fmt: skip
    assert trainer.settings(1) == trainer.settings(2) == {"rate": 0.1, "epochs": 2}
    assert trainer.settings(3) == trainer.settings(4) == {"rate": 0.05, "epochs": 2}
    assert trainer.settings(99) == {"rate": 0.01, "epochs": 2, "frozen": True}
    assert trainer.args == {"rate": 0.1, "epochs": 2}


SMALL = """\
apiVersion: fl.lifl.dev/v1alpha1
kind: FLJob
metadata: {name: a}
spec:
  model: {initial: "m:f"}
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("  trainer: {entrypoint: 'm:f', clients: 5000}", "at most 4096; with workers: 2"),
        ("  trainer: {entrypoint: 'm:f', clients: 2, workers: 3}", "workers is 3, above clients"),
        ("  trainer: {entrypoint: 'm:f', clients: 100001, workers: 3}", "at most 100000"),
        ("  clients: {min: 4, max: 3}", "clients.max is 3, below clients.min, 4"),
        ("  trainer:\n    entrypoint: 'm:f'\n    schedule:\n    - {fromRound: 2, args: {}}\n"
         "    - {fromRound: 2, args: {}}", "each must be above the one before"),
        ("  trainer:\n    entrypoint: 'm:f'\n    schedule:\n    - {fromRound: 0, args: {}}",
         "line 9: spec.trainer.schedule.0.fromRound is 0: it must be at least 1"),
        ("  trainer: {entrypoint: 'm:f', schedule: 3}", "schedule is 3: it must be a list"),
        ("  stop: {metric: loss}", 'must have one of "atLeast" and "atMost", and has neither'),
    ],
)  # fmt: skip
def test_what_a_wrong_job_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SMALL + text + "\n")
    with pytest.raises(InvalidJob) as caught:
        load_job(path)
    assert sentence in str(caught.value)


def test_how_many_keys_a_run_makes() -> None:
    model = Model(initial="m:f")
    assert Spec(model=model, clients=Clients(min=3)).client_count == 3
    assert Spec(model=model, clients=Clients(min=3, max=9)).client_count == 9
    trainer = Trainer(entrypoint="m:f", clients=5)
    assert Spec(model=model, trainer=trainer).client_count == 5
    assert Spec(model=model, trainer=trainer, clients=Clients(max=7)).client_count == 7


def test_workers_need_a_function_of_two_parameters() -> None:
    def loop(client: object) -> None: ...
    def fit(client: object, round_: object, extra: int = 1) -> None: ...
    def nothing() -> None: ...

    alone = Trainer(entrypoint="m:f", clients=4)
    shared = Trainer(entrypoint="m:f", clients=4, workers=2)
    assert (takes_round(loop), takes_round(fit)) == (False, True)
    check_parameters(alone, loop)
    check_parameters(alone, fit)
    check_parameters(shared, fit)
    with pytest.raises(InvalidJob, match=r"trainer.workers is 2: a worker calls it with \(client"):
        check_parameters(shared, loop)
    with pytest.raises(InvalidJob, match="takes 0 parameters"):
        check_parameters(alone, nothing)


def test_leaves_follow_from_what_can_be_under_way_at_once() -> None:
    assert wide_enough(1000, 4, 2) == 1000  # one leaf
    assert leaf_count(1000, wide_enough(1000, 4, 16)) == 4
    assert leaf_count(3, wide_enough(3, 2, 100)) == leaf_count(3, 2)
    assert wide_enough(0, 4, 2) == 4


def test_a_round_does_not_wait_for_those_who_send_nothing() -> None:
    round_ = Round(1, {"a": 0b0011, "b": 0b1100}, "a")
    assert round_.on_accepted("a", 0b0001) == []
    assert round_.on_accepted("b", 0b0100, excused=0b1000) == []
    orders = round_.on_accepted("a", 0b0001, excused=0b0010)
    assert orders == [Order("b", "close"), Order("a", "cut")]
    assert not round_.is_starved


def test_a_round_in_which_too_few_send_is_starved() -> None:
    round_ = Round(1, {"a": 0b0011, "b": 0b0100}, "a", minimum=2)
    round_.on_accepted("a", 0b0001, excused=0b0010)
    assert not round_.is_starved
    assert round_.on_accepted("b", 0, excused=0b0100) == []
    assert round_.is_starved
