"""A run as a screen: story, width and height in, something that rich draws out.

Owns the layout.  It is made for 80 by 24 and never taller than the terminal, since what does
not fit makes a live display flicker.  Called by `view` several times a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lifl.cli.figures import count, duration, figures, percent, rate, sparkline
from lifl.cli.plain import backends, handed
from lifl.cli.story import Roles, Story, clean

COLUMN: Final = 26  # of one node's tree
COLOURS: Final = {"top": "bold magenta", "middle": "cyan", "leaf": "green"}
FIXED_ROWS: Final = 14  # everything but the tree


def screen(story: Story, *, elapsed_s: float, width: int, height: int) -> RenderableType:
    """The whole display."""
    width = min(width, 110)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(" LIFL ", "bold reverse")
    head.append(f" {story.job_name}  ", "bold")
    head.append(_phase(story), "cyan")
    minutes, seconds = divmod(int(elapsed_s), 60)
    head.append(f"  {minutes}:{seconds:02}", "dim")
    engine = Text(no_wrap=True, overflow="ellipsis", style="dim")
    engine.append(backends(story) if story.proxy else "starting nodes")
    parts: list[RenderableType] = [head, engine, Text()]
    parts += [
        _bar("rounds", story.done_rounds, story.rounds, width),
        _bar("clients", *(story.waiting or (story.accepted, story.clients)), width),
        Text(),
        *_trees(story, width, max(3, height - FIXED_ROWS)),
        Text(),
        _figures(story, width, height),
    ]
    if story.notes:
        parts.append(Text(story.notes[-1], style="yellow", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _phase(story: Story) -> str:
    if story.error is not None:
        return "failed"
    if story.summary is not None:
        return "done"
    if story.waiting is not None:
        return "waiting for clients"
    return f"round {story.round} of {story.rounds}" if story.round else "starting"


def _bar(name: str, done: int, of: int, width: int) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=9)
    row.add_column(width=max(10, width - 26))
    row.add_column(justify="right", width=11)
    bar = ProgressBar(total=max(of, 1), completed=min(done, of), complete_style="green")
    row.add_row(Text(name, "dim"), bar, f"{done} of {of}")
    return row


# -- the tree --------------------------------------------------------------------------------
def _trees(story: Story, width: int, rows: int) -> list[RenderableType]:
    """Nodes side by side, as many as fit."""
    across = max(1, width // COLUMN)
    tallest = max((len(roles) for roles in story.tree.values()), default=0) + 1
    fit = across * max(1, rows // tallest)
    names = list(story.tree)
    left_out = len(names) - fit if len(names) > fit else 0
    shown = names[: len(names) - left_out]
    grid = Table.grid(padding=(0, 2))
    for _ in range(across):
        grid.add_column(width=COLUMN - 2)
    for start in range(0, len(shown), across):
        row = shown[start : start + across]
        cells = [_node(name, story.tree[name], story, rows) for name in row]
        grid.add_row(*cells)
    if not left_out:
        return [grid]
    return [grid, Text(f"and {count(left_out, 'node')} more", "dim")]


def _node(name: str, roles: Roles, story: Story, rows: int) -> Text:
    lines = [Text(clean(name), "bold")]
    top = next((n for n, rs in story.tree.items() if any(r.get("role") == "top" for r in rs)), "")
    children: dict[Any, list[Mapping[str, Any]]] = {}
    for role in roles:
        children.setdefault(role.get("parent", 0), []).append(role)
    _branch(lines, children, 0, "", set())
    if name != top and len(lines) > 1:
        lines[1].append(f" → {clean(top)}", "dim")
    if len(lines) > rows:
        lines[rows - 1 :] = [Text(f"… {len(lines) - rows + 1} more", "dim")]
    return Text("\n").join(lines)


def _branch(
    lines: list[Text],
    children: Mapping[Any, Sequence[Mapping[str, Any]]],
    parent: Any,
    indent: str,
    seen: set[Any],
) -> None:
    """Draw what is below `parent`; `seen` ends a tree that is none."""
    below = children.get(parent, ())
    for index, role in enumerate(below):
        endpoint = role.get("endpoint")
        if endpoint in seen:
            continue
        seen.add(endpoint)
        last = index == len(below) - 1
        guide = "" if parent == 0 else indent + ("└ " if last else "├ ")
        kind = clean(role.get("role", "?"))
        line = Text(guide, "dim")
        line.append(f"{kind} {endpoint}", COLOURS.get(kind, ""))
        if kind == "leaf":
            line.append(f" · {count(role.get('clients', 0), 'client')}", "dim")
        lines.append(line)
        deeper = "" if parent == 0 else indent + ("  " if last else "│ ")
        _branch(lines, children, endpoint, deeper, seen)


# -- figures ---------------------------------------------------------------------------------
def _figures(story: Story, width: int, height: int) -> RenderableType:
    row = story.last_row
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    accuracies = story.accuracies
    accuracy = Text(sparkline(accuracies, max(10, width - 30)), "green")
    accuracy.append(f" {percent(accuracies[-1])}" if accuracies else "-", "bold")
    grid.add_row("accuracy", accuracy)
    seconds = row.get("seconds", 0.0)
    grid.add_row("round", f"{duration(seconds)}, updates {rate(row.get('bytes', 0), seconds)}, "
                 f"fold {rate(row.get('fold_bytes', 0), row.get('fold_seconds', 0.0))}"
                 if row else "-")  # fmt: skip
    if height >= FIXED_ROWS + 3:
        grid.add_row("reported", figures(row.get("metrics")) or "-")
    grid.add_row("hand-offs", handed(story.handoffs))
    grid.add_row("starts", f"{story.cold_starts} cold, {story.warm_starts} warm")
    return grid


def summary_lines(story: Story) -> list[Text]:
    """The end of a run, for a terminal and for plain output alike."""
    end = story.summary or {}
    accuracy, wall_s = end.get("accuracy"), end.get("wall_s", 0.0)
    median = duration(end.get("round_s_median", 0.0))
    rows = {
        "accuracy": percent(accuracy) if accuracy is not None else "not measured",
        "rounds": f"{end.get('rounds', 0)}, {median} at the median",
        **({"ended": clean(end["stopped"])} if end.get("stopped") else {}),
        **({"reported": figures(end["metrics"])} if end.get("metrics") else {}),
        "wall time": duration(wall_s),
        "updates": f"{end.get('updates', 0):,}, {rate(end.get('bytes', 0), wall_s)}",
        "hand-offs": handed(end.get("handoffs")),
        "nodes": str(end.get("nodes", story.nodes)),
        "proxy": clean(end.get("proxy", story.proxy)),
        "kernels": clean(end.get("kernels", story.kernels)),
        "starts": f"{end.get('cold_starts', 0)} cold, {end.get('warm_starts', 0)} warm",
        "results": story.run_dir,
    }
    if end.get("insecure"):
        rows["security"] = "none: the job says insecure: true"
    lines = [Text(f"--- {story.job_name}: done ---", "bold")]
    for name, value in rows.items():
        line = Text(f"{name:<11}", "dim")
        lines.append(line.append(value, "bold green" if name == "accuracy" else "not dim"))
    return lines
