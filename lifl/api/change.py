"""Which fields of a job may change while it is there.

Owns the list.  Everything that is not on it is what the job is: another model, another tree, other
clients are another job.  Called by `rules`, which makes the API server hold to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CHANGEABLE: Final[Mapping[str, str]] = {
    "suspend": "true: the round under way is finished, then no other begins; false: rounds go on "
    "from the newest model",
    "rounds": "only upwards; the job ends after the new number",
    "ttlSecondsAfterFinished": "counts from the end of the job; also after it",
    "deadlineS": "from the next round on",
    "clients.fraction": "from the next round on",
    "clients.minPerRound": "from the next round on",
    "clients.minUpdates": "from the next round on",
    "clients.revoked": "only more; their connections end, and what was accepted of them stays",
    "clients.graceS": "for connections that end from then on",
    "placement.priority": "from the next round on, of every job on these nodes",
    "placement.weight": "from the next round on, of every job on these nodes",
    "stop": "looked at after the next round",
}
"""Fields of spec that may change while a job runs, and what happens then."""

AFTER_END: Final = frozenset({"ttlSecondsAfterFinished"})
"""Those that may still change once the job is complete or has failed."""

MIXED: Final = frozenset(name.partition(".")[0] for name in CHANGEABLE if "." in name)
"""Parts of spec of which some fields may change and some may not."""
