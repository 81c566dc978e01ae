"""A cluster by its KUBECONFIG, a namespace for each test, pods in it; LIFL, and jobs on it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster import installation
from tests.cluster.installation import CRD, ROUNDS, Installation, Job, Run, digits, fljob
from tests.cluster.kubectl import PATIENCE_S, Kubectl, Pods


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


@pytest.fixture(scope="module")
def lifl(cluster: Kubectl, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """LIFL by its chart, for the tests of one module, which may have a RUNTIME of functions."""
    if shutil.which("helm") is None:
        pytest.fail("helm is not in PATH")
    there = cluster("get", CRD, "--ignore-not-found", "--output=name")
    runtime = getattr(request.module, "RUNTIME", "deployment")
    lifl = Installation(installation.new_name(), brings_crd=not there, runtime=runtime)
    try:
        lifl.install()
        yield lifl
    finally:
        patience = f"--timeout={installation.PATIENCE_S}s"
        lifl.helm("uninstall", lifl.name, "--ignore-not-found", "--wait", patience)
        for namespace in (lifl.name, lifl.functions.namespace):
            cluster("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")


@pytest.fixture
def run(lifl: Installation, kubectl: Kubectl) -> Iterator[Run]:
    """Apply an FLJob; it is deleted after the test, which shows that its finalizer lets go."""
    names: list[str] = []

    def apply(spec: dict[str, Any], name: str = "digits") -> Job:
        kubectl.apply(fljob(name, spec))
        names.append(name)
        return Job(kubectl, name, lifl)

    yield apply
    if not kubectl("get", CRD, "--ignore-not-found", "--output=name"):
        return  # it went with the chart, and with it every FLJob
    for name in names:
        kubectl("delete", f"fljob/{name}", "--wait=true", f"--timeout={installation.PATIENCE_S}s",
                "--ignore-not-found")  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The model that `lifl run` gives for the same spec."""
    spec = {name: value for name, value in digits(ROUNDS).items() if name != "template"}
    return load_file(installation.run_here(spec, tmp_path_factory.mktemp("here") / "job"))
