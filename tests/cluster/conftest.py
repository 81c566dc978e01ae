"""A cluster by its KUBECONFIG, a namespace for each test, and pods that run to their end.

Nothing here knows how the cluster was made.  LIFL's image is LIFL_IMAGE, dev.local/lifl:dev
unless that is set; every node must have it or be able to pull it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

IMAGE = os.environ.get("LIFL_IMAGE") or "dev.local/lifl:dev"
PATIENCE_S = 60


class Kubectl:
    """kubectl, in one namespace."""

    def __init__(self, namespace: str = "default") -> None:
        self.namespace = namespace

    def __call__(self, *words: str, stdin: str = "", fails: bool = False) -> str:
        """What it prints; with `fails`, what it says when it is refused."""
        done = subprocess.run(
            ["kubectl", f"--namespace={self.namespace}", "--request-timeout=30s", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S + 60,
        )
        said = done.stderr.strip()
        assert bool(done.returncode) is fails, f"kubectl {' '.join(words)}: {said or done.stdout}"
        return said if fails else done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("get", *words, "--output=json"))
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "--filename=-", stdin=json.dumps(listed))

    def wait(self, what: str, condition: str, *, timeout_s: int = PATIENCE_S) -> None:
        self("wait", what, f"--for={condition}", f"--timeout={timeout_s}s")


@dataclass(frozen=True)
class Ended:
    """A pod's container, after its end."""

    status: int
    log: str
    node: str
    reason: str


class Pods:
    """Pods of one container that run to their end."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def start(
        self,
        name: str,
        command: list[str],
        *,
        node: str = "",
        security: dict[str, Any] | None = None,
        mounts: list[dict[str, Any]] | None = None,
        **spec: Any,
    ) -> None:
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "volumeMounts": mounts or [],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "seccompProfile": {"type": "RuntimeDefault"},
                **(security or {}),
            },
        }
        self.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"pod": name}},
                "spec": {
                    "containers": [container],
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 0,
                    **({"nodeName": node} if node else {}),
                    **spec,
                },
            }
        )

    def end(self, name: str, *, timeout_s: int = PATIENCE_S) -> Ended:
        ended = "{.status.containerStatuses[0].state.terminated.exitCode}"
        self.kubectl.wait(f"pod/{name}", f"jsonpath={ended}", timeout_s=timeout_s)
        pod = self.kubectl.get(f"pod/{name}")
        how = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        return Ended(
            how["exitCode"],
            self.kubectl("logs", name),
            pod["spec"]["nodeName"],
            f"{how.get('reason', '')} {how.get('message', '')}".strip(),
        )

    def run(self, name: str, command: list[str], **options: Any) -> Ended:
        self.start(name, command, **options)
        return self.end(name)


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """kubectl of the cluster that KUBECONFIG names."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG is not set: make test-cluster makes a cluster and sets it")
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is not in PATH: see `python -m onemachine env`")
    kubectl = Kubectl()
    kubectl("get", "--raw=/readyz")
    return kubectl


@pytest.fixture(scope="session")
def nodes(cluster: Kubectl) -> list[str]:
    return [item["metadata"]["name"] for item in cluster.get("nodes")["items"]]


@pytest.fixture
def kubectl(cluster: Kubectl) -> Iterator[Kubectl]:
    """kubectl in a namespace of this test's own, which is gone after it."""
    name = f"test-{secrets.token_hex(4)}"
    cluster("create", "namespace", name)
    yield Kubectl(name)
    cluster("delete", "namespace", name, "--wait=true", f"--timeout={PATIENCE_S}s")


@pytest.fixture
def pods(kubectl: Kubectl) -> Pods:
    return Pods(kubectl)
