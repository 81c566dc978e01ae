"""Functions as Knative Services, and what LIFL's two classes say of them.

    tenant + node ─► Knative Service ─stock controllers─► Deployment, PodAutoscaler, Ingress
    PodAutoscaler of class functions.lifl.dev, number ─► replicas, ServerlessService, status
    Ingress of class gateway.lifl.dev, node's gateway ─► status

Owns the objects' content.  Pure: services.py watches and carries out, admission.py makes the
Deployment's pods functions.  What Knative's controllers read of these objects is in the docstrings
of the functions, as of Knative Serving 1.23 (v0.50).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from lifl.placement.cluster import names
from lifl.placement.cluster.api import Object
from lifl.placement.cluster.objects import Install, function_pod

SERVING: Final = "serving.knative.dev/v1"
AUTOSCALING: Final = "autoscaling.internal.knative.dev/v1alpha1"
NETWORKING: Final = "networking.internal.knative.dev/v1alpha1"
SCALER_CLASS: Final = "functions.lifl.dev"
INGRESS_CLASS: Final = "gateway.lifl.dev"
SIDECAR: Final = "queue-proxy"
REVISION: Final = "serving.knative.dev/revision"
SERVICE: Final = "serving.knative.dev/service"
GENERATION: Final = "serving.knative.dev/configurationGeneration"
_CLASS_OF_SCALER: Final = "autoscaling.knative.dev/class"
_CLASSES_OF_INGRESS: Final = (
    "networking.knative.dev/ingress.class", "networking.knative.dev/ingress-class",
)  # fmt: skip
_GRACE_S: Final = 5  # as the pods of Deployments have it


def functions_service(tenant: str, node: str, install: Install) -> Object:
    """The Knative Service of a tenant's functions on one node.

    It has of the pod what Knative's API takes; folder, node and priority are the webhook's to add.
    """
    pod = function_pod(tenant, node, install, "knative")
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    container = dict(spec["containers"][0])
    container["securityContext"] = spec["securityContext"] | container["securityContext"]
    container["volumeMounts"] = [
        mount for mount in container["volumeMounts"] if mount["name"] == "token"
    ]
    return {
        "apiVersion": SERVING, "kind": "Service",
        "metadata": {
            "name": names.functions(tenant, node), "namespace": install.functions_namespace,
            "labels": labels | {"networking.knative.dev/visibility": "cluster-local"},
            "annotations": {"networking.knative.dev/ingress.class": INGRESS_CLASS},
        },
        "spec": {"template": {
            "metadata": {"labels": labels, "annotations": {_CLASS_OF_SCALER: SCALER_CLASS}},
            "spec": {
                "serviceAccountName": spec["serviceAccountName"],
                "automountServiceAccountToken": False, "enableServiceLinks": False,
                "timeoutSeconds": _GRACE_S,  # it is also the time that a pod may take to end
                "containers": [container],
                "volumes": [each for each in spec["volumes"] if each["name"] == "token"],
            },
        }},
    }  # fmt: skip


def is_ours(scaler: Object) -> bool:
    """Whether a PodAutoscaler is of LIFL's class, and of functions."""
    about = scaler["metadata"]
    annotations, labels = about.get("annotations", {}), about.get("labels", {})
    is_of_class: bool = annotations.get(_CLASS_OF_SCALER) == SCALER_CLASS
    return is_of_class and {names.TENANT, names.NODE, SERVICE} <= labels.keys()


def place_of(thing: Object) -> tuple[str, str]:
    """(tenant, node) of whatever has the labels."""
    labels = thing["metadata"]["labels"]
    return labels[names.TENANT], labels[names.NODE]


# -- the autoscaler's class --------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be done for a PodAutoscaler.

    Attributes:
        replicas: what its Deployment is to have; None: it has that.
        status: to be written; None: it says that already.
    """

    replicas: int | None = None
    status: Object | None = None


def judge(
    scaler: Object, deployment: Object, sks: Object | None, wanted: int | None, *, now: str
) -> Verdict:
    """What LIFL's class does for a Revision's PodAutoscaler.

    Knative's Revision reads of the status: `serviceName`, the scales, and the conditions Ready and
    ScaleTargetInitialized.  At zero Ready is False with reason NoTraffic, and the Revision stays
    Ready, provided that it was initialised once: a Revision that is scaled to zero before is one
    that has failed, for good.  So a Deployment has one replica until it had a ready one.

    Args:
        sks: the ServerlessService of the same name; None: not made yet.
        wanted: functions that there are to be; None: nobody has said yet, and what is there stays.
    """
    status = scaler.get("status", {})
    before = {each["type"]: each for each in status.get("conditions", [])}
    there = int(deployment["spec"].get("replicas", 1))
    ready = int(deployment.get("status", {}).get("readyReplicas", 0))
    has_sidecar = SIDECAR in container_names(deployment)
    was_ready = before.get("ScaleTargetInitialized", {}).get("status") == "True"
    is_initialised = was_ready or (ready > 0 and not has_sidecar)
    number = there if wanted is None else wanted
    if has_sidecar:
        number = 0
    elif number == 0 and not is_initialised:
        number = 1
    conditions = _conditions(
        number=number, ready=ready, has_sidecar=has_sidecar, is_initialised=is_initialised,
        is_served=_is_true(sks, "Ready"),
    )  # fmt: skip
    name = scaler["metadata"]["name"]
    made = {
        "observedGeneration": scaler["metadata"].get("generation", 0),
        "desiredScale": number, "actualScale": ready,
        "serviceName": sks.get("status", {}).get("serviceName", name) if sks else "",
        "metricsServiceName": sks.get("status", {}).get("privateServiceName", "") if sks else "",
    }  # fmt: skip
    return Verdict(
        replicas=number if number != there else None, status=_news(status, made, conditions, now)
    )


def _conditions(
    *, number: int, ready: int, has_sidecar: bool, is_initialised: bool, is_served: bool
) -> dict[str, tuple[str, str, str]]:
    """(status, reason, message) by type; Ready is the conjunction of the other three."""
    true = ("True", "", "")
    if has_sidecar:
        why = "the pods would have a queue-proxy: is LIFL's webhook there and in force?"
        active = initialised = ("False", "QueueProxy", why)
    else:
        active = ("Unknown", "Queued", "functions are being started")
        initialised = true if is_initialised else ("Unknown", "", "")
        if number == 0:
            active = ("False", "NoTraffic", "no job has a role for them")
        elif ready > 0:
            active = true
    # endpoints that are gone, as they are at zero, are no reason to be unready on their own
    served = true if is_served else ("Unknown", "NotReady", "the private Service has no endpoints")
    others = {"Active": active, "ScaleTargetInitialized": initialised, "SKSReady": served}
    worst = next(
        (each for status in ("False", "Unknown") for each in others.values() if each[0] == status),
        true,
    )
    return others | {"Ready": worst}


def serverless_service(scaler: Object) -> Object:
    """Of which Knative's own controller makes Services of the Deployment's pods."""
    about = scaler["metadata"]
    return {
        "apiVersion": NETWORKING, "kind": "ServerlessService",
        "metadata": {
            "name": about["name"], "namespace": about["namespace"],
            "labels": about.get("labels", {}),
            "ownerReferences": [{
                "apiVersion": scaler["apiVersion"], "kind": "PodAutoscaler",
                "name": about["name"], "uid": about["uid"],
                "controller": True, "blockOwnerDeletion": True,
            }],
        },
        "spec": {
            "mode": "Serve", "objectRef": scaler["spec"]["scaleTargetRef"],
            "protocolType": scaler["spec"]["protocolType"], "numActivators": 0,
        },
    }  # fmt: skip


def shares(scalers: Iterable[Object], wanted: int | None) -> dict[str, int | None]:
    """How many functions each Revision of one Service has: all the newest, once it has one ready.

    Until then the one before it stays as it is (None).
    """
    ordered = sorted(
        scalers, key=lambda each: int(each["metadata"]["labels"].get(GENERATION, 0))
    )
    if not ordered:
        return {}
    *older, newest = ordered
    replaced = wanted == 0 or newest.get("status", {}).get("actualScale", 0) > 0
    return {
        newest["metadata"]["name"]: wanted,
        **{each["metadata"]["name"]: 0 if replaced else None for each in older},
    }


# -- the ingress class -------------------------------------------------------------------------
def is_our_ingress(ingress: Object) -> bool:
    annotations = ingress["metadata"].get("annotations", {})
    return INGRESS_CLASS in (annotations.get(name) for name in _CLASSES_OF_INGRESS) and {
        names.TENANT, names.NODE
    } <= ingress["metadata"].get("labels", {}).keys()


def ingress_status(ingress: Object, endpoint: str, *, now: str) -> Object | None:
    """The status that publishes the Ingress at its node's gateway; None: it says that already.

    Knative's Route reads observedGeneration, Ready, and the one entry of each load balancer.

    Args:
        endpoint: of the gateway, as tcp://HOST:PORT; empty: it is not there (yet).
    """
    host = urlsplit(endpoint).hostname or ""
    ready = ("True", "", "")
    if not host:
        ready = ("Unknown", "NoGateway", "the node's gateway has not come to its agent")
    balancer = {"ingress": [_address(host)]} if host else None
    made = {
        "observedGeneration": ingress["metadata"].get("generation", 0),
        "publicLoadBalancer": balancer, "privateLoadBalancer": balancer,
    }  # fmt: skip
    conditions = {
        "NetworkConfigured": ("True", "", ""), "LoadBalancerReady": ready, "Ready": ready,
    }  # fmt: skip
    return _news(ingress.get("status", {}), made, conditions, now)


def _address(host: str) -> dict[str, str]:
    try:
        return {"ip": str(ipaddress.ip_address(host))}
    except ValueError:
        return {"domain": host}


# -- what both have ----------------------------------------------------------------------------
def _news(
    before: Object, fields: Mapping[str, Any], conditions: Mapping[str, tuple[str, str, str]],
    now: str,
) -> Object | None:  # fmt: skip
    """The status as a merge patch, where it differs from what is there.

    A condition keeps its time while it is what it was.
    """
    there = {each["type"]: each for each in before.get("conditions", [])}
    made: list[Object] = []
    for kind, (status, reason, message) in sorted(conditions.items()):
        one: Object = {"type": kind, "status": status}
        one |= {"reason": reason} if reason else {}
        one |= {"message": message} if message else {}
        old = there.get(kind, {})
        changed = old.get("lastTransitionTime") if old.get("status") == status else None
        made.append(one | {"lastTransitionTime": changed or now})
    known = [{k: v for k, v in each.items() if k != "severity"} for each in there.values()]
    same = sorted(known, key=lambda each: str(each["type"])) == made
    if same and all(before.get(name) == value for name, value in fields.items()):
        return None
    return {**fields, "conditions": made}


def container_names(deployment: Object) -> list[str]:
    pod = deployment["spec"]["template"]["spec"]
    return [container["name"] for container in pod["containers"]]


def _is_true(thing: Object | None, condition: str) -> bool:
    found = (thing or {}).get("status", {}).get("conditions", [])
    return any(each["type"] == condition and each["status"] == "True" for each in found)
