"""A run as lines, for logs and pipes: ASCII, one line an event that says something new."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from lifl.cli.figures import amount, count, duration, figure, figures, of_which, starts, starts_of
from lifl.cli.story import Event, Roles, Story, Tree, clean

FEW = 4  # clients of which each is a line; of more, every quarter
NOTED = (  # events whose line is the story's note
    "warning", "restart", "output", "keys", "crowded_out", "latest", "share", "draining",
    "uncordoned", "node_back",
)  # fmt: skip
HELD = 2  # rounds whose lines wait for figures while later rounds are done


class Lines:
    """What to print for each event that the story has taken.

    A round's line waits for the evaluator's figures, which come while the next round is under way,
    or the one after.  Where they take longer they get a line of their own, after the round's.
    """

    def __init__(self, story: Story) -> None:
        self._story = story
        self._tree: Tree = {}
        self._waited = -1
        self._metrics_at = ""
        self._held: dict[int, Event] = {}  # lines that wait, in the order of rounds
        self._early: dict[int, Event] = {}  # figures of rounds whose line is still to come

    def of(self, event: Event) -> Iterator[str]:
        """Lines for an event; those that waited come first."""
        story = self._story
        kind, number = event.get("event"), event.get("round", 0)
        if kind == "metrics" and number not in story.rows:
            self._early[number] = event
            return
        if kind == "metrics" and number in self._held:
            yield from self._let_go(below=number)  # overtaken: theirs do not come any more
            yield f"{self._label(number)}: {_row(self._held.pop(number))}, {_measured(event)}"
            return
        if kind in ("warning", "restart", "crowded_out", "done", "failed"):
            yield from self.rest()
        match kind:
            case "starting" if story.run_dir:
                there = story.there or story.clients
                yield f"job {story.job_name}: {count(story.rounds, 'round')}, " + (
                    f"{count(there, 'client')}{of_which(there, story.clients)}, "
                    f"{count(story.nodes, 'node')}"
                )
                yield f"run directory: {story.run_dir}"
                yield from going_on(story)
            case "engine":
                yield backends(story)
                if story.endpoint:
                    yield f"clients connect to {story.endpoint}"
            case "report":
                yield f"report: {clean(event.get('path', ''))}"
            case "metrics_at" if event.get("coordinator") != self._metrics_at:
                self._metrics_at = event.get("coordinator", "")
                yield f"metrics: {clean(self._metrics_at)}"
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
                    yield from self._let_go(below=number)
                    yield f"{self._label(number)}: {_row(event)}, {_measured(early)}"
                else:
                    self._held[number] = event
                yield from self._let_go(below=number + 1 - (HELD if story.evaluated else 0))
            case "metrics":
                yield f"{self._label(number)}: {_measured(event)}"
            case _ if kind in NOTED and story.note:
                yield story.note

    def rest(self) -> Iterator[str]:
        """What has waited until now."""
        yield from self._let_go()

    def _let_go(self, *, below: float = math.inf) -> Iterator[str]:
        """Lines of earlier rounds, without figures."""
        for number in [number for number in sorted(self._held) if number < below]:
            yield f"{self._label(number)}: {_row(self._held.pop(number))}"

    def _label(self, number: int) -> str:
        return f"round {number:>{len(str(self._story.rounds))}}/{self._story.rounds}"

    def _is_news(self, here: int, need: int) -> bool:
        quarter = here if need <= FEW else 4 * here // max(need, 1)
        is_news = quarter != self._waited
        self._waited = quarter
        return is_news


def going_on(story: Story) -> Iterator[str]:
    """Where a run that was started again goes on."""
    if story.goes_on is None:
        return
    number, again = story.goes_on
    if number > story.rounds:
        yield f"all {story.rounds} rounds are done: what is left is to write the results"
        return
    before = f"after the checkpoint of round {number - 1}" if number > 1 else "without a checkpoint"
    redone = f"; {count(again, 'round')} after that {'is' if again == 1 else 'are'} done again"
    yield f"going on at round {number} of {story.rounds}, {before}{redone if again else ''}"


def outside(story: Story) -> Iterator[str]:
    """How clients in other terminals take part."""
    what = "in other terminals: LIFL_CLIENT={}/{}.json {}python your_client.py{}"
    for names, key in ((story.outsiders, ""), (story.enrolled, "LIFL_KEY={}.key ")):
        if names:
            more = f", and so on to {names[-1]}.json" if len(names) > 1 else ""
            yield what.format(story.files, names[0], key.format(names[0]), more)
    if story.files and not story.outsiders and not story.enrolled:
        where = f" --keys {story.keys}" if story.keys else ""
        yield (
            f"nobody is enrolled in {story.keys or 'the key directory'} yet: lifl keys enroll "
            f"KEY.pub --name NAME{where} lets a client take part"
        )


def backends(story: Story) -> str:
    """Which back ends run, and why not the better ones."""
    isa = f" ({story.isa})" if story.isa else ""
    why = f" ({story.short_reason})" if story.reason else ""
    insecure = "INSECURE (nothing encrypted, nobody proven), " if story.insecure else ""
    nodes = count(story.nodes, "node")
    if story.link:
        nodes += f" with links of {story.link}"
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
        f"{clean(name)} {figure(name, value)}"
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
    new = {kind: number for kind, number in starts_of(row).items() if kind != "warm" and number}
    if new:
        parts.append(f"starts {starts(new, row.get('start_seconds', {}))}")
    if row.get("metrics"):
        parts.append(f"clients report {figures(row['metrics'])}")
    return ", ".join(parts)
