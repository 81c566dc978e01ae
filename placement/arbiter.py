"""Whose the nodes are, where several jobs run on them: asked by coordinators, told to them.

    coordinators ─► ask, round, end ─► Arbiter ─► {node: updates, input slots} ─► coordinators

Owns what each job asks for and what it was told.  How capacity is shared is shares.py's matter;
here it becomes, on every node, a number of updates at once, a number of input slots and thereby
bytes of shared memory.  A job plans its next round with that as the nodes' capacity; one that has
nothing waits and is told why.  Sends nothing itself and has no clock: the local engine and the
operator, which know all jobs, call it and pass on what it tells.

On a node of which jobs fill f of the capacity, 1 - f is divided among them by weight, so that a job
alone has all of it; of its input slots it may use the same share, at least one.  Where the node has
a budget of shared memory, every job that is there or has begun there keeps what it needs besides
input slots (`fixed_bytes`: sums and models, which outlive rounds).  The rest is shared as capacity
is: by priority, then max-min fairly by weight.  Where not even one slot is left, the job with the
lowest priority and the latest turn has nothing on that node; one that has not begun and would not
fit if all others had no slot does not crowd out anybody.  The first job always has a slot: what is
known here is an upper bound, and whether it fits at all its agent says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from lifl.placement import policies
from lifl.placement.shares import Ask, fair_shares, plan_jobs
from lifl.placement.snapshot import Client, Node, Plan, Snapshot

NAMED: Final = 4  # nodes, in the sentence why a job waits


@dataclass(frozen=True, kw_only=True)
class Want:
    """What a job asks for.

    Attributes:
        clients: that its next round draws; 0: it has no next round now.
        nodes: its MC on each node (capacity.py), as if it were alone there.
        budgets: shared memory of all jobs on each node in bytes; 0: no limit.
        slots: its input slots on a node, spec.memory.inputSlots.
        fixed_bytes: most memory that it needs on a node besides input slots.
        slot_bytes: memory of one input slot.
        holding: nodes that have memory of it already.
    """

    job: str
    clients: int
    nodes: Mapping[str, int]
    slots: int
    priority: int = 0
    weight: float = 1.0
    policy: str = "bestfit"
    budgets: Mapping[str, int] = field(default_factory=dict)
    fixed_bytes: int = 0
    slot_bytes: int = 0
    holding: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """What a job may use of a node: updates at once, and input slots."""

    updates: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a job may use of all nodes; without any, why it has to wait."""

    parts: Mapping[str, Part]
    why: str = ""

    def wire(self) -> dict[str, Any]:
        return {"parts": {n: [p.updates, p.slots] for n, p in self.parts.items()}, "why": self.why}


class Arbiter:
    """All jobs on the same nodes.

    Args:
        tell: passes a share on to a job's coordinator.
    """

    def __init__(self, tell: Callable[[str, Share], None]) -> None:
        self._tell = tell
        self._wants: dict[str, Want] = {}
        self._told: dict[str, Share] = {}
        self._served: dict[str, dict[str, int]] = {}  # job → clients that were counted, by node
        self._holding: dict[str, set[str]] = {}
        self._had: dict[str, float] = {}  # job → updates · rounds / weight
        self._turns: dict[str, float] = {}  # of that, as far as it decides who comes first

    def ask(self, want: Want) -> None:
        """A job asks, or asks for something else; it is told in any case, unless it wants none."""
        self._told.pop(want.job, None)
        known = want.job in self._wants
        self._wants[want.job] = want
        self._holding.setdefault(want.job, set()).update(want.holding)
        if not known:  # what others had before it came is no debt of theirs
            equals = [
                self._had[job] for job, other in self._wants.items()
                if job in self._had and other.priority == want.priority
            ]  # fmt: skip
            self._had[want.job] = self._turns[want.job] = min(equals, default=0.0)
        self._share_out()

    def round_done(self, job: str) -> None:
        """A job has done a round; where somebody of its priority waits it may be their turn."""
        want = self._wants.get(job)
        if want is None:
            return
        self._had[job] += sum(self._served.get(job, {}).values()) / want.weight
        if any(
            share.why and self._wants[other].priority == want.priority
            for other, share in self._told.items()
        ):
            self._turns = dict(self._had)
            self._share_out()

    def leave(self, job: str) -> None:
        """A job has ended."""
        for known in (self._wants, self._told, self._served, self._holding, self._had, self._turns):
            known.pop(job, None)
        self._share_out()

    def again(self, job: str) -> None:
        """A coordinator is a new one: it hears what the last one was told."""
        if job in self._told:
            self._tell(job, self._told[job])

    def _share_out(self) -> None:
        wants = [want for want in self._wants.values() if want.clients]
        if not wants:
            return
        shares, self._served = share_out(
            wants, turns=self._turns, homes=self._served, holding=self._holding,
            others=[want for want in self._wants.values() if not want.clients],
        )  # fmt: skip
        for job, share in shares.items():
            self._holding[job].update(share.parts)
            if self._told.get(job) != share:
                self._told[job] = share
                self._tell(job, share)


def share_out(
    wants: Sequence[Want], *, turns: Mapping[str, float], homes: Mapping[str, Mapping[str, int]],
    holding: Mapping[str, set[str]], others: Sequence[Want] = (),
) -> tuple[dict[str, Share], dict[str, dict[str, int]]]:  # fmt: skip
    """Shares of all jobs, and how many clients of each are served where.

    Args:
        turns: see `Ask.turn`.
        homes: clients of each job that were served on each node so far; they stay while they can.
        holding: nodes that have memory of a job.
        others: jobs that have memory and want nothing now.
    """
    without: set[tuple[str, str]] = set()  # (job, node) without room for its memory
    while True:
        served = _served(wants, turns, homes, without)
        parts, crowded_out = _parts(wants, served, turns, holding, others)
        if crowded_out is None:
            break
        without.add(crowded_out)
    shares = {}
    for want in wants:
        mine = parts.get(want.job, {})
        why = "" if mine else _why(want, wants, parts, without)
        shares[want.job] = Share(parts=mine, why=why)
    return shares, served


def _served(
    wants: Sequence[Want], turns: Mapping[str, float], homes: Mapping[str, Mapping[str, int]],
    without: set[tuple[str, str]],
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Job → node → clients that capacity is given to there."""
    outcomes = plan_jobs([
        Ask(job=want.job, snapshot=_snapshot(want, homes.get(want.job, {}), without),
            priority=want.priority, weight=want.weight, turn=turns.get(want.job, 0.0))
        for want in wants
    ])  # fmt: skip
    found: dict[str, dict[str, int]] = {}
    for job, made in outcomes.items():
        if isinstance(made, Plan):
            waiting = set(made.oversubscribed)
            counts = {
                name: sum(key not in waiting for key in part.clients)
                for name, part in made.nodes.items()
            }
            found[job] = {name: count for name, count in counts.items() if count}
    return found


def _snapshot(
    want: Want, homes: Mapping[str, int], without: set[tuple[str, str]]
) -> Snapshot:  # fmt: skip
    """As many clients as could be served at most: the rest waits for slots anyway."""
    nodes = {
        name: 0 if (want.job, name) in without else updates for name, updates in want.nodes.items()
    }
    known = [name for name, count in homes.items() if nodes.get(name) for _ in range(count)]
    count = min(want.clients, sum(nodes.values()))
    return Snapshot(
        nodes=tuple(Node(name=name, capacity_updates=room) for name, room in nodes.items()),
        clients=tuple(
            Client(key=str(at), node=known[at] if at < len(known) else None)
            for at in range(max(1, count))
        ),
        fan_in=max(1, count), policy=want.policy,
    )  # fmt: skip


def _parts(
    wants: Sequence[Want], served: Mapping[str, Mapping[str, int]], turns: Mapping[str, float],
    holding: Mapping[str, set[str]], others: Sequence[Want],
) -> tuple[dict[str, dict[str, Part]], tuple[str, str] | None]:  # fmt: skip
    """Job → node → its part; and (job, node) for whose memory there is no room, if any."""
    parts: dict[str, dict[str, Part]] = {}
    for node in sorted({name for counts in served.values() for name in counts}):
        here = [want for want in wants if served.get(want.job, {}).get(node)]
        filled = {want.job: served[want.job][node] / want.nodes[node] for want in here}
        left = max(0.0, 1.0 - sum(filled.values()))
        weights = sum(want.weight for want in here)
        share = {want.job: filled[want.job] + left * want.weight / weights for want in here}
        slots = {
            want.job: max(1, math.floor(share[want.job] * want.slots + policies.ROUNDING))
            for want in here
        }
        budgets = [want.budgets[node] for want in here if want.budgets.get(node)]
        if budgets:
            held = [
                want for want in (*wants, *others)
                if want in here or node in holding.get(want.job, ())
            ]  # fmt: skip
            free = min(budgets) - sum(want.fixed_bytes for want in held)
            order = sorted(here, key=lambda w: (-w.priority, turns.get(w.job, 0.0), w.job))
            hopeless = [
                want for want in order
                if free < want.slot_bytes and node not in holding.get(want.job, ())
            ]  # fmt: skip
            if hopeless and len(held) > 1:
                return {}, (hopeless[-1].job, node)
            first, *rest = order
            fit = _within(free, order, slots)
            if fit[first.job] < 1:
                fit = {first.job: 1} | _within(free - first.slot_bytes, rest, slots)
            slots = fit
            if crowded := [want for want in order if slots[want.job] < 1]:
                return {}, (crowded[-1].job, node)
        for want in here:
            updates = math.floor(share[want.job] * want.nodes[node] + policies.ROUNDING)
            updates = max(1, min(updates, slots[want.job]))
            parts.setdefault(want.job, {})[node] = Part(updates, slots[want.job])
    return parts, None


def _within(free_bytes: int, here: Sequence[Want], slots: Mapping[str, int]) -> dict[str, int]:
    """Input slots of each job that fit into so many bytes together."""
    found: dict[str, int] = {}
    for _, group in groupby(sorted(here, key=lambda w: -w.priority), key=lambda w: w.priority):
        equals = list(group)
        whole = max(1, free_bytes)
        wanted = {w.job: slots[w.job] * w.slot_bytes / whole for w in equals}
        fair = fair_shares(wanted, {w.job: w.weight for w in equals})
        for w in equals:
            fit = math.floor(fair[w.job] * whole / max(1, w.slot_bytes) + policies.ROUNDING)
            found[w.job] = min(slots[w.job], fit) if free_bytes > 0 else 0
        free_bytes -= sum(found[w.job] * w.slot_bytes for w in equals)
    return found


def _why(
    want: Want, wants: Sequence[Want], parts: Mapping[str, Mapping[str, Part]],
    without: set[tuple[str, str]],
) -> str:  # fmt: skip
    """Why a job has nothing, with numbers."""
    said = []
    for node, updates in sorted(want.nodes.items()):
        have = ", ".join(
            f"{other.job} (priority {other.priority}) {mine.updates}"
            for other in wants
            if (mine := parts.get(other.job, {}).get(node)) is not None
        )
        if (want.job, node) in without:
            said.append(
                f"{node} gives jobs {want.budgets[node]} bytes of shared memory, and beside those "
                f"that are there this one does not fit with {want.fixed_bytes} and "
                f"{want.slot_bytes} for each input slot"
            )
        else:
            said.append(f"{node} takes {updates} of its updates at once, of which has {have}"
                        if have else f"{node} takes {updates} of its updates at once")
    more = f"; and so on for {len(said) - NAMED} more" if len(said) > NAMED else ""
    return (
        f"waits for a share of the nodes (priority {want.priority}, {want.clients} clients): "
        + "; ".join(said[:NAMED]) + more
    )  # fmt: skip
