"""The Service for clients from outside, what it leads to, and the addresses that follow."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from lifl.errors import Refused
from lifl.placement.cluster import outside as outside_module
from lifl.placement.cluster.api import Conflict
from lifl.placement.cluster.desk import NodeHere
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.nodes import annotations_of
from lifl.placement.cluster.objects import Gateway
from lifl.placement.cluster.outside import Way, doors_of, host_outside, service, slice_of
from lifl.placement.cluster.secrets import Secrets
from lifl.placement.membership import Known, Membership, Outside
from tests.unit.clusterjobs import UID, job

GATEWAYS = [Gateway("n1", "tcp://10.0.0.1:7710", "k1"), Gateway("n2", "tcp://10.0.0.2:7710", "k2")]
BULK = 7711
CAME = ("n1", "n2")


def exposed(kind: str, **expose: Any) -> Any:
    return job(clients={"max": 6}, expose={"type": kind, **expose})


def seen(made: dict[str, Any], **status: Any) -> dict[str, Any]:
    """As the API server has it."""
    found = copy.deepcopy(made)
    found["metadata"]["uid"] = "uid of the Service"
    for at, port in enumerate(found["spec"]["ports"]):
        port["nodePort"] = 30000 + at
    return found | ({"status": status} if status else {})


def test_each_node_has_two_ports_that_lead_to_it_alone() -> None:
    made = seen(service(exposed("NodePort"), UID, CAME))
    assert "selector" not in made["spec"]
    assert made["metadata"]["ownerReferences"][0]["kind"] == "FLJob"
    ports = [(port["name"], port["port"]) for port in made["spec"]["ports"]]
    assert ports == [("control-0", 7710), ("bulk-0", 7711), ("control-1", 7712), ("bulk-1", 7713)]
    leads = slice_of(made, 1, GATEWAYS[1], BULK)
    assert leads["endpoints"] == [
        {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": True}}
    ]
    assert {port["name"]: port["port"] for port in leads["ports"]} == {
        "control-1": 7710, "bulk-1": BULK,
    }  # fmt: skip
    assert leads["addressType"] == "IPv4"
    assert leads["metadata"]["labels"]["kubernetes.io/service-name"] == "toy-outside"
    assert leads["metadata"]["ownerReferences"][0]["uid"] == "uid of the Service"
    there = slice_of(made, 0, Gateway("n1", "tcp://[fd00::1]:7710", "k"), BULK)
    assert (there["addressType"], there["endpoints"][0]["addresses"]) == ("IPv6", ["fd00::1"])


def test_the_doors_of_node_ports_are_at_the_nodes() -> None:
    made = seen(service(exposed("NodePort"), UID, CAME))
    hosts = {"n1": "192.0.2.1"}
    assert doors_of(made, CAME, GATEWAYS, hosts.get) == {
        "n1": ("tcp://192.0.2.1:30000", 30001), "n2": ("tcp://10.0.0.2:30002", 30003),
    }  # fmt: skip


def test_the_doors_of_a_load_balancer_are_at_its_address_once_it_has_one() -> None:
    made = service(exposed("LoadBalancer", annotations={"a/b": "c"}), UID, CAME)
    assert made["metadata"]["annotations"] == {"a/b": "c"}
    assert doors_of(seen(made), CAME, GATEWAYS, lambda _: "192.0.2.1") == {}
    named = seen(made, loadBalancer={"ingress": [{"hostname": "lb.example"}]})
    assert doors_of(named, CAME, GATEWAYS, lambda _: None) == {
        "n1": ("tcp://lb.example:7710", 7711), "n2": ("tcp://lb.example:7712", 7713),
    }  # fmt: skip
    numbered = seen(made, loadBalancer={"ingress": [{"ip": "2001:db8::7"}]})
    doors = doors_of(numbered, CAME, GATEWAYS, lambda _: None)
    assert doors["n1"] == ("tcp://[2001:db8::7]:7710", 7711)


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        ([("Hostname", "n1"), ("InternalIP", "10.0.0.1"), ("ExternalIP", "192.0.2.1")],
         "192.0.2.1"),
        ([("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1")], "10.0.0.1"),
        ([], None),
    ],
)  # fmt: skip
def test_which_address_of_a_node_is_told(addresses: list[Any], host: str | None) -> None:
    listed = [{"type": kind, "address": address} for kind, address in addresses]
    assert host_outside({"status": {"addresses": listed}}) == host
    assert host_outside(None) is None


class Server:
    """An API server that gives node ports, and an address when it is told to."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.asked = 0
        self.address = ""

    def apply(self, path: str, made: Any) -> Any:
        self.there[path] = seen(made) if "/services/" in path else made
        return self.there[path]

    def get(self, path: str) -> Any:
        self.asked += 1
        ingress = {"ingress": [{"ip": self.address}]} if self.address else {}
        return self.there[path] | {"status": {"loadBalancer": ingress}}

    def find(self, path: str) -> Any:
        return None

    def delete(self, path: str) -> None:
        del self.there[path]


def test_the_way_is_made_once_looked_at_now_and_then_and_taken_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api, made = Server(), exposed("LoadBalancer")
    way = Way(api, "team-a", "toy")  # type: ignore[arg-type]
    assert way.open(made, UID, CAME, GATEWAYS, BULK) == {}
    assert sorted(path.rpartition("/")[2] for path in api.there) == [
        "toy-outside", "toy-outside-0", "toy-outside-1",
    ]  # fmt: skip
    api.address = "192.0.2.9"
    assert way.open(made, UID, CAME, GATEWAYS, BULK) == {}
    assert api.asked == 0
    monkeypatch.setattr(outside_module, "LOOK_S", 0.0)
    way._look_at = 0.0
    assert way.open(made, UID, CAME, GATEWAYS, BULK)["n2"] == ("tcp://192.0.2.9:7712", 7713)
    way.close()
    way.close()
    assert [path for path in api.there if "/services/" in path] == []


def test_a_node_keeps_its_ports_when_others_are_lost_or_join() -> None:
    """They stand in clients' files, beside the key of that node's gateway alone."""
    api, made = Server(), exposed("NodePort")
    way = Way(api, "team-a", "toy")  # type: ignore[arg-type]
    record = Record.new(made, UID).on({"n2": "k2", "n1": "k1"})
    before = way.open(made, UID, record.came, GATEWAYS, BULK)
    assert before == {
        "n1": ("tcp://10.0.0.1:30000", 30001), "n2": ("tcp://10.0.0.2:30002", 30003),
    }  # fmt: skip
    assert way.open(made, UID, record.came, GATEWAYS[1:], BULK) == before, "n1 may be back"
    joined = Record.of(record.on({"n2": "k2", "n0": "k0"}).text())
    assert joined.came == ("n1", "n2", "n0")
    here = [Gateway("n0", "tcp://10.0.0.9:7710", "k0"), GATEWAYS[1]]
    assert way.open(made, UID, joined.came, here, BULK) == before | {
        "n0": ("tcp://10.0.0.9:30004", 30005),
    }  # fmt: skip
    leads = {
        each["metadata"]["name"]: each["endpoints"][0]["nodeName"]
        for path, each in api.there.items() if "/endpointslices/" in path
    }  # fmt: skip
    assert leads == {"toy-outside-0": "n1", "toy-outside-1": "n2", "toy-outside-2": "n0"}
    assert joined.on({"n1": "k1 anew"}).came == joined.came


def test_a_record_of_before_has_its_ports_by_name() -> None:
    record = Record.new(exposed("NodePort"), UID).on({"n2": "k2", "n1": "k1"})
    fields = json.loads(record.text())
    del fields["came"]
    assert Record.of(json.dumps(fields)).came == ("n1", "n2")


# -- who is told what -----------------------------------------------------------------------------
def test_a_client_from_outside_is_sent_where_it_can_reach_its_node() -> None:
    outside = Outside(frozenset({"far"}), {"n2": ("tcp://192.0.2.1:30002", 30003)})
    members = Membership(
        {"n1": "k1", "n2": "k2"}, {"far": "client-0", "near": "client-1"}, (), outside=outside
    )
    members.nodes["n2"].endpoint = "tcp://10.0.0.2:7710"
    for client in ("far", "near"):
        members.comes(client, "n1")
        members.homes[client] = "n2"
    assert sorted(members.astray("n1")) == [
        ["far", "tcp://192.0.2.1:30002", "k2"], ["near", "tcp://10.0.0.2:7710", "k2"],
    ]  # fmt: skip
    assert outside.ports("n2") == {"far": 30003}
    assert outside.ports("n1") == {}
    assert outside.endpoint("far", Known("n1", "k1", endpoint="tcp://a:1")) == "tcp://a:1"
    assert Outside.of(outside.wire()) == outside
    assert Outside.of(None) == Outside()


def test_what_a_node_has_stands_in_its_annotations() -> None:
    node = NodeHere(
        "n1", "k1", b"", gateway="tcp://10.0.0.1:7710", budget_bytes=1 << 30,
        capacity={"cores": 2.0, "fold_bytes_s": 1.5e9, "ingress_bytes_s": 2e9},
    )  # fmt: skip
    assert annotations_of(node) == {
        "lifl.dev/gateway": "tcp://10.0.0.1:7710", "lifl.dev/arena-memory": "1073741824",
        "lifl.dev/cores": "2", "lifl.dev/fold-bytes-per-second": "1500000000",
        "lifl.dev/ingress-bytes-per-second": "2000000000",
    }  # fmt: skip
    gone = annotations_of(NodeHere("n1", "k1", b""))
    assert set(gone.values()) == {None}


# -- Secrets --------------------------------------------------------------------------------------
class Vault:
    """Secrets that can be made and deleted, and not read."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.asked = 0

    def create(self, path: str, made: Any) -> Any:
        self.asked += 1
        key = f"{path}/{made['metadata']['name']}"
        if key in self.there:
            raise Conflict("exists")
        self.there[key] = made

    def delete(self, path: str) -> None:
        del self.there[path]

    def __getattr__(self, verb: str) -> Any:
        raise Refused(verb, code="not-allowed")


def test_secrets_are_kept_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault()
    secret = {"metadata": {"name": "toy", "namespace": "team-a"}, "stringData": {"a": "1"}}
    other = secret | {"stringData": {"a": "2"}}
    path = "/api/v1/namespaces/team-a/secrets/toy"
    keeping = Secrets(vault)  # type: ignore[arg-type]
    keeping.keep(secret)
    keeping.keep(secret)
    assert (vault.there, vault.asked) == ({path: secret}, 1)
    keeping.keep(other)
    assert vault.there == {path: other}
    Secrets(vault).keep(secret)  # type: ignore[arg-type]
    assert vault.there == {path: secret}
    monkeypatch.setattr("lifl.placement.cluster.secrets.AGAIN_S", 0.0)
    keeping.keep(other)  # as far as it knows it is there
    assert vault.there == {path: secret}
    vault.there.clear()
    keeping.keep(other)
    assert vault.there == {path: other}
