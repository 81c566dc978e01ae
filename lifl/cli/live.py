"""A run as a screen: story, width and height in, something that rich draws out.

Owns the layout.  It is made for 80 by 24 and never taller than the terminal, since what does
not fit makes a live display flicker.  Called by `view` several times a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lifl.cli.figures import (
    amount,
    count,
    duration,
    figure,
    figures,
    main_figure,
    numbers,
    rate,
    sparkline,
    starts,
    starts_of,
)
from lifl.cli.plain import backends, handed
from lifl.cli.story import Roles, Story, clean

COLUMN: Final = 26  # of one node's tree
LABEL: Final = 10
COLOURS: Final = {"top": "bold magenta", "middle": "cyan", "leaf": "green"}
_MEASURE: Final = Console(width=110)


def screen(story: Story, *, elapsed_s: float, width: int, height: int) -> RenderableType:
    """The whole display; of what does not fit the tree goes first, then empty lines."""
    width = min(width, 110)
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(" LIFL ", "bold reverse")
    head.append(f" {story.job_name}  ", "bold")
    head.append(_phase(story), "cyan")
    minutes, seconds = divmod(int(elapsed_s), 60)
    head.append(f"  {minutes}:{seconds:02}", "dim")
    engine = Text(backends(story) if story.proxy else "starting nodes", "dim")
    fixed = 8 if height >= 20 else 7  # below 20 rows what clients report is left out
    rows = height - 1 - fixed - len(engine.wrap(_MEASURE, width))  # for tree and empty lines
    gap: list[RenderableType] = [Text()] if rows >= 3 + 3 else []
    rows -= 3 * len(gap)
    tree = _trees(story, width, rows) if rows >= 3 and story.tree else []
    return Group(
        head, engine, *gap,
        _bar("rounds", story.done_rounds, story.rounds, width),
        _bar("clients", *(story.waiting or (story.accepted, story.clients)), width),
        *gap, *tree, *(gap if tree else []),
        _figures(story, width, height),
    )  # fmt: skip


def _phase(story: Story) -> str:
    if story.error is not None:
        return "failed"
    if story.summary is not None:
        return "done, ending its processes"
    if story.stopped:
        return "stopping"
    if story.waiting is not None:
        return "waiting for clients"
    if story.round:
        return f"round {story.round} of {story.rounds}"
    return "starting clients" if story.proxy else "starting"


def _bar(name: str, done: int, of: int, width: int) -> Text:
    """Readable also where colours are stripped: what is full and what is empty differ."""
    numbers = f"{done} of {of}"
    cells = max(5, width - LABEL - 2 - len(numbers))
    full = cells * min(done, of) // max(of, 1)
    bar = Text(f"{name:<{LABEL}} ", "dim", no_wrap=True, overflow="ellipsis")
    bar.append("━" * full, "not dim green").append("·" * (cells - full))
    return bar.append(f" {numbers}", "not dim")


# -- the tree --------------------------------------------------------------------------------
def _trees(story: Story, width: int, rows: int) -> list[RenderableType]:
    """Nodes side by side, as many as fit."""
    across = max(1, (width + 2) // COLUMN)
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
    row, values = story.last_row, story.measured
    measured = Text(sparkline(values, max(10, width - 30)), "green")
    measured.append(f" {figure(story.figure, values[-1])}" if values else "-", "bold")
    seconds = row.get("seconds", 0.0)
    reported = figures(row.get("metrics"))
    rows: dict[str, Text | str] = {
        "last round": f"{duration(seconds)}, updates {rate(row.get('bytes', 0), seconds)}, "
                      f"fold {rate(row.get('fold_bytes', 0), row.get('fold_seconds', 0.0))}"
                      if row else "-",
        **({"reported": reported} if height >= 20 and reported else {}),
        "hand-offs": handed(story.handoffs),
        "starts": starts(story.starts, story.start_s) or "none",
    }  # fmt: skip
    lines = []
    for name, value in [(clean(story.figure)[:LABEL], measured), *rows.items()]:
        line = Text(f"{name:<{LABEL}} ", "dim", no_wrap=True, overflow="ellipsis")
        lines.append(line.append(value if isinstance(value, Text) else Text(value, "not dim")))
    return Group(*lines)


def summary_lines(story: Story) -> list[Text]:
    """The end of a run, for a terminal and for plain output alike."""
    end = story.summary or {}
    said = numbers(end.get("evaluation"))
    name = main_figure(said, story.goal)
    others = figures({other: value for other, value in said.items() if other != name})
    measured = f"{figure(name, said[name])}{', ' if others else ''}{others}" if said else ""
    skipped = (end.get("evaluations") or {}).get("skipped", 0)
    median = duration(end.get("round_s_median", 0.0))
    why = f" ({story.short_reason})" if story.reason else ""
    size_bytes = end.get("bytes", 0)
    rows = {
        "rounds": f"{end.get('rounds', 0)}, {median} at the median"
                  + (f", {skipped} of them not evaluated" if skipped else ""),
        **({"ended": clean(end["stopped"])} if end.get("stopped") else {}),
        **({"reported": figures(end["metrics"])} if end.get("metrics") else {}),
        "wall time": duration(end.get("wall_s", 0.0)),
        "updates": f"{end.get('updates', 0):,}, {amount(size_bytes)}, "
                   f"{rate(size_bytes, story.round_s)} during rounds",
        "hand-offs": handed(end.get("handoffs")),
        "nodes": str(end.get("nodes", story.nodes)),
        "proxy": clean(end.get("proxy", story.proxy)) + why,
        "kernels": clean(end.get("kernels", story.kernels)),
        "starts": starts(starts_of(end), end.get("start_seconds", {})),
        "results": story.run_dir,
    }  # fmt: skip
    if end.get("insecure"):
        rows["security"] = "none: the job says insecure: true"
    lines = [Text(f"--- {story.job_name}: done ---", "bold")]
    line = Text(f"{clean(name):<{LABEL}} ", "dim")
    lines.append(line.append(measured or "not measured", "bold green"))
    for label, value in rows.items():
        lines.append(Text(f"{label:<{LABEL}} ", "dim").append(value, "not dim"))
    return lines
