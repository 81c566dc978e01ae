"""CoreDNS and stock Knative Serving, as pods.

Owns the order in which their objects are made.  Knative's manifests are its own, with the images'
names filled in.  Called by `up`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from .binaries import Binaries
from .images import knative_name
from .shell import run

MANIFESTS: Final = Path(__file__).parent.parent / "manifests"
NAMESPACE: Final = "knative-serving"
DEPLOYMENTS: Final = ("activator", "autoscaler", "controller", "webhook")
HOOK: Final = re.compile(r"^kind: \w+WebhookConfiguration$", re.MULTILINE)
DEFINITION: Final = re.compile(r"^kind: CustomResourceDefinition$", re.MULTILINE)
COMMAND: Final = re.compile(r"ko://knative\.dev/serving/cmd/([a-z]+)")
READY_S: Final = 90


def split(manifests: str) -> tuple[str, str, str]:
    """Definitions, then what is of them or of Kubernetes, then the hooks that would refuse both.

    Until the webhook's pod runs, a hook that exists refuses every object of Knative's.
    """
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for document in re.split(r"^---$", manifests, flags=re.MULTILINE):
        which = 2 if HOOK.search(document) else 0 if DEFINITION.search(document) else 1
        parts[which].append(COMMAND.sub(lambda found: knative_name(found[1]), document))
    first, second, third = ("\n---\n".join(part) for part in parts)
    return first, second, third


def install(kubectl: list[str | Path], binaries: Binaries) -> None:
    """Apply all; they become available by themselves."""
    run([*kubectl, "apply", "--filename", MANIFESTS / "coredns.yaml"])
    definitions, objects, _ = split(binaries.knative_manifests.read_text())
    for manifests in (definitions, objects):
        run([*kubectl, "apply", "--filename=-"], stdin=manifests)


def wait(kubectl: list[str | Path], binaries: Binaries) -> None:
    """Until all are available, and Knative's hooks in force."""
    available = ["wait", "--for=condition=Available", f"--timeout={READY_S}s"]
    in_namespace = [*kubectl, "--namespace", NAMESPACE]
    run([*in_namespace, *available, "deployment/webhook"])
    _, _, hooks = split(binaries.knative_manifests.read_text())
    run([*kubectl, "apply", "--filename=-"], stdin=hooks)
    run([*in_namespace, *available, *(f"deployment/{name}" for name in DEPLOYMENTS)])
    run([*kubectl, "--namespace=kube-system", *available, "deployment/coredns"])
