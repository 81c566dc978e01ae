"""The figures of build/bench-netns.json as tables of docs/placement.md: `make bench-docs`.

    python -m benchmarks.docs_netns [BENCH.json]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.case_calibration import BLIND, NEAR
from benchmarks.docs import insert
from benchmarks.docs_placement import PAGE

MARKERS = "<!-- real rounds: begin, written by make bench-docs -->", "<!-- real rounds: end -->"
_NOTE = re.compile(
    r"(\d+) nodes; ([\d.]+) MB between nodes; ([\d.]+) CPU s of nodes; ([\d.]+) CPU s of all; "
    r"idle ([\d.]+) CPU s"
)


def tables(found: dict[str, Any]) -> str:
    """Policies at each load, then the simulator beside rounds that it was not fitted to."""
    here, rows = found["machine"], [row for row in found["rows"] if row["value"] is not None]
    real = [row for row in rows if row["case"].startswith("real round, ")]
    played = [row for row in rows if row["case"].startswith("round as simulated, ")]
    worst = next((row for row in rows if row["case"].startswith("furthest")), None)
    near = sum(abs(row["ratio"] - 1) <= NEAR for row in played)
    blind = {asked.text() for asked in BLIND}
    lines = [
        f"{here['began_at'][:10]}, {here['cpu']}, {here['cpus']} CPUs, {here['memory_gb']} GB, "
        f"Linux {here['kernel'].partition('-')[0]}; links of 1 Gbit/s; a round, medians:",
        "",
        "| | round | nodes | MB between nodes | CPU s of nodes | CPU s with clients "
        "| CPU s of an idle node |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in real:
        where = row["case"].removeprefix("real round, ")
        match = _NOTE.fullmatch(row["note"])
        assert match is not None, row["note"]
        nodes, moved, cpu, everybody, idle = match.groups()
        cells = [where, f"{row['value']:.2f} s", nodes, moved, cpu, everybody, idle]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The simulator beside such rounds, none of which it was fitted to: {near} of "
        f"{len(played)} within {NEAR:.0%}.",
        "",
        "| | measured | simulated | ratio | |",
        "|---|---|---|---|---|",
    ]
    for row in played:
        where = row["case"].removeprefix("round as simulated, ")
        holds = "blind" if where in blind else ""
        holds += "" if abs(row["ratio"] - 1) <= NEAR else " no"
        lines.append(
            f"| {where} | {row['beside']:.3f} s | {row['value']:.3f} s | {row['ratio']:.2f} "
            f"| {holds.strip()} |"
        )
    if worst is not None:
        lines += ["", f"Constants that were fitted: {worst['note']}"]
    return "\n".join(lines)


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench-netns.json")
    if not source.exists():
        sys.exit(f"{source} is not there: make bench-netns writes it")
    PAGE.write_text(insert(PAGE.read_text(), tables(json.loads(source.read_text())), MARKERS))
    print(f"{PAGE.name} has the figures of {source}")


if __name__ == "__main__":
    main()
