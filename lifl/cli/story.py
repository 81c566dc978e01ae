"""What is known of a run, from its events.

Owns the reading of events, defensively: an event that it does not know or that lacks a field
changes nothing else.  No output and no clock of its own; `plain` and `live` show it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from lifl.cli.figures import count, main_figure, numbers, starts_of

Event: TypeAlias = Mapping[str, Any]
Roles: TypeAlias = Sequence[Mapping[str, Any]]
Tree: TypeAlias = Mapping[str, Roles]


@dataclass
class Story:
    """State of a run.

    Attributes:
        evaluated: the job has an evaluator, so that a round's figures are still to come.
        link: rate of each node's link, where each has one of its own.
        reason: why the proxy is not a better one, with the fix; `short_reason` is its beginning.
        files: folder of the client files, where clients come from outside: `outsiders`, whose
            keys are in there, and those `enrolled` in the key directory `keys`, who have their own.
        done_rounds: rounds whose model exists.
        clients: of the round, or those that it waits for.
        there: clients that the run makes keys for; 0 where that is not known.
        goal: the figure that `spec.stop` watches.
        goes_on: of a run that was started again, the first round to come, and how many before that
            are done again.
        evaluations: round → what the evaluator measured of its model; `figure` is the name of
            what is shown of it, `measured` the values, in the order of rounds.
        rows: rounds whose row is known; `last_row` is that of the newest, `round_s` the seconds of
            all of them, without what is between them.
        handoffs: descriptors by back end, over all rounds.
    """

    job_name: str
    rounds: int
    clients: int = 0
    evaluated: bool = False
    goal: str = ""
    there: int = 0
    nodes: int = 0
    link: str = ""
    proxy: str = ""
    reason: str = ""
    kernels: str = ""
    isa: str = ""
    run_dir: str = ""
    goes_on: tuple[int, int] | None = None
    endpoint: str = ""
    insecure: bool = False
    files: str = ""
    keys: str = ""
    outsiders: tuple[str, ...] = ()
    enrolled: tuple[str, ...] = ()
    waiting: tuple[int, int] | None = None
    round: int = 0
    done_rounds: int = 0
    accepted: int = 0
    tree: Tree = field(default_factory=dict)
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)
    figure: str = "accuracy"
    rows: set[int] = field(default_factory=set)
    last_row: Event = field(default_factory=dict)
    round_s: float = 0.0
    handoffs: dict[str, int] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    note: str = ""
    leaving: set[str] = field(default_factory=set)  # nodes that drain
    share: str = ""  # of the nodes, where other jobs are on them
    stopped: str = ""
    summary: Event | None = None
    error: str | None = None

    def take(self, event: Event) -> None:
        """Account for one event."""
        match event.get("event"):
            case "starting" | "engine":
                self.nodes = event.get("nodes", self.nodes)
                self.insecure = bool(event.get("insecure", self.insecure))
                for name in ("link", "proxy", "reason", "kernels", "isa", "run_dir", "endpoint"):
                    setattr(self, name, clean(event.get(name) or getattr(self, name)))
                if again := event.get("goes_on"):
                    self.goes_on = again.get("round", 1), again.get("again", 0)
                    self.done_rounds = self.goes_on[0] - 1
            case "endpoint":
                self.endpoint = clean(event.get("endpoint", ""))
                self.files = clean(event.get("files", ""))
                self.keys = clean(event.get("keys", ""))
                for name in ("outsiders", "enrolled"):
                    setattr(self, name, tuple(map(clean, event.get(name, ()))))
            case "waiting":
                self.waiting = event.get("clients", 0), event.get("need", 0)
            case "round_started":
                self.waiting = None
                self.round = event.get("round", self.round)
                self.clients, self.accepted = event.get("clients", 0), 0
                self.tree = event.get("tree") or self.tree
            case "progress":
                if event.get("round", self.round) == self.round:
                    self.accepted = event.get("accepted", self.accepted)
                    self.clients = event.get("of", self.clients)
            case "published":
                self.done_rounds = max(self.done_rounds, event.get("round", 0))
            case "round_done":
                self._round_done(event)
            case "metrics":
                self._measured(event.get("round", self.round), event.get("figures"))
            case "warning":
                self.note = f"warning: {clean(event.get('text', ''))}"
            case "keys":
                said = [
                    f"{what}: {clean(', '.join(event[what]))}"
                    for what in ("enrolled", "revoked") if event.get(what)
                ]  # fmt: skip
                self.note = "; ".join(said)
            case "crowded_out":
                self.note, self.share = clean(event.get("text", "")), ""
            case "draining" | "uncordoned" | "node_back":
                self._node(event)
            case "share":
                share = shares(event.get("parts"))
                self.note = f"share of the nodes: {share}" if share not in ("", self.share) else ""
                self.share = share or self.share
            case "latest":
                self.note = (
                    f"no round of this run began: {clean(event.get('link', ''))} is "
                    f"{clean(event.get('run', ''))} again"
                )
            case "restart":
                self.restarts += 1
                self.note = f"restarted: {clean(event.get('what', ''))}"
            case "output":
                self.note = f"{clean(event.get('who', '?'))}: {clean(event.get('text', ''))}"
            case "stopped":
                self.stopped = clean(event.get("by", "a signal"))
            case "done":
                self.summary = event
            case "failed":
                self.error = clean(event.get("error", "the run failed"))

    def _node(self, event: Event) -> None:
        """A node is left, or may be used again; a coordinator that comes back says it again."""
        node, kind = clean(event.get("node", "?")), event["event"]
        before = set(self.leaving)
        if kind == "draining":
            self.leaving.add(node)
            text = f"{node} drains: from the next round on nobody is there"
        else:
            self.leaving -= {node} if kind == "uncordoned" else set()
            why = "is back" if kind == "node_back" else "is not to be left any more"
            text = f"{node} {why}: it may take clients again"
        self.note = text if kind == "node_back" or before != self.leaving else ""

    def _round_done(self, row: Event) -> None:
        number = row.get("round", self.round)
        if number in self.rows:
            return
        if number >= self.last_row.get("round", 0):
            self.last_row = row
        self.rows.add(number)
        self.round_s += float(row.get("seconds", 0.0))
        self.done_rounds = max(self.done_rounds, number)
        if number == self.round:
            self.accepted = row.get("clients", self.accepted)
        self._measured(number, row.get("evaluation"))
        for backend, handed in (row.get("handoffs") or {}).items():
            self.handoffs[backend] = self.handoffs.get(backend, 0) + handed
        for kind, number in starts_of(row).items():
            self.starts[kind] = self.starts.get(kind, 0) + number
        for kind, seconds in (row.get("start_seconds") or {}).items():
            self.start_s[kind] = self.start_s.get(kind, 0.0) + seconds

    def _measured(self, number: int, figures: object) -> None:
        if said := numbers(figures):
            self.evaluations[number] = said
            self.figure = main_figure(said, self.goal)

    @property
    def has_results(self) -> bool:
        """Some round was done, in an earlier start of the run or in this one."""
        return bool(self.done_rounds or (self.goes_on and self.goes_on[1]))

    @property
    def short_reason(self) -> str:
        return self.reason.partition(": ")[0]

    @property
    def measured(self) -> list[float]:
        said = [self.evaluations[number] for number in sorted(self.evaluations)]
        return [figures[self.figure] for figures in said if self.figure in figures]


def shares(parts: object) -> str:
    """ "6 updates at once on node-0, 2 on node-1", of each node."""
    found = parts.items() if isinstance(parts, dict) else ()
    said = [
        (count(part[0], "update") + " at once" if index == 0 else str(part[0]), clean(node))
        for index, (node, part) in enumerate(found)
    ]
    return ", ".join(f"{number} on {node}" for number, node in said)


def clean(text: object) -> str:
    """On one line and without control characters, which could move the cursor."""
    plain = _ESCAPES.sub("", str(text)).expandtabs(4)
    return "".join(c if c.isprintable() else " " for c in plain)


_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # colours and cursor movements
