"""What a run's directory says, whether the run completed or not."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifl.cli.figures import numbers
from lifl.errors import InvalidJob, LiflError
from lifl.placement.resume import names_of_nodes

Row = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """One run.

    Attributes:
        rows: of rounds.jsonl, in the order of rounds.
        summary: empty where the run did not complete.
        nodes: that the run had; 0 where that is not known.
    """

    name: str
    directory: Path
    rows: list[Row]
    summary: dict[str, Any] = field(default_factory=dict)
    nodes: int = 0


def evaluation_of(row: Row) -> dict[str, float]:
    """The evaluator's figures of a round; empty where it skipped it."""
    return numbers(row.get("evaluation"))


def evaluated(rows: list[Row]) -> list[str]:
    """Names of the evaluator's figures, accuracy first, then as they came."""
    names = dict.fromkeys(name for row in rows for name in evaluation_of(row))
    return sorted(names, key=lambda name: name != "accuracy")


def read(directory: Path) -> RunFiles:
    """Read a run; a last line that was cut off is left out.

    Raises:
        InvalidJob: this is no run's directory, or no round was done.
    """
    path = directory / "rounds.jsonl"
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InvalidJob(
            f"{directory} is not the directory of a run that has done a round: {path} cannot be "
            f"read ({error.strerror}); name one, for example runs/latest"
        ) from error
    rows: list[Row] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if isinstance(row, dict) and "round" in row and "seconds" in row:
            rows.append(row)
    if not rows:
        raise InvalidJob(f"{path} has no finished round: there is nothing to report yet")
    summary: dict[str, Any] = {}
    if (directory / "summary.json").exists():
        summary = json.loads((directory / "summary.json").read_text())
    nodes = summary.get("nodes") or _nodes(directory)
    return RunFiles(directory.resolve().name, directory, rows, summary, nodes)


def _nodes(directory: Path) -> int:
    """Of a run that did not complete: what its engine was started with."""
    with contextlib.suppress(OSError, ValueError, LiflError):
        return len(names_of_nodes(directory))
    return 0
