"""`lifl top`: a running job, live, from its metrics endpoints.

Owns asking and the screen, which is made for 80 by 24.  Knows nothing that a Prometheus server
would not know, too: what the figures mean is in docs/metrics.md.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lifl.cli.figures import amount, count, duration, percent
from lifl.cli.story import clean
from lifl.errors import Unreachable
from lifl.metrics import PHASES

TIMEOUT_S: Final = 3.0
MISSES: Final = 3  # in a row: then the run is taken for dead
NODE_ROWS: Final = 8  # of 24 lines, 16 are for the rest
COLOURS: Final = {
    "wait": "bright_black", "ingest": "blue", "fold": "green", "hand_off": "yellow",
    "publish": "red",
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """What one endpoint said."""

    at_s: float = 0.0
    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def sum(self, name: str, **labels: str) -> float:
        """Over all samples of that name that have these labels."""
        wanted = set(labels.items())
        return sum(v for (n, has), v in self.values.items() if n == name and wanted <= set(has))

    def labels(self, name: str) -> Iterator[dict[str, str]]:
        return (dict(has) for n, has in self.values if n == name)

    def rate(self, before: Samples | None, name: str) -> float | None:
        """Per second since then; None where there is nothing to compare with."""
        if before is None or self.at_s <= before.at_s:
            return None
        return max(0.0, self.sum(name) - before.sum(name)) / (self.at_s - before.at_s)


@dataclass(frozen=True)
class Look:
    """All endpoints of a run at one moment."""

    coordinator: Samples
    nodes: Mapping[str, Samples | None]  # None: it did not answer


def scrape(url: str) -> Samples:
    """Ask one endpoint.

    Raises:
        OSError: nobody answers there.
    """
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        page = answer.read().decode()
    return Samples(time.monotonic(), {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    })  # fmt: skip


def look(run: Path) -> Look:
    """Ask all endpoints of a run, which may have moved since the last time.

    Raises:
        Unreachable: no job runs there; says what to do.
    """
    fix = "start one with lifl run JOB.yaml, or name a running one's directory: lifl top RUN"
    try:
        where = json.loads((run / "metrics.json").read_text())
        coordinator = scrape(where["coordinator"])
    except FileNotFoundError:
        raise Unreachable(f"no job is running in {run}: {fix}") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"the job in {run} does not answer ({error}): {fix}") from error
    names = {labels["run"] for labels in coordinator.labels("lifl_job_info")}
    if names != {run.resolve().name}:
        raise Unreachable(f"no job is running in {run}; its port is somebody else's now: {fix}")
    nodes: dict[str, Samples | None] = {}
    for name, url in where["nodes"].items():
        try:
            nodes[name] = scrape(url)
        except (OSError, ValueError):
            nodes[name] = None
    return Look(coordinator, nodes)


def top(run: Path, interval_s: float, console: Console | None = None) -> None:
    """Show a run until it ends; Ctrl-C ends it sooner.

    Raises:
        Unreachable: no job runs there.
    """
    console = console or Console(highlight=False)
    run = run.resolve()  # `latest` may come to mean another run
    now, before, missed = look(run), None, 0
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while missed < MISSES:
                live.update(screen(run, now, before, console.width, console.height), refresh=True)
                time.sleep(interval_s)
                try:
                    now, before, missed = look(run), now, 0
                except Unreachable:
                    missed += 1 if (run / "metrics.json").exists() else MISSES
    except KeyboardInterrupt:
        return
    console.print(f"the job in {run} has ended", markup=False, soft_wrap=True)


# -- the screen ------------------------------------------------------------------------------
def screen(
    run: Path, now: Look, before: Look | None, width: int = 80, height: int = 24
) -> RenderableType:  # fmt: skip
    """A look, and what changed since the one before."""
    width = min(width, 110)
    job, rounds = now.coordinator, now.coordinator.sum("lifl_rounds_total")
    name = next(job.labels("lifl_job_info"), {}).get("fljob", "?")
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(" LIFL ", "bold reverse").append(f" {clean(name)}  ", "bold")
    head.append(
        f"round {job.sum('lifl_round'):.0f} of {job.sum('lifl_rounds_planned'):.0f}", "cyan"
    )
    head.append(f"  {count(int(job.sum('lifl_clients_connected')), 'client')}", "dim")
    pace = job.rate(before.coordinator if before else None, "lifl_rounds_total")
    if pace is not None:
        head.append(f"  {pace:.3g} rounds/s", "dim")
    accepted, of = job.sum("lifl_round_updates"), job.sum("lifl_round_clients")
    parts: list[RenderableType] = [
        head,
        Text(str(run), style="dim", no_wrap=True, overflow="ellipsis"),
        Text(),
        _bar("rounds", rounds, job.sum("lifl_rounds_planned"), width),
        _bar("updates", accepted, of, width),
        Text(),
        *_phases(job, width),
        Text(),
        _nodes(now, before, max(2, height - 24 + NODE_ROWS)),
        Text(),
        _foot(job, now),
    ]
    return Group(*parts)


def _bar(name: str, done: float, of: float, width: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=9)
    row.add_column(width=max(10, width - 30))
    row.add_column(justify="right", width=15)
    bar = ProgressBar(total=max(of, 1.0), completed=min(done, of), complete_style="green")
    row.add_row(Text(name, "dim"), bar, f"{done:.0f} of {of:.0f}")
    return row


def _phases(job: Samples, width: int) -> list[RenderableType]:
    """The last round as one bar, and its figures."""
    shares = {p: job.sum("lifl_round_last_phase_seconds", phase=p) for p in PHASES}
    whole = sum(shares.values())
    if not whole:
        return [Text("no round is done yet", "dim")]
    bar, room, ended_at = Text(f"{duration(whole):<10}", "bold", no_wrap=True), width - 10, 0.0
    for phase, seconds in shares.items():
        started_at, ended_at = ended_at, ended_at + seconds
        cells = round(room * ended_at / whole) - round(room * started_at / whole)
        bar.append("█" * cells, COLOURS[phase])
    legend = Table.grid(padding=(0, 3, 0, 0))
    names = [Text.assemble(("■ ", COLOURS[p]), (p.replace("_", "-"), "dim")) for p in PHASES]
    legend.add_row(Text(" " * 7), *names)
    legend.add_row(
        Text("phases", "dim"), *(f"  {duration(seconds)}" for seconds in shares.values())
    )
    return [bar, legend]


def _nodes(now: Look, before: Look | None, most: int) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("node", no_wrap=True, overflow="ellipsis", max_width=14)
    titles = ("updates/s", "in", "fold", "slots", "queue", "hand-offs/s", "quarant.", "restarts")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for name, node in list(now.nodes.items())[:most]:
        table.add_row(*_node(name, node, before.nodes.get(name) if before else None, now))
    hidden = len(now.nodes) - most
    if hidden > 0:
        table.add_row(Text(f"and {hidden} more", "dim"))
    return table


def _node(name: str, node: Samples | None, before: Samples | None, now: Look) -> list[Text]:
    restarts = now.coordinator.sum("lifl_restarts_total", node=name)
    tail = Text(f"{restarts:.0f}", "yellow" if restarts else "")
    if node is None:
        return [Text(clean(name)), Text("away", "yellow"), *[Text("-")] * 6, tail]
    updates, taken = (
        node.rate(before, f"lifl_{what}_total") for what in ("updates", "update_bytes")
    )
    handed = node.rate(before, "lifl_handoffs_total")
    speed = node.sum("lifl_fold_bytes_per_second")
    odd = node.sum("lifl_descriptors_quarantined_total")
    return [
        Text(clean(name), "bold"),
        Text(_per(updates)),
        Text("-" if taken is None else f"{amount(taken)}/s"),
        Text(f"{speed / 1e9:.2f} GB/s" if speed else "-"),
        Text(f"{node.sum('lifl_slots_used'):.0f}/{node.sum('lifl_slots'):.0f}"),
        Text(f"{node.sum('lifl_queue_length'):.0f} ~{node.sum('lifl_queue_length_ewma'):.1f}"),
        Text(_per(handed)),
        Text(f"{odd:.0f}", "bold red" if odd else ""),
        tail,
    ]


def _per(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _foot(job: Samples, now: Look) -> RenderableType:
    nodes = [node for node in now.nodes.values() if node is not None]
    line = Text(no_wrap=True, overflow="ellipsis", style="dim")
    infos = {
        (labels["proxy"], labels["kernels"], labels["isa"])
        for node in nodes
        for labels in node.labels("lifl_node_info")
    }
    lanes = {labels["lane"] for node in nodes for labels in node.labels("lifl_node_job_info")}
    for proxy, kernels, isa in sorted(infos):
        line.append(f"proxy {clean(proxy)}, kernels {clean(kernels)} ({clean(isa)})  ")
    line.append(f"lane {', '.join(sorted(lanes))}  " if lanes else "")
    starts = {start: sum(n.sum("lifl_starts_total", start=start) for n in nodes)
              for start in ("cold", "warm")}  # fmt: skip
    line.append(f"starts {starts['cold']:.0f} cold, {starts['warm']:.0f} warm")
    second = Text(no_wrap=True, overflow="ellipsis")
    for labels in job.labels("lifl_evaluation"):
        metric = labels["metric"]
        value = job.sum("lifl_evaluation", metric=metric)
        second.append(f"{clean(metric)} ", "dim")
        second.append(
            f"{percent(value) if metric == 'accuracy' else f'{value:.4g}'}  ", "bold green"
        )
    waits = sum(node.sum("lifl_slot_waits_total") for node in nodes)
    refused = sum(node.sum("lifl_rejections_total") for node in nodes)
    second.append(f"waits for slots {waits:.0f}  rejections {refused:.0f}", "dim")
    return Group(second, line)
