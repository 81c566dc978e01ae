"""Clients from outside the cluster: by ports of nodes, and by a load balancer's address.

The provider of load balancers is the test itself: it writes an address into the Service's status
and leads it to a node.  Everything behind that is the cluster's.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from lifl.functions.wire import Keys
from tests.cluster import outside
from tests.cluster.installation import PATIENCE_S, Installation, Job, Run
from tests.cluster.kubectl import IMAGE, Kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SIZE = 200_000  # numbers: more bytes than fit into a message, so that they take the bulk port
MODULE = f"""
import numpy as np
def initial():
    return {{"w": np.zeros({SIZE}, np.float32)}}
"""
CLIENT = """
import sys, lifl
with lifl.Client.connect() as client:
    for round in client.rounds():
        model = {name: value + client.index + 1 for name, value in round.model.items()}
        assert round.send(model, weight=client.index + 1)
        print("sent", round.number, flush=True)
        if sys.argv[1:] == ["wait"]:
            input()
"""


def spec(rounds: int, least: int, **more: Any) -> dict[str, Any]:
    return {
        "rounds": rounds, "model": {"initial": "ones:initial"},
        "clients": {"min": least, "max": least},
        "template": {"image": IMAGE, "workingDir": "/job", "volumes": [
            {"name": "code", "mountPath": "/job", "configMap": {"name": "ones"}},
        ]},
        "placement": {"policy": "worstfit"}, "memory": {"inputSlots": 4},
    } | more  # fmt: skip


def expected(rounds: int, clients: int) -> float:
    """Each round adds the mean of 1 … n by weight, which are 1 … n."""
    numbers = np.arange(1, clients + 1)
    return float(rounds * (numbers**2).sum() / numbers.sum())


@pytest.fixture(autouse=True)
def module(kubectl: Kubectl) -> None:
    kubectl.apply({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ones"},
        "data": {"ones.py": MODULE},
    })  # fmt: skip


def fetched(kubectl: Kubectl, job: Job, number: int, folder: Path) -> Path:
    """What a person types, as docs/kubernetes.md has it."""
    path = f"jsonpath={{.data.client-{number}\\.json}}"
    said = kubectl("get", "secret", job.status["endpoint"]["secret"], f"--output={path}")
    file = folder / f"client-{number}.json"
    file.write_bytes(base64.b64decode(said))
    return file


def ends(*programs: subprocess.Popen[str]) -> list[tuple[int, str]]:
    said = [program.communicate(timeout=PATIENCE_S)[0] for program in programs]
    return [(program.returncode, each) for program, each in zip(programs, said, strict=True)]


def check_model(job: Job, rounds: int, clients: int) -> None:
    model = load(job.file("model.safetensors"))["w"]
    assert np.allclose(model, expected(rounds, clients), rtol=1e-6), model[:4]


def test_by_ports_of_the_nodes(
    lifl: Installation, run: Run, kubectl: Kubectl, nodes: list[str], tmp_path: Path
) -> None:
    """Each client reaches its own node's gateway, also where it called at another first."""
    job = run(spec(3, 4, expose={"type": "NodePort"}), "ones")
    job.wait("jsonpath={.status.endpoint.secret}=ones-clients")
    status, service = job.status, kubectl.get("service/ones-outside")
    ports = {port["name"]: port["nodePort"] for port in service["spec"]["ports"]}
    hosts = {
        node["metadata"]["name"]: address["address"]
        for node in kubectl.get("nodes")["items"] for address in node["status"]["addresses"]
        if address["type"] == "InternalIP"
    }  # fmt: skip
    doors = [f"tcp://{hosts[node]}:{ports[f'control-{at}']}" for at, node in enumerate(nodes)]
    assert status["endpoint"]["outside"] == doors
    files = [fetched(kubectl, job, number, tmp_path) for number in range(4)]
    assert [json.loads(file.read_text())["endpoint"] for file in files] == 2 * doors

    programs = [outside.start_client(CLIENT, file) for file in files]
    done = job.complete()
    for code, said in ends(*programs):
        assert (code, said.count("sent")) == (0, 3), said
    check_model(job, 3, 4)
    served = {node["name"]: node["clients"] for node in done["tree"]["nodes"]}
    assert served == dict.fromkeys(nodes, 2)
    assert sum(lifl.figures("lifl_updates_total").values()) > 0

    kubectl("wait", "service/ones-outside", "--for=delete", f"--timeout={PATIENCE_S}s")
    assert kubectl("get", "endpointslices", "--output=name") == ""
    assert "outside" not in job.status["endpoint"] or not job.status["endpoint"]["outside"]


def test_by_a_load_balancer(
    run: Run, kubectl: Kubectl, nodes: list[str], tmp_path: Path
) -> None:
    """Before it has an address nobody is told any; then all gateways are behind that one."""
    address = "192.0.2.77"
    job = run(spec(2, 2, expose={"type": "LoadBalancer", "annotations": {"a/b": "c"}}), "ones")
    job.wait("jsonpath={.status.message}=no load balancer has given ones-outside an address")
    assert kubectl("get", "secrets", "--output=name").split() == ["secret/ones-lifl"]
    service = kubectl.get("service/ones-outside")
    assert service["metadata"]["annotations"]["a/b"] == "c"
    via = next(
        each["address"] for each in kubectl.get(f"node/{nodes[0]}")["status"]["addresses"]
        if each["type"] == "InternalIP"
    )  # fmt: skip
    given = {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}
    kubectl("patch", "service/ones-outside", "--subresource=status", "--type=merge",
            f"--patch={json.dumps(given)}")  # fmt: skip
    with outside.route(address, via):
        job.wait("jsonpath={.status.endpoint.secret}=ones-clients")
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        assert job.status["endpoint"]["outside"] == [
            f"tcp://{address}:{ports[f'control-{at}']}" for at in range(len(nodes))
        ]
        programs = [
            outside.start_client(CLIENT, fetched(kubectl, job, number, tmp_path))
            for number in range(2)
        ]
        job.complete()
        for code, said in ends(*programs):
            assert (code, said.count("sent")) == (0, 2), said
    check_model(job, 2, 2)


def test_whose_key_is_unknown_or_revoked_is_refused(
    run: Run, kubectl: Kubectl, tmp_path: Path
) -> None:
    job = run(spec(2, 2, clients={"min": 2, "max": 3}, expose={"type": "NodePort"}), "ones")
    job.wait("jsonpath={.status.endpoint.secret}=ones-clients")
    files = [fetched(kubectl, job, number, tmp_path) for number in range(3)]
    fields, keys = json.loads(files[2].read_text()), Keys.new()
    made_up = tmp_path / "made-up.json"
    made_up.write_text(json.dumps(
        fields | {"public_key": keys.public, "secret_key": keys.secret}
    ))  # fmt: skip
    (code, said), = ends(outside.start_client(CLIENT, made_up))
    assert code != 0
    assert "lifl.errors.Refused" in said

    patch = {"spec": {"clients": {"revoked": ["client-2"]}}}
    there = outside.start_client(CLIENT, files[2])  # waits for another, since two make a round
    job.wait("jsonpath={.status.clients.connected}=1")
    kubectl("patch", "fljob/ones", "--type=merge", f"--patch={json.dumps(patch)}")
    (code, said), = ends(there)
    assert code != 0
    assert "revoked" in said
    (code, said), = ends(outside.start_client(CLIENT, files[2]))
    assert code != 0
    assert "lifl.errors.Refused" in said
    assert kubectl.get("secret/ones-clients")["data"].keys() == {"client-0.json", "client-1.json"}

    programs = [outside.start_client(CLIENT, file) for file in files[:2]]
    job.complete()
    assert [code for code, _ in ends(*programs)] == [0, 0]
    check_model(job, 2, 2)
