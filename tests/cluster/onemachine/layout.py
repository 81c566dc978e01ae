"""Where everything of a cluster is: names, addresses, folders.  Pure.

Owns every name that another module needs, so that `down` and `status` find by name alone what a
killed `up` has left, without a record of what it did.  Called by every module of this package.

    <name>-outside   the switch, 10.77.0.1: clients outside the cluster run here
    <name>-control   10.77.0.10: etcd, API server, controller manager, scheduler
    <name>-n1, -n2   10.77.0.11, .12: containerd, kubelet, kube-proxy, pods of 10.78.<node>.0/24
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .shell import Failed

SERVICES: Final = "10.79.0.0/16"
PODS: Final = "10.78.0.0/16"
DNS: Final = "10.79.0.10"
DOMAIN: Final = "cluster.local"
API_PORT: Final = 6443
OUTSIDE_ADDRESS: Final = "10.77.0.1"
CONTROL_ADDRESS: Final = "10.77.0.10"
MOST_NODES: Final = 8
NAMES: Final = re.compile(r"[a-z][a-z0-9]{0,11}")


@dataclass(frozen=True)
class Node:
    """One node: by its number, from 1."""

    number: int
    netns: str
    folder: Path

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        return f"10.78.{self.number}.0/24"


@dataclass(frozen=True)
class Cluster:
    """One cluster; several of different names may run side by side."""

    name: str
    node_count: int
    homes: Path
    cache: Path

    @property
    def home(self) -> Path:
        """All of its files; gone after `down`."""
        return self.homes / self.name

    @property
    def cgroup(self) -> str:
        """In every hierarchy; each process of the cluster is below, `up` itself included."""
        return f"lifl-cluster-{self.name}"

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(
            Node(number, self.netns(f"n{number}"), self.home / f"n{number}")
            for number in range(1, self.node_count + 1)
        )

    def netns(self, what: str) -> str:
        return f"{self.name}-{what}"

    @property
    def outside(self) -> str:
        return self.netns("outside")

    @property
    def control(self) -> str:
        return self.netns("control")

    @property
    def units(self) -> tuple[str, ...]:
        return ("control", "door", *(node.name for node in self.nodes))

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def conf(self) -> Path:
        """Kubeconfigs of the cluster's own parts."""
        return self.home / "conf"

    @property
    def kubeconfig(self) -> Path:
        """For whoever uses the cluster, from this machine's own network namespace."""
        return self.home / "kubeconfig"

    @property
    def tools(self) -> Path:
        """kubectl and helm, of the versions that go with it."""
        return self.home / "bin"

    def unit(self, name: str) -> Path:
        return self.home / name


def from_environment(environ: Mapping[str, str] = os.environ) -> Cluster:
    """The cluster that the variables describe.

    Raises:
        Failed: a variable has a value that cannot be.
    """
    name = environ.get("LIFL_CLUSTER_NAME") or "lifl"
    if not NAMES.fullmatch(name):
        raise Failed(f"LIFL_CLUSTER_NAME={name}: up to 12 small letters and digits, a letter first")
    count = environ.get("LIFL_CLUSTER_NODES") or "2"
    if not (count.isdecimal() and 1 <= int(count) <= MOST_NODES):
        raise Failed(f"LIFL_CLUSTER_NODES={count}: a number from 1 to {MOST_NODES}")
    cache = environ.get("LIFL_CLUSTER_CACHE") or Path.home() / ".cache/lifl/cluster"
    homes = environ.get("LIFL_CLUSTER_HOME") or "/var/lib/lifl-cluster"
    return Cluster(name, int(count), Path(homes).absolute(), Path(cache).absolute())
