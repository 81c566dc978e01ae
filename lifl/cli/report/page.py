"""The page: summary, charts, tree and table in one file that needs no network."""

from __future__ import annotations

import statistics
from html import escape
from typing import Any, Final

from lifl.cli.figures import KINDS, amount, duration, figure, rate, starts, starts_of
from lifl.cli.report import svg
from lifl.cli.report.charts import COLOURS, GREY, MOST_METRICS, Chart, charts
from lifl.cli.report.read import Row, RunFiles, evaluated, evaluation_of

MOST_ROWS: Final = 500
_PAIRS: Final = (*COLOURS, GREY)
CLASSES: Final = {light: f"c{index}" for index, (light, _) in enumerate(_PAIRS)}

STYLE: Final = (
    """
:root { color-scheme: light dark; --page: #f9f9f7; --card: #fcfcfb; --ink: #0b0b0b;
  --soft: #62615a; --rule: #e1e0d9; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #0d0d0d; --card: #1a1a19; --ink: #ffffff;
  --soft: #a5a49b; --rule: #2c2c2a; DARK } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif }
main { max-width: 1560px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 24px; margin: 0 } h2 { font-size: 16px; margin: 0 0 6px }
.soft, .note { color: var(--soft) } .note { margin: 2px 0 6px; font-size: 13px }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(172px, 1fr)); gap: 10px;
  margin: 18px 0 }
.tile, section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px }
.tile { padding: 10px 14px } .tile b { display: block; font-size: 17px; font-weight: 600 }
.tile span { color: var(--soft); font-size: 13px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr));
  gap: 14px; margin-bottom: 14px }
section { padding: 14px 16px; min-width: 0 } section.wide { margin-bottom: 14px }
.scroll { overflow-x: auto }
svg { display: block; width: 100%; height: auto } svg.tree { max-width: none }
.tick { font-size: 12px; fill: var(--soft) } .name { font-size: 13px; fill: var(--ink) }
.grid { stroke: var(--rule); stroke-width: 1 } .line { fill: none; stroke-width: 2 }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft);
  margin: 2px 0 6px }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 6px }
.frame { fill: none; stroke: var(--rule); stroke-width: 1.5 }
.edge { fill: none; stroke: var(--soft); stroke-width: 1.3 } .far { stroke-dasharray: 5 4 }
.role { fill: var(--card); stroke-width: 1.8; stroke: var(--soft) }
.role.leaf { stroke: var(--c1) } .role.middle { stroke: var(--c0) } .role.top { stroke: var(--c4) }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 3px 12px 3px 0; white-space: nowrap }
th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule) }
summary { cursor: pointer }
""".replace("LIGHT", " ".join(f"--c{i}: {light};" for i, (light, _) in enumerate(_PAIRS))).replace(
        "DARK", " ".join(f"--c{i}: {dark};" for i, (_, dark) in enumerate(_PAIRS))
    )
    + "\n".join(
        f".c{i} {{ fill: var(--c{i}); background: var(--c{i}) }} .sc{i} {{ stroke: var(--c{i}) }}"
        for i in range(len(_PAIRS))
    )
)


def page(run: RunFiles) -> str:
    """The whole of report.html."""
    found = charts(run.rows, nodes=run.nodes)
    done = "" if run.summary else " · the run did not complete"
    tree: dict[str, Any] = next((row["tree"] for row in reversed(run.rows) if row.get("tree")), {})
    return "\n".join([
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(run.name)}</title><style>{STYLE}</style></head><body><main>",
        f'<h1>{escape(run.name)}</h1><div class="soft">LIFL · {len(run.rows)} rounds{done}</div>',
        _tiles(run),
        '<div class="charts">', *map(_chart, found), "</div>",
        '<section class="wide"><h2>Tree of the last round</h2><p class="note">Leaves take the '
        "updates of clients; solid lines are hand-offs in shared memory, dashed ones go over the "
        f'network to another node.</p><div class="scroll">{svg.tree(tree)}</div></section>'
        if tree else "",
        _table(run.rows),
        "</main></body></html>\n",
    ])  # fmt: skip


def _tiles(run: RunFiles) -> str:
    said, rows = run.summary, run.rows
    measured = {name: figure(name, value) for row in rows
                for name, value in evaluation_of(row).items()}  # fmt: skip
    shown = [(name, measured[name]) for name in evaluated(rows)[:MOST_METRICS]]
    fold_s = sum(row.get("fold_seconds", 0.0) for row in rows)
    tiles = {
        "rounds": f"{len(rows)}",
        "round, median": duration(statistics.median(row["seconds"] for row in rows)),
        **_time(run),
        "updates": f"{sum(row.get('clients', 0) for row in rows):,}",
        "bytes of updates": amount(sum(row.get("bytes", 0) for row in rows)),
        "folding": rate(sum(row.get("fold_bytes", 0) for row in rows), fold_s),
        "hand-offs": f"{sum(sum(row.get('handoffs', {}).values()) for row in rows):,}",
        "starts": starts(_starts(rows), _start_s(rows)),
        "nodes": _nodes(run),
        "proxy": str(said.get("proxy") or _proxy(rows)),
        **({"kernels": str(said["kernels"])} if said.get("kernels") else {}),
    }
    cells = (f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b></div>'
             for name, value in [*(shown or [("accuracy", "not measured")]), *tiles.items()]
             )  # fmt: skip
    return f'<div class="tiles">{"".join(cells)}</div>'


def _time(run: RunFiles) -> dict[str, str]:
    """Of a run that did not complete, that of its rounds: it wrote down no other."""
    if "wall_s" in run.summary:
        return {"wall time": duration(run.summary["wall_s"])}
    return {"rounds, together": duration(sum(row["seconds"] for row in run.rows))}


def _nodes(run: RunFiles) -> str:
    """How many there were, and how many of them had clients where not all had."""
    used = len({node for row in run.rows for node in row.get("tree", {})})
    there = max(used, run.nodes)
    if not there:
        return "-"
    return f"{there}" if used == there else f"{there}, {used} with clients"


def _proxy(rows: list[Row]) -> str:
    """By what has moved descriptors."""
    said = [row.get("handoffs", {}) for row in rows]
    return ", ".join(sorted({name for each in said for name in each if each[name]})) or "-"


def _starts(rows: list[Row]) -> dict[str, float]:
    return {kind: sum(starts_of(row)[kind] for row in rows) for kind in KINDS}


def _start_s(rows: list[Row]) -> dict[str, float]:
    said = [row.get("start_seconds", {}) for row in rows]
    return {kind: sum(each.get(kind, 0.0) for each in said) for kind in KINDS}


def _chart(chart: Chart) -> str:
    legend = ""
    if chart.has_legend:
        keys = (f'<span title="{escape(series.help)}"><i class="{CLASSES[series.colour[0]]}"></i>'
                f"{escape(series.name)}</span>" for series in chart.series)  # fmt: skip
        legend = f'<div class="legend">{"".join(keys)}</div>'
    shared = f"A bar is the mean of {chart.per_bar} rounds." if chart.per_bar > 1 else ""
    text = " ".join(part for part in (chart.note, shared) if part)
    note = f'<p class="note">{escape(text)}</p>' if text else ""
    unit = f" ({chart.unit})" if chart.unit else ""
    return (f"<section><h2>{escape(chart.title)}{unit}</h2>{note}{legend}"
            f"{svg.draw(chart, CLASSES)}</section>")  # fmt: skip


def _table(rows: list[Row]) -> str:
    names = evaluated(rows)[:MOST_METRICS]
    head = ("round", "time", "clients", "bytes", *names, "hand-offs", *KINDS, "fold")
    lines = []
    for row in rows[-MOST_ROWS:]:
        said = evaluation_of(row)
        cells = (
            row["round"], duration(row["seconds"]), row.get("clients", ""),
            amount(row.get("bytes", 0)),
            *(figure(name, said[name]) if name in said else "" for name in names),
            sum(row.get("handoffs", {}).values()),
            *(row.get(f"{kind}_starts", "") for kind in KINDS),
            rate(row.get("fold_bytes", 0), row.get("fold_seconds", 0.0)),
        )  # fmt: skip
        lines.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    which = "All rounds" if len(rows) <= MOST_ROWS else f"The last {MOST_ROWS} rounds"
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (f"<section><details><summary>{which}</summary><div class='scroll'><table><tr>{heads}"
            f"</tr>{''.join(lines)}</table></div></details></section>")  # fmt: skip
