"""The objects that a job and a node's functions consist of, as the API server takes them.

    FLJob + record + nodes ─► Secret of members' files, Jobs of trainers, evaluator, initial model
    tenant + node + number ─► Deployment of functions

Owns their content.  Pure: keeper.py and deployments.py apply what is made here, and a job's own
objects hang below its FLJob, so that they go with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lifl.api.job import FLJob
from lifl.api.pods import Template, Volume
from lifl.placement.cluster import names
from lifl.placement.cluster.api import Object
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.tokens import AUDIENCE

TOKEN: Final = "/var/run/secrets/lifl/token"
INDEX: Final = "LIFL_INDEX"
_BASIC: Final = {  # as `lifl run` has it for trainers, and what a read-only container needs
    "HOME": "/tmp", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip
FunctionsRuntime = Literal["deployment", "knative"]
CORDONED: Final = {  # the round under way still needs functions on a node that drains
    "key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule",
}  # fmt: skip
_AGAIN: Final = 6  # times that a member's pod is started again


@dataclass(frozen=True, kw_only=True)
class Install:
    """What the installation has, as the operator was told.

    Attributes:
        operator, operator_key: where members bring the initial model, and who answers there.
        gateway_bulk_port: of every node, for models and updates.
        run_directory: of the nodes, below which each node's socket lies.
        functions_tolerations: of the taints that agents do not mind, either.
        functions_runtime: of jobs that do not say what theirs run as.
        has_webhook: this operator makes functions of Knative Services' pods.
    """

    namespace: str
    image: str
    image_pull_policy: str = "IfNotPresent"
    gateway_bulk_port: int = 0
    functions_namespace: str = "lifl-functions"
    functions_account: str = "lifl-function"
    functions_resources: Mapping[str, Any] = field(default_factory=dict)
    functions_priority_class: str = ""
    functions_tolerations: Sequence[Mapping[str, Any]] = ()
    functions_runtime: FunctionsRuntime = "deployment"
    has_webhook: bool = False
    run_directory: str = "/run/lifl"
    operator: str = ""
    operator_key: str = ""


@dataclass(frozen=True)
class Gateway:
    """Where a node's gateway is."""

    node: str
    endpoint: str
    key: str


# -- a job's own code ------------------------------------------------------------------------
def replicas(job: FLJob) -> int:
    """Pods of the trainer."""
    trainer = job.spec.trainer
    return trainer.replicas or trainer.workers or trainer.clients if trainer else 0


def template_of(job: FLJob, member: str) -> Template:
    spec = job.spec
    own = spec.trainer.template if spec.trainer else None
    found = own or spec.template if member == "trainer" else spec.template or own
    assert found is not None  # lifl.api.cluster refuses a job without one
    return found


def member_files(
    job: FLJob, record: Record, gateways: Sequence[Gateway], install: Install
) -> dict[str, Any]:
    """What each pod reads: one file for each."""
    spec, full_name = job.spec, job.metadata.full_name
    where = {each.node: [each.endpoint, each.key] for each in gateways}
    virtual, started = record.virtual(job), record.started(job)
    pods = replicas(job)
    base = {
        "job": job_file(job), "name": full_name, "gateways": where,
        "client_count": spec.client_count, "operator": [install.operator, install.operator_key],
    }  # fmt: skip
    nobody: dict[str, Any] = {"clients": {}, "workers": [], "observer": None, "initial": None}
    found: dict[str, Any] = {"initial.json": base | nobody | {"initial": record.initial}}
    if gateways:
        if spec.evaluator:
            found["evaluator.json"] = base | nobody | {"observer": record.observer}
        for pod in range(pods):
            found[f"trainer-{pod}.json"] = base | nobody | {
                "clients": {
                    f"client-{virtual + at}": _client_file(job, record, at, gateways)
                    for at in range(pod, started, pods)
                },
                "workers": [list(pair) for pair in record.workers[pod::pods]],
            }  # fmt: skip
    return found


def _client_file(
    job: FLJob, record: Record, at: int, gateways: Sequence[Gateway]
) -> dict[str, Any]:
    """Of the client whose keys are number `at` of the record's."""
    gateway = gateways[at % len(gateways)]
    public, secret = record.clients[at]
    return {
        "job": job.metadata.full_name, "endpoint": gateway.endpoint, "server_key": gateway.key,
        "public_key": public, "secret_key": secret, "index": record.virtual(job) + at,
        "count": job.spec.client_count,
    }  # fmt: skip


def client_files(
    job: FLJob, record: Record, gateways: Sequence[Gateway], doors: Mapping[str, tuple[str, int]]
) -> dict[str, Any]:
    """A file for each client from outside that may take part.

    Args:
        doors: where they find a node's gateway, of nodes where that is not where nodes do.
    """
    outside = [
        Gateway(each.node, doors.get(each.node, (each.endpoint,))[0], each.key)
        for each in gateways
    ]  # fmt: skip
    virtual = record.virtual(job)
    return {
        f"client-{virtual + at}.json": _client_file(job, record, at, outside)
        for at in range(record.started(job), len(record.clients))
        if f"client-{virtual + at}" not in job.spec.clients.revoked
    }


def job_file(job: FLJob) -> dict[str, Any]:
    """The job as a job file has it, for processes that read one."""
    fields: dict[str, Any] = job.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"status"}
    )
    metadata = fields["metadata"]
    fields["metadata"] = {name: metadata[name] for name in ("name", "namespace")}
    return fields


def member_secret(
    job: FLJob, uid: str, record: Record, gateways: Sequence[Gateway], install: Install
) -> Object:
    made = member_files(job, record, gateways, install)
    return _secret(belongs_to(job, uid, names.files(job.metadata.name), "files"), made)


def client_secret(
    job: FLJob, uid: str, record: Record, gateways: Sequence[Gateway],
    doors: Mapping[str, tuple[str, int]],
) -> Object:  # fmt: skip
    made = client_files(job, record, gateways, doors)
    return _secret(belongs_to(job, uid, names.clients(job.metadata.name), "clients"), made)


def _secret(metadata: Object, files: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata,
        "stringData": {name: json.dumps(content) for name, content in files.items()},
    }  # fmt: skip


def member_job(job: FLJob, uid: str, member: str) -> Object:
    """The batch Job of one kind of member; trainers are indexed, each with a file of its own."""
    template, count = template_of(job, member), replicas(job) if member == "trainer" else 1
    indexed = member == "trainer"
    file = f"trainer-$({INDEX}).json" if indexed else f"{member}.json"
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    own = [{"name": INDEX, "valueFrom": {"fieldRef": {"fieldPath": index}}}] if indexed else []
    env = [variable.model_dump(by_alias=True, exclude_none=True) for variable in template.env]
    given = {variable.name for variable in template.env}
    basic = [{"name": name, "value": value} for name, value in _BASIC.items() if name not in given]
    container = {
        "name": member, "image": template.image, "imagePullPolicy": template.image_pull_policy,
        "command": ["python", "-m", "lifl.member", member],
        "workingDir": template.working_dir, "env": [*basic, *env, *own],
        "resources": template.resources.model_dump(by_alias=True, exclude_defaults=True),
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "lifl-file", "mountPath": names.MEMBER_FILE, "subPathExpr": file,
             "readOnly": True},
            {"name": "lifl-tmp", "mountPath": "/tmp"},
            *({"name": v.name, "mountPath": v.mount_path, "readOnly": v.read_only
               and v.empty_dir is None} for v in template.volumes),
        ],
    }  # fmt: skip
    security: Object = {
        "runAsNonRoot": True, "runAsUser": template.run_as_user,
        "runAsGroup": template.run_as_group, "seccompProfile": {"type": "RuntimeDefault"},
        # the file is for the group that the pod runs as, and 0440
        "fsGroup": template.fs_group or template.run_as_group,
    }  # fmt: skip
    secret = {"secretName": names.files(job.metadata.name), "defaultMode": 0o440}
    pod: Object = {
        "restartPolicy": "OnFailure", "automountServiceAccountToken": False,
        "enableServiceLinks": False, "securityContext": security, "containers": [container],
        "terminationGracePeriodSeconds": 5,
        "imagePullSecrets": [{"name": name} for name in template.image_pull_secrets],
        "nodeSelector": dict(template.node_selector),
        "tolerations": [t.model_dump(by_alias=True, exclude_none=True)
                        for t in template.tolerations],
        "volumes": [
            {"name": "lifl-file", "secret": secret}, {"name": "lifl-tmp", "emptyDir": {}},
            *map(_volume, template.volumes),
        ],
    }  # fmt: skip
    if template.priority_class_name:
        pod["priorityClassName"] = template.priority_class_name
    if template.runtime_class_name:
        pod["runtimeClassName"] = template.runtime_class_name
    metadata = belongs_to(job, uid, f"{job.metadata.name}-{member}", member)
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
        "spec": {
            "completions": count, "parallelism": count, "backoffLimit": _AGAIN * count,
            "completionMode": "Indexed" if indexed else "NonIndexed",
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": pod},
        },
    }  # fmt: skip


def _volume(volume: Volume) -> Object:
    source = volume.model_dump(
        by_alias=True, exclude_none=True, exclude={"name", "mount_path", "read_only"}
    )
    if "emptyDir" in source:
        source["emptyDir"] = {name: value for name, value in source["emptyDir"].items() if value}
    return {"name": volume.name, **source}


def belongs_to(job: FLJob, uid: str, name: str, component: str) -> Object:
    """Metadata of what hangs below an FLJob."""
    return {
        "name": name, "namespace": job.metadata.namespace,
        "labels": names.OURS | {names.JOB: job.metadata.name, names.COMPONENT: component},
        "ownerReferences": [{
            "apiVersion": names.GROUP, "kind": "FLJob", "name": job.metadata.name, "uid": uid,
            "controller": True, "blockOwnerDeletion": True,
        }],
    }  # fmt: skip


# -- functions -------------------------------------------------------------------------------
def function_labels(tenant: str, node: str, runtime: FunctionsRuntime) -> dict[str, str]:
    return names.OURS | {
        names.COMPONENT: "function", names.TENANT: tenant, names.NODE: node,
        names.RUNTIME: runtime,
    }  # fmt: skip


def function_pod(
    tenant: str, node: str, install: Install, runtime: FunctionsRuntime = "deployment"
) -> Object:
    """Pod template of a tenant's functions on one node: no right of any kind."""
    labels = function_labels(tenant, node, runtime)
    token = {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    spec: Object = {
        "serviceAccountName": install.functions_account, "automountServiceAccountToken": False,
        "enableServiceLinks": False, "terminationGracePeriodSeconds": 5,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [CORDONED, *install.functions_tolerations],
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{
            "name": "function", "image": install.image,
            "imagePullPolicy": install.image_pull_policy,
            "command": ["python", "-m", "lifl.functions.aggregator", "--node", node,
                        "--socket", "/run/lifl/agent.sock"],
            "env": [{"name": "LIFL_TOKEN", "value": TOKEN},
                    {"name": "OMP_NUM_THREADS", "value": "1"}],
            "resources": dict(install.functions_resources),
            "securityContext": {
                "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            "volumeMounts": [
                {"name": "socket", "mountPath": "/run/lifl", "readOnly": True},
                {"name": "token", "mountPath": TOKEN.rpartition("/")[0], "readOnly": True},
            ],
        }],
        "volumes": [
            {"name": "socket", "hostPath": {
                "path": f"{install.run_directory}/{node}/socket", "type": "Directory"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        ],
    }  # fmt: skip
    if install.functions_priority_class:
        spec["priorityClassName"] = install.functions_priority_class
    return {"metadata": {"labels": labels}, "spec": spec}


def functions_deployment(tenant: str, node: str, number: int, install: Install) -> Object:
    pod = function_pod(tenant, node, install)
    labels = pod["metadata"]["labels"]
    chosen = {name: labels[name] for name in (names.COMPONENT, names.TENANT, names.NODE)}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": names.functions(tenant, node), "namespace": install.functions_namespace,
            "labels": labels,
        },
        "spec": {
            "replicas": number, "revisionHistoryLimit": 1, "selector": {"matchLabels": chosen},
            "template": pod,
        },
    }  # fmt: skip
