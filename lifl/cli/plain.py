"""A run as lines, for logs and pipes: ASCII, one line an event that says something new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lifl.cli.figures import amount, count, duration, figures
from lifl.cli.story import Event, Roles, Story, Tree, clean


def lines(story: Story, before: Tree, event: Event) -> Iterator[str]:
    """What to print for an event that the story has taken; `before` is the tree until then."""
    number = event.get("round", 0)
    label = f"round {number:>{len(str(story.rounds))}}/{story.rounds}"
    match event.get("event"):
        case "engine":
            yield f"job {story.job_name}: {backends(story)}"
            if story.run_dir:
                yield f"run directory: {story.run_dir}"
            if story.endpoint:
                yield f"clients connect to {story.endpoint}"
        case "report":
            yield f"report: {clean(event.get('path', ''))}"
        case "metrics_at":
            yield f"metrics: {clean(event.get('coordinator', ''))}"
        case "endpoint":
            files = f"; key files in {clean(event['files'])}" if event.get("files") else ""
            yield f"clients connect to {story.endpoint}{files}"
        case "waiting" if story.waiting:
            yield f"waiting for clients: {story.waiting[0]} of {story.waiting[1]}"
        case "round_started" if story.tree != before:
            yield f"{label}: tree of {count(story.clients, 'client')}: " + "; ".join(
                f"{clean(node)}: {census(roles)}" for node, roles in story.tree.items()
            )
        case "round_done":
            yield f"{label}: {_row(event)}"
        case "metrics":
            yield f"{label}: {figures(event.get('figures'))}"
        case "warning":
            yield f"warning: {story.notes[-1]}"
        case "restart":
            yield story.notes[-1]
        case "keys":
            said = sum(bool(event.get(what)) for what in ("enrolled", "revoked"))
            yield from story.notes[len(story.notes) - said :]


def backends(story: Story) -> str:
    """Which back ends run, and why not the better ones."""
    isa = f" ({story.isa})" if story.isa else ""
    why = f" ({story.reason})" if story.reason else ""
    insecure = "INSECURE (nothing encrypted, nobody proven), " if story.insecure else ""
    nodes = count(story.nodes, "node")
    return f"{insecure}{nodes}, proxy {story.proxy}{why}, kernels {story.kernels}{isa}"


def census(roles: Roles) -> str:
    """ "top, middle, 2 leaves"."""
    numbers = Counter(clean(role.get("role", "?")) for role in roles)
    order = sorted(numbers, key=lambda kind: ("top", "middle", "leaf", kind).index(kind))
    return ", ".join(kind if numbers[kind] == 1 else count(numbers[kind], kind) for kind in order)


def handed(handoffs: object) -> str:
    """ "ebpf 40", of the back ends that were used."""
    used = {k: v for k, v in handoffs.items() if v} if isinstance(handoffs, dict) else {}
    return ", ".join(f"{clean(name)} {number:,}" for name, number in used.items()) or "none"


def _row(row: Event) -> str:
    """Without the accuracy, which has an event and so a line of its own."""
    parts = [
        duration(row.get("seconds", 0.0)),
        count(row.get("clients", 0), "client"),
        amount(row.get("bytes", 0)),
        f"hand-offs {handed(row.get('handoffs'))}",
    ]
    if row.get("cold_starts"):
        parts.append(count(row["cold_starts"], "cold start"))
    if row.get("metrics"):
        parts.append(f"clients report {figures(row['metrics'])}")
    return ", ".join(parts)
