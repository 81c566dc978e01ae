"""What of a job belongs to a cluster, and what to `lifl run`.

Owns both lists, so that the same file serves both and neither ignores a field in silence.  The CRD
has the first as rules (`rules`), and a test holds the two to the same verdicts.  Called by the
operator and by the command line.
"""

from __future__ import annotations

from typing import Final

from lifl.api.job import FLJob

NOBODY_OUTSIDE: Final = (
    "the trainer starts every client, so that nobody comes from outside: raise clients.max above "
    "trainer.clients, or leave expose out"
)
NOT_A_CLIENT: Final = "clients.revoked names a client that the job does not have"
NAME_MAX: Final = 52  # of a job in a cluster: what belongs to it has its name and more, in 63


def refused_in_cluster(job: FLJob) -> list[str]:
    """Why a valid job cannot run in a cluster; empty: it can."""
    spec, name = job.spec, job.metadata.name
    trainers = spec.trainer is not None and spec.trainer.template is not None
    found = []
    if len(name) > NAME_MAX:
        found.append(
            f"metadata.name has {len(name)} characters: in a cluster at most {NAME_MAX}, since "
            "the names of its pods begin with it"
        )
    if spec.insecure:
        found.append("insecure: true is for lifl run: a cluster's network is shared; leave it out")
    if spec.template is None and not trainers:
        found.append(
            "template is missing: in a cluster the job's own code (initial model, evaluator, "
            "trainers) runs in pods; give template.image"
        )
    if spec.expose.type != "none" and not spec.outside:
        found.append(f"expose.type is {spec.expose.type}: {NOBODY_OUTSIDE}")
    count = spec.client_count
    if any(number_of(one) >= count for one in spec.clients.revoked):
        found.append(f"{NOT_A_CLIENT}: they are client-0 to client-{count - 1}")
    return found


def number_of(client: str) -> int:
    """16 of client-16."""
    return int(client.rpartition("-")[2])


def refused_by_run(job: FLJob) -> list[str]:
    """Why `lifl run` would not do what a job asks for; empty: it will."""
    spec = job.spec
    found = []
    if spec.suspend:
        found.append(
            "spec.suspend is true: lifl run would run the job at once; leave it out, or apply the "
            "job to a cluster"
        )
    if spec.expose.type != "none":
        found.append(
            f"spec.expose.type is {spec.expose.type}: that is a Service of a cluster; clients "
            "from outside of lifl run get files and addresses as docs/clients.md says; leave it out"
        )
    if spec.clients.revoked:
        found.append(
            "spec.clients.revoked is for a cluster; leave it out, and use lifl keys revoke"
        )
    return found


def unused_by_run(job: FLJob) -> list[str]:
    """Fields of a job that only a cluster has a use for, and that change nothing here."""
    spec, trainer = job.spec, job.spec.trainer
    fields = {
        "spec.template": spec.template is not None,
        "spec.trainer.template": trainer is not None and trainer.template is not None,
        "spec.trainer.replicas": trainer is not None and trainer.replicas is not None,
        "spec.functions.runtime": spec.functions.runtime is not None,
        "spec.ttlSecondsAfterFinished": spec.ttl_seconds_after_finished is not None,
    }
    return [name for name, given in fields.items() if given]
