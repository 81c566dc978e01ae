"""Knative Serving is the stock one: a Service of its own class goes to zero and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.kubectl import IMAGE

if TYPE_CHECKING:
    from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

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
