"""LIFL installed by its chart, and jobs on it: what the tests of FLJobs share.

Knows the chart's names.  Everything has a name of its own, so that an installation that is there
already is left alone; it must have no FLJob meanwhile, since operators see those of the cluster.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from tests.cluster.kubectl import IMAGE, Kubectl

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "/opt/lifl/examples/01-digits"  # in the image
CRD = "customresourcedefinition/fljobs.fl.lifl.dev"
PATIENCE_S = 180
PORT = 17711
ROUNDS = 5
FAR = 1e-4  # five rounds carry a difference of one unit in the last place to 1e-6 or so


@dataclass
class Installation:
    """One release."""

    name: str
    brings_crd: bool
    runtime: str = "deployment"  # of functions, where a job does not say
    system: Kubectl = field(init=False)
    functions: Kubectl = field(init=False)

    def __post_init__(self) -> None:
        self.system, self.functions = Kubectl(self.name), Kubectl(f"{self.name}-functions")

    def helm(self, *words: str) -> str:
        done = subprocess.run(
            ["helm", f"--namespace={self.name}", *words], capture_output=True, text=True,
            timeout=PATIENCE_S + 60,
        )  # fmt: skip
        assert done.returncode == 0, f"helm {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def install(self) -> None:
        repository, _, tag = IMAGE.rpartition(":")
        values = {
            "fullnameOverride": self.name, "image.repository": repository, "image.tag": tag,
            "crds.install": str(self.brings_crd).lower(), "crds.keep": "false",
            "nodes.runDirectory": f"/run/{self.name}", "gateway.port": str(PORT),
            "gateway.bulkPort": "17712",
            "agent.arenaMemory": "256Mi", "functions.namespace.name": self.functions.namespace,
            "functions.idleS": "10", "agent.proxy": "ebpf", "functions.runtime": self.runtime,
            "webhook.enabled": str(self.runtime == "knative").lower(),
        }  # fmt: skip
        self.helm(
            "install", self.name, str(ROOT / "charts" / "lifl"), "--create-namespace", "--wait",
            f"--timeout={PATIENCE_S}s", *(f"--set={key}={value}" for key, value in values.items()),
        )  # fmt: skip
        self.wait_for_nodes()
        until(self._serves, "agents serve their metrics")  # after they were seen to run

    def wait_for_nodes(self) -> None:
        """Until the operator has heard of every node's agent and gateway, and has said so."""
        for pod in self.pods("gateway"):
            there = f"{{.metadata.annotations.lifl\\.dev/gateway}}=tcp://{pod['status']['hostIP']}:{PORT}"
            self.system.wait(f"node/{pod['spec']['nodeName']}", f"jsonpath={there}")

    def _serves(self) -> bool:
        try:
            return bool(self.figures("lifl_node_info"))
        except AssertionError:
            return False

    def leader(self) -> str:
        pods = self.system.get("pods", "--selector=lifl.dev/leader=true")["items"]
        return str(pods[0]["metadata"]["name"])

    def pods(self, component: str) -> list[dict[str, Any]]:
        chosen = f"--selector=lifl.dev/component={component}"
        kubectl = self.functions if component == "function" else self.system
        found: list[dict[str, Any]] = kubectl.get("pods", chosen)["items"]
        return found

    def killed(self, component: str, job: Job) -> None:
        """See that containers on the job's nodes were killed, by themselves at a fault's point."""
        nodes = {node["name"] for node in job.status["tree"]["nodes"]}
        status = "{.status.containerStatuses[0].lastState.terminated.exitCode}"
        for pod in self.pods(component):
            if pod["spec"]["nodeName"] in nodes:
                self.system.wait(
                    f"pod/{pod['metadata']['name']}", f"jsonpath={status}=137",
                    timeout_s=PATIENCE_S,
                )  # fmt: skip

    def figures(self, name: str) -> dict[str, float]:
        """A metric of all agents: value by its labels as they are written."""
        found: dict[str, float] = {}
        ask = ("import urllib.request as u; "
               "print(u.urlopen('http://127.0.0.1:9400/metrics').read().decode())")  # fmt: skip
        for pod in self.pods("agent"):
            said = self.system("exec", pod["metadata"]["name"], "--", "python", "-c", ask)
            for labels, value in re.findall(rf"^{name}(\{{.*\}})? (\S+)$", said, re.MULTILINE):
                found[labels] = found.get(labels, 0.0) + float(value)
        return found

    def operator_figure(self, name: str) -> float:
        """A metric of the active operator, over all its labels."""
        ask = ("import urllib.request as u; "
               "print(u.urlopen('http://127.0.0.1:8080/metrics').read().decode())")  # fmt: skip
        said = self.system("exec", self.leader(), "--", "python", "-c", ask)
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", said, re.MULTILINE)
        return sum(map(float, found))

    @contextmanager
    def armed(self, workload: str, *faults: str) -> Iterator[None]:
        """Processes of this workload kill themselves at named points, once in each pod."""
        self._set(workload, f"LIFL_FAULT={','.join(faults)}", "LIFL_FAULT_DIR=/tmp")
        try:
            yield
        finally:
            self._set(workload, "LIFL_FAULT-", "LIFL_FAULT_DIR-")

    def _set(self, workload: str, *variables: str) -> None:
        self.system("set", "env", workload, *variables)
        self.system("rollout", "status", workload, f"--timeout={PATIENCE_S}s")


@dataclass(frozen=True)
class Job:
    """One FLJob."""

    kubectl: Kubectl
    name: str
    on: Installation

    def get(self) -> dict[str, Any]:
        return self.kubectl.get(f"fljob/{self.name}")

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get().get("status", {})
        return found

    def wait(self, condition: str) -> None:
        self.kubectl.wait(f"fljob/{self.name}", condition, timeout_s=PATIENCE_S)

    def complete(self) -> dict[str, Any]:
        self.wait("condition=Complete")
        return self.status

    def file(self, name: str) -> bytes:
        """Of the job's folder in the operator's pod."""
        folder = Path(self.status["model"]["place"]).parent
        done = subprocess.run(
            ["kubectl", f"--namespace={self.on.name}", "exec", self.on.leader(), "--", "cat",
             str(folder / name)], capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        return done.stdout

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file("rounds.jsonl").splitlines()]

    def events(self) -> set[str]:
        chosen = f"--field-selector=involvedObject.name={self.name}"
        return {event["reason"] for event in self.kubectl.get("events", chosen)["items"]}


Run = Callable[..., Job]


def check(job: Job, expected: dict[str, np.ndarray]) -> None:
    status = job.complete()
    assert status["progress"] == f"{ROUNDS}/{ROUNDS}"
    model = load(job.file("model.safetensors"))
    assert model.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(model[name] - value).max() < FAR, name


def digits(rounds: int, **spec: Any) -> dict[str, Any]:
    """The spec of examples/01-digits, with its 16 clients in 4 pods."""
    return {
        "rounds": rounds, "seed": 7, "clients": {"min": 16},
        "model": {"initial": "digits:initial_model"},
        "template": {"image": IMAGE, "workingDir": DIGITS},
        "trainer": {
            "entrypoint": "digits:train", "clients": 16, "replicas": 4,
            "args": {"alpha": 0.5, "epochs": 4, "rate": 0.1, "batch": 16},
        },
        "evaluator": {"entrypoint": "digits:evaluate"},
        "aggregation": {"fanIn": 4}, "memory": {"inputSlots": 8},
    } | spec  # fmt: skip


def fljob(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": name},
        "spec": spec,
    }  # fmt: skip


def run_here(spec: dict[str, Any], folder: Path) -> Path:
    """The same job by `lifl run` on two nodes of this machine; its model."""
    folder.mkdir()
    for each in (ROOT / "examples" / "01-digits").glob("*.py"):
        (folder / each.name).write_text(each.read_text())
    (folder / "job.yaml").write_text(json.dumps(fljob("digits", spec)))
    done = subprocess.run(
        [sys.executable, "-m", "lifl", "run", str(folder / "job.yaml"), "--nodes", "2",
         "--out", str(folder / "out")],
        capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out" / "latest" / "model.safetensors"


def until(done: Callable[[], bool], what: str) -> None:
    """Look again and again, and not for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"after {PATIENCE_S} s not yet: {what}"
        time.sleep(0.2)


def new_name() -> str:
    return f"e2e-{secrets.token_hex(3)}"
