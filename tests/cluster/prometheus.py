"""Debian's Prometheus beside a cluster: it scrapes a release through the API server's proxy.

Owns the configuration, with the labels that the chart's PodMonitor gives, the process, and the
questions to it.  Draws the dashboard's panels as they are asked for.  Used by test_prometheus.py.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.installation import ROOT, until
from tests.cluster.kubectl import Kubectl

STEP_S = 2
FILES = ROOT / "charts" / "lifl" / "files"
WINDOW = "20s"  # for $__rate_interval


def binary() -> str | None:
    """The one that scripts/setup-chart.sh found or unpacked."""
    built = ROOT / "build" / "prometheus"
    return str(built) if built.exists() else shutil.which("prometheus")


def _access(folder: Path) -> tuple[str, dict[str, str]]:
    """The API server's address, and files with what proves to it who asks."""
    said = subprocess.run(
        ["kubectl", "config", "view", "--raw", "--minify", "--output=json"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    view = json.loads(said)
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    files = {}
    for name, where, field in (
        ("ca_file", cluster, "certificate-authority"), ("cert_file", user, "client-certificate"),
        ("key_file", user, "client-key"),
    ):  # fmt: skip
        path = folder / name
        data = where.get(f"{field}-data")
        path.write_bytes(base64.b64decode(data) if data else Path(where[field]).read_bytes())
        path.chmod(0o600)
        files[name] = str(path)
    return cluster["server"].removeprefix("https://"), files


def _configuration(release: str, folder: Path) -> dict[str, Any]:
    """Debian's Prometheus cannot ask Kubernetes who is there: the pods are named one by one."""
    server, tls = _access(folder)
    targets = []
    for pod in Kubectl(release).get("pods")["items"]:
        about = pod["metadata"]
        component = about.get("labels", {}).get("lifl.dev/component", "")
        ports = [
            port["containerPort"] for container in pod["spec"]["containers"]
            for port in container.get("ports", []) if port["name"] == "metrics"
        ]  # fmt: skip
        if component in ("operator", "agent") and ports:
            where = f"/api/v1/namespaces/{release}/pods/{about['name']}:{ports[0]}"
            targets.append({"targets": [server], "labels": {
                "__metrics_path__": f"{where}/proxy/metrics", "instance": about["name"],
                "pod": about["name"], "node": pod["spec"]["nodeName"], "component": component,
            }})  # fmt: skip
    return {
        "global": {"scrape_interval": f"{STEP_S}s", "evaluation_interval": f"{STEP_S}s"},
        "rule_files": [str(FILES / "alerts.yaml")],
        "scrape_configs": [{
            "job_name": "lifl", "scheme": "https", "tls_config": tls, "static_configs": targets,
        }],
    }  # fmt: skip


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def answers(self) -> bool:
        try:
            return bool(self.ask("status/buildinfo"))
        except OSError:
            return False

    def value(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def over(self, query: str, seconds: float) -> list[dict[str, Any]]:
        now = time.time()
        found: list[dict[str, Any]] = self.ask(
            "query_range", query=query, start=str(now - seconds), end=str(now), step=str(STEP_S)
        )["result"]
        return found


@contextmanager
def running(program: str, release: str, folder: Path) -> Iterator[Prometheus]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = folder / "prometheus.json"  # YAML reads it
    path.write_text(json.dumps(_configuration(release, folder)))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program, f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    server = Prometheus(port)
    try:
        until(server.answers, "Prometheus answers")
        yield server
        assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(30)


# -- the dashboard ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Panel:
    title: str
    kind: str
    stacked: bool
    queries: dict[str, str]  # by legend


def panels() -> list[Panel]:
    """With Grafana's variables filled in."""
    found = []
    for each in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        if each["type"] == "row":
            continue
        custom = each["fieldConfig"]["defaults"].get("custom", {})
        found.append(Panel(
            each["title"], each["type"], custom.get("stacking", {}).get("mode") == "normal",
            {target["legendFormat"]: target["expr"].replace("$__rate_interval", WINDOW)
             .replace("$fljob", ".*") for target in each["targets"]},
        ))  # fmt: skip
    return found


def draw(prometheus: Prometheus, seconds: float, path: Path) -> None:
    """Every panel of the dashboard, over the last `seconds`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = panels()
    figure, axes = plt.subplots(-(-len(shown) // 4), 4, figsize=(22, 26), layout="constrained")
    for panel, axis in zip(shown, axes.flat, strict=False):
        axis.set_title(panel.title)
        for legend, query in panel.queries.items():
            for series in prometheus.over(query, seconds):
                label = legend
                for name, value in series["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                times = [float(at) - time.time() for at, _ in series["values"]]
                axis.plot(times, [float(value) for _, value in series["values"]], label=label)
        axis.set_ylim(bottom=0)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7)
    for axis in list(axes.flat)[len(shown) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=60)
    plt.close(figure)
