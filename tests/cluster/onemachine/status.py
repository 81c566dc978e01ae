"""What runs of a cluster, and what is wrong with it.

Owns the findings, in words.  Changes nothing.  Called by `__main__` and `up`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import cgroups, down, network, unit
from .binaries import Binaries
from .layout import Cluster
from .shell import Failed, run

Made = dict[str, Any]


def wanted(cluster: Cluster, binaries: Binaries) -> Made:
    """What a cluster is made of: where two differ, one is not the other."""
    folders = {name: str(folder) for name, folder in binaries.folders.items()}
    return {"nodes": cluster.node_count, "binaries": folders}


def made(cluster: Cluster) -> Made | None:
    """The same of the one that is up, if one came up completely."""
    try:
        found: Made = json.loads((cluster.home / "made.json").read_text())
    except FileNotFoundError:
        return None
    return found


def kubectl(cluster: Cluster) -> list[str | Path] | None:
    """That of the binaries with which the cluster was made."""
    found = made(cluster)
    if found is None:
        return None
    program = Path(found["binaries"]["kubernetes"]) / "kubectl"
    return [program, f"--kubeconfig={cluster.kubeconfig}", "--request-timeout=10s"]


def ready_nodes(kubectl: list[str | Path]) -> list[str]:
    items = json.loads(run([*kubectl, "get", "nodes", "--output=json"]))["items"]
    return sorted(
        item["metadata"]["name"]
        for item in items
        for condition in item["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    )


def problems(cluster: Cluster) -> list[str]:
    """Empty when it is whole; a cluster that is not there is one problem."""
    if not down.leftovers(cluster):
        return ["there is no cluster: make cluster-up"]
    return list(_problems(cluster))


def _problems(cluster: Cluster) -> Iterator[str]:
    names = {cluster.outside, cluster.control, *(node.netns for node in cluster.nodes)}
    for name in sorted(names - set(network.there(cluster))):
        yield f"network namespace {name} is missing"
    for name in cluster.units:
        if not unit.first_process(cluster, name):
            yield f"{name} is not running"
            continue
        for program, state in unit.state(cluster, name).items():
            if state["halted"]:
                yield f"{name}: {program} is halted; python -m onemachine resume {name} {program}"
            elif not state["running"] or state["starts"] > 5:
                yield (
                    f"{name}: {program} has ended {state['starts']} times, the last time with "
                    f"{state['last_end']}; the end of its log:\n"
                    + unit.log_tail(cluster, name, program)
                )
    commands = kubectl(cluster)
    if commands is None:
        yield "it did not come up completely: make cluster-up makes it again"
        return
    try:
        ready = ready_nodes(commands)
    except Failed as error:
        yield f"the API server does not answer: {error}"
        return
    for node in cluster.nodes:
        if node.name not in ready:
            yield f"node {node.name} is not Ready"
    for item in json.loads(run([*commands, "get", "deployments", "-A", "-o", "json"]))["items"]:
        where = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        some, all_of_it = item["status"].get("availableReplicas", 0), item["spec"]["replicas"]
        if some < all_of_it:
            yield f"deployment {where}: {some} of {all_of_it} pods are available"


def report(cluster: Cluster) -> str:
    """What there is, unit by unit."""
    lines = [f"cluster {cluster.name}, {cluster.node_count} nodes, {cluster.home}"]
    for name in cluster.units:
        pid = unit.first_process(cluster, name)
        many = len(cgroups.processes(cluster, name))
        lines.append(f"  {name:8} " + (f"pid {pid}, {many} processes" if pid else "-"))
        for program, state in unit.state(cluster, name).items() if pid else ():
            word = "halted" if state["halted"] else "runs" if state["running"] else "ended"
            more = f", started {state['starts']} times" if state["starts"] > 1 else ""
            lines.append(f"    {program:11} {word}{more}")
    commands = kubectl(cluster)
    if commands is not None:
        try:
            lines.append(run([*commands, "get", "nodes", "-o", "wide"]).rstrip())
            lines.append(run([*commands, "get", "pods", "-A", "-o", "wide"]).rstrip())
        except Failed as error:
            lines.append(str(error))
    return "\n".join(lines)
