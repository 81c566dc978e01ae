"""Parts of the cluster go away in mid-round, and jobs end with the right model all the same.

Needs a cluster that `make cluster-up` has made: these stop its programs and nodes.  Each begins
while the coordinator stands still with a round open (LIFL_FAULT), or while rounds go on, and brings
back what it took away.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onemachine import layout, unit

from tests.cluster.installation import (
    PATIENCE_S,
    ROUNDS,
    Installation,
    Job,
    Run,
    check,
    digits,
    until,
)
from tests.cluster.kubectl import Kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
MANY = 60
DRAINED = 600  # a drain takes its time, and rounds do not wait for it
AWAY_S = 20.0
API_AWAY_S = 30.0
Machine = Callable[..., None]


@pytest.fixture
def machine() -> Machine:
    """`python -m onemachine`, for the cluster of this KUBECONFIG."""
    cluster = layout.from_environment(dict(os.environ))
    if os.environ.get("KUBECONFIG") != str(cluster.kubeconfig):
        pytest.skip("not a cluster of make cluster-up, whose programs can be stopped")

    def run(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "onemachine", *words], capture_output=True, text=True,
            timeout=PATIENCE_S, env=os.environ | {"PYTHONPATH": str(HERE)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@contextmanager
def halted(machine: Machine, unit: str, program: str) -> Iterator[None]:
    machine("halt", unit, program)
    try:
        yield
    finally:
        machine("resume", unit, program)


def answers(kubectl: Kubectl) -> bool:
    try:
        return bool(kubectl("get", "--raw=/readyz"))
    except AssertionError:
        return False


def under_way(job: Job, rounds: int = 2) -> int:
    """Some rounds are over; the one that is open now."""
    until(lambda: job.status.get("round", 0) > rounds, f"round {rounds}")
    return int(job.status["round"])


def whole(job: Job, rounds: int) -> None:
    """Every round with every client, and a model that is good."""
    every_round(job, rounds)
    assert {row["clients"] for row in job.rows()} == {16}


def every_round(job: Job, rounds: int) -> None:
    status = job.complete()
    assert status["progress"] == f"{rounds}/{rounds}"
    assert [row["round"] for row in job.rows()] == list(range(1, rounds + 1))
    until(lambda: job.status["figures"].get("accuracy", 0) > 0.9, "the last model measured")


def test_a_kubelet_away_for_a_while_stops_no_round(run: Run, machine: Machine) -> None:
    job = run(digits(MANY))
    under_way(job)
    with halted(machine, "n1", "kubelet"):
        at = job.status["round"]
        until(lambda: job.status["round"] >= at + 2, "two rounds without n1's kubelet")
        time.sleep(AWAY_S)
    whole(job, MANY)


def test_a_killed_kubelet_stops_no_round(
    run: Run, machine: Machine, expected: dict[str, np.ndarray]
) -> None:
    cluster = layout.from_environment(dict(os.environ))
    job = run(digits(ROUNDS))
    until(lambda: job.status.get("round", 0) >= 1, "the first round")
    before = unit.state(cluster, "n1")["kubelet"]
    machine("enter", "n1", "--", "sh", "-c", "kill -KILL $(pidof kubelet)")
    until(lambda: unit.state(cluster, "n1")["kubelet"] != before, "another kubelet")
    check(job, expected)


def test_an_api_server_away_for_30_s_stops_no_round(
    lifl: Installation, run: Run, machine: Machine
) -> None:
    """The Lease is over meanwhile: a process of the operator takes it again."""
    job = run(digits(MANY))
    under_way(job)
    epoch = job.status["epoch"]
    with halted(machine, "control", "apiserver"):
        time.sleep(API_AWAY_S)
    until(lambda: answers(lifl.system), "the API server answers")
    whole(job, MANY)
    assert job.status["epoch"] >= epoch


def test_a_node_is_drained_in_mid_round(cluster: Kubectl, lifl: Installation, run: Run) -> None:
    """The round under way is finished there, later ones elsewhere; its trainers move."""
    job = run(digits(DRAINED))
    under_way(job)
    left, stays = apart_from_the_operator(lifl)
    try:
        cluster(
            "drain", left, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
            f"--timeout={PATIENCE_S}s",
        )  # fmt: skip
        assert [pod for pod in pods_of(job) if pod["spec"].get("nodeName") == left] == []
        at = job.status["round"]
        until(lambda: job.status["round"] >= at + 3, f"three rounds without {left}")
        until(
            lambda: [each["name"] for each in job.status["tree"]["nodes"]] == [stays],
            f"a tree on {stays} alone",
        )
    finally:
        cluster("uncordon", left)
    every_round(job, DRAINED)


def test_a_node_without_power_ends_no_job(
    cluster: Kubectl, lifl: Installation, run: Run, machine: Machine
) -> None:
    """Silent for nodeGraceS, it is lost: its clients send again to the node that is left."""
    lost, stays = apart_from_the_operator(lifl)
    spec = digits(MANY, placement={"nodeGraceS": 5})
    spec["template"]["nodeSelector"] = {"kubernetes.io/hostname": stays}  # clients are elsewhere
    job = run(spec)
    under_way(job)
    machine("kill", lost)
    try:
        at = job.status["round"]
        until(
            lambda: job.status["round"] >= at + 3 or job.status["phase"] != "Running",
            f"three rounds without {lost}",
        )
        assert job.status["phase"] == "Running", job.status
        assert [each["name"] for each in job.status["tree"]["nodes"]] == [stays]
    finally:
        machine("start", lost)
        cluster("wait", f"node/{lost}", "--for=condition=Ready", f"--timeout={PATIENCE_S}s")
    every_round(job, MANY)


def apart_from_the_operator(lifl: Installation) -> tuple[str, str]:
    """A node without it, which has the job's models, and the node with it."""
    stays = str(lifl.system.get(f"pod/{lifl.leader()}")["spec"]["nodeName"])
    return next(name for name in ("n1", "n2") if name != stays), stays


def pods_of(job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job.kubectl.get("pods")["items"]
    return [pod for pod in found if pod["status"]["phase"] in ("Pending", "Running")]
