"""`make bench-placement`: policies, the paper's steps, the planner's and the simulator's time.

    python -m benchmarks.placement [CASE ...] [--out build/bench-placement.json]

Rows are those of `make bench`.  Real runs are cases, too, which are measured where they are named:
`fanIn: auto` (fan-in-8-1MB, …), policies over network namespaces (netns-64, netns-16), and the
simulator beside such rounds (calibration).
"""

from __future__ import annotations

import signal
from pathlib import Path

import click

from benchmarks import case_calibration, case_fanin, case_netns, case_planner, case_policies
from benchmarks.__main__ import run
from benchmarks.rows import Case
from benchmarks.system import machine

DEFAULT: dict[str, Case] = {
    case.name: case for case in (*case_policies.CASES, *case_planner.CASES)
}
CASES = DEFAULT | {
    case.name: case for case in (*case_fanin.CASES, *case_netns.CASES, case_calibration.CASE)
}


@click.command()
@click.argument("names", metavar="[CASE]...", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where rows go.")
@click.option("--turns", type=click.IntRange(1), help="How often each is measured.")
def main(names: tuple[str, ...], out: Path | None, turns: int | None) -> None:
    """Measure the cases that are named, or all that need no real run."""
    run({name: CASES[name] for name in names or DEFAULT}, machine(), turns=turns,
        out=out or Path("build") / ("-".join(("bench-placement", *names)) + ".json"))  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that jobs are ended, too
    main()
