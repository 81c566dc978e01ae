"""Goals, and the figures of build/bench.json, as tables of docs/benchmarks.md: `make bench-docs`.

    python -m benchmarks.docs [BENCH.json]

Writes between markers and leaves the rest of the page alone.  Goals are those of the cases' lines;
a test fails where the page has others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import CASES
from benchmarks.rows import HEADINGS, cells

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin, written by make bench-docs -->", "<!-- figures: end -->"

GOALS = "<!-- goals: begin, written by make bench-docs -->", "<!-- goals: end -->"


def goals() -> str:
    """Every row that has a goal."""
    lines = ["| `CASE=` | row | beside | goal |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {line.case} | {line.reference} | {line.goal.text(line.unit)} |"
        for name, case in CASES.items()
        for line in case.lines.values()
        if line.goal is not None
    ]
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """The machine in a sentence, and the rows."""
    here = found["machine"]
    lines = [
        f"{here['began_at'][:10]}, {here['cpu']}, {here['cpus']} CPUs, {here['memory_gb']} GB, "
        f"Linux {here['kernel']}, load {here['load_at_start']} when it began:",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in found["rows"]]
    return "\n".join(lines)


def insert(page: str, table: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with this table between its markers instead of what is there."""
    before, begin, rest = page.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not (begin and end):
        raise ValueError(f"{PAGE.name} lacks {' or '.join(markers)}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    PAGE.write_text(insert(PAGE.read_text(), goals(), GOALS))
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench.json")
    if not source.exists():
        sys.exit(f"{source} is not there: make bench writes it")
    PAGE.write_text(insert(PAGE.read_text(), markdown(json.loads(source.read_text()))))
    print(f"{PAGE.name} has the figures of {source}")


if __name__ == "__main__":
    main()
