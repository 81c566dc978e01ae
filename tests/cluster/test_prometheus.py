"""Debian's Prometheus scrapes a release while a job runs: panels and alerts have what they ask for.

What happens rarely is made to happen: a stranger calls agent and gateway, a function is killed, the
program is detached.  The pictures of the panels lie in the test's folder, or in LIFL_PICTURES.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cluster import prometheus
from tests.cluster.installation import Installation, Run, digits, until
from tests.cluster.kubectl import Pods
from tests.cluster.test_isolation import JOIN, USER
from tests.cluster.test_taken import LOOK

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROUNDS = 2000
CALL = """
import socket, sys
with socket.create_connection((sys.argv[1], 17711), timeout=10) as sock:
    sock.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00NULL" + bytes(64))
    sock.recv(256)
    sock.settimeout(5)
    while sock.recv(256):
        pass
"""


def firing(server: prometheus.Prometheus) -> set[str]:
    return {alert["labels"]["alertname"] for alert in server.ask("alerts")["alerts"]}


def strange_things(lifl: Installation, pods: Pods, node: str) -> None:
    agent = next(p for p in lifl.pods("agent") if p["spec"]["nodeName"] == node)
    pods.run(
        "intruder", ["python", "-c", JOIN, "garbage"], node=node, security=USER,
        mounts=[{"name": "socket", "mountPath": "/run/lifl", "readOnly": True}],
        volumes=[{"name": "socket", "hostPath": {"path": f"/run/{lifl.name}/{node}/socket"}}],
    )  # fmt: skip
    pods.run("caller", ["python", "-c", CALL, agent["status"]["hostIP"]])
    words = ["--", "python", "-c", LOOK, lifl.name, "program"]
    lifl.system("exec", agent["metadata"]["name"], *words)
    function = next(p for p in lifl.pods("function") if p["spec"]["nodeName"] == node)
    lifl.functions("delete", f"pod/{function['metadata']['name']}", "--grace-period=0", "--force")


def test_panels_and_alerts_have_data(
    lifl: Installation, run: Run, pods: Pods, tmp_path: Path
) -> None:
    program = prometheus.binary()
    if program is None:
        pytest.skip("no prometheus: scripts/setup-chart.sh unpacks Debian's")
    job = run(digits(ROUNDS, memory={"inputSlots": 4}))
    with prometheus.running(program, lifl.name, tmp_path) as server:
        job.wait("condition=Running")
        up = 'up{job="lifl"} == 1'
        until(lambda: len(server.value(up)) == 3, "an operator and two agents are scraped")
        strange_things(lifl, pods, job.status["tree"]["nodes"][0]["name"])
        until(lambda: job.status["figures"].get("accuracy", 0) > 0, "a model measured")

        shown = prometheus.panels()
        assert len(shown) > 20
        for panel in shown:
            for query in panel.queries.values():
                until(lambda query=query: bool(server.value(query)), f"{panel.title}: {query}")  # type: ignore[misc]

        rules = server.ask("rules")["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        names = {name for rule in rules for name in re.findall(r"\blifl_\w+", rule["query"])}
        assert len(names) > 8
        for name in names:
            until(lambda name=name: bool(server.value(name)), f"series of {name}")  # type: ignore[misc]
        until(lambda: "LiflKernelDisturbed" in firing(server), "the alert of what was detached")
        assert "LiflUnreachable" not in firing(server)

        until(lambda: len(server.over("lifl_node_info", 60)[0]["values"]) > 20, "a minute of it")
        pictures = Path(os.environ.get("LIFL_PICTURES", tmp_path))
        prometheus.draw(server, 90, pictures / "dashboard.png")
        assert (pictures / "dashboard.png").stat().st_size > 50_000
