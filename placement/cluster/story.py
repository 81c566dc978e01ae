"""What a coordinator says, as an FLJob tells it: status and Events.

Owns the translation, which is pure.  keeper.py writes what comes out, as often as the API server
should be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lifl.api.job import FLJob
from lifl.api.status import ClientCounts, Endpoint, Status, Stored, Tree, TreeNode

Event = Mapping[str, Any]


@dataclass(frozen=True)
class News:
    """One line of `kubectl describe`."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


def told(status: Status, event: Event, job: FLJob, *, now: str, generation: int) -> Status:
    """The status after an event."""
    match event["event"]:
        case "waiting":
            clients = status.clients.model_copy(update={"connected": event["clients"]})
            return status.model_copy(update={"clients": clients})
        case "gateways":
            where = next(iter(event["gateways"].values()))[0]
            return with_endpoint(status, inside=where)
        case "round_started":
            return _round_started(status, event, job, now=now, generation=generation)
        case "progress":
            clients = status.clients.model_copy(
                update={"drawn": event["of"], "accepted": event["accepted"]}
            )
            return status.model_copy(update={"clients": clients})
        case "published":
            return status.model_copy(
                update={"progress": f"{event['round']}/{job.spec.rounds}"}
            )
        case "checkpoint":
            stored = Stored(round=event["round"], place=event["place"], time=now)
            return status.model_copy(update={"last_checkpoint": stored})
        case "round_done" if event["metrics"] and job.spec.evaluator is None:
            return status.model_copy(update={"figures": _few(event["metrics"])})
        case "metrics":
            return status.model_copy(update={"figures": _few(event["figures"])})
        case "done":
            return _done(status, event, job, now=now, generation=generation)
        case "failed":
            return failed(status, event["error"], _reason(event), now=now, generation=generation)
    return status


def with_endpoint(status: Status, **changes: Any) -> Status:
    """With something else said of where clients find the job."""
    endpoint = (status.endpoint or Endpoint()).model_copy(update=changes)
    return status.model_copy(update={"endpoint": endpoint})


def _round_started(
    status: Status, event: Event, job: FLJob, *, now: str, generation: int
) -> Status:
    nodes = tuple(
        TreeNode(
            name=name, leaves=sum(role["role"] == "leaf" for role in roles),
            clients=sum(role["clients"] for role in roles if role["role"] == "leaf"),
            middle=any(role["role"] == "middle" for role in roles),
            top=any(role["role"] == "top" for role in roles),
        )
        for name, roles in sorted(event["tree"].items())
    )  # fmt: skip
    top = next((node.name for node in nodes if node.top), None)
    nodes = tuple(
        node if node.top else node.model_copy(update={"forward_to": top}) for node in nodes
    )
    drawn = event["clients"]
    connected = max(status.clients.connected, drawn)
    changes: dict[str, Any] = {
        "phase": "Running", "round": event["round"], "rounds": job.spec.rounds,
        "progress": f"{event['round'] - 1}/{job.spec.rounds}",
        "tree": Tree(
            epoch=event["epoch"], top_node=top, unplaced=event["unplaced"], nodes=nodes
        ),
        "clients": ClientCounts(
            enrolled=job.spec.client_count, connected=connected, drawn=drawn, accepted=0
        ),
        "started_at": status.started_at or now, "message": "",
    }  # fmt: skip
    return status.model_copy(update=changes).with_condition(
        "Running", True, "RoundStarted", "rounds are under way", now=now, generation=generation
    )


def _done(status: Status, event: Event, job: FLJob, *, now: str, generation: int) -> Status:
    rounds = event["rounds"]
    sentence = f"{rounds} rounds in {event['wall_s']:.1f} s"
    if event.get("stopped"):
        sentence += f": {event['stopped']}"
    after = status.model_copy(
        update={
            "phase": "Complete", "round": rounds, "progress": f"{rounds}/{status.rounds}",
            "finished_at": now, "message": sentence,
            "figures": _few(event["evaluation"] or event["metrics"]),
            # the coordinator removes those for which the job names no place of its own
            "last_checkpoint": status.last_checkpoint if job.spec.checkpoint.path else None,
        }
    )  # fmt: skip
    after = after.with_condition(
        "Complete", True, "AllRounds", sentence, now=now, generation=generation
    )
    return after.with_condition("Running", False, "Complete", "", now=now, generation=generation)


def failed(status: Status, why: str, reason: str, *, now: str, generation: int) -> Status:
    after = status.model_copy(
        update={"phase": "Failed", "message": why[:1024], "finished_at": now}
    )
    after = after.with_condition("Failed", True, reason, why, now=now, generation=generation)
    return after.with_condition("Running", False, "Failed", "", now=now, generation=generation)


def _reason(event: Event) -> str:
    """A code such as too-few-updates, as conditions have it."""
    return "".join(word.capitalize() for word in str(event.get("code", "defect")).split("-"))


def _few(figures: Mapping[str, Any]) -> dict[str, float]:
    """Numbers, as Status takes them: to a few digits."""
    found = {
        name: float(value) for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }  # fmt: skip
    return Status(figures=found).figures


def with_model(status: Status, path: str, *, now: str) -> Status:
    """Complete, and where the model lies."""
    return status.model_copy(update={"model": Stored(round=status.round, place=path, time=now)})


def news(event: Event) -> News | None:
    """What of an event people want to read later; rounds are in the status."""
    match event["event"]:
        case "engine":
            how = f": {event['reason']}" if event["reason"] else ""
            return News(
                "Engine", f"hand-offs by {event['proxy']}{how}; kernels {event['kernels']}"
            )
        case "round_started" if event["round"] == 1:
            return News("RoundsStarted", f"round 1 began with {event['clients']} clients")
        case "warning":
            return News("Warning", event["text"], "Warning")
        case "restart":
            return News("Restarted", event["what"], "Warning")
        case "crowded_out":
            return News("WaitsForShare", event["text"])
        case "paused":
            return News("Suspended", f"after round {event['round']}, whose model is kept")
        case "done":
            return News("Complete", f"{event['rounds']} rounds in {event['wall_s']:.1f} s")
        case "failed":
            return News("Failed", event["error"], "Warning")
    return None
