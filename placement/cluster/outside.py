"""The way in for clients from outside: one Service of the job's namespace, and where it leads.

    client ─► node or load balancer : a port of node i ─► gateway of node i, control or bulk

Owns these objects and the addresses that follow from them.  A client talks to the gateway of its
own node, each of which has a key of its own, so that no balancing may happen on the way: every node
has two ports of the one Service, and one EndpointSlice that knows them alone.  These are its own
for as long as the job lives, whichever other nodes are lost or join: they stand in clients' files,
beside the key of that node's gateway.  The Service hangs below the FLJob and counts in the quotas
of its namespace; it goes when the job has ended, since a load balancer costs money.  Called by
keeper.py.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.functions.wire import host_of
from lifl.placement.cluster import names
from lifl.placement.cluster.api import Api, Object, path_of
from lifl.placement.cluster.objects import Gateway, belongs_to

FIRST_PORT: Final = 7710  # of the Service: of node i it is this and 2 i, and the next one
LOOK_S: Final = 10.0  # from one look at what the provider says to the next
SLICES: Final = "discovery.k8s.io/v1"

Doors = dict[str, tuple[str, int]]  # by node: endpoint, and port for models and updates


def service(job: FLJob, uid: str, came: Sequence[str]) -> Object:
    """The Service; it selects nobody, since gateways are pods of another namespace.

    Args:
        came: all nodes that the job ever could use, in the order in which they came.
    """
    metadata = belongs_to(job, uid, names.outside(job.metadata.name), "outside")
    annotations = job.spec.expose.annotations
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata | ({"annotations": dict(annotations)} if annotations else {}),
        "spec": {
            "type": job.spec.expose.type,
            "ports": [
                {"name": f"{what}-{at}", "port": FIRST_PORT + 2 * at + more, "protocol": "TCP"}
                for at in range(len(came)) for more, what in enumerate(("control", "bulk"))
            ],
        },
    }  # fmt: skip


def slice_of(owner: Object, at: int, gateway: Gateway, bulk_port: int) -> Object:
    """Where two of its ports lead: to node number `at`."""
    host, name = host_of(gateway.endpoint), owner["metadata"]["name"]
    control = int(gateway.endpoint.rpartition(":")[2])
    return {
        "apiVersion": SLICES, "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{at}", "namespace": owner["metadata"]["namespace"],
            "labels": owner["metadata"]["labels"] | {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "lifl-operator",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name,
                "uid": owner["metadata"]["uid"],
            }],
        },
        "addressType": f"IPv{ipaddress.ip_address(host).version}",
        "endpoints": [{
            "addresses": [host], "nodeName": gateway.node, "conditions": {"ready": True},
        }],
        "ports": [
            {"name": f"control-{at}", "port": control, "protocol": "TCP"},
            {"name": f"bulk-{at}", "port": bulk_port, "protocol": "TCP"},
        ],
    }  # fmt: skip


def doors_of(
    found: Object, came: Sequence[str], gateways: Sequence[Gateway],
    hosts: Callable[[str], str | None],
) -> Doors:  # fmt: skip
    """Where clients find each node's gateway.

    Args:
        found: the Service as the API server has it.
        came: all nodes that the job ever could use, in the order in which they came.
        hosts: address of a node for those outside, as far as the cluster knows one.

    Returns:
        Nothing while a load balancer has no address.
    """
    ports = {port["name"]: port for port in found["spec"]["ports"]}
    balanced = found["spec"]["type"] == "LoadBalancer"
    ingress = found.get("status", {}).get("loadBalancer", {}).get("ingress") or [{}]
    field, doors = "port" if balanced else "nodePort", Doors()
    for gateway in gateways:
        at = came.index(gateway.node)
        host = (
            ingress[0].get("ip") or ingress[0].get("hostname") if balanced
            else hosts(gateway.node) or host_of(gateway.endpoint)
        )  # fmt: skip
        control, bulk = (ports.get(f"{what}-{at}", {}).get(field) for what in ("control", "bulk"))
        if host and control and bulk:
            shown = f"[{host}]" if ":" in host else host
            doors[gateway.node] = f"tcp://{shown}:{control}", int(bulk)
    return doors if len(doors) == len(gateways) else {}


def host_outside(node: Mapping[str, Any] | None) -> str | None:
    """The address of a Node that the world knows it by, or else the cluster."""
    listed = (node or {}).get("status", {}).get("addresses", [])
    by_type = {each["type"]: each["address"] for each in reversed(listed)}
    return by_type.get("ExternalIP") or by_type.get("InternalIP")


class Way:
    """The way in of one job, as it is at the API server; blocks while it asks."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api, self._namespace = api, namespace
        self._path = path_of("", "services", namespace, names.outside(name))
        self._doors: Doors = {}
        self._made: tuple[Object, tuple[Gateway, ...]] | None = None
        self._look_at = 0.0
        self._is_closed = False

    def open(
        self, job: FLJob, uid: str, came: Sequence[str], gateways: Sequence[Gateway],
        bulk_port: int,
    ) -> Doors:  # fmt: skip
        """Have it lead to these gateways; what is known of its addresses.

        A node that is lost keeps its ports and its place in what is returned: it may be back.

        Raises:
            LiflError: the API server refuses, for example what is beyond a quota, or is away.
        """
        made = service(job, uid, came), tuple(gateways)
        if made == self._made and time.monotonic() < self._look_at:
            return self._doors
        if made == self._made:
            found = self._api.get(self._path)
        else:
            found = self._api.apply(self._path, made[0])
            for gateway in gateways:
                leads = slice_of(found, came.index(gateway.node), gateway, bulk_port)
                path = path_of(
                    SLICES, "endpointslices", self._namespace, leads["metadata"]["name"]
                )
                self._api.apply(path, leads)
        doors = doors_of(found, came, gateways, self._host)
        self._doors = self._doors | doors if doors else {}
        self._made, self._look_at = made, time.monotonic() + LOOK_S
        return self._doors

    def _host(self, node: str) -> str | None:
        return host_outside(self._api.find(path_of("", "nodes", "", node)))

    def close(self) -> None:
        """Take it away, once."""
        if not self._is_closed:
            self._api.delete(self._path)
            self._is_closed, self._made, self._doors = True, None, {}
