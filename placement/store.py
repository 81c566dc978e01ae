"""What a coordinator writes down so that the next one can go on: the JobStore contract.

Owns the values that are kept and what a store promises; tests/contract/test_store.py holds every
implementation to it.  Owns no file: store_sqlite.py does, on one machine, and
cluster/store_cluster.py has the status of an FLJob.  Called by the
coordinator, which writes before it tells anybody, and by `lifl run --resume`.

A store promises three things.  A `save` is there whole or not at all, also when the process is
killed in the middle.  What was saved is read by whoever opens the store next.  One process at a
time can write: where the kernel knows whether the one before lives, the next is kept out, and in a
cluster, where nobody knows, what the one before writes is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lifl.placement.snapshot import NodePlan, Plan
from lifl.placement.tree import Role

Row = Mapping[str, Any]  # a line of rounds.jsonl, as far as it is known


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A round that nodes may have heard of.

    Attributes:
        roster: client keys; a client's place is its bit in every set.
        homes: node of every client that ever had one, also of those that sit out.
        started_at_s: Unix time at which gateways were told; None: agents at most have the plan.
        base: round whose model this start of the run began with, or went on with after a loss.
        lost: nodes that are lost, and the epoch from which on nothing of them counts.
        is_moving: ... and the round's other nodes may not all have heard of the plan without them.
        shut: nodes that were told to close before a loss opened the round again.
        deadline_at_s: Unix time of its deadline, where a loss has moved it.
    """

    number: int
    epoch: int
    roster: tuple[str, ...]
    plan: Plan
    homes: Mapping[str, str]
    started_at_s: float | None = None
    base: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    is_moving: bool = False
    shut: tuple[str, ...] = ()
    deadline_at_s: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The model of a round, as it lies on disk or behind a URL.

    Attributes:
        start: of the run, in which that model was made; 0: it was not written down.
    """

    number: int
    place: str
    start: int = 0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How long a run has taken, all its starts together, and the Unix time at which that was."""

    elapsed_s: float = 0.0
    at_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Saved:
    """All that is known of a job.

    Attributes:
        job: the job as JSON, to see whether its file has changed.
        names: enrolled clients, key to name.
        layout: names, kinds and shapes of the model's tensors, as they travel.
        start: how often the run was started; a coordinator that comes back does not count.
        base: the round whose model this start began with; 0: the initial model.
        rows: published rounds.
        model_at: node that published the last of them.
        complete: its files are written.
        clock: when something was saved last.
    """

    job: str
    names: Mapping[str, str] = field(default_factory=dict)
    layout: list[Any] = field(default_factory=list)
    start: int = 1
    base: int = 0
    round: UnderWay | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)
    model_at: str | None = None
    checkpoint: Checkpoint | None = None
    complete: bool = False
    clock: Clock = Clock()

    @property
    def base_start(self) -> int:
        """The start in which the model of `base` was made, while that is the newest."""
        checkpoint = self.checkpoint
        is_base = checkpoint is not None and checkpoint.number == self.base
        return checkpoint.start if checkpoint is not None and is_base else self.start

    @property
    def published(self) -> int:
        """Number of the last published round; 0 before the first."""
        return max(self.rows, default=0)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is new; None and empty leave what there was."""

    round: UnderWay | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)
    model_at: str | None = None
    checkpoint: Checkpoint | None = None
    complete: bool = False
    clock: Clock | None = None


class JobStore(Protocol):
    """One job's store."""

    def load(self) -> Saved | None:
        """What was saved; None for a store that nobody has begun."""

    def begin(self, saved: Saved) -> None:
        """Replace everything: a new job, or one that goes back to its last checkpoint."""

    def save(self, change: Change) -> None:
        """Keep what is new, all of it or nothing.

        Raises:
            NoSpace: there is no room for it; the store is as it was.
        """

    def close(self) -> None:
        """Let the next process have it."""


def plan_to_wire(plan: Plan) -> list[Any]:
    """A plan as lists, without what only its maker needs (its cost, starts and stops)."""
    return [
        plan.epoch,
        plan.top_node,
        [
            [
                node.name,
                node.forward_to,
                node.clients,
                [[r.endpoint, r.kind, r.parent, r.expected, r.clients, r.level]
                 for r in node.roles],
            ]
            for node in plan.nodes.values()
        ],
        plan.unplaced,
    ]  # fmt: skip


def plan_from_wire(wire: list[Any]) -> Plan:
    epoch, top_node, rows, unplaced = wire
    nodes = {}
    for name, forward_to, clients, roles in rows:
        tree = tuple(
            Role(endpoint=e, kind=k, parent=p, expected=x, clients=tuple(c), level=n)
            for e, k, p, x, c, n in roles
        )
        leaf_of = {key: role.endpoint for role in tree for key in role.clients}
        nodes[name] = NodePlan(
            name=name, roles=tree, clients=tuple(clients), forward_to=forward_to,
            lanes={key: leaf_of[key] for key in clients},
        )  # fmt: skip
    return Plan(epoch=epoch, top_node=top_node, nodes=nodes, unplaced=tuple(unplaced))


def round_to_wire(r: UnderWay) -> list[Any]:
    return [
        r.number, r.epoch, r.roster, plan_to_wire(r.plan), dict(r.homes), r.started_at_s,
        r.base, dict(r.lost), r.is_moving, r.shut, r.deadline_at_s,
    ]  # fmt: skip


def round_from_wire(wire: list[Any]) -> UnderWay:
    number, epoch, roster, plan, homes, started_at_s, *more = wire
    old: list[Any] = [0, {}, False, (), None]  # of a job that began when less was written down
    base, lost, is_moving, shut, deadline_at_s = [*more, *old[len(more) :]]
    return UnderWay(
        number=number, epoch=epoch, roster=tuple(roster), plan=plan_from_wire(plan), homes=homes,
        started_at_s=started_at_s, base=base, lost=lost, is_moving=is_moving,
        shut=tuple(shut), deadline_at_s=deadline_at_s,
    )  # fmt: skip
