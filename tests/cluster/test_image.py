"""LIFL's image: what is in it, as whom it runs, and what two capabilities make possible."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

AGENT: dict[str, Any] = {"capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]}}
ROUTES = textwrap.dedent(
    """
    import os, select
    from lifl.proxy_ebpf.descriptor import Descriptor, Kind
    from lifl.proxy_ebpf.open import open_router
    from lifl.proxy_ebpf.port import Port, make_pair

    router = open_router("ebpf")
    (leaf, leaf_far), (top, top_far) = make_pair(router.name), make_pair(router.name)
    router.register(1, 1, leaf, leaf_far)
    router.register(1, 3, top, top_far)
    router.route(1, 1, 3)
    Port(leaf).send(Descriptor(7, 1, 1, 1, Kind.UPDATE))
    port = Port(top)
    select.select([port], [], [], 10)
    arrived = port.receive()
    print("uid", os.getuid(), "slots", [descriptor.slot for descriptor in arrived])
    print("routed", router.counters(1)[1].redirected)
    """
)


def test_doctor_runs_on_every_node_as_a_user_without_rights(pods: Pods, nodes: list[str]) -> None:
    """It finds everything but the rights that this pod was not given."""
    for node in nodes:
        doctor = pods.run(
            f"doctor-{node}", ["sh", "-c", "id -u >&2; exec lifl doctor --json"], node=node
        )
        uid, report = doctor.log.split("\n", 1)
        assert (doctor.node, uid) == (node, "10001")
        found = {finding["name"]: finding for finding in json.loads(report)["findings"]}
        lacks = {name for name, finding in found.items() if finding["status"] == "lack"}
        assert lacks == {"capabilities", "eBPF proxy", "pins"}, report
        assert found["kernels"]["status"] == "ok", report


def test_the_image_has_what_was_compiled_and_what_a_cluster_needs(pods: Pods) -> None:
    """The native kernels, the eBPF object and libbpf, kopf and the Kubernetes client."""
    check = textwrap.dedent(
        """
        import ctypes, kopf, kubernetes, sklearn
        import lifl.shm._words, lifl.functions.kernels._fold
        from lifl.proxy_ebpf.build import OBJECT
        ctypes.CDLL("libbpf.so.1")
        print(OBJECT.read_bytes()[:4])
        """
    )
    ended = pods.run("check", ["python", "-c", check])
    assert (ended.status, ended.log.strip()) == (0, str(b"\x7fELF")), ended.log


@pytest.mark.parametrize(
    ("uid", "python"), [(0, "python"), (10001, "python-agent")], ids=["root", "user"]
)
def test_with_two_capabilities_ebpf_routes(
    uid: int, python: str, pods: Pods, nodes: list[str]
) -> None:
    """Loaded, attached, and a descriptor passed by the kernel: with nothing but these two."""
    for node in nodes:
        ended = pods.run(
            f"agent-{node}",
            [f"/opt/lifl/bin/{python}", "-c", ROUTES],
            node=node,
            security={**AGENT, "runAsUser": uid},
        )
        assert ended.log.splitlines() == [f"uid {uid} slots [7]", "routed 1"], ended.log


@pytest.mark.parametrize("uid", [0, 10001])
def test_without_them_ebpf_is_refused_with_a_reason(uid: int, pods: Pods) -> None:
    ended = pods.run("agent", ["python", "-c", ROUTES], security={"runAsUser": uid})
    assert ended.status == 1
    assert "lifl.errors.Unsupported" in ended.log, ended.log


def test_the_agents_interpreter_does_not_start_without_them(kubectl: Kubectl, pods: Pods) -> None:
    """Rather than without the rights that it is there for."""
    ended = pods.run("agent", ["/opt/lifl/bin/python-agent", "-c", "print('started')"])
    assert ended.status != 0
    assert "started" not in ended.log
