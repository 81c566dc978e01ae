"""The same charts as PNGs, by matplotlib.  Imported in a process of its own:

python -m lifl.cli.report.plots RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lifl.cli.report.charts import Chart, charts
from lifl.cli.report.read import read

INK, RULE = "#52514e", "#e1e0d9"


def plot(directory: Path) -> list[Path]:
    """One file for each chart, beside report.html."""
    written = []
    for chart in charts(read(directory).rows):
        figure, axes = pyplot.subplots(figsize=(8, 3.4), dpi=140, layout="constrained")
        _draw(chart, axes)
        path = directory / f"{chart.slug}.png"
        save(figure, path)
        written.append(path)
    return written


def save(figure: Figure, path: Path) -> None:
    """The picture as a whole or not at all; the figure is closed either way."""
    temporary = path.with_name(path.name + ".new")
    try:
        figure.savefig(temporary, format="png")
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
        pyplot.close(figure)


def _draw(chart: Chart, axes: Axes) -> None:
    places = range(len(chart.labels))
    bottom = [0.0] * len(chart.labels)
    for series in chart.series:
        values = [float("nan") if v is None else v * chart.scale for v in series.values]
        if chart.kind == "line":
            size = 4 if len(values) <= 60 else 2  # a value between two gaps is no line
            axes.plot(places, values, color=series.colour[0], lw=2, marker="o", ms=size)
        else:
            axes.bar(places, values, 0.8, bottom, color=series.colour[0], label=series.name)
            bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_xticks(list(chart.written), [chart.labels[index] for index in chart.written])
    unit = f" ({chart.unit})" if chart.unit else ""
    axes.set_title(chart.title + unit, loc="left", fontsize=11)
    shared = f"; a bar is the mean of {chart.per_bar} rounds" if chart.per_bar > 1 else ""
    axes.set_xlabel("round" + shared, color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.grid(axis="y", color=RULE)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    if chart.has_legend:
        axes.legend(frameon=False, ncols=5, fontsize=9, loc="lower right",
                    bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)  # fmt: skip


if __name__ == "__main__":
    try:
        for made in plot(Path(sys.argv[1])):
            print(made)
    except OSError as error:
        sys.exit(str(error))
