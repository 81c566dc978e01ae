"""Pictures of a simulation, by matplotlib.  Imported in a process of its own:

python -m lifl.cli.simulate_plots FOLDER, with the rows of all rounds as JSON on standard input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot

from lifl.cli.report.plots import save

INK, RULE = "#52514e", "#e1e0d9"
COLOURS = ("#2a6f97", "#e07a5f", "#6a994e", "#7b5ea7", "#c9a227")
PICTURES = (
    ("aggregate_s", "time-to-aggregate", "From the last update's being ready to the model (s)", 1),
    ("seconds", "round-time", "Time of a round (s)", 1),
    ("internode_bytes", "between-nodes", "Bytes from node to node (GB)", 1e-9),
    ("nodes", "nodes", "Nodes with a role", 1),
    ("starts", "starts", "Processes started", 1),
    ("cpu_s", "cpu", "CPU (s)", 1),
)


def plot(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """One file for each figure: a line by round for each policy."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    written = []
    for field, slug, title, scale in PICTURES:
        figure, axes = pyplot.subplots(figsize=(8, 3.4), dpi=140, layout="constrained")
        for at, (policy, colour) in enumerate(zip(policies, COLOURS, strict=False)):
            mine = [row for row in rows if row["policy"] == policy]
            axes.plot(
                [row["round"] for row in mine], [row[field] * scale for row in mine],
                color=colour, lw=5.5 - at, marker="o" if len(mine) <= 60 else "", ms=6.5 - at,
                label=policy,  # thinner ones on top, since policies often come to the same
            )  # fmt: skip
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("round", color=INK)
        axes.set_ylim(bottom=0)
        axes.tick_params(colors=INK, length=0)
        axes.grid(axis="y", color=RULE)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.legend(frameon=False, ncols=len(policies), fontsize=9, loc="outside lower center")
        path = folder / f"{slug}.png"
        save(figure, path)
        written.append(path)
    return written


if __name__ == "__main__":
    try:
        for made in plot(json.load(sys.stdin), Path(sys.argv[1])):
            print(made)
    except OSError as error:
        sys.exit(str(error))
