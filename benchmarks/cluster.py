"""Functions on a cluster: when they are there, and what they cost, with queue-proxy and without.

    KUBECONFIG=... python -m benchmarks.cluster [--trials 5] [--docs]

The same function as a Knative Service twice: of LIFL's class, without queue-proxy, as the chart
installs it; and of Knative's own class, with queue-proxy, brought by a request through the
activator.  For the second LIFL's webhook is cut off, so that its own functions never come, and two
flags of Knative's let the pod have the agent's socket; both are put back.  One node has an agent;
the job's clients train nothing.  Owns the order of a trial and the table, which `--docs` writes
into docs/kubernetes.md.  cluster_watch.py has the clock.  Called by hand: it needs a cluster with
Knative and takes 2 minutes a trial.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.docs import insert
from benchmarks.system import machine
from lifl.placement.cluster import knative, names
from lifl.placement.cluster.objects import Install
from tests.cluster.installation import CRD, PATIENCE_S, Installation, new_name
from tests.cluster.kubectl import IMAGE, Kubectl

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "kubernetes.md"
MARKERS: Final = (
    "<!-- cluster: begin, written by python -m benchmarks.cluster -->", "<!-- cluster: end -->",
)  # fmt: skip
WATCH: Final = (Path(__file__).parent / "cluster_watch.py").read_text()
IDLE_S: Final = 35  # functions stay so long without work, in both
FUNCTIONS: Final = 2  # of the job: a leaf and the top
APART_S: Final = 15.0  # two looks at what an idle pod uses
FEATURES: Final = {
    "kubernetes.podspec-volumes-hostpath": "enabled", "kubernetes.podspec-nodeselector": "enabled",
}  # fmt: skip
TOY: Final = """
import numpy as np

def initial():
    return {"w": np.zeros(250_000, np.float32)}

def train(client):
    for round in client.rounds():
        round.send(round.model, weight=1.0)
"""
LISTEN: Final = """
import http.server, threading
server = http.server.HTTPServer(("", 8080), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
from lifl.functions.aggregator import main
main()
"""  # queue-proxy asks a port whether the function is ready
Sample = dict[tuple[str, str], tuple[float, float, str]]  # working set, CPU seconds, when


@dataclass
class Bench:
    """An installation on one node, and a pod that watches its agent."""

    lifl: Installation
    node: str
    watcher: Kubectl
    found: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, value: float) -> None:
        self.found.setdefault(what, []).append(value)
        print(f"{what}: {value:.3f}", flush=True)

    # -- one job --------------------------------------------------------------------------------
    def job(self, tenant: Kubectl, name: str, *request: str, make: dict[str, Any] | None = None,
            ) -> dict[str, float]:  # fmt: skip
        """Run it; when what happened, from when its functions were wanted on.

        Args:
            request: URL, Revision and namespace to be asked then.
            make: an object to be made then; times count from there.
        """
        agent = self.lifl.pods("agent")[0]["status"]["podIP"]
        watch = subprocess.Popen(
            ["kubectl", f"--namespace={self.watcher.namespace}", "exec", "watch", "--", "python",
             "-u", "-c", WATCH, f"{tenant.namespace}/{name}", agent, *request],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        at: dict[str, float] = {}
        try:
            assert watch.stdout is not None
            for line in watch.stdout:
                said = json.loads(line)
                at[said["what"]] = said["at"]
                if said["what"] == "ready":
                    tenant.apply(_fljob(name))
                if said["what"] == "roles" and make is not None:
                    at["made"] = time.time()
                    self.lifl.functions.apply(make)
            watch.wait(timeout=30)
        finally:
            watch.kill()
        tenant.wait(f"fljob/{name}", "condition=Complete", timeout_s=PATIENCE_S)
        if "folded" not in at:
            raise RuntimeError(f"no function has folded anything for {name}: {at}")
        begin = at.get("made", at.get("asked", at["roles"]))
        return {what: at[what] - begin for what in ("joined", "folded") if what in at}

    # -- trials ---------------------------------------------------------------------------------
    def trial_without(self, tenant: Kubectl) -> None:
        """LIFL's class: it has all there is from a job."""
        self.cold_and_warm("without", tenant)
        self._costs("without", tenant.namespace)
        self._wait_for_zero(tenant.namespace)
        self.from_zero("without", tenant)

    def trial_with(self, tenant: Kubectl) -> None:
        """Knative's class."""
        made = self.stock(tenant.namespace)
        name = made["metadata"]["name"]
        revision, namespace = f"{name}-00001", self.lifl.functions.namespace
        try:
            self.cold_and_warm("with", tenant, make=made)
            self._costs("with", tenant.namespace)
            self._wait_for_zero(tenant.namespace)
            url = f"http://{revision}.{namespace}.svc.cluster.local/"
            self.from_zero("with", tenant, url, revision, namespace)
        finally:
            self.lifl.functions("delete", f"ksvc/{name}", "--ignore-not-found", "--wait=true")

    def cold_and_warm(self, how: str, tenant: Kubectl, make: dict[str, Any] | None = None) -> None:
        self._times(how, "cold", self.job(tenant, "cold", make=make))
        self._times(how, "warm", self.job(tenant, "warm"))

    def from_zero(self, how: str, tenant: Kubectl, *request: str) -> None:
        self._times(how, "zero", self.job(tenant, "zero", *request))

    def stock(self, tenant: str) -> dict[str, Any]:
        """The function as a Service of Knative's own class."""
        values = json.loads(self.lifl.helm("get", "values", self.lifl.name, "--all", "-ojson"))
        made = knative.functions_service(tenant, self.node, Install(
            namespace=self.lifl.name, image=IMAGE, functions_account=f"{self.lifl.name}-function",
            functions_namespace=self.lifl.functions.namespace,
            functions_resources=values["functions"]["resources"],
        ))  # fmt: skip
        made["metadata"] = {"name": f"stock-{tenant}", "namespace": made["metadata"]["namespace"]}
        template = made["spec"]["template"]
        template["metadata"] = {
            "labels": {names.TENANT: tenant},
            "annotations": {
                "autoscaling.knative.dev/window": "6s",
                "autoscaling.knative.dev/initial-scale": str(FUNCTIONS),
                "autoscaling.knative.dev/activation-scale": str(FUNCTIONS),
                "autoscaling.knative.dev/scale-down-delay": f"{IDLE_S}s",
            },
        }
        pod = template["spec"]
        pod["nodeSelector"] = {"kubernetes.io/hostname": self.node}
        pod["timeoutSeconds"] = 120  # a request waits for a pod
        pod["volumes"].append({"name": "socket", "hostPath": {
            "path": f"/run/{self.lifl.name}/{self.node}/socket", "type": "Directory"}})  # fmt: skip
        container = pod["containers"][0]
        container["command"] = ["python", "-c", LISTEN, *container["command"][3:]]
        container["volumeMounts"].append(
            {"name": "socket", "mountPath": "/run/lifl", "readOnly": True}
        )
        return made

    def _times(self, how: str, what: str, times: dict[str, float]) -> None:
        for until, seconds in times.items():
            self.note(f"{how} {what} {until}", seconds)

    def _wait_for_zero(self, tenant: str) -> None:
        chosen = f"--selector=lifl.dev/tenant={tenant}"
        self.lifl.functions("wait", "pods", chosen, "--for=delete", f"--timeout={PATIENCE_S}s")

    def wait_for_none(self) -> None:
        """Functions of the tenant before would be counted as those that are waited for."""
        self.lifl.functions("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")

    def _costs(self, how: str, tenant: str) -> None:
        """Of the idle functions that are there, by container."""
        first = self._sample(tenant)
        time.sleep(APART_S)
        second = self._sample(tenant)
        for (pod, container), (bytes_, cpu_s, when) in second.items():
            self.note(f"{how} {container} MB", bytes_ / 1e6)
            _, before_s, then = first.get((pod, container), (0.0, 0.0, when))  # not looked at yet
            if (seconds := _stamp(when) - _stamp(then)) > 0:
                self.note(f"{how} {container} millicores", (cpu_s - before_s) / seconds * 1e3)

    def _sample(self, tenant: str) -> Sample:
        path = f"/api/v1/nodes/{self.node}/proxy/stats/summary"
        pods = {
            pod["metadata"]["name"]
            for pod in self.lifl.functions.get("pods", f"--selector=lifl.dev/tenant={tenant}")[
                "items"
            ]
        }
        return {
            (pod["podRef"]["name"], each["name"]): (
                each["memory"]["workingSetBytes"], each["cpu"]["usageCoreNanoSeconds"] / 1e9,
                each["cpu"]["time"],
            )
            for pod in json.loads(self.watcher("get", f"--raw={path}"))["pods"]
            if pod["podRef"]["name"] in pods
            for each in pod["containers"]
        }  # fmt: skip

    @contextmanager
    def without_webhook(self) -> Iterator[None]:
        """The API server trusts nobody at the webhook's address; and Knative takes the pod."""
        hook = f"mutatingwebhookconfiguration/{self.lifl.name}-webhook"
        trusted = self.watcher.get(hook)["webhooks"][0]["clientConfig"]["caBundle"]
        system = Kubectl("knative-serving")
        before = system.get("configmap/config-features").get("data", {})
        self._patch(hook, [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}])
        _features(system, FEATURES)
        try:
            yield
        finally:
            _features(system, {name: before.get(name) for name in FEATURES})
            change = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": trusted}
            self._patch(hook, [change])

    def _patch(self, what: str, changes: list[dict[str, Any]]) -> None:
        self.watcher("patch", what, "--type=json", "--patch", json.dumps(changes))


def _features(system: Kubectl, data: dict[str, str | None]) -> None:
    system("patch", "configmap/config-features", "--type=merge", "--patch",
           json.dumps({"data": data}))  # fmt: skip


def _stamp(when: str) -> float:
    return time.mktime(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ"))


def _fljob(name: str) -> dict[str, Any]:
    code = {"name": "code", "mountPath": "/job", "configMap": {"name": "toy"}}
    return {
        "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": name},
        "spec": {
            "rounds": 2, "clients": {"min": 2}, "model": {"initial": "toy:initial"},
            "trainer": {"entrypoint": "toy:train", "clients": 2, "replicas": 1},
            "template": {"image": IMAGE, "workingDir": "/job", "volumes": [code]},
            "functions": {"runtime": "knative"},
        },
    }  # fmt: skip


@contextmanager
def installed(cluster: Kubectl) -> Iterator[Bench]:
    """LIFL on the first node alone."""
    there = cluster("get", CRD, "--ignore-not-found", "--output=name")
    lifl = Installation(new_name(), brings_crd=not there, runtime="knative")
    node = cluster.get("nodes")["items"][0]["metadata"]["name"]
    patience = f"--timeout={PATIENCE_S}s"
    try:
        lifl.install()
        lifl.helm(
            "upgrade", lifl.name, str(ROOT / "charts" / "lifl"), "--reuse-values", "--wait",
            patience, "--set", f"functions.idleS={IDLE_S}",
            "--set", rf"nodes.nodeSelector.kubernetes\.io/hostname={node}",
        )  # fmt: skip
        lifl.system.apply({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "watch"},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "watch", "image": IMAGE, "command": ["sleep", "7200"],
            }]},
        })  # fmt: skip
        lifl.system.wait("pod/watch", "condition=Ready")
        yield Bench(lifl, node, lifl.system)
    finally:
        lifl.helm("uninstall", lifl.name, "--ignore-not-found", "--wait", patience)
        for namespace in (lifl.name, lifl.functions.namespace):
            cluster("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")


@contextmanager
def a_tenant(cluster: Kubectl, name: str) -> Iterator[Kubectl]:
    tenant = Kubectl(name)
    cluster("create", "namespace", name)
    try:
        tenant.apply({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "toy"},
            "data": {"toy.py": TOY},
        })  # fmt: skip
        yield tenant
        tenant("delete", "fljobs", "--all", "--wait=true", f"--timeout={PATIENCE_S}s")
    finally:
        cluster("delete", "namespace", name, "--wait=true", f"--timeout={PATIENCE_S}s")


# -- the table ----------------------------------------------------------------------------------
ROWS: Final = (
    ("function that never was there: wanted until it has joined", "cold joined", "s"),
    ("… until its first fold", "cold folded", "s"),
    ("function at zero: wanted until it has joined", "zero joined", "s"),
    ("… until its first fold", "zero folded", "s"),
    ("function that is idle: wanted until its first fold", "warm folded", "s"),
    ("memory of an idle pod, working set", "MB", "MB"),
    ("processor of an idle pod", "millicores", "millicores"),
)


def table(found: dict[str, list[float]], here: dict[str, Any], trials: int) -> str:
    """As docs/kubernetes.md has it: medians, with the least and the most."""

    def cell(how: str, what: str, unit: str) -> str:
        names_ = [name for name in found if name.startswith(f"{how} ") and name.endswith(what)]
        each = [values(found[name], unit) for name in names_]
        if len(names_) > 1:  # a pod's containers
            total = sum(statistics.median(found[name]) for name in names_)
            parts = "; ".join(
                f"{name.split()[1]} {text}" for name, text in zip(names_, each, strict=True)
            )
            return f"{total:.3g} {unit} ({parts})"
        return each[0] if each else "not measured"

    lines = [
        f"Medians of {trials} trials (least–most), {here['began_at'][:10]}, two nodes on one "
        f"machine of {here['cpus']} CPUs ({here['cpu']}, Linux {here['kernel']}), load "
        f"{here['load_at_start']} when they began. Beside LIFL's class: the same function as a "
        "Service of Knative's own class, brought by a request through the activator.",
        "",
        "| | LIFL's class, no queue-proxy | Knative's class, queue-proxy |",
        "|---|---|---|",
    ]
    lines += [
        f"| {title} | {cell('without', what, unit)} | {cell('with', what, unit)} |"
        for title, what, unit in ROWS
    ]
    return "\n".join(lines)


def values(found: list[float], unit: str) -> str:
    middle = statistics.median(found)
    return f"{middle:.3g} {unit} ({min(found):.3g}–{max(found):.3g})"


@click.command()
@click.option("--trials", default=5, show_default=True)
@click.option("--docs", is_flag=True, help="Write the table into docs/kubernetes.md.")
def main(trials: int, docs: bool) -> None:
    """Measure, print the table, and keep it in build/bench-cluster.json."""
    cluster, here = Kubectl(), machine()
    out = ROOT / "build" / "bench-cluster.json"
    out.parent.mkdir(exist_ok=True)
    with installed(cluster) as bench:
        for number in range(trials):  # in turn, so that both have the same of a busy machine
            with a_tenant(cluster, f"without-{number}") as tenant:
                bench.trial_without(tenant)
            bench.wait_for_none()
            with bench.without_webhook(), a_tenant(cluster, f"with-{number}") as tenant:
                bench.trial_with(tenant)
            bench.wait_for_none()
            found = {"machine": here, "trials": number + 1, "found": bench.found}
            out.write_text(json.dumps(found, indent=1))
    text = table(bench.found, here, trials)
    print(text)
    if docs:
        PAGE.write_text(insert(PAGE.read_text(), text, MARKERS))
        print(f"{PAGE.name} has the table")


if __name__ == "__main__":
    main()
