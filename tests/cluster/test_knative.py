"""Knative Serving is the stock one, and LIFL's functions are its Services: to zero and back.

A Service of the stock class has a queue-proxy; none of LIFL's has, whatever happens to the webhook.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load

from tests.cluster.installation import PATIENCE_S, Installation, Job, Run, digits
from tests.cluster.kubectl import IMAGE

if TYPE_CHECKING:
    from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

CALL = (
    "import sys, urllib.request as r; host, revision, namespace = sys.argv[1:]; "
    "q = r.Request(f'http://{host}/hostname', headers={'Knative-Serving-Revision': revision, "
    "'Knative-Serving-Namespace': namespace}); "
    "print(r.urlopen(q, timeout=60).read().decode())"
)


def test_a_service_of_the_stock_class_goes_to_zero_and_comes_back(
    kubectl: Kubectl, pods: Pods
) -> None:
    kubectl.apply(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {
                "template": {
                    "metadata": {"annotations": {"autoscaling.knative.dev/window": "6s"}},
                    "spec": {
                        "timeoutSeconds": 10,  # it is also the time that a pod may take to end
                        "containers": [
                            {
                                "image": IMAGE,
                                "command": ["python", "-m", "http.server", "-d", "/etc", "8080"],
                                "ports": [{"containerPort": 8080}],
                            }
                        ],
                    },
                }
            },
        }
    )
    # No ingress is installed, so the Service has no address; its Revision needs none.
    kubectl.wait("configuration/web", "condition=Ready")
    revision = kubectl.get("configuration/web")["status"]["latestReadyRevisionName"]
    deployment = f"deployment/{revision}-deployment"
    template = kubectl.get(deployment)["spec"]["template"]["spec"]
    assert "queue-proxy" in [container["name"] for container in template["containers"]]
    kubectl.wait(deployment, "jsonpath={.spec.replicas}=0", timeout_s=180)
    kubectl.wait("podautoscaler/" + revision, "condition=Active=False")

    host = f"{revision}.{kubectl.namespace}.svc.cluster.local"
    call = pods.run("call", ["python", "-c", CALL, host, revision, kubectl.namespace])
    assert call.status == 0, call.log
    assert call.log.startswith(revision), call.log

# -- LIFL's functions ---------------------------------------------------------------------------
RUNTIME = "knative"
ROUNDS = 5
FAR = 1e-4


def _services(lifl: Installation) -> dict[str, Any]:
    """Knative Services of functions, by name."""
    found = lifl.functions.get("ksvc")["items"]
    return {each["metadata"]["name"]: each for each in found}


def _condition(thing: dict[str, Any], kind: str) -> str:
    conditions = thing.get("status", {}).get("conditions", [])
    return str(next((c["status"] for c in conditions if c["type"] == kind), ""))


def _containers_that_were_made(lifl: Installation) -> set[str]:
    """By the kubelets, in the namespace of functions."""
    events = lifl.functions.get("events", "--field-selector=reason=Created")["items"]
    paths = [event["involvedObject"].get("fieldPath", "") for event in events]
    return {path.removeprefix("spec.containers{").removesuffix("}") for path in paths} - {""}


def _at_zero(lifl: Installation) -> None:
    lifl.functions("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    lifl.functions("wait", "podautoscalers", "--all", "--for=condition=Active=False",
                   f"--timeout={PATIENCE_S}s")  # fmt: skip
    for each in lifl.functions.get("podautoscalers")["items"]:
        assert (each["status"]["desiredScale"], each["status"]["actualScale"]) == (0, 0)


def _restarted(kubectl: Kubectl) -> list[str]:
    events = kubectl.get("events", "--field-selector=reason=Restarted")["items"]
    said = [event["message"] for event in events]
    return [each for each in said if each.split()[0] in ("leaf", "middle", "top")]


def test_a_job_on_knative_services(
    lifl: Installation, run: Run, kubectl: Kubectl, nodes: list[str]
) -> None:
    """It gives the model that it gives on Deployments; functions go to zero and come back."""
    expected = _model(run(digits(ROUNDS, functions={"runtime": "deployment"}), "deployments"))
    assert _services(lifl) == {}
    _no_function(lifl)

    first = run(digits(ROUNDS), "first")
    services = _see_services(lifl, nodes, kubectl.namespace)
    _same(_model(first), expected)
    assert _containers_that_were_made(lifl) == {"function"}

    _at_zero(lifl)
    assert {_condition(each, "Ready") for each in _services(lifl).values()} == {"True"}

    second = run(digits(ROUNDS), "second")
    _same(_model(second), expected)
    rows = second.rows()
    assert not any(row["handoffs"]["unix"] for row in rows)
    now = _services(lifl)
    assert now.keys() == services.keys()
    for name, each in now.items():  # the same Revision, from zero
        assert each["status"]["latestReadyRevisionName"] == f"{name}-00001"
    assert _containers_that_were_made(lifl) == {"function"}
    assert _restarted(kubectl) == []


def _model(job: Job) -> dict[str, np.ndarray]:
    assert job.complete()["progress"] == f"{ROUNDS}/{ROUNDS}"
    return load(job.file("model.safetensors"))


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < FAR, name


def _no_function(lifl: Installation) -> None:
    lifl.functions("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")


def _see_services(lifl: Installation, nodes: list[str], tenant: str) -> dict[str, Any]:
    """One a node, Ready by stock controllers, at its gateway, their pods where they belong."""
    gateways = {pod["spec"]["nodeName"]: pod["status"]["hostIP"] for pod in lifl.pods("gateway")}
    _until(lambda: len(_services(lifl)) == len(nodes))
    lifl.functions("wait", "ksvc", "--all", "--for=condition=Ready", f"--timeout={PATIENCE_S}s")
    services = _services(lifl)
    assert len(services) == len(nodes)
    for name, each in services.items():
        labels = each["metadata"]["labels"]
        assert labels["lifl.dev/tenant"] == tenant
        ingress = lifl.functions.get(f"king/{name}")
        published = ingress["status"]["publicLoadBalancer"]["ingress"]
        assert published == [{"ip": gateways[labels["lifl.dev/node"]]}]
    for pod in lifl.pods("function"):
        assert [each["name"] for each in pod["spec"]["containers"]] == ["function"]
        assert pod["spec"]["nodeName"] == pod["metadata"]["labels"]["lifl.dev/node"]
        assert pod["spec"]["serviceAccountName"] == f"{lifl.name}-function"
    return services


def test_without_an_answer_of_the_webhook_there_is_no_pod(
    lifl: Installation, run: Run, kubectl: Kubectl
) -> None:
    """The API server does not know its authority any more; then it does again."""
    hook = f"mutatingwebhookconfiguration/{lifl.name}-webhook"
    before = kubectl.get(hook)["webhooks"][0]["clientConfig"]["caBundle"]
    authority = kubectl.get("configmap/kube-root-ca.crt")["data"]["ca.crt"]
    _trust(kubectl, hook, base64.b64encode(authority.encode()).decode())
    try:
        job = run(digits(1))
        why = "--field-selector=reason=InternalError"
        _until(lambda: "functions.lifl.dev" in str(lifl.functions.get("events", why)["items"]))
        made = lifl.functions.get("deployments")["items"]
        tenants = {each["metadata"]["labels"]["lifl.dev/tenant"] for each in made}
        assert kubectl.namespace not in tenants
    finally:
        _trust(kubectl, hook, before)
    job.complete()
    assert _containers_that_were_made(lifl) == {"function"}


def _trust(kubectl: Kubectl, hook: str, authority: str) -> None:
    patch = [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": authority}]
    kubectl("patch", hook, "--type=json", "--patch", json.dumps(patch))


def _until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_fewer_functions_and_another_operator_while_a_job_runs(
    lifl: Installation, run: Run, kubectl: Kubectl
) -> None:
    """Only functions without a role go, and none while nobody has said how many there are to be."""
    long = run(digits(100_000), "long")
    long.wait("condition=Running")
    few = _replicas(lifl, kubectl.namespace)
    short = run(digits(1), "short")
    short.complete()
    assert _replicas(lifl, kubectl.namespace) > few
    _until(lambda: _replicas(lifl, kubectl.namespace) == few)
    before, epoch = long.status["round"], long.status["epoch"]
    lifl.system("delete", f"pod/{lifl.leader()}", "--force", "--grace-period=0")
    _until(lambda: long.status["epoch"] > epoch and long.status["round"] > before + 3)
    assert _replicas(lifl, kubectl.namespace) == few
    assert _restarted(kubectl) == []


def _replicas(lifl: Installation, tenant: str) -> int:
    made = lifl.functions.get("deployments", f"--selector=lifl.dev/tenant={tenant}")["items"]
    return sum(each["spec"]["replicas"] for each in made)
