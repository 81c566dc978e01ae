"""Which fields of a job may change while it is there.

Owns the list.  Everything that is not on it is what the job is: another model, another tree, other
clients are another job.  The CRD has the same as rules (`rules`).  Called by the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lifl.api.job import FLJob

CHANGEABLE: Final[Mapping[str, str]] = {
    "suspend": "true: the round under way is finished, then no other begins; false: rounds go on "
    "from the newest model",
    "rounds": "only upwards; the job ends after the new number",
    "ttlSecondsAfterFinished": "counts from the end of the job; also after it",
    "deadlineS": "from the next round on",
    "clients.fraction": "from the next round on",
    "clients.minPerRound": "from the next round on",
    "clients.minUpdates": "from the next round on",
    "clients.graceS": "for connections that end from then on",
    "stop": "looked at after the next round",
    "eventSink": "from the next event on",
}
"""Fields of spec that may change while a job runs, and what happens then."""

AFTER_END: Final = frozenset({"ttlSecondsAfterFinished"})
"""Those that may still change once the job is complete or has failed."""

MIXED: Final = frozenset(name.partition(".")[0] for name in CHANGEABLE if "." in name)
"""Parts of spec of which some fields may change and some may not."""


def refused_changes(old: FLJob, new: FLJob, *, ended: bool = False) -> list[str]:
    """Why a job may not become another; empty: it may.

    Args:
        ended: the job is complete or has failed.
    """
    before, after = (_fields(job) for job in (old, new))
    changed = [name for name in before if before[name] != after[name]]
    if ended and set(changed) - AFTER_END:
        return [
            f"the job has ended, and {', '.join(sorted(set(changed) - AFTER_END))} would change: "
            "make a new job"
        ]
    found = [
        f"{name} cannot change: delete the job and make a new one"
        for name in changed
        if name not in CHANGEABLE
    ]
    if new.spec.rounds < old.spec.rounds:
        found.append(
            f"rounds cannot fall, and would from {old.spec.rounds} to {new.spec.rounds}: use stop, "
            "or suspend"
        )
    return found


def _fields(job: FLJob) -> dict[str, Any]:
    spec = job.spec.model_dump(mode="json", by_alias=True)
    return {name: value for name, value in spec.items() if name not in MIXED} | {
        f"{part}.{name}": value for part in sorted(MIXED) for name, value in spec[part].items()
    }
