"""The network namespaces of a cluster: one switch, and everything plugged into it.

Owns namespaces, links and routes; nothing is made in the machine's own namespace.  Called by `up`,
`down` and `status`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .layout import CONTROL_ADDRESS, OUTSIDE_ADDRESS, Cluster
from .shell import run

NETNS: Final = Path("/run/netns")


def there(cluster: Cluster) -> list[str]:
    """The cluster's namespaces that exist, whatever number of nodes it was made with."""
    if not NETNS.is_dir():
        return []
    return sorted(entry.name for entry in NETNS.glob(f"{cluster.name}-*"))


def make(cluster: Cluster) -> None:
    """Switch, control plane and nodes; pods' subnets are routed to their nodes from everywhere."""
    plugs = {cluster.control: CONTROL_ADDRESS}
    plugs |= {node.netns: node.address for node in cluster.nodes}
    for name in (cluster.outside, *plugs):
        run(["ip", "netns", "add", name])
        _ip(name, "link set lo up")
    _ip(cluster.outside, "link add br0 type bridge")
    _ip(cluster.outside, f"addr add {OUTSIDE_ADDRESS}/24 dev br0")
    _ip(cluster.outside, "link set br0 up")
    for number, (name, address) in enumerate(plugs.items()):
        port = f"p{number}"
        _ip(name, f"link add eth0 type veth peer name {port} netns {cluster.outside}")
        _ip(cluster.outside, f"link set {port} master br0 up")
        _ip(name, f"addr add {address}/24 dev eth0")
        _ip(name, "link set eth0 up")
        # What is not of the cluster ends at the switch; a Service's address needs some route.
        _ip(name, f"route add default via {OUTSIDE_ADDRESS}")
    for name in (cluster.outside, *plugs):
        for node in cluster.nodes:
            if node.netns != name:
                _ip(name, f"route add {node.pods} via {node.address}")
    for node in cluster.nodes:
        inside(node.netns, ["sysctl", "-qw", "net.ipv4.ip_forward=1"])


def remove(cluster: Cluster) -> None:
    for name in there(cluster):
        run(["ip", "netns", "delete", name])


def inside(netns: str, words: list[str | Path]) -> str:
    """Run in a namespace; `ip netns exec` would make a mount namespace as well, and is not used."""
    return run(["nsenter", f"--net={NETNS / netns}", "--", *words])


def _ip(netns: str, words: str) -> None:
    run(["ip", "-netns", netns, *words.split()])
