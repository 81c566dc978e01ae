"""`make bench`: every figure that LIFL is held to, each beside its reference.

    python -m benchmarks [CASE ...] [--out build/bench.json]

Owns which cases there are, the order, the file and the exit status: 0 also when a goal does not
hold, since a benchmark prints and does not judge; 1 when a case could not be measured although
what it needs is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import case_clients, case_fold, case_handoff, case_idle, case_round, case_starts
from benchmarks.rows import Case, NotMeasured, row, table
from benchmarks.system import machine

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *case_round.CASES, case_clients.CASE, case_handoff.CASE, *case_fold.CASES, case_idle.CASE,
        case_starts.CASE,
    )
}  # fmt: skip
BUSY_LOAD = 1.0


def measure(case: Case, options: dict[str, int]) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a case, and whether it went as it should."""
    try:
        found = case.measure(**options)
    except NotMeasured as lack:
        return [row(line, None, f"not measured: {lack}") for line in case.lines.values()], True
    except Exception:
        traceback.print_exc()
        failed = "not measured: it failed, see above"
        return [row(line, None, failed) for line in case.lines.values()], False
    rows = [
        row(line, found.get(name), "not measured: this machine has one CPU, or one thread")
        for name, line in case.lines.items()
    ]
    return rows, True


@click.command()
@click.argument("names", metavar="[CASE]...", nargs=-1, type=click.Choice(list(CASES)))
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False),
    help="Where the rows go; build/bench.json, or build/bench-CASE.json for some cases alone.",
)  # fmt: skip
@click.option(
    "--turns",
    type=click.IntRange(1),
    help="How often each is measured, instead of what a case says; a median wants 5.",
)
def main(names: tuple[str, ...], out: Path | None, turns: int | None) -> None:
    """Measure all cases, or those that are named."""
    console, notes = Console(width=_width()), Console(stderr=True)
    here = machine()
    console.print(
        f"{here['cpu']}, {here['cpus']} CPUs, {here['memory_gb']} GB, Linux {here['kernel']}, "
        f"load {here['load_at_start']}"
    )
    if here["load_at_start"] > BUSY_LOAD:
        notes.print(
            f"warning: the load is {here['load_at_start']}: something else runs here, and "
            "figures are worse than the machine's", style="yellow",
        )  # fmt: skip
    run({name: CASES[name] for name in names or CASES}, here, turns=turns,
        out=out or Path("build") / ("-".join(("bench", *names)) + ".json"))  # fmt: skip


def run(
    cases: Mapping[str, Case], here: dict[str, Any], *, turns: int | None, out: Path
) -> None:
    """Measure cases one after the other, print their table and write their rows.

    Ends the process with status 1 when one could not be measured.
    """
    console, notes = Console(width=_width()), Console(stderr=True)
    rows: list[dict[str, Any]] = []
    failed = []
    for name, case in cases.items():
        began = time.monotonic()
        found, fine = measure(case, {} if turns is None else {"turns": turns})
        rows += found
        failed += [] if fine else [name]
        notes.print(f"{name}: {time.monotonic() - began:.0f} s", style="dim")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": here, "rows": rows}, indent=2, ensure_ascii=False) + "\n")
    console.print(table(rows))
    console.print(f"written to {out}")
    if failed:
        notes.print(f"could not be measured: {', '.join(failed)}", style="red")
        sys.exit(1)


def _width() -> int | None:
    """Of the terminal; where there is none, wide enough for a row."""
    return None if os.isatty(1) else 160


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that jobs are ended, too
    main()
