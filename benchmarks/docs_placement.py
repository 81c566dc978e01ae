"""The figures of build/bench-placement.json as the tables of docs/placement.md.

    python -m benchmarks.docs_placement [BENCH.json]

Called by `make bench-docs`; the policies and the steps of the paper as tables of their own, the
rest as in docs/benchmarks.md.  Real runs (case_fanin.py), which are measured by themselves, are
taken from the files beside it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.case_fanin import LINES
from benchmarks.case_policies import POLICIES, STEPS
from benchmarks.docs import insert, markdown

PAGE = Path(__file__).parent.parent / "docs" / "placement.md"


def tables(found: dict[str, Any], real: Sequence[dict[str, Any]] = ()) -> str:
    """All tables, each under a sentence.

    Args:
        real: what files of real runs hold, the newest last, whose machine is named.
    """
    rows = {row["case"]: row for row in found["rows"]}
    timed = [row for case, row in rows.items() if case.startswith("bestfit's round, ")]
    rest = [
        row
        for case, row in rows.items()
        if row not in timed and not case.startswith("its nodes, ") and " clients, " not in case
    ]
    here = found["machine"] | {"kernel": found["machine"]["kernel"].partition("-")[0]}
    return "\n\n".join([
        "Rounds by policy: median seconds, and nodes in use. Simulated.",
        _policies(timed, rows),
        "The paper's steps: aggregation in seconds / CPU seconds / starts / nodes. Simulated.",
        _steps(rows),
        markdown({"machine": here, "rows": rest}),
        *_real(real),
    ])  # fmt: skip


def _real(files: Sequence[dict[str, Any]]) -> list[str]:
    rows = {row["case"]: row for file in files for row in file["rows"] if row["value"] is not None}
    if not rows:
        return []
    machine = files[-1]["machine"]
    here = machine | {"kernel": machine["kernel"].partition("-")[0]}
    ordered = [rows[line.case] for line in LINES if line.case in rows]
    return [
        "`fanIn: auto` beside the best fixed fan-in, whole jobs, encrypted.",
        markdown({"machine": here, "rows": ordered}),
    ]


def _policies(timed: list[dict[str, Any]], rows: dict[str, Any]) -> str:
    lines = [
        "| | " + " | ".join(POLICIES) + " | bestfit ÷ best | within 5 % |",
        "|" + "---|" * (len(POLICIES) + 3),
    ]
    for row in timed:
        cells = re.findall(r"([\d.]+) s, ([\d.]+) nodes", row["note"])
        where = row["case"].removeprefix("bestfit's round, ")
        shown = " | ".join(f"{seconds} s, {float(nodes):g}" for seconds, nodes in cells)
        holds = {True: "yes", False: "no", None: "no goal"}[row["holds"]]
        lines.append(f"| {where} | {shown} | {row['ratio']:.3f} | {holds} |")
    return "\n".join(lines)


def _steps(rows: dict[str, Any]) -> str:
    counts = sorted({int(case.split()[0]) for case in rows if ": aggregation" in case})
    lines = [
        "| | " + " | ".join(f"{count} clients" for count in counts) + " | |",
        "|" + "---|" * (len(counts) + 2),
    ]
    for name, *_, why in STEPS:
        cells = [
            " / ".join(
                f"{rows[f'{count} clients, {name}: {what}']['value']:{form}}"
                for what, form in (
                    ("aggregation", ".3f"), ("CPU", ".1f"), ("starts", ".0f"), ("nodes", ".1f"),
                )
            )
            for count in counts
        ]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {why} |")
    return "\n".join(lines)


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "build/bench-placement.json")
    if not source.exists():
        sys.exit(f"{source} is not there: make bench-placement writes it")
    paths = source.parent.glob("bench-placement-fan*.json")
    files = sorted(paths, key=lambda path: path.stat().st_mtime)
    real = [json.loads(path.read_text()) for path in files]
    PAGE.write_text(insert(PAGE.read_text(), tables(json.loads(source.read_text()), real)))
    print(f"{PAGE.name} has the figures of {source}")


if __name__ == "__main__":
    main()
