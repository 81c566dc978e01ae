"""FLJobs as an API server hands them out, for tests of the operator's decisions."""

from __future__ import annotations

from typing import Any

from lifl.api.job import FLJob
from lifl.placement.cluster.papers import job_of

UID = "0000002a-1111-4222-8333-444455556666"


def body(**spec: Any) -> dict[str, Any]:
    """A job of 4 clients in 2 pods, in namespace team-a."""
    given: dict[str, Any] = {
        "rounds": 3, "model": {"initial": "toy:initial"},
        "trainer": {"entrypoint": "toy:train", "clients": 4, "replicas": 2},
        "template": {"image": "toy:1"},
    }  # fmt: skip
    return {
        "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob",
        "metadata": {
            "name": "toy", "namespace": "team-a", "uid": UID, "generation": 3,
            "finalizers": ["fl.lifl.dev/operator"], "annotations": {"lifl.dev/x": "y"},
        },
        "spec": given | spec,
    }  # fmt: skip


def job(**spec: Any) -> FLJob:
    return job_of(body(**spec))
