"""The figures of build/bench.json as the table of docs/benchmarks.md: `make bench-docs`.

    python -m benchmarks.docs [BENCH.json]

Writes between two markers and leaves the rest of the page alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.rows import HEADINGS, cells

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin, written by make bench-docs -->", "<!-- figures: end -->"


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


def insert(page: str, figures: str) -> str:
    """The page with these figures instead of those that it has."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench.json")
    if not source.exists():
        sys.exit(f"{source} is not there: make bench writes it")
    PAGE.write_text(insert(PAGE.read_text(), markdown(json.loads(source.read_text()))))
    print(f"{PAGE.name} has the figures of {source}")


if __name__ == "__main__":
    main()
