"""Rows of a run as charts: what is drawn, not how.

Owns which charts there are, their titles, units and colours.  svg.py and plots.py draw the same.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lifl.cli.report.read import Row
from lifl.metrics import PHASE_HELP, PHASES

MOST_BARS: Final = 90  # beyond it neighbouring rounds share a bar, by their mean
LABEL_ROOM: Final = 80  # characters below a chart, in SVG and PNG alike
MOST_METRICS: Final = 6  # charts of what clients and evaluator reported

Number = float | None
# Light and dark; told apart also by people who see no red or green.
COLOURS: Final = (
    ("#2a78d6", "#3987e5"), ("#1baf7a", "#199e70"), ("#eda100", "#c98500"),
    ("#e34948", "#e66767"), ("#4a3aa7", "#9085e9"), ("#e87ba4", "#d55181"),
    ("#008300", "#008300"), ("#eb6834", "#d95926"),
)  # fmt: skip
GREY: Final = ("#c3c2b7", "#5f5e56")
PHASE_COLOURS: Final = dict(zip(PHASES, (GREY, *COLOURS[:4]), strict=True))
PHASE_NAMES: Final = {"hand_off": "hand-off"}


@dataclass(frozen=True)
class Series:
    """One line, or one part of every bar."""

    name: str
    values: Sequence[Number]
    colour: tuple[str, str]
    help: str = ""


@dataclass(frozen=True)
class Chart:
    """Values by round.

    Attributes:
        slug: names its file.
        labels: the round of each value, or "3-5" where rounds share a bar.
        scale: what a value is multiplied by to be shown in `unit`.
        is_named: a series has a name that must be said, even where it is the only one.
        per_bar: rounds that share a bar.
    """

    slug: str
    title: str
    kind: Literal["line", "bars"]
    labels: Sequence[str]
    series: Sequence[Series]
    unit: str = ""
    scale: float = 1.0
    note: str = ""
    is_named: bool = False
    per_bar: int = 1

    @property
    def has_legend(self) -> bool:
        return self.is_named or len(self.series) > 1

    @property
    def written(self) -> range:
        """Which labels are written below the chart: as many as do not touch one another."""
        longest = max(map(len, self.labels))
        most = max(2, min(10, LABEL_ROOM // (longest + 2)))
        return range(0, len(self.labels), max(1, -(-len(self.labels) // most)))


def charts(rows: Sequence[Row], *, nodes: int = 0) -> list[Chart]:
    """In the order in which they are shown; `nodes` is how many the run had, if that is known."""
    found = [*_measured(rows), _phases(rows), _nodes(rows, nodes), _handoffs(rows), _starts(rows)]
    return [chart for chart in found if any(_something(series) for series in chart.series)]


def _something(series: Series) -> bool:
    return any(value for value in series.values if value is not None)


# -- lines -----------------------------------------------------------------------------------
def _measured(rows: Sequence[Row]) -> list[Chart]:
    """What the evaluator and the clients said, accuracy first."""
    found: list[Chart] = []
    labels = [str(row["round"]) for row in rows]
    for source, key in (("evaluation", "evaluation"), ("clients", "metrics")):
        names = sorted({name for row in rows for name in row.get(key) or {}},
                       key=lambda name: (name != "accuracy", name))  # fmt: skip
        for name in names[: MOST_METRICS - len(found)]:
            values = [_number((row.get(key) or {}).get(name)) for row in rows]
            share = name == "accuracy"
            whose = (
                " of the global model" if key == "evaluation" else ", mean over clients by weight"
            )
            found.append(Chart(
                f"{source}-{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:60]}", name + whose, "line",
                labels, [Series(name, values, COLOURS[len(found) % 8])],
                unit="%" if share else "", scale=100.0 if share else 1.0,
            ))  # fmt: skip
    return found


def _number(value: object) -> Number:
    return float(value) if isinstance(value, int | float) else None


# -- bars ------------------------------------------------------------------------------------
def _bars(
    rows: Sequence[Row], parts: Mapping[str, Callable[[Row], float]]
) -> tuple[list[str], dict[str, list[Number]], int]:
    """Means over as many neighbouring rounds as few enough bars take, and how many those are."""
    size = -(-len(rows) // MOST_BARS)
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    labels = [
        str(group[0]["round"]) if len(group) == 1
        else f"{group[0]['round']}-{group[-1]['round']}"
        for group in groups
    ]  # fmt: skip
    values: dict[str, list[Number]] = {
        name: [statistics.fmean(map(part, group)) for group in groups]
        for name, part in parts.items()
    }
    return labels, values, size


def _phases(rows: Sequence[Row]) -> Chart:
    def share(phase: str) -> Callable[[Row], float]:
        return lambda row: float((row.get("phases") or {}).get(phase, 0.0))

    labels, values, size = _bars(rows, {phase: share(phase) for phase in PHASES})
    longest = max(row["seconds"] for row in rows)
    unit, scale = ("ms", 1000.0) if longest < 2 else ("s", 1.0)
    series = [
        Series(PHASE_NAMES.get(phase, phase), values[phase], PHASE_COLOURS[phase],
               PHASE_HELP[phase])
        for phase in PHASES
    ]  # fmt: skip
    note = "Each moment of a round belongs to one phase, so a bar is the round's time."
    return Chart("phases", "Round time by phase", "bars", labels, series, unit, scale, note,
                 per_bar=size)  # fmt: skip


def clients_of(row: Row) -> dict[str, float]:
    """Updates that the plan sends to each node, by its leaves."""
    return {
        node: float(sum(role["clients"] for role in roles if role["role"] == "leaf"))
        or float(sum(role["clients"] for role in roles if role["role"] == "top"))
        for node, roles in row.get("tree", {}).items()
    }


def _nodes(rows: Sequence[Row], of: int) -> Chart:
    nodes = sorted({node for row in rows for node in row.get("tree", {})})
    idle = of - len(nodes)
    note = f"{idle} of {of} nodes never had a client: see spec.placement.policy."

    def clients(node: str) -> Callable[[Row], float]:
        return lambda row: clients_of(row).get(node, 0.0)

    labels, values, size = _bars(rows, {node: clients(node) for node in nodes})
    series = [Series(node, values[node], COLOURS[i % 8]) for i, node in enumerate(nodes[:8])]
    if len(nodes) > 8:
        rest = [sum(values[node][i] or 0.0 for node in nodes[7:]) for i in range(len(labels))]
        series[7] = Series(f"{len(nodes) - 7} more", rest, GREY)
    return Chart("nodes", "Clients by node", "bars", labels, series,
                 note=note if idle > 0 else "", is_named=True, per_bar=size)  # fmt: skip


def _handoffs(rows: Sequence[Row]) -> Chart:
    names = sorted({name for row in rows for name in row.get("handoffs", {})})

    def handed(name: str) -> Callable[[Row], float]:
        return lambda row: float(row.get("handoffs", {}).get(name, 0))

    labels, values, size = _bars(rows, {name: handed(name) for name in names})
    series = [Series(name, values[name], COLOURS[i]) for i, name in enumerate(names)]
    return Chart("handoffs", "Hand-offs by proxy", "bars", labels,
                 [each for each in series if _something(each)], per_bar=size)  # fmt: skip


def _starts(rows: Sequence[Row]) -> Chart:
    labels, values, size = _bars(rows, {
        "warm": lambda row: float(row.get("warm_starts", 0)),
        "zygote": lambda row: float(row.get("zygote_starts", 0)),
        "cold": lambda row: float(row.get("cold_starts", 0)),
    })  # fmt: skip
    series = [Series(name, values[name], COLOURS[i])
              for i, name in ((1, "warm"), (2, "zygote"), (0, "cold"))]  # fmt: skip
    return Chart("starts", "Starts of roles", "bars", labels,
                 [each for each in series if _something(each)], per_bar=size)  # fmt: skip
