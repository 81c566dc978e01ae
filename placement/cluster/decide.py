"""What a job needs next: a pure function of the FLJob and of what is there.

    refused ─► nothing          placed ─► initial model ─► coordinator, trainers, evaluator ─► end

Owns the order of these steps and the sentences of the conditions.  Acts on nothing: keeper.py asks
again whenever anything has changed, and carries out what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lifl.api.cluster import refused_in_cluster
from lifl.api.job import FLJob
from lifl.api.status import ConditionType, Phase, Status
from lifl.placement.cluster import names


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A node whose agent and gateway are here.

    Attributes:
        budget_bytes: shared memory that its agent gives to jobs; 0: no limit.
    """

    name: str
    key: str
    endpoint: str
    budget_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is there of a job.

    Attributes:
        placed: public key of each node that it was given; empty: none yet.
        has_initial: the initial model is here, or none is needed any more.
        failures: why a member's pods have failed for good, by member.
        is_running: its coordinator runs.
        crowded_out: why other jobs have all of the nodes; empty: they have not.
        no_runtime: why its functions cannot run here as it wants them to.
    """

    status: Status
    nodes: Sequence[Ready] = ()
    placed: Mapping[str, str] = field(default_factory=dict)
    has_initial: bool = False
    failures: Mapping[str, str] = field(default_factory=dict)
    is_running: bool = False
    crowded_out: str = ""
    no_runtime: str = ""


@dataclass(frozen=True)
class Said:
    """A condition, as it is to be."""

    type: ConditionType
    so: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What there is to be.

    Attributes:
        place: nodes to give to the job, which has none yet.
        members: whose batch Jobs there are to be, beside those that there are.
        clear: the batch Jobs of all members are to go.
        coordinator: whether it is to run.
        pause: it is to end after the round that is under way.
        failed: (reason, sentence) with which the job ends.
    """

    phase: Phase
    conditions: tuple[Said, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    clear: bool = False
    coordinator: bool = False
    pause: bool = False
    failed: tuple[str, str] | None = None
    message: str = ""


ENDED: tuple[Literal["Complete", "Failed"], ...] = ("Complete", "Failed")


def decide(job: FLJob, seen: Seen) -> Decision:
    """What is to be there now."""
    if seen.status.phase in ENDED:
        return Decision(phase=seen.status.phase, clear=seen.status.phase == "Failed")
    complaints = [*refused_in_cluster(job), *([seen.no_runtime] if seen.no_runtime else [])]
    if complaints:
        why = "; ".join(complaints)
        return Decision(
            phase="Pending", message=why, conditions=(Said("Accepted", False, "Refused", why),)
        )
    accepted = Said("Accepted", True, "Valid")
    if job.spec.suspend:
        return _suspended(accepted, seen)
    for member, why in seen.failures.items():
        return Decision(
            phase="Failed", conditions=(accepted,), clear=True,
            failed=("MemberFailed", f"the pods of the {member} have failed: {why}"),
        )  # fmt: skip
    awake = Said("Suspended", False, "NotSuspended")
    place = seen.placed or fitting(job, seen.nodes)
    if not place:
        why = _why_nowhere(job, seen.nodes)
        return Decision(
            phase="Pending", message=why,
            conditions=(accepted, awake, Said("Placed", False, "NoNode", why)),
        )  # fmt: skip
    placed = Said("Placed", True, "NodesFound", f"on {', '.join(sorted(place))}")
    if seen.crowded_out:
        placed = Said("Placed", False, "NoShare", seen.crowded_out)
    phase: Phase = "Pending" if seen.crowded_out else "Placed"
    if seen.status.phase == "Running":
        phase = "Running"
    members = _members(job) if seen.has_initial else ("initial",)
    return Decision(
        phase=phase, place={} if seen.placed else place, conditions=(accepted, awake, placed),
        members=members, coordinator=seen.has_initial, message=seen.crowded_out,
    )  # fmt: skip


def _suspended(accepted: Said, seen: Seen) -> Decision:
    """The round under way is finished first, with everybody who takes part in it."""
    why = "spec.suspend is true"
    if seen.is_running:
        return Decision(
            phase=seen.status.phase, coordinator=True, pause=True, conditions=(accepted,),
            message=f"{why}: the round under way is finished",
        )  # fmt: skip
    return Decision(
        phase="Suspended", clear=True, message=why,
        conditions=(
            accepted, Said("Suspended", True, "Asked", why), Said("Running", False, "Suspended"),
        ),
    )  # fmt: skip


def _members(job: FLJob) -> tuple[str, ...]:
    wanted = {"trainer": job.spec.trainer, "evaluator": job.spec.evaluator}
    return tuple(name for name in names.MEMBERS if wanted.get(name) is not None)


def fitting(job: FLJob, nodes: Sequence[Ready]) -> dict[str, str]:
    """Nodes whose budget has room for the job's memory, as far as the job says how much it is."""
    least = job.spec.memory.arena_bytes or 0
    return {
        node.name: node.key for node in nodes
        if node.budget_bytes == 0 or least <= node.budget_bytes
    }  # fmt: skip


def _why_nowhere(job: FLJob, nodes: Sequence[Ready]) -> str:
    if not nodes:
        return "no node is ready: none has an agent and a gateway"
    least = job.spec.memory.arena_bytes
    budgets = ", ".join(f"{node.name} {node.budget_bytes}" for node in nodes)
    return (
        f"spec.memory.arenaBytes is {least}, and no node's budget is that large ({budgets}): "
        "lower it, or raise agent.arenaMemory"
    )
