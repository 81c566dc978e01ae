"""What a job names, and complaints about it that begin with file, line and field.

Owns importing trainer and evaluator, and what an evaluator may return.  What an initial model may
be is placement/record.py's.  Called by the trainers' process, the coordinator and `lifl validate`,
which so say the same.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifl.api.entrypoints import check_parameters, entrypoint, what
from lifl.api.job import FLJob
from lifl.api.source import read
from lifl.errors import InvalidJob, LiflError

Figures = Callable[[dict[str, Any]], dict[str, float]]


@contextmanager
def at_field(job_path: Path, *field: str) -> Iterator[None]:
    """Say where in the job file the reason for an InvalidJob is."""
    try:
        yield
    except InvalidJob as error:
        source = read(job_path)
        near = os.path.relpath(job_path)
        shown = str(job_path) if near.startswith("..") else near
        sentence = str(error)
        joint = " " if sentence.startswith("must ") else ": "
        raise InvalidJob(
            f"{shown}, line {source.line(field)}: {'.'.join(field)}{joint}{sentence}"
        ) from error.__cause__


def trainer_of(job: FLJob, job_path: Path) -> Callable[..., None]:
    """The function of `spec.trainer`.

    Raises:
        InvalidJob: it cannot be imported, or not be called as the job asks.
    """
    assert job.spec.trainer is not None
    with at_field(job_path, "spec", "trainer", "entrypoint"):
        function = entrypoint(job.spec.trainer.entrypoint, job_path.parent)
        check_parameters(job.spec.trainer, function)
    return function


def evaluator_of(job: FLJob, job_path: Path) -> Figures:
    """The function of `spec.evaluator`; what it returns is looked at.

    Raises:
        InvalidJob: it cannot be imported; from the function, that it did not return figures.
    """
    assert job.spec.evaluator is not None
    name, field = job.spec.evaluator.entrypoint, ("spec", "evaluator", "entrypoint")
    with at_field(job_path, *field):
        function = entrypoint(name, job_path.parent)

    def figures(model: dict[str, Any]) -> dict[str, float]:
        returned = function(model)
        with at_field(job_path, *field):
            return _numbers(name, returned)

    return figures


def _numbers(name: str, returned: object) -> dict[str, float]:
    rule = 'must return a dict of numbers by name, such as {"accuracy": 0.96}'
    if not isinstance(returned, Mapping):
        raise InvalidJob(f"{rule}, and {name} returned {what(returned)}")
    found: dict[str, float] = {}
    for key, value in returned.items():
        try:
            found[str(key)] = float(value)
        except (TypeError, ValueError):
            raise InvalidJob(f"{rule}, and {name} returned {what(value)} as {key!r}") from None
    return found


def called(name: str, function: Callable[..., Any], folder: Path, *arguments: Any) -> Any:
    """What a function of the user's returns; that it raised is a complaint about the job.

    Raises:
        InvalidJob: it raised; the sentence says in which of its lines.
    """
    try:
        return function(*arguments)
    except LiflError:
        raise
    except Exception as error:
        raise raised(name, error, folder) from None


def raised(name: str, error: Exception, folder: Path) -> InvalidJob:
    """A complaint that a function of the user's raised, and in which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder.resolve())]
    at = (own or frames)[-1]
    text = " ".join(str(error).split())
    sentence = f"{name} failed at {at.filename}:{at.lineno}: {type(error).__name__}: {text}"
    return InvalidJob(sentence.rstrip(": "))
