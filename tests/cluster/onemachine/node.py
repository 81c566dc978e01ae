"""One node: containerd, kubelet and kube-proxy, and what of the machine they see.

Owns their configurations and a node's mounts.  A node has its own /run, /var, /tmp and bpffs, so
that a hostPath on one is not the other's and all of it goes with the node; the rest of the file
system is the machine's.  Called by `up`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from . import cgroups
from .binaries import Binaries
from .layout import DNS, DOMAIN, PODS, Cluster, Node
from .unit import Unit

INSIDE: Final = Path("/run/cluster")  # where a node finds what `write` made
PAUSE_IMAGE: Final = "dev.local/pause:1"
CNI_PLUGINS: Final = "/usr/lib/cni"  # where Debian puts them


def containerd_toml() -> str:
    # A kernel that grants root no CAP_SYS_RESOURCE cannot lower oom_score_adj, and runc fails.
    return f"""\
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{INSIDE}/etc/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def cni(node: Node) -> dict[str, Any]:
    ranges = [[{"subnet": node.pods}]]
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet(node: Node, cgroup_root: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{INSIDE}/etc/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",  # containerd 1.6 does not say which it has
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS],
        "clusterDomain": DOMAIN,
        "resolvConf": f"{INSIDE}/etc/resolv.conf",
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,  # nobody could pull a removed image again
        "maxPods": 200,
        "nodeLeaseDurationSeconds": 20,
        "nodeStatusUpdateFrequency": "2s",
    }


def kube_proxy(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{INSIDE}/etc/proxy.kubeconfig"},
        "hostnameOverride": node.name,
        "clusterCIDR": PODS,
        "conntrack": {"maxPerCore": 0, "min": 0},  # those are the machine's
        "bindAddress": node.address,
        "metricsBindAddress": "127.0.0.1:10249",
    }


def write(cluster: Cluster, node: Node) -> None:
    """Every file that the node reads."""
    etc = node.folder / "etc"
    (etc / "cni").mkdir(parents=True)
    (etc / "containerd.toml").write_text(containerd_toml())
    (etc / "cni/10-pods.conflist").write_text(json.dumps(cni(node)))
    root = cgroups.make_node(cluster, node.name)
    (etc / "kubelet.json").write_text(json.dumps(kubelet(node, root)))
    (etc / "kube-proxy.json").write_text(json.dumps(kube_proxy(node)))
    (etc / "resolv.conf").write_text(f"nameserver {DNS}\n")  # none but the cluster's own
    (etc / "ca.crt").write_bytes((cluster.pki / "ca.crt").read_bytes())
    for source, name in ((f"kubelet-{node.name}.conf", "kubelet"), ("admin.conf", "proxy")):
        (etc / f"{name}.kubeconfig").write_bytes((cluster.conf / source).read_bytes())
    for folder in ("run", "var/lib", "var/log", "var/tmp"):
        (node.folder / folder).mkdir(parents=True)
    (node.folder / "var/run").symlink_to("/run")


def mounts(node: Node, binaries: Binaries) -> list[list[str]]:
    """In their order: what is bound from the machine first, then what hides it."""
    run = node.folder / "run"
    inside = run / INSIDE.relative_to("/run")
    binds = {node.folder / "etc": inside / "etc"} | {
        folder: inside / "bin" / name for name, folder in binaries.folders.items()
    }
    return [
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(run)],
        ["mkdir", "-p", *map(str, binds.values())],
        *(["mount", "--bind", str(source), str(target)] for source, target in binds.items()),
        ["mount", "--rbind", str(run), "/run"],
        ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"],
        ["mount", "--rbind", str(node.folder / "var"), "/var"],
        ["mount", "-t", "bpf", "-o", "mode=700", "bpf", "/sys/fs/bpf"],
        # Between the node and its pods, mounts propagate; from here to the machine none does.
        ["mount", "--make-rshared", "/"],
    ]


def unit(node: Node, binaries: Binaries) -> Unit:
    etc = INSIDE / "etc"
    kubernetes = INSIDE / "bin/kubernetes"
    return Unit(
        node.name,
        {
            "containerd": ["containerd", f"--config={etc}/containerd.toml"],
            "kubelet": [
                f"{kubernetes}/kubelet",
                f"--config={etc}/kubelet.json",
                f"--kubeconfig={etc}/kubelet.kubeconfig",
                f"--hostname-override={node.name}",
                f"--node-ip={node.address}",
            ],
            "kube-proxy": [f"{kubernetes}/kube-proxy", f"--config={etc}/kube-proxy.json"],
        },
        netns=node.netns,
        hostname=node.name,
        mounts=mounts(node, binaries),
    )
