"""`lifl top`: a running job, live, from its metrics endpoints.

Owns asking and the screen, which is made for 80 by 24: in a narrower one lines break and columns go
one by one, and nothing is told by colour alone.  Knows nothing that a Prometheus server would not
know, too: what the figures mean is in docs/metrics.md.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lifl.cli.figures import KINDS, amount, count, duration, percent, starts
from lifl.cli.story import clean
from lifl.errors import Unreachable
from lifl.metrics import PHASES
from lifl.placement.local import is_under_way

TIMEOUT_S: Final = 3.0
AVERAGE_S: Final = 10.0  # over which rates are; gateways report every 2 s at the latest
MISSES: Final = 3  # in a row: then the run is taken for dead
LABEL: Final = 10  # columns of what stands before bars and lists
WIDEST: Final = 110
PHASE_LOOK: Final = {  # a sign of its own for each, and a colour
    "wait": ("·", "bright_black"), "ingest": ("░", "blue"), "fold": ("█", "green"),
    "hand_off": ("─", "yellow"), "publish": ("▚", "red"),
}  # fmt: skip
COLUMN_HELP: Final = {
    "updates/s": "clients' updates that were accepted, a second, over the last 10 s",
    "in": "their bytes, a second, over the same time",
    "fold": "bytes of inputs that one folding aggregator read, a second, in the last round",
    "slots": "input slots in use, of how many there are",
    "queue": "updates that wait now, sealed and not yet folded or without a slot; after ~ the "
    "average over about 10 s",
    "hand-offs/s": "descriptors that went from one process to the next, a second, over the same "
    "time",
    "quarant.": "quarantined: descriptors that were malformed or forged and went to the agent "
    "instead of an aggregator, since the node began",
    "restarts": "of the node's processes after they had died",
}
COUNTERS: Final = tuple(
    f"lifl_{what}_total" for what in ("rounds", "updates", "update_bytes", "handoffs")
)
COLUMNS: Final = tuple(COLUMN_HELP)
SPARE: Final = (6, 3, 1, 8, 5, 7, 4)  # columns that go first where there is no room; 0: the name


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
    except (FileNotFoundError, NotADirectoryError):
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
    """Show a run until it ends, once it has started; Ctrl-C ends it sooner.

    Raises:
        Unreachable: no job runs there.
    """
    console = console or Console(highlight=False)
    run = run.resolve()  # `latest` may come to mean another run
    try:
        looks, missed = deque([_first(run, interval_s, console)]), 0
        with Live(
            console=console, auto_refresh=False, screen=console.is_terminal, transient=True
        ) as live:
            while missed < MISSES:
                drawn = screen(run, looks[-1], since(looks), console.width, console.height)
                if console.is_terminal:
                    live.update(drawn, refresh=True)
                else:  # Live would keep all but the last to itself
                    console.print(drawn)
                    console.file.flush()
                time.sleep(interval_s)
                try:
                    looks.append(look(run))
                    missed = 0
                    _drop_old(looks)
                except Unreachable:
                    missed += 1 if (run / "metrics.json").exists() else MISSES
    except KeyboardInterrupt:
        return
    console.print(f"the job in {run} has ended", markup=False, soft_wrap=True)


def since(looks: Sequence[Look]) -> Look:
    """What rates are counted from: of each endpoint the oldest of these looks (newest last) since
    which it has answered and counted on."""
    now = looks[-1]
    return Look(
        _oldest([each.coordinator for each in looks]) or now.coordinator,
        {name: _oldest([each.nodes.get(name) for each in looks]) for name in now.nodes},
    )


def _oldest(samples: Sequence[Samples | None]) -> Samples | None:
    """One that began anew counts from 0 again."""
    oldest = samples[-1]
    for earlier in reversed(samples):
        if oldest is None or earlier is None:
            break
        if any(earlier.sum(name) > oldest.sum(name) for name in COUNTERS):
            break
        oldest = earlier
    return oldest


def _drop_old(looks: deque[Look]) -> None:
    """Keep the newest look, and as many before it as rates are made of: one at least."""
    newest_s = looks[-1].coordinator.at_s
    while len(looks) > 2 and newest_s - looks[1].coordinator.at_s >= AVERAGE_S:
        looks.popleft()


def _first(run: Path, interval_s: float, console: Console) -> Look:
    """The first look at a run; one that is starting is waited for."""
    is_said = False
    while True:
        lives = is_under_way(run)
        try:
            return look(run)
        except Unreachable:
            if not lives:
                raise
        if not is_said:
            console.print(f"the run in {run} is starting its nodes", markup=False, soft_wrap=True)
            is_said = True
        time.sleep(interval_s)


# -- the screen ------------------------------------------------------------------------------
def screen(
    run: Path, now: Look, before: Look | None, width: int = 80, height: int = 24
) -> RenderableType:  # fmt: skip
    """A look, and what changed since one before it."""
    width = min(width, WIDEST)
    job, rounds = now.coordinator, now.coordinator.sum("lifl_rounds_total")
    name = next(job.labels("lifl_job_info"), {}).get("fljob", "?")
    head = [
        Text.assemble((" LIFL ", "bold reverse"), (f" {clean(name)}", "bold")),
        Text(f"round {job.sum('lifl_round'):.0f} of {job.sum('lifl_rounds_planned'):.0f}", "cyan"),
        Text(count(int(job.sum("lifl_clients_connected")), "client"), "dim"),
    ]
    pace = job.rate(before.coordinator if before else None, "lifl_rounds_total")
    if pace is not None:
        head.append(Text(f"{pace:.3g} rounds/s", "dim"))
    accepted, of = job.sum("lifl_round_updates"), job.sum("lifl_round_clients")
    parts = [
        *_flow(head, width),
        Text(str(run), style="dim", no_wrap=True, overflow="ellipsis"),
        Text(),
        _bar("rounds", rounds, job.sum("lifl_rounds_planned"), width),
        _bar("updates", accepted, of, width),
        Text(),
        *_phases(job, width),
        Text(),
    ]
    foot = [Text(), *_foot(job, now, width)]
    room = height - 1 - len(parts) - len(foot)  # the last line is the cursor's
    return Group(*parts, *_nodes(now, before, max(4, room), width), *foot)


def _flow(items: Iterable[Text], width: int, label: str | None = None) -> list[Text]:
    """Items side by side, in as many lines as they need; a label stands before the first."""
    indent = "" if label is None else " " * LABEL
    lines = [Text("" if label is None else f"{label:<{LABEL}}", "dim", no_wrap=True)]
    is_empty = True
    for item in items:
        if not is_empty and lines[-1].cell_len + 2 + item.cell_len > width:
            lines.append(Text(indent, no_wrap=True))
            is_empty = True
        lines[-1].append("" if is_empty else "  ").append_text(item)
        is_empty = False
    for line in lines:
        line.overflow = "ellipsis"
    return lines


def _bar(name: str, done: float, of: float, width: int) -> Text:
    numbers = f" {done:.0f} of {of:.0f}"
    cells = max(5, width - LABEL - max(15, len(numbers)))
    full = int(cells * min(done, of) / max(of, 1.0))
    bar = Text(f"{name:<{LABEL}}", "dim", no_wrap=True, overflow="ellipsis")
    bar.append("━" * full, "not dim green").append("·" * (cells - full))
    return bar.append(f"{numbers:>15}", "not dim")


def _phases(job: Samples, width: int) -> list[Text]:
    """The last round as one bar, and its figures."""
    shares = {p: job.sum("lifl_round_last_phase_seconds", phase=p) for p in PHASES}
    whole = sum(shares.values())
    if not whole:
        return [Text("no round is done yet", "dim")]
    bar = Text(f"{duration(whole):<{LABEL}}", "bold", no_wrap=True)
    room, ended_at, legend = width - LABEL, 0.0, []
    for phase, seconds in shares.items():
        sign, colour = PHASE_LOOK[phase]
        started_at, ended_at = ended_at, ended_at + seconds
        cells = round(room * ended_at / whole) - round(room * started_at / whole)
        bar.append(sign * cells, f"not bold {colour}")
        name = phase.replace("_", "-")
        legend.append(
            Text.assemble((f"{sign * 2} ", colour), (f"{name} ", "dim"), duration(seconds))
        )
    return [bar, *_flow(legend, width, "phases")]


def _nodes(now: Look, before: Look | None, most: int, width: int) -> list[Text]:
    """One line a node, under titles; columns that do not fit are left out, and named."""
    nodes = sorted(now.nodes.items(), key=lambda item: (len(item[0]), item[0]))
    rows = [[Text("node", "dim"), *(Text(title, "dim") for title in COLUMNS)]]
    rows += [
        _node(name, node, before.nodes.get(name) if before else None, now) for name, node in nodes
    ]
    for row in rows:
        row[0].truncate(14, overflow="ellipsis")
    widths = [max(row[at].cell_len for row in rows) for at in range(len(rows[0]))]
    kept = list(range(len(widths)))
    for spare in SPARE:
        if sum(widths[at] + 2 for at in kept) - 2 > width:
            kept.remove(spare)
    left_out = [COLUMNS[at - 1] for at in range(1, len(widths)) if at not in kept]
    notes = [Text("in a wider window:", "dim")] if left_out else []
    notes += [Text(title, "dim") for title in left_out]
    below = _flow(notes, width) if notes else []
    if (hidden := len(rows) + len(below) - most) > 0:
        hidden = min(hidden + 1, len(nodes) - 1)  # and the line that says so
        below = _flow([Text(f"and {hidden} more", "dim"), *notes], width)
        rows = rows[:-hidden] if hidden else rows
    return [*(_line(row, kept, widths) for row in rows), *below]


def _line(row: list[Text], kept: list[int], widths: list[int]) -> Text:
    """The name to the left, figures to the right of their columns."""
    line = Text(no_wrap=True, overflow="ellipsis")
    for at in kept:
        gap = " " * (widths[at] - row[at].cell_len)
        line.append("  " if at else "")
        line.append_text(Text.assemble(gap, row[at]) if at else Text.assemble(row[at], gap))
    return line


def _node(name: str, node: Samples | None, before: Samples | None, now: Look) -> list[Text]:
    restarts = now.coordinator.sum("lifl_restarts_total", node=name)
    tail = Text(f"{restarts:.0f}", "yellow" if restarts else "")
    if node is None:
        away = [Text("away", "yellow") if title == "slots" else Text("-") for title in COLUMNS[:-1]]
        return [Text(clean(name)), *away, tail]  # in the column that goes last
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


def _foot(job: Samples, now: Look, width: int) -> list[Text]:
    nodes = [node for node in now.nodes.values() if node is not None]
    infos = {
        (labels["proxy"], labels["kernels"], labels["isa"])
        for node in nodes
        for labels in node.labels("lifl_node_info")
    }
    lanes = {labels["lane"] for node in nodes for labels in node.labels("lifl_node_job_info")}
    how = [f"proxy {clean(proxy)}, kernels {clean(kernels)} ({clean(isa)})"
           for proxy, kernels, isa in sorted(infos)]  # fmt: skip
    how += [f"lane {', '.join(sorted(lanes))}"] if lanes else []
    how.append("starts " + starts(
        {kind: sum(n.sum("lifl_starts_total", start=kind) for n in nodes) for kind in KINDS}, {}
    ))  # fmt: skip
    figures = []
    for labels in job.labels("lifl_evaluation"):
        value = job.sum("lifl_evaluation", metric=labels["metric"])
        said = percent(value) if labels["metric"] == "accuracy" else f"{value:.4g}"
        figures.append(Text.assemble((f"{clean(labels['metric'])} ", "dim"), (said, "bold green")))
    waits = sum(node.sum("lifl_slot_waits_total") for node in nodes)
    refused = sum(node.sum("lifl_rejections_total") for node in nodes)
    figures += [
        Text(text, "dim") for text in (f"waits for slots {waits:.0f}", f"rejections {refused:.0f}")
    ]
    return [*_flow(figures, width), *_flow((Text(part, "dim") for part in how), width)]
