"""A run as lines, for logs and pipes: ASCII, one line an event that says something new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from lifl.cli.figures import amount, count, duration, figures, score
from lifl.cli.story import Event, Roles, Story, Tree, clean

FEW = 4  # clients of which each is a line; of more, every quarter


class Lines:
    """What to print for each event that the story has taken.

    A round's line waits for the evaluator's figures; they come soon after, or else they get a
    line of their own, after it.
    """

    def __init__(self, story: Story) -> None:
        self._story = story
        self._tree: Tree = {}
        self._waited = -1
        self._held: Event | None = None
        self._early: dict[int, Event] = {}  # figures of rounds whose line is still to come

    def of(self, event: Event) -> Iterator[str]:
        """Lines for an event; those that waited come first."""
        story = self._story
        kind, number = event.get("event"), event.get("round", 0)
        held = self._held
        if kind == "metrics" and number not in story.rows:
            self._early[number] = event
            return
        if held is not None and kind == "metrics" and number == held.get("round"):
            self._held = None
            yield f"{self._label(number)}: {_row(held)}, {_measured(event)}"
            return
        if kind in ("round_done", "warning", "restart", "done", "failed"):
            yield from self.rest()
        match kind:
            case "starting" if story.run_dir:
                yield f"job {story.job_name}: {count(story.rounds, 'round')}, " + (
                    f"{count(story.clients, 'client')}, {count(story.nodes, 'node')}"
                )
                yield f"run directory: {story.run_dir}"
            case "engine":
                yield backends(story)
                if story.endpoint:
                    yield f"clients connect to {story.endpoint}"
            case "report":
                yield f"report: {clean(event.get('path', ''))}"
            case "metrics_at":
                yield f"metrics: {clean(event.get('coordinator', ''))}"
            case "endpoint":
                yield from outside(story)
            case "waiting" if story.waiting and self._is_news(*story.waiting):
                yield "waiting for clients: {} of {}".format(*story.waiting)
            case "round_started" if story.tree != self._tree:
                self._tree = story.tree
                yield f"{self._label(number)}: tree of {count(story.clients, 'client')}: " + (
                    "; ".join(f"{clean(node)}: {census(r)}" for node, r in story.tree.items())
                )
            case "round_done":
                early = self._early.pop(number, None)
                if early is not None:
                    yield f"{self._label(number)}: {_row(event)}, {_measured(early)}"
                else:
                    self._held = event
                if not story.evaluated:
                    yield from self.rest()
            case "metrics":
                yield f"{self._label(number)}: {_measured(event)}"
            case "warning" | "restart" | "output" | "keys" if story.note:
                yield story.note

    def rest(self) -> Iterator[str]:
        """What has waited until now."""
        held, self._held = self._held, None
        if held is not None:
            yield f"{self._label(held.get('round', 0))}: {_row(held)}"

    def _label(self, number: int) -> str:
        return f"round {number:>{len(str(self._story.rounds))}}/{self._story.rounds}"

    def _is_news(self, here: int, need: int) -> bool:
        quarter = here if need <= FEW else 4 * here // max(need, 1)
        is_news = quarter != self._waited
        self._waited = quarter
        return is_news


def outside(story: Story) -> Iterator[str]:
    """How clients in other terminals take part."""
    if story.files:
        yield (
            f"in other terminals: LIFL_CLIENT={story.files}/client-0.json python your_client.py"
            + (f", and so on to client-{story.clients - 1}.json" if story.clients > 1 else "")
        )


def backends(story: Story) -> str:
    """Which back ends run, and why not the better ones."""
    isa = f" ({story.isa})" if story.isa else ""
    why = f" ({story.short_reason})" if story.reason else ""
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


def _measured(event: Event) -> str:
    return ", ".join(
        f"{clean(name)} {score(value) if name == 'accuracy' else f'{value:.4g}'}"
        for name, value in (event.get("figures") or {}).items()
        if isinstance(value, int | float)
    )


def _row(row: Event) -> str:
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
