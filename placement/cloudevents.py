"""What becomes of a job, as CloudEvents 1.0.

    events of the coordinator ─► dev.lifl.job.*, dev.lifl.round.completed, dev.lifl.model.*

Owns the translation, which is pure, and the structured JSON format: an object with the standard's
attributes and `data`.  The `cloudevents` package is not needed for that.  An event that is told
again, by a process that has taken over, has the same `id`.  Sending is sink.py's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
TYPES: Final[Mapping[str, str]] = {
    "dev.lifl.job.started": "round 1 has begun: clients",
    "dev.lifl.model.published": "a round's global model exists: round, seconds",
    "dev.lifl.round.completed": "all of a round is accounted for: round, seconds, clients, bytes, "
    "metrics (what clients report, by weight)",
    "dev.lifl.model.evaluated": "the evaluator has measured a model: round, figures",
    "dev.lifl.model.stored": "a checkpoint is on disk: round, place",
    "dev.lifl.job.completed": "rounds, seconds, figures; place of the model, where it is known",
    "dev.lifl.job.failed": "error, code",
}
"""Types of events, and what their data say besides `job`."""


@dataclass(frozen=True)
class About:
    """Whose events they are.

    Attributes:
        job: its full name.
        source: CloudEvents' `source`.
        run: told apart from every other run of this job, also one from an earlier checkpoint.
    """

    job: str
    source: str
    run: str


def of(
    event: Mapping[str, Any], about: About, now: datetime | None = None
) -> dict[str, Any] | None:
    """A CloudEvent in its JSON format; None where nobody outside needs to hear of it."""
    found = _told(event)
    if found is None:
        return None
    kind, data = found
    number = data.get("round")
    return {
        "specversion": "1.0", "type": kind, "source": about.source,
        "id": f"{about.run}/{kind.removeprefix('dev.lifl.')}" + (f"/{number}" if number else ""),
        "time": (now or datetime.now(UTC)).isoformat(timespec="milliseconds"),
        "subject": f"{about.job}/round/{number}" if number else about.job,
        "datacontenttype": "application/json", "data": {"job": about.job, **data},
    }  # fmt: skip


def _told(event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    match event["event"]:
        case "round_started" if event["round"] == 1:
            return "dev.lifl.job.started", {"clients": event["clients"]}
        case "published":
            return "dev.lifl.model.published", _fields(event, "round", "seconds")
        case "round_done":
            return "dev.lifl.round.completed", _fields(
                event, "round", "seconds", "clients", "bytes", "metrics"
            )
        case "metrics":
            return "dev.lifl.model.evaluated", _fields(event, "round", "figures")
        case "checkpoint":
            return "dev.lifl.model.stored", _fields(event, "round", "place")
        case "done":
            data = {
                "rounds": event["rounds"], "seconds": event["wall_s"],
                "figures": _finite(event["evaluation"] or event["metrics"]),
            }  # fmt: skip
            return "dev.lifl.job.completed", data | _fields(event, "place")
        case "failed":
            return "dev.lifl.job.failed", _fields(event, "error", "code")
    return None


def _fields(event: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {
        name: _finite(event[name]) if name in ("figures", "metrics") else event[name]
        for name in names if name in event
    }  # fmt: skip


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """null in place of NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
