"""Names, labels, paths and times of what the operator makes.

Owns them alone, so that whoever makes a thing and whoever looks for it say the same.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from lifl.placement.cluster.api import path_of

GROUP: Final = "fl.lifl.dev/v1alpha1"
JOB: Final = "lifl.dev/job"
COMPONENT: Final = "lifl.dev/component"
NODE: Final = "lifl.dev/node"
RUNTIME: Final = "lifl.dev/runtime"  # deployment or knative: what a function's pod runs as
TENANT: Final = "lifl.dev/tenant"  # of functions' pods, whose namespace only LIFL writes to
LEADER: Final = "lifl.dev/leader"  # of the active operator's pod, which its Service selects
OURS: Final = {"app.kubernetes.io/name": "lifl", "app.kubernetes.io/managed-by": "lifl-operator"}
MEMBER_FILE: Final = "/var/run/lifl/member.json"  # what a pod of a job's own code reads first
MEMBERS: Final = ("initial", "evaluator", "trainer")  # pods of a job's own code, as they start


def now() -> str:
    """The time as objects of the API server have it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def fljob(namespace: str, name: str, part: str = "") -> str:
    """Path of a job at the API server."""
    return path_of(GROUP, "fljobs", namespace, name, part)


def full(namespace: str, name: str) -> str:
    """As lifl.api.job.Metadata.full_name."""
    return name if namespace == "default" else f"{namespace}/{name}"


def record(uid: str) -> str:
    """Secret of LIFL's namespace with a job's record."""
    return f"lifl-job-{uid}"


def files(job: str) -> str:
    """Secret of the job's namespace with its members' files."""
    return f"{job}-lifl"


def clients(job: str) -> str:
    """Secret of the job's namespace with a file for each client from outside."""
    return f"{job}-clients"


def outside(job: str) -> str:
    """Service of the job's namespace through which they come."""
    return f"{job}-outside"


def functions(tenant: str, node: str) -> str:
    """Deployment, or Knative Service, of a tenant's functions on a node."""
    text = f"{tenant}-{node}".replace(".", "-")
    if len(text) <= 45:
        return f"fn-{text}"
    digest = hashlib.sha256(f"{tenant}/{node}".encode()).hexdigest()[:8]
    return f"fn-{text[:36].rstrip('-')}-{digest}"
