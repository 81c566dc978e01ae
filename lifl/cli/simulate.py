"""`lifl simulate`: a scenario under each of its policies, as a table, as JSON, as pictures.

Owns what is printed.  What is computed is placement/simulator's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lifl.cli.figures import amount
from lifl.placement.simulator.rounds import EXACT_MOST, Engine, Row, Total, simulate, total
from lifl.placement.simulator.scenario import Scenario, load_scenario

TABLE_LEAST: Final = 120  # columns, of which it uses what it needs
LEGEND: Final = (
    "round: median, from its start to its model; aggregation: from the last update's being ready; "
    "the rest over all rounds, nodes on average"
)


def run(path: Path, *, as_json: bool, engine: Engine, plots: Path | None) -> None:
    """Simulate, print, and draw where asked to.

    Raises:
        InvalidJob: no scenario, or no trace.
    """
    scenario = load_scenario(path)
    if plots is not None and find_spec("matplotlib") is None:
        raise click.UsageError(
            "--plots needs matplotlib, which is not installed: pip install 'lifl[report]'"
        )
    rows: dict[str, list[Row]] = {}
    took_s = 0.0
    with Progress(console=Console(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task("simulating", total=len(scenario.policies))
        for policy in scenario.policies:
            progress.update(task, description=policy)
            began = time.monotonic()
            rows[policy] = simulate(scenario, policy, folder=path.parent, engine=engine)
            took_s += time.monotonic() - began
            progress.advance(task)
    if engine == "auto":
        engine = "exact" if scenario.clients <= EXACT_MOST else "fast"
    totals = [total(found) for found in rows.values()]
    if as_json:
        click.echo(json.dumps({
            "scenario": scenario.model_dump(mode="json", by_alias=True), "engine": engine,
            "totals": [asdict(one) for one in totals],
            "rounds": [asdict(row) for found in rows.values() for row in found],
        }, indent=2))  # fmt: skip
    else:
        _print(Console(), scenario, totals)
        click.secho(f"{engine} engine, {took_s:.1f} s", dim=True)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        data = json.dumps([asdict(row) for found in rows.values() for row in found])
        drawn = subprocess.run(
            [sys.executable, "-m", "lifl.cli.simulate_plots", str(plots)],
            input=data, text=True, stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        click.echo(drawn.stdout, nl=False, err=as_json)


def _print(console: Console, scenario: Scenario, totals: list[Total]) -> None:
    """The table, whole: where a terminal is narrower, it wraps lines; nothing else does."""
    nodes = sum(group.count for group in scenario.nodes)
    console.print(
        f"{scenario.rounds} rounds, {scenario.clients} clients, {nodes} nodes, updates of "
        f"{amount(scenario.update_bytes)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    drawn = _table(totals)
    width = console.width
    console.width = max(width, TABLE_LEAST)
    console.print(drawn)
    console.width = width
    console.print(LEGEND, highlight=False, soft_wrap=not console.is_terminal)


def _table(totals: list[Total]) -> Table:
    """One row a policy; the best of each column in bold."""
    drawn = Table(box=None, pad_edge=False)
    for heading in ("policy", "round", "aggregation", "between nodes", "nodes", "starts", "reuses",
                    "CPU"):  # fmt: skip
        drawn.add_column(heading, justify="left" if heading == "policy" else "right", no_wrap=True)
    least = {
        name: min(getattr(one, name) for one in totals)
        for name in ("seconds", "aggregate_s", "internode_bytes", "nodes", "starts", "cpu_s")
    }
    for one in totals:
        words = {
            "seconds": f"{one.seconds:.3f} s", "aggregate_s": f"{one.aggregate_s:.3f} s",
            "internode_bytes": amount(one.internode_bytes), "nodes": f"{one.nodes:.1f}",
            "starts": str(one.starts), "reuses": str(one.reuses), "cpu_s": f"{one.cpu_s:.1f} s",
        }  # fmt: skip
        drawn.add_row(
            one.policy,
            *(
                f"[bold]{word}[/bold]" if getattr(one, name) == least.get(name) else word
                for name, word in words.items()
            ),
        )
    return drawn
