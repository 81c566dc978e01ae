"""The cluster is one: nodes are Ready, and pods of different nodes find and reach each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SERVER = ["python", "-m", "http.server", "--directory", "/etc", "8080"]
CLIENT = (
    "import sys, urllib.request as r; "
    "print(r.urlopen(f'http://{sys.argv[1]}/hostname', timeout=10).read().decode())"
)


def test_every_node_is_ready(cluster: Kubectl, nodes: list[str]) -> None:
    assert len(nodes) >= 2
    for node in nodes:
        cluster.wait(f"node/{node}", "condition=Ready")


def test_a_pod_reaches_a_service_on_another_node_by_name(
    kubectl: Kubectl, pods: Pods, nodes: list[str]
) -> None:
    first, second, *_ = nodes
    pods.start("server", SERVER, node=first)
    kubectl("expose", "pod", "server", "--port=80", "--target-port=8080")
    kubectl.wait("pod/server", "condition=Ready")
    name = f"server.{kubectl.namespace}.svc.cluster.local"
    far = pods.run("far", ["python", "-c", CLIENT, name], node=second)
    assert (far.status, far.log.strip()) == (0, "server"), far.log
    near = pods.run("near", ["python", "-c", CLIENT, name], node=first)
    assert (near.status, near.log.strip()) == (0, "server"), near.log


def test_logs_and_exec_reach_every_kubelet(kubectl: Kubectl, pods: Pods, nodes: list[str]) -> None:
    for node in nodes:
        pods.start(f"on-{node}", ["sleep", "infinity"], node=node)
        kubectl.wait(f"pod/on-{node}", "condition=Ready")
        assert kubectl("exec", f"on-{node}", "--", "hostname").strip() == f"on-{node}"


@pytest.mark.parametrize("where", ["/run", "/var/lib"])
def test_a_nodes_folders_are_its_own(
    where: str, kubectl: Kubectl, pods: Pods, nodes: list[str]
) -> None:
    """What an agent keeps there must not be another node's."""
    path = f"{where}/{kubectl.namespace}"
    once = "import os; print(os.listdir('/host')); open('/host/mine', 'x')"
    for node in nodes:
        volume = {"name": "host", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        ended = pods.run(
            f"on-{node}",
            ["python", "-c", once],
            node=node,
            security={"runAsUser": 0},
            volumes=[volume],
            mounts=[{"name": "host", "mountPath": "/host"}],
        )
        assert (ended.status, ended.log.strip()) == (0, "[]"), ended.log
