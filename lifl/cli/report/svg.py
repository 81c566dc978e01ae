"""Charts and trees as SVG.  Colours are classes, so that the page's style makes light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from lifl.cli.report.charts import Chart, Series

WIDTH: Final = 720
HEIGHT: Final = 230
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 30


def ticks(high: float, low: float = 0.0, wanted: int = 4) -> list[float]:
    """Round numbers from `low` or below to `high` or above."""
    span = high - low
    if not span > 0:
        return [low, low + 1.0]
    rough = span / wanted
    step = 10.0 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def label(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def draw(chart: Chart, classes: dict[str, str]) -> str:
    """One chart; `classes` names the class of each colour."""
    shown = [[None if v is None else v * chart.scale for v in s.values] for s in chart.series]
    if chart.kind == "bars":
        high = max(sum(v or 0.0 for v in column) for column in zip(*shown, strict=True))
        marks = ticks(high)
    else:
        present = [v for values in shown for v in values if v is not None and math.isfinite(v)]
        marks = ticks(max(present), min(present)) if present else [0.0, 1.0]
    bottom, top = marks[0], marks[-1]
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def y(value: float) -> float:
        return TOP + plot_h * (top - value) / (top - bottom)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    for mark in marks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
                     f'y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')  # fmt: skip
        unit = f" {chart.unit}" if chart.unit and mark == marks[-1] else ""
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y(mark) + 4:.1f}" '
                     f'text-anchor="end">{label(mark)}{unit}</text>')  # fmt: skip
    step = plot_w / len(chart.labels)
    parts += [
        f'<text class="tick" x="{LEFT + step * (index + 0.5):.1f}" y="{HEIGHT - 12}" '
        f'text-anchor="middle">{chart.labels[index]}</text>'
        for index in chart.written
    ]
    if chart.kind == "bars":
        parts += _bars(chart, shown, classes, step, y)
    else:
        for series, values in zip(chart.series, shown, strict=True):
            parts += _line(chart, series, values, classes, step, y)
    return "\n".join([*parts, "</svg>"])


def _bars(
    chart: Chart, shown: Sequence[Sequence[float | None]], classes: dict[str, str], step: float,
    y: Any,
) -> list[str]:  # fmt: skip
    gap = min(3.0, step * 0.25)
    width = min(step - gap, 46.0)
    parts = []
    for index, name in enumerate(chart.labels):
        x, base = LEFT + step * (index + 0.5) - width / 2, 0.0
        said = [f"round {name}"]
        bars = []
        for series, values in zip(chart.series, shown, strict=True):
            value = values[index] or 0.0
            if value <= 0:
                continue
            height = y(base) - y(base + value)
            bars.append(
                f'<rect class="{classes[series.colour[0]]}" x="{x:.1f}" '
                f'y="{y(base + value):.2f}" width="{width:.1f}" height="{height:.2f}"/>'
            )
            said.append(f"{series.name}: {label(value)} {chart.unit}".rstrip())
            base += value
        parts.append(f"<g><title>{escape(chr(10).join(said))}</title>{''.join(bars)}</g>")
    return parts


def _line(
    chart: Chart, series: Series, values: Sequence[float | None], classes: dict[str, str],
    step: float, y: Any,
) -> list[str]:  # fmt: skip
    points: list[tuple[float, float, str, float]] = []
    paths: list[list[str]] = [[]]  # a round without a value ends one
    for index, value in enumerate(values):
        if value is None or not math.isfinite(value):
            paths.append([])
            continue
        x, at = LEFT + step * (index + 0.5), y(value)
        points.append((x, at, chart.labels[index], value))
        paths[-1].append(f"{x:.1f},{at:.1f}")
    colour = classes[series.colour[0]]
    parts = [f'<polyline class="line s{colour}" points="{" ".join(path)}"/>'
             for path in paths if len(path) > 1]  # fmt: skip
    radius = 3 if len(points) <= 60 else 1.5
    for x, at, name, value in points:
        said = f"round {name}: {label(value)} {chart.unit}".rstrip()
        parts.append(f'<circle class="{colour}" cx="{x:.1f}" cy="{at:.1f}" r="{radius}">'
                     f"<title>{escape(said)}</title></circle>")  # fmt: skip
    return parts


# -- the tree --------------------------------------------------------------------------------
BOX_W, BOX_H, GAP, ROW_H, PAD = 92, 38, 10, 74, 14
LEVELS: Final = {"top": 0, "middle": 1, "leaf": 2}
MOST_LEAVES: Final = 24  # of one node; more are counted, not drawn


def tree(nodes: dict[str, list[dict[str, Any]]]) -> str:
    """Nodes as frames, roles as boxes, hand-offs as lines; those between nodes are dashed."""
    top_at: tuple[float, float] | None = None
    roots: list[tuple[float, float]] = []
    frames, lines, boxes = [], [], []
    left: float = PAD
    height = 3 * ROW_H + 2 * PAD
    order = sorted(nodes, key=lambda n: (not any(r["role"] == "top" for r in nodes[n]), n))
    for name in order:
        roles = nodes[name]
        leaves = [role for role in roles if role["role"] == "leaf"]
        hidden = len(leaves) - MOST_LEAVES
        if hidden > 0:
            gone = {role["endpoint"] for role in leaves[MOST_LEAVES:]}
            roles = [role for role in roles if role["endpoint"] not in gone]
        levels = [[r for r in roles if LEVELS.get(r["role"], 2) == level] for level in range(3)]
        widest = max(1, *(len(level) for level in levels))
        width = max(widest * (BOX_W + GAP) - GAP, 150)
        at: dict[int, tuple[float, float]] = {}
        for level, row in enumerate(levels):
            start = left + PAD + (width - (len(row) * (BOX_W + GAP) - GAP)) / 2
            for index, role in enumerate(row):
                x, y = start + index * (BOX_W + GAP), 30.0 + level * ROW_H
                at[role["endpoint"]] = (x + BOX_W / 2, y)
                boxes.append(_box(role, x, y))
        for role in roles:
            x, y = at[role["endpoint"]]
            if role["parent"] in at:
                to = at[role["parent"]]
                lines.append(_edge((x, y), (to[0], to[1] + BOX_H), ""))
            elif role["role"] == "top":
                top_at = (x, y)
            else:
                roots.append((x, y))
        frames.append(
            f'<rect class="frame" x="{left}" y="8" width="{width + 2 * PAD}" '
            f'height="{height - 16}" rx="8"/>'
            f'<text class="tick" x="{left + 10}" y="24">{escape(name)}</text>'
        )
        if hidden > 0:
            frames.append(f'<text class="tick" x="{left + width + PAD}" y="{height - 16}" '
                          f'text-anchor="end">and {hidden} more leaves</text>')  # fmt: skip
        left += width + 3 * PAD
    if top_at is not None:
        side = (top_at[0] + BOX_W / 2, top_at[1] + BOX_H / 2)
        lines += [_edge(root, side, " far") for root in roots]
    drawn = "".join([*frames, *lines, *boxes])
    return (
        f'<svg class="tree" viewBox="0 0 {left} {height}" style="width:{left}px" role="img" '
        f'aria-label="The tree">{drawn}</svg>'
    )


def _edge(start: tuple[float, float], end: tuple[float, float], extra: str) -> str:
    middle = (start[1] + end[1]) / 2
    points = f"M{start[0]:.1f},{start[1]:.1f} C{start[0]:.1f},{middle:.1f}"
    points += f" {end[0]:.1f},{middle:.1f} {end[0]:.1f},{end[1]:.1f}"
    return f'<path class="edge{extra}" d="{points}"/>'


def _box(role: dict[str, Any], x: float, y: float) -> str:
    kind, middle = escape(str(role["role"])), x + BOX_W / 2
    takes = f"{role['clients']} updates"
    return (f'<g><rect class="role {kind}" x="{x:.1f}" y="{y}" width="{BOX_W}" height="{BOX_H}" '
            f'rx="6"/><text class="name" x="{middle:.1f}" y="{y + 16}" text-anchor="middle">'
            f'{kind} {role["endpoint"]}</text><text class="tick" x="{middle:.1f}" y="{y + 31}" '
            f'text-anchor="middle">{takes}</text></g>')  # fmt: skip
