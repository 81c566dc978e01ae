"""What LIFL's classes say of Knative's objects: the autoscaler's, the ingress', the Service."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lifl.placement.cluster import knative, names
from lifl.placement.cluster.objects import Install

NOW, THEN = "2026-01-02T03:04:05Z", "2026-01-01T00:00:00Z"
INSTALL = Install(
    namespace="lifl-system", image="lifl:1", functions_namespace="lifl-functions",
    functions_priority_class="high", functions_resources={"limits": {"memory": "1Gi"}},
)  # fmt: skip
LABELS = {
    names.TENANT: "team-a", names.NODE: "n1", knative.SERVICE: "fn-team-a-n1",
    knative.GENERATION: "1",
}  # fmt: skip


def scaler(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": knative.AUTOSCALING, "kind": "PodAutoscaler",
        "metadata": {
            "name": "fn-team-a-n1-00001", "namespace": "lifl-functions", "uid": "u1",
            "generation": 2, "labels": LABELS,
            "annotations": {"autoscaling.knative.dev/class": knative.SCALER_CLASS},
        },
        "spec": {"scaleTargetRef": {"name": "d"}, "protocolType": "http1"}, "status": status,
    }  # fmt: skip


def deployment(replicas: int, ready: int = 0, *containers: str) -> dict[str, Any]:
    pod = {"containers": [{"name": name} for name in containers or ("function",)]}
    return {
        "spec": {"replicas": replicas, "template": {"spec": pod}},
        "status": {"readyReplicas": ready},
    }  # fmt: skip


def backend(ready: str) -> dict[str, Any]:
    return {"status": {
        "serviceName": "s", "privateServiceName": "s-private",
        "conditions": [{"type": "Ready", "status": ready}],
    }}  # fmt: skip


def conditions(status: Any) -> dict[str, tuple[str, str]]:
    assert status is not None
    return {each["type"]: (each["status"], each.get("reason", "")) for each in status["conditions"]}


def judged(
    given: dict[str, Any], made: dict[str, Any], wanted: int | None, served: str = "True"
) -> tuple[int | None, dict[str, tuple[str, str]]]:
    verdict = knative.judge(given, made, backend(served), wanted, now=NOW)
    return verdict.replicas, conditions(verdict.status)


def test_from_its_beginning_to_zero_and_back() -> None:
    """As Knative's Revision reads it: Ready, unready for want of work alone, Ready."""
    replicas, said = judged(scaler(), deployment(1), 3, "Unknown")
    assert replicas == 3
    assert said["Ready"] == said["Active"] == ("Unknown", "Queued")
    assert said["ScaleTargetInitialized"] == ("Unknown", "")

    verdict = knative.judge(scaler(), deployment(3, 2), backend("True"), 3, now=THEN)
    assert (verdict.replicas, conditions(verdict.status)["Ready"]) == (None, ("True", ""))
    assert verdict.status == {
        "observedGeneration": 2, "desiredScale": 3, "actualScale": 2, "serviceName": "s",
        "metricsServiceName": "s-private", "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": THEN}
            for kind in ("Active", "Ready", "SKSReady", "ScaleTargetInitialized")
        ],
    }  # fmt: skip
    ready = scaler(**verdict.status)

    replicas, said = judged(ready, deployment(3, 3), 0, "True")
    assert (replicas, said["Ready"], said["ScaleTargetInitialized"]) == (
        0, ("False", "NoTraffic"), ("True", ""),
    )  # fmt: skip
    zero = knative.judge(ready, deployment(0), backend("Unknown"), 0, now=NOW).status or {}
    assert (zero["desiredScale"], zero["actualScale"]) == (0, 0)
    times = {each["type"]: each["lastTransitionTime"] for each in zero["conditions"]}
    assert times["ScaleTargetInitialized"] == THEN
    assert times["Active"] == NOW

    replicas, said = judged(scaler(**zero), deployment(0), 2, "Unknown")
    assert (replicas, said["Ready"]) == (2, ("Unknown", "Queued"))
    replicas, said = judged(scaler(**zero), deployment(2, 1), 2)
    assert (replicas, said["Ready"]) == (None, ("True", ""))


def test_a_status_that_is_right_is_not_written() -> None:
    """The server adds a severity, and keeps conditions in an order of its own."""
    status: Any = knative.judge(scaler(), deployment(1, 1), backend("True"), 1, now=THEN).status
    there = copy.deepcopy(status)
    there["conditions"] = [{**each, "severity": ""} for each in reversed(there["conditions"])]
    again = knative.judge(scaler(**there), deployment(1, 1), backend("True"), 1, now=NOW)
    assert again == knative.Verdict()


def test_one_that_never_was_ready_keeps_a_replica() -> None:
    """Else its Revision has failed for good: `Initial scale was never achieved`."""
    replicas, said = judged(scaler(), deployment(3), 0)
    assert replicas == 1
    assert said["Ready"][0] == "Unknown"


def test_while_nobody_says_how_many_what_is_there_stays() -> None:
    replicas, said = judged(scaler(), deployment(3, 3), None)
    assert (replicas, said["Ready"]) == (None, ("True", ""))


def test_pods_with_a_queue_proxy_are_none() -> None:
    """The webhook was not asked: there are no such pods, and what is wrong is said."""
    made = deployment(2, 2, "function", "queue-proxy")
    verdict = knative.judge(scaler(), made, backend("True"), 2, now=NOW)
    assert verdict.replicas == 0
    assert conditions(verdict.status)["Ready"] == ("False", "QueueProxy")
    assert "webhook" in str(verdict.status)


def test_a_backend_that_is_not_there_yet_is_waited_for() -> None:
    said = knative.judge(scaler(), deployment(1, 1), None, 1, now=NOW).status
    assert conditions(said)["Ready"] == ("Unknown", "NotReady")
    made = knative.serverless_service(scaler())
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u1"
    assert made["spec"]["objectRef"] == {"name": "d"}


def test_only_the_newest_revision_has_functions_once_it_has_one() -> None:
    def revision(generation: int, actual: int) -> dict[str, Any]:
        made = scaler(actualScale=actual)
        labels = LABELS | {knative.GENERATION: str(generation)}
        made["metadata"] |= {"name": f"r{generation}", "labels": labels}
        return made

    old, new = revision(9, 3), revision(10, 0)
    assert knative.shares([new, old], 3) == {"r10": 3, "r9": None}
    assert knative.shares([revision(10, 1), old], 3) == {"r10": 3, "r9": 0}
    assert knative.shares([new, old], 0) == {"r10": 0, "r9": 0}
    assert knative.shares([], 3) == {}


@pytest.mark.parametrize("change", [
    {"annotations": {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}},
    {"annotations": {}}, {"labels": {}},
])  # fmt: skip
def test_what_is_of_another_class_is_left_alone(change: dict[str, Any]) -> None:
    assert knative.is_ours(scaler())
    other = scaler()
    other["metadata"] |= change
    assert not knative.is_ours(other)
    ingress = {"metadata": {"labels": LABELS, "annotations": {}} | change}
    assert not knative.is_our_ingress(ingress)


# -- the ingress class ---------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["ingress.class", "ingress-class"])
@pytest.mark.parametrize(("endpoint", "address"), [
    ("tcp://10.77.0.11:7710", {"ip": "10.77.0.11"}),
    ("tcp://[fd00::1]:7710", {"ip": "fd00::1"}),
    ("tcp://n1.example:7710", {"domain": "n1.example"}),
])  # fmt: skip
def test_it_is_published_at_the_nodes_gateway(
    key: str, endpoint: str, address: dict[str, str]
) -> None:
    ingress: dict[str, Any] = {"metadata": {
        "generation": 3, "labels": LABELS,
        "annotations": {f"networking.knative.dev/{key}": knative.INGRESS_CLASS},
    }}  # fmt: skip
    assert knative.is_our_ingress(ingress)
    waiting = knative.ingress_status(ingress, "", now=THEN)
    assert conditions(waiting)["Ready"] == ("Unknown", "NoGateway")
    status = knative.ingress_status(ingress | {"status": waiting}, endpoint, now=NOW)
    kinds = ("NetworkConfigured", "LoadBalancerReady", "Ready")
    assert conditions(status) == dict.fromkeys(kinds, ("True", ""))
    assert status is not None
    assert status["observedGeneration"] == 3
    for which in ("publicLoadBalancer", "privateLoadBalancer"):
        assert status[which] == {"ingress": [address]}
    assert knative.ingress_status(ingress | {"status": status}, endpoint, now=NOW) is None


# -- the Service ---------------------------------------------------------------------------------
ALLOWED = {  # of a pod, by Knative's API without any flag
    "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "timeoutSeconds",
    "containers", "volumes",
}  # fmt: skip


def test_the_service_asks_for_nothing_that_knatives_api_forbids() -> None:
    service = knative.functions_service("team-a", "n1", INSTALL)
    template = service["spec"]["template"]
    assert template["spec"].keys() == ALLOWED
    (container,) = template["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": 10001,
        "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert [each["name"] for each in container["volumeMounts"]] == ["token"]
    assert [each["name"] for each in template["spec"]["volumes"]] == ["token"]
    assert template["spec"]["automountServiceAccountToken"] is False
    assert not knative.SCALER_CLASS.endswith(".knative.dev")
    assert template["metadata"]["labels"][names.TENANT] == "team-a"
    assert service["metadata"]["name"] == names.functions("team-a", "n1")
