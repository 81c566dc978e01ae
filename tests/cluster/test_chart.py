"""The chart on a real cluster: installed, tested, upgraded, rolled back, gone.

It is a release of its own beside whatever is there: other names, another port, other folders of
the node.  A definition of FLJob that is there already is left as it is.  Where there are FLJobs it
is not tried: an operator takes the jobs of all namespaces.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.conftest import Kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CHART = Path(__file__).resolve().parents[2] / "charts" / "lifl"
CRD = "customresourcedefinition/fljobs.fl.lifl.dev"
IMAGE = os.environ.get("LIFL_IMAGE") or "dev.local/lifl:dev"
PATIENCE_S = 120
KINDS = (
    "deployments,daemonsets,services,configmaps,secrets,leases,serviceaccounts,roles,"
    "rolebindings,networkpolicies,poddisruptionbudgets,jobs,pods"
)
CLUSTER_KINDS = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,namespaces"


@dataclass(frozen=True)
class Release:
    """A name, two namespaces, and helm."""

    name: str
    brings_crd: bool

    @property
    def functions(self) -> str:
        return f"{self.name}-functions"

    def helm(self, *words: str, fails: bool = False) -> str:
        done = subprocess.run(
            ["helm", f"--namespace={self.name}", *words],
            capture_output=True, text=True, timeout=PATIENCE_S + 60,
        )  # fmt: skip
        said = done.stderr.strip() or done.stdout
        assert bool(done.returncode) is fails, f"helm {' '.join(words)}: {said}"
        return said if fails else done.stdout

    def values(self, **more: str) -> list[str]:
        repository, _, tag = IMAGE.rpartition(":")
        values = {
            "fullnameOverride": self.name,
            "image.repository": repository,
            "image.tag": tag,
            "crds.install": str(self.brings_crd).lower(),
            "nodes.runDirectory": f"/run/{self.name}",
            "gateway.port": "17710",
            "agent.arenaMemory": "64Mi",
            "functions.namespace.name": self.functions,
        }
        return [f"--set={key}={value}" for key, value in (values | more).items()]


@pytest.fixture
def release(cluster: Kubectl) -> Iterator[Release]:
    if shutil.which("helm") is None:
        pytest.fail("helm is not in PATH")
    there = cluster("get", CRD, "--ignore-not-found", "--output=name")
    if there and cluster("get", "fljobs", "--all-namespaces", "--output=name"):
        pytest.fail("there are FLJobs in this cluster, and uninstalling would end them")
    release = Release(f"chart-{secrets.token_hex(3)}", brings_crd=not there)
    yield release
    release.helm("uninstall", release.name, "--no-hooks", "--ignore-not-found")
    for namespace in (release.name, release.functions):
        cluster("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")
    if release.brings_crd:
        cluster("delete", CRD, "--ignore-not-found", "--wait=true")


def test_install_test_upgrade_roll_back_uninstall(cluster: Kubectl, release: Release) -> None:
    kubectl = type(cluster)(release.name)
    release.helm(
        "install", release.name, str(CHART), "--create-namespace", "--wait",
        f"--timeout={PATIENCE_S}s", *release.values(),
    )  # fmt: skip
    rights(cluster, release)
    release.helm("test", release.name)

    def memory() -> str:
        agent = kubectl.get(f"daemonset/{release.name}-agent")
        limits = agent["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        return str(limits["memory"])

    before = memory()
    release.helm(
        "upgrade", release.name, str(CHART), "--wait", f"--timeout={PATIENCE_S}s",
        *release.values(**{"agent.arenaMemory": "96Mi", "operator.replicas": "2"}),
    )  # fmt: skip
    assert int(memory()) - int(before) == 32 << 20
    release.helm("test", release.name)
    release.helm("rollback", release.name, "1", "--wait", f"--timeout={PATIENCE_S}s")
    assert memory() == before
    release.helm("test", release.name)

    release.helm("uninstall", release.name, "--wait", f"--timeout={PATIENCE_S}s")
    kubectl("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    left = kubectl("get", KINDS, "--output=name").split()
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    assert set(left) - own == set()
    everywhere = cluster("get", CLUSTER_KINDS, "--output=name").split()
    assert [one for one in everywhere if release.name in one] == [f"namespace/{release.name}"]
    if release.brings_crd:  # kept by default
        assert cluster("get", CRD, "--output=name")


def rights(cluster: Kubectl, release: Release) -> None:
    """What accounts may, and may not, as the API server sees it."""

    def may(who: str, verb: str, what: str, where: str = "default") -> bool:
        space = release.functions if who == "function" else release.name
        account = f"system:serviceaccount:{space}:{release.name}-{who}"
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": account,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": dict(
                    zip(("group", "resource"), what.rpartition("/")[::2], strict=True)
                ) | {"verb": verb, "namespace": where},
            },
        }  # fmt: skip
        said = cluster("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        return bool(json.loads(said)["status"]["allowed"])

    assert may("operator", "patch", "fl.lifl.dev/fljobs")
    assert may("operator", "create", "batch/jobs")
    assert may("operator", "create", "apps/deployments", release.functions)
    assert may("operator", "update", "coordination.k8s.io/leases", release.name)
    assert may("agent", "create", "authentication.k8s.io/tokenreviews", "")
    assert may("agent", "get", "pods", release.functions)
    for verb, what, where in (
        ("create", "apps/deployments", "default"),
        ("create", "pods", "default"),
        ("list", "secrets", "default"),
        ("update", "coordination.k8s.io/leases", "kube-system"),
        ("create", "rbac.authorization.k8s.io/clusterroles", ""),
        ("delete", "nodes", ""),
    ):
        assert not may("operator", verb, what, where), (verb, what)
    for who in ("agent", "gateway", "function"):
        for verb, what in (
            ("get", "secrets"),
            ("list", "pods"),
            ("patch", "fl.lifl.dev/fljobs"),
            ("create", "pods"),
        ):
            assert not may(who, verb, what, release.name), (who, verb, what)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"functions.namespace.create": "false", "functions.namespace.name": "not-there"},
            'there is no namespace "not-there": make it',
        ),
        ({"metrics.rules.enabled": "true"}, "this cluster has no Prometheus operator"),
    ],
)
def test_what_this_cluster_does_not_have(
    cluster: Kubectl, release: Release, values: dict[str, str], sentence: str
) -> None:
    if "Prometheus" in sentence and "monitoring.coreos.com" in cluster("api-versions"):
        pytest.skip("this cluster has a Prometheus operator")
    words = ["install", release.name, str(CHART), "--dry-run=server", *release.values(**values)]
    assert sentence in release.helm(*words, fails=True)


def test_a_namespace_that_forbids_folders_of_the_node(cluster: Kubectl, release: Release) -> None:
    cluster("create", "namespace", release.name)
    label = "pod-security.kubernetes.io/enforce=restricted"
    cluster("label", "namespace", release.name, label)
    words = ["install", release.name, str(CHART), "--dry-run=server", *release.values()]
    said = release.helm(*words, fails=True)
    assert f"kubectl label --overwrite namespace {release.name} pod-security" in said
