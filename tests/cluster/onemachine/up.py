"""Brings a cluster up: binaries, images, network, control plane, nodes, add-ons.

Owns the order, and what happens when it is broken off: whatever was begun is taken down again.
Called by `__main__`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from . import addons, binaries, cgroups, control, down, images, network, node, status, unit
from .layout import Cluster
from .shell import Failed, works

Say = Callable[[str], None]
READY_S: Final = 60.0
LIFL_IMAGE: Final = "dev.local/lifl"


@contextmanager
def locked(cluster: Cluster, what: str) -> Iterator[None]:
    """One at a time with this cache; the kernel frees the lock whatever happens."""
    cluster.cache.mkdir(parents=True, exist_ok=True)
    with (cluster.cache / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(cluster: Cluster, *, tag: str, say: Say) -> None:
    """Bring it up, or say that it is; LIFL's image is made again if LIFL has changed.

    Raises:
        Failed: it cannot be; nothing of it is left then.
    """
    if os.geteuid() != 0:
        raise Failed("a cluster needs root here: run `make cluster-up` as root")
    with locked(cluster, f"cluster-{cluster.name}"):
        with locked(cluster, "binaries"):
            built = binaries.build(cluster.cache, say=say)
        if status.wanted(cluster, built) == status.made(cluster):
            problems = status.problems(cluster)
            if not problems:
                image(cluster, tag=tag, say=say)
                say("is up already")
                return
            say(f"is there and not whole ({problems[0]}): making it again")
        down.down(cluster)
        before = cgroups.enter(cgroups.make(cluster, "up"))
        try:
            _up(cluster, built, tag=tag, say=say)
        except BaseException:
            cgroups.leave(before)
            down.down(cluster)
            raise
        cgroups.leave(before)


def image(cluster: Cluster, *, tag: str, say: Say) -> str:
    """Build LIFL's image of this checkout, if it is new, and hand it to every node."""
    with locked(cluster, "images"):
        made = images.build_lifl(cluster, f"{LIFL_IMAGE}:{tag}", say=say)
    images.load(cluster, [made])
    return made.name


def start(cluster: Cluster, name: str, *, say: Say) -> None:
    """A node boots again: what was in its /run is gone, what was in its /var is there.

    Raises:
        Failed: it is no node, runs already, or does not become Ready.
    """
    if name not in (each.name for each in cluster.nodes):
        raise Failed(f"{name} is no node: {', '.join(each.name for each in cluster.nodes)}")
    if unit.first_process(cluster, name):
        raise Failed(f"{name} is running")
    built = binaries.build(cluster.cache, say=say)
    each = next(each for each in cluster.nodes if each.name == name)
    cgroups.clear(cluster, name)
    unit.start(cluster, node.unit(each, built))
    kubectl = kubectl_of(cluster, built)
    _until(cluster, name, partial(_nodes_ready, cluster, kubectl))


def _up(cluster: Cluster, built: binaries.Binaries, *, tag: str, say: Say) -> None:
    with locked(cluster, "images"):
        fixed = images.build_fixed(cluster, built)
        lifl = images.build_lifl(cluster, f"{LIFL_IMAGE}:{tag}", say=say)
    began = time.monotonic()

    def after() -> str:
        return f"after {time.monotonic() - began:.1f} s"

    cluster.home.mkdir(parents=True, mode=0o700)
    cluster.tools.mkdir()
    for tool in ("kubectl", "helm"):
        (cluster.tools / tool).symlink_to(built.path(tool))
    network.make(cluster)
    say("network is there; starting control plane and nodes")
    control.write(cluster, built)
    unit.start(cluster, control.unit(cluster, built))
    unit.start(cluster, control.door(cluster, control.write_kubeconfig(cluster)))
    for each in cluster.nodes:
        node.write(cluster, each)
        unit.start(cluster, node.unit(each, built))
    kubectl = kubectl_of(cluster, built)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(_load, cluster, [*fixed, lifl])
        try:
            ready = partial(works, [*kubectl, "get", "--raw=/readyz"])
            _until(cluster, "the API server", ready, loading)
            control.grant(kubectl)
            say(f"API server ready {after()}")
            addons.install(kubectl, built)
            _until(cluster, "nodes", partial(_nodes_ready, cluster, kubectl), loading)
            say(f"{cluster.node_count} nodes ready {after()}")
            loading.result()
            say(f"images in every node {after()}")
        except BaseException:
            cgroups.end(cluster)  # the thread that loads would be waited for otherwise
            raise
    addons.wait(kubectl, built)
    (cluster.home / "made.json").write_text(json.dumps(status.wanted(cluster, built)))
    say(f"up {after()}")


def exports(cluster: Cluster) -> str:
    """Shell commands after which kubectl and helm are this cluster's."""
    return f"export KUBECONFIG={cluster.kubeconfig} PATH={cluster.tools}:$PATH"


def kubectl_of(cluster: Cluster, built: binaries.Binaries) -> list[str | Path]:
    return [built.path("kubectl"), f"--kubeconfig={cluster.kubeconfig}", "--request-timeout=30s"]


def _load(cluster: Cluster, wanted: list[images.Image]) -> None:
    for each in cluster.nodes:
        answers = partial(images.takes_images, cluster, each.name)
        _until(cluster, f"{each.name}'s containerd", answers)
    images.load(cluster, wanted)


def _nodes_ready(cluster: Cluster, kubectl: list[str | Path]) -> bool:
    return status.ready_nodes(kubectl) == [each.name for each in cluster.nodes]


def _until(
    cluster: Cluster, what: str, done: Callable[[], bool], other: Future[None] | None = None
) -> None:
    """Wait; what fails meanwhile in another thread is raised at once."""
    deadline = time.monotonic() + READY_S
    while not done():
        if other is not None and other.done():
            other.result()
        if time.monotonic() > deadline:
            reasons = "\n".join(status.problems(cluster))
            raise Failed(f"{what}: not ready within {READY_S:.0f} s\n{reasons}")
        time.sleep(0.1)
