"""A cluster by its KUBECONFIG, a namespace for each test, and pods in it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator

import pytest
from kubectl import PATIENCE_S, Kubectl, Pods


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
