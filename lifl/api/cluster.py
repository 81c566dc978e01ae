"""What of a job belongs to a cluster, and what to `lifl run`.

Owns both lists, so that the same file serves both and neither ignores a field in silence.  The CRD
has the first as rules (`rules`), and a test holds the two to the same verdicts.  Called by the
operator and by the command line.
"""

from __future__ import annotations

from typing import Final

from lifl.api.job import FLJob

NO_SERVICE: Final = "a cluster makes no Service for clients from outside yet; leave it out"
NO_EVENTS: Final = "eventSink: a cluster posts no CloudEvents yet; leave it out"
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
    if spec.expose.type != "none":
        found.append(f"expose.type is {spec.expose.type}: {NO_SERVICE}")
    if spec.event_sink is not None:
        found.append(NO_EVENTS)
    return found


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
    if spec.event_sink is not None:
        found.append(
            "spec.eventSink: lifl run posts no CloudEvents; leave it out, and read lifl run --json"
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
