"""Who is the active operator: the holder of a Lease, by the kubernetes package's election.

Owns the Lease's settings, and the epoch: `leaseTransitions` grows with every process that comes to
hold it, also with one in the pod of the last, so that no two processes ever have the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import kubernetes
import urllib3
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

LEASE_S: Final = 8
RENEW_S: Final = 5
RETRY_S: Final = 1


class CountedLease(LeaseLock):
    """A Lease whose transitions count processes.  An API server that is away is a failed try."""

    epoch = 0

    def get(self, name: str, namespace: str) -> tuple[bool, Any]:
        try:
            found: tuple[bool, Any] = super().get(name, namespace)
            return found
        except urllib3.exceptions.HTTPError as error:
            return False, _Away(str(error))

    def create(self, name: str, namespace: str, election_record: Any) -> bool:
        return self._tried(super().create, name, namespace, election_record)

    def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        return self._tried(super().update, name, namespace, updated_record)

    def _tried(self, what: Callable[..., bool], *arguments: Any) -> bool:
        before = self.epoch
        try:
            succeeded = what(*arguments)
        except urllib3.exceptions.HTTPError:
            succeeded = False
        if not succeeded:
            self.epoch = before
        return succeeded

    def get_lease_spec(self, leader_election_record: Any, current_spec: Any = None) -> Any:
        spec = super().get_lease_spec(leader_election_record, current_spec)
        if self.epoch == 0:
            self.epoch = spec.lease_transitions = (spec.lease_transitions or 0) + 1
        return spec


class _Away:
    """What the election expects of an error."""

    def __init__(self, reason: str) -> None:
        self.reason, self.body = reason, ""


def wait_until_elected(
    *, name: str, namespace: str, identity: str, lost: Callable[[], None]
) -> int:
    """Block until this process holds the Lease.

    Args:
        lost: called, in a thread, when it holds it no more.

    Returns:
        The epoch.
    """
    kubernetes.config.load_incluster_config()
    elected = threading.Event()
    lock = CountedLease(name, namespace, identity)
    config = electionconfig.Config(
        lock, LEASE_S, RENEW_S, RETRY_S, onstarted_leading=elected.set, onstopped_leading=lost
    )
    election = leaderelection.LeaderElection(config)
    threading.Thread(target=election.run, name="lease", daemon=True).start()
    elected.wait()
    return lock.epoch
