"""Who may do what at a gateway, job by job: what each job's own coordinator has said of it.

Owns rights, the ports that some find, and revoked keys as long as their job.  A key may have a
right in several jobs; what one list says of it holds in that job alone.  Filled by orders.py, asked
by clients.py and, whether anybody may call at all, by gateway.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from lifl.errors import Refused


@dataclass(frozen=True)
class Enrolment:
    """Of one job.

    Attributes:
        keys: public key -> client, worker, observer, node or coordinator.
        ports: key -> where it finds the bulk port, of those who do not find it at its own.
    """

    keys: Mapping[str, str]
    ports: Mapping[str, int] = field(default_factory=dict)


class Rights:
    """Of everybody at one gateway."""

    def __init__(self) -> None:
        self._enrolled: dict[str, Enrolment] = {}  # by job
        self._revoked: dict[str, set[str]] = {}  # by job: keys that had a right there
        self.keys: Set[str] = frozenset()  # with a right in any job

    def replace(self, enrolled: Mapping[str, Enrolment]) -> dict[str, set[str]]:
        """From now on these keys have these rights, and no others have any.

        Returns:
            By job, who had a right there and has none.
        """
        before, self._enrolled = self._enrolled, dict(enrolled)
        self.keys = frozenset().union(*(each.keys for each in enrolled.values()))
        gone = {
            job: each.keys.keys() - (enrolled[job].keys.keys() if job in enrolled else set())
            for job, each in before.items()
        }  # fmt: skip
        self._revoked = {
            job: (self._revoked.get(job, set()) | gone.get(job, set())) - each.keys.keys()
            for job, each in enrolled.items()
        }
        return gone

    @property
    def jobs(self) -> Set[str]:
        """Those whose coordinator has said who may take part, here already or not."""
        return self._enrolled.keys()

    def of(self, job: str, key: str) -> str:
        """The right that a key has in a job; empty where it has none."""
        enrolled = self._enrolled.get(job)
        return enrolled.keys.get(key, "") if enrolled is not None else ""

    def port(self, job: str, key: str) -> int | None:
        """Where it finds the bulk port; None: at the port's own number."""
        enrolled = self._enrolled.get(job)
        return enrolled.ports.get(key) if enrolled is not None else None

    def stranger(self, key: str, job: str | None = None) -> Refused:
        """What a key without a right is told; None: it has none in any job."""
        jobs = self._revoked if job is None else {job}
        if any(key in self._revoked.get(name, ()) for name in jobs):
            return Refused(f"the key {key} was revoked: have a new one enrolled", code="revoked")
        return Refused(f"the key {key} is not enrolled: lifl keys enroll", code="not-enrolled")
