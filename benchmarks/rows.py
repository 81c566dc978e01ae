"""One row of the table: what is measured, the goal, and the figure beside its reference.

Owns the meaning of ratio, goal and holds, the JSON and the table.  Measures nothing.  Called by
the cases and by `python -m benchmarks`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.table import Table


class NotMeasured(Exception):
    """This machine lacks something that a case needs; the message says what, and the remedy."""


@dataclass(frozen=True)
class Goal:
    """A bound on the figure itself or on its ratio to the reference."""

    of: Literal["value", "ratio"]
    way: Literal["≤", "≥", "<"]
    bound: float

    def holds(self, figure: Figure) -> bool:
        number = figure.value if self.of == "value" else figure.ratio
        assert number is not None
        match self.way:
            case "≤":
                return number <= self.bound
            case "<":
                return number < self.bound
            case "≥":
                return number >= self.bound

    def text(self, unit: str) -> str:
        return f"{self.way} {self.bound:g} {'×' if self.of == 'ratio' else unit}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one row is about, known before anything is measured.

    Attributes:
        case: what is measured.
        unit: of value and reference.
        reference: what stands beside it, measured in the same run; empty where the goal is
            absolute and nothing does.
        goal: None where the row only informs.
    """

    case: str
    unit: str
    reference: str = ""
    goal: Goal | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was found.

    Attributes:
        value: median of five or more, unless `note` says otherwise.
        beside: the same of the reference.
        ratio: value / beside, as the median over pairs that were measured one after the other;
            thus not always the ratio of the two medians.
    """

    value: float
    beside: float | None = None
    ratio: float | None = None
    note: str = ""

    @classmethod
    def of_pairs(
        cls, values: Sequence[float], besides: Sequence[float], *, scale: float = 1, note: str = ""
    ) -> Figure:
        """Figures of measurements that took turns, times `scale` for their unit."""
        middle = statistics.median
        return cls(
            value=scale * middle(values),
            beside=scale * middle(besides),
            ratio=middle(a / b for a, b in zip(values, besides, strict=True)),
            note=note,
        )


Found = dict[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Some rows that are measured together.

    Attributes:
        name: what `make bench CASE=` takes.
        lines: rows, by names that `measure` uses.
        measure: returns a figure for each line; `turns=` is how often, otherwise as often as
            the case says.

    `measure` raises NotMeasured when the machine lacks what all its lines need; a line alone is
    left out of what it returns.
    """

    name: str
    lines: dict[str, Line]
    measure: Callable[..., Found]


def row(line: Line, figure: Figure | None, note: str = "") -> dict[str, Any]:
    """One row as it goes to bench.json; without a figure `note` says why there is none."""
    return {
        "case": line.case,
        "value": None if figure is None else round(figure.value, 6),
        "unit": line.unit,
        "beside": _rounded(figure and figure.beside),
        "ratio": _rounded(figure and figure.ratio),
        "goal": line.goal.text(line.unit) if line.goal else None,
        "holds": line.goal.holds(figure) if line.goal and figure else None,
        "reference": line.reference,
        "note": figure.note if figure else note,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of bench.json as words: case, value, beside, ratio, goal, holds, note."""

    def figure(number: float | None) -> str:
        if number is None:
            return ""
        return f"{number:.{3 if abs(number) < 1 else 2 if abs(number) < 100 else 0}f}"

    holds = {True: "yes", False: "no", None: ""}[row["holds"]]
    beside = row["reference"] and row["beside"] is not None
    return [
        row["case"],
        "not measured" if row["value"] is None else f"{figure(row['value'])} {row['unit']}",
        f"{figure(row['beside'])} {row['reference']}" if beside else row["reference"],
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        row["goal"] or "",
        holds,
        row["note"],
    ]


HEADINGS = ("case", "measured", "beside", "ratio", "goal", "holds", "note")


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What a person reads; notes go below it, numbered."""
    drawn = Table(*HEADINGS[:-1], show_lines=False, pad_edge=False, box=None)
    for column in (1, 3):
        drawn.columns[column].justify = "right"
    notes: list[str] = []
    for each in rows:
        *shown, note = cells(each)
        if note:
            if note not in notes:
                notes.append(note)
            shown[0] += f" [{notes.index(note) + 1}]"
        style = {"no": "red", "yes": ""}.get(shown[5], "dim" if each["value"] is None else "")
        drawn.add_row(*shown, style=style)
    drawn.caption = "\n".join(f"[{number}] {note}" for number, note in enumerate(notes, 1))
    drawn.caption_justify = "left"
    return drawn
