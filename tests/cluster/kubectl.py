"""kubectl in a namespace, and pods that run to their end, for the tests on a cluster.

Knows nothing of how the cluster was made.  LIFL's image is LIFL_IMAGE, dev.local/lifl:dev unless
that is set; every node must have it or be able to pull it.  Used by the fixtures of `conftest`.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

IMAGE = os.environ.get("LIFL_IMAGE") or "dev.local/lifl:dev"
PATIENCE_S = 120


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
        volumes: list[dict[str, Any]] | None = None,
        **spec: Any,
    ) -> None:
        container = {
            "name": "main",
            "image": IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *(mounts or [])],
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
                    "volumes": [{"name": "tmp", "emptyDir": {}}, *(volumes or [])],
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
