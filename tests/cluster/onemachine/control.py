"""The control plane: certificates, kubeconfigs, etcd, API server, controllers, scheduler, door.

Owns their command lines.  kubeadm makes certificates and kubeconfigs and does nothing else here.
Called by `up`.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Final

from . import network
from .binaries import Binaries, version_of
from .layout import (
    API_PORT,
    CONTROL_ADDRESS,
    DOMAIN,
    PODS,
    SERVICES,
    Cluster,
)
from .shell import run
from .unit import Unit

ETCD: Final = "http://127.0.0.1:2379"


def kubeadm_config(cluster: Cluster, node: str) -> str:
    init = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": CONTROL_ADDRESS, "bindPort": API_PORT},
        "nodeRegistration": {"name": node},
    }
    config = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": version_of("k8s.io/kubernetes", "kubernetes"),
        "certificatesDir": str(cluster.pki),
        "encryptionAlgorithm": "ECDSA-P256",
        "networking": {"podSubnet": PODS, "serviceSubnet": SERVICES, "dnsDomain": DOMAIN},
        "etcd": {"external": {"endpoints": [ETCD]}},
        "apiServer": {"certSANs": ["127.0.0.1", "localhost"]},
    }
    return f"{json.dumps(init)}\n---\n{json.dumps(config)}\n"


def write(cluster: Cluster, binaries: Binaries) -> None:
    """Certificates, and a kubeconfig for every part."""
    kubeadm = binaries.path("kubeadm")

    def phase(*words: str | Path, node: str) -> None:
        config = cluster.home / f"kubeadm-{node}.yaml"
        config.write_text(kubeadm_config(cluster, node))
        network.inside(cluster.control, [kubeadm, "init", "phase", *words, "--config", config])

    first, *_ = cluster.nodes
    phase("certs", "all", node=first.name)
    to = ("--kubeconfig-dir", cluster.conf)
    phase("kubeconfig", "all", *to, node=first.name)
    (cluster.conf / "kubelet.conf").unlink()
    for node in cluster.nodes:
        phase("kubeconfig", "kubelet", *to, node=node.name)
        (cluster.conf / "kubelet.conf").rename(cluster.conf / f"kubelet-{node.name}.conf")


def write_kubeconfig(cluster: Cluster) -> int:
    """The one for users of this machine: the same certificate, by way of the door."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    text = (cluster.conf / "super-admin.conf").read_text()
    partial = cluster.kubeconfig.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(text.replace(f"{CONTROL_ADDRESS}:{API_PORT}", f"127.0.0.1:{port}"))
    partial.replace(cluster.kubeconfig)
    return port


def door(cluster: Cluster, port: int) -> Unit:
    script = Path(__file__).with_name("door.py")
    where = str(network.NETNS / cluster.control)
    python = str(Path(sys.executable).resolve())
    return Unit(
        "door", {"door": [python, str(script), where, str(port), CONTROL_ADDRESS, str(API_PORT)]}
    )


def unit(cluster: Cluster, binaries: Binaries) -> Unit:
    return Unit(
        "control",
        {
            # What etcd holds is gone with the cluster: there is nothing to sync to a disk.
            "etcd": [str(binaries.path("etcd")), f"--data-dir={cluster.home}/etcd",
                     "--unsafe-no-fsync"],
            "apiserver": [str(binaries.path("kube-apiserver")), *_apiserver(cluster)],
            "controllers": [str(binaries.path("kube-controller-manager")), *_controllers(cluster)],
            "scheduler": [
                str(binaries.path("kube-scheduler")),
                f"--kubeconfig={cluster.conf}/scheduler.conf",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
        },
        netns=cluster.control,
    )  # fmt: skip


def _apiserver(cluster: Cluster) -> list[str]:
    pki = cluster.pki
    return [
        f"--etcd-servers={ETCD}",
        f"--advertise-address={CONTROL_ADDRESS}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # There is no kube-proxy beside it: webhooks are called at their pods' addresses.
        "--enable-aggregator-routing=true",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
    ]


def _controllers(cluster: Cluster) -> list[str]:
    conf = cluster.conf / "controller-manager.conf"
    pki = cluster.pki
    return [
        f"--kubeconfig={conf}",
        f"--authentication-kubeconfig={conf}",
        f"--authorization-kubeconfig={conf}",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        # A node whose kubelet is gone is to be noticed within seconds, as a test has them.
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",
    ]


def grant(kubectl: list[str | Path]) -> None:
    """Rights that kubeadm would give later: its admins', and the API server's to kubelets."""
    for name, role, who in (
        ("kubeadm:cluster-admins", "cluster-admin", "--group=kubeadm:cluster-admins"),
        (
            "kube-apiserver-kubelet-client",
            "system:kubelet-api-admin",
            "--user=kube-apiserver-kubelet-client",
        ),
    ):
        run([*kubectl, "create", "clusterrolebinding", name, f"--clusterrole={role}", who])
