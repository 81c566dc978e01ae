"""What a job names and cannot be used: one sentence with file, line and field."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl.api.load import load_job
from lifl.api.named import evaluator_of
from lifl.errors import InvalidJob
from lifl.placement.trial import try_out
from lifl.trainer import Trial

JOB = """\
apiVersion: fl.lifl.dev/v1alpha1
kind: FLJob
metadata: {name: tried}
spec:
  model:
    initial: tried_job:model
  evaluator:
    entrypoint: tried_job:evaluate
  memory: {arenaBytes: 256Ki}
"""
CODE = """\
import numpy as np
def model():
    return {"w": np.zeros(10)}
def evaluate(model):
    return {"accuracy": 0.5}
"""
RETURN, FIGURES = 'return {"w": np.zeros(10)}', 'return {"accuracy": 0.5}'
MODEL = "line 6: spec.model.initial must return a dict of NumPy arrays by name, and tried_job:model"
NUMBERS = (
    'line 8: spec.evaluator.entrypoint must return a dict of numbers by name, such as '
    '{"accuracy": 0.96}, and tried_job:evaluate returned'
)  # fmt: skip


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def tried(folder: Path, code: str, more: str = "") -> list[str]:
    (folder / "tried_job.py").write_text(code)
    (folder / "job.yaml").write_text(JOB + more)
    return try_out(load_job(folder / "job.yaml"), folder / "job.yaml")


def test_a_good_one(tmp_path: Path) -> None:
    assert tried(tmp_path, CODE, "  stop: {metric: accuracy, atLeast: 0.9}\n") == []


@pytest.mark.parametrize("what", ["np.full(3, np.nan, np.float16)", "np.array([1, np.inf])"])
def test_a_model_that_is_not_finite(tmp_path: Path, what: str) -> None:
    code = CODE.replace(RETURN, f'return {{"a": np.zeros(2, bool), "b": {what}}}')
    with pytest.raises(InvalidJob) as caught:
        tried(tmp_path, code)
    assert str(caught.value).endswith(
        "line 6: spec.model.initial must return finite numbers, and tried_job:model returned NaN "
        "or infinity in 'b'"
    )
    assert tried(tmp_path, code, "  aggregation: {nonFinite: accept}\n") == []


def test_a_goal_that_the_evaluator_does_not_report(tmp_path: Path) -> None:
    """It is no error: clients may."""
    (note,) = tried(tmp_path, CODE, "  stop: {metric: acuracy, atLeast: 0.9}\n")
    assert note.startswith("spec.stop.metric is 'acuracy', and tried_job:evaluate returns accuracy")


@pytest.mark.parametrize(
    ("there", "instead", "sentence"),
    [
        (RETURN, "return None", f"{MODEL} returned None"),
        (RETURN, "return {}", f"{MODEL} returned an empty dict"),
        (RETURN, "return np.zeros(3)", f"{MODEL} returned an ndarray"),
        (RETURN, "return {'a': [1, 2]}", f"{MODEL} returned a list as 'a'"),
        (RETURN, "return {'a': {'w': np.zeros(3)}}",
         f"{MODEL} returned a dict as 'a': give each array a name of its own, such as 'a.weight'"),
        (RETURN, "return {'a': np.array([None])}", "tensor 'a' has dtype object"),
        (RETURN, "return 1 / 0",
         "line 6: spec.model.initial: tried_job:model failed at {folder}/tried_job.py:3: "
         "ZeroDivisionError: division by zero"),
        ("def model", "def modle", "line 6: spec.model.initial: {folder}/tried_job.py has no"),
        ("import numpy", "import nunpy", "line 6: spec.model.initial: module 'tried_job' needs"),
        (RETURN, 'return {"w": np.zeros(10_000)}',
         "line 9: spec.memory.arenaBytes: 262144 bytes are too few"),
        (FIGURES, "return None", f"{NUMBERS} None"),
        (FIGURES, "return model['w']", f"{NUMBERS} an ndarray"),
        (FIGURES, "return {'accuracy': 'good'}", f"{NUMBERS} a str as 'accuracy'"),
        (FIGURES, "raise ValueError('x')",
         "line 8: spec.evaluator.entrypoint: tried_job:evaluate failed at "
         "{folder}/tried_job.py:5: ValueError: x"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(tmp_path: Path, there: str, instead: str, sentence: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        tried(tmp_path, CODE.replace(there, instead))
    said = str(caught.value)
    assert f"job.yaml, {sentence}".replace("{folder}", str(tmp_path)) in said or (
        sentence in said and "tensor" in sentence
    )
    assert said.count("job.yaml") == 1


def test_an_evaluator_is_tried_with_arrays_whatever_the_model_is_made_of(tmp_path: Path) -> None:
    """As it gets every later model: np.float64 stands for a torch tensor here."""
    (tmp_path / "tried_job.py").write_text(
        CODE.replace(RETURN, 'return {"w": np.float64(3)}').replace(
            FIGURES, "assert type(model['w']) is np.ndarray, type(model['w'])\n    " + FIGURES
        )
    )
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    job = load_job(path)
    assert try_out(job, path) == []
    Trial(job, path).run(evaluator_of(job, path))
