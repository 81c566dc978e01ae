"""FLJobs on a real cluster: the model that `lifl run` gives, whatever is killed meanwhile.

Each kill is at a named point (lifl/faults.py), or while the coordinator stands still at one, and
what was killed is shown to have been.  The model is compared with that of `lifl run` for the same
file.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.cluster.installation import (
    PATIENCE_S,
    ROUNDS,
    Installation,
    Job,
    Run,
    check,
    digits,
    fljob,
)
from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BACKSLASH = "\\."  # a dot of a name, in kubectl's paths


# -- a job --------------------------------------------------------------------------------------
def test_a_job_gives_the_model_of_lifl_run(
    lifl: Installation, run: Run, kubectl: Kubectl, expected: dict[str, np.ndarray]
) -> None:
    job = run(digits(ROUNDS))
    job.wait("condition=Placed")
    check(job, expected)
    status = job.status
    assert status["figures"]["accuracy"] > 0.9
    assert {node["name"]: node["clients"] for node in status["tree"]["nodes"]}.keys() == {
        node["metadata"]["name"] for node in kubectl.get("nodes")["items"]
    }
    assert sum(node["clients"] for node in status["tree"]["nodes"]) == 16
    assert {"Placed", "Started", "Engine", "RoundsStarted", "Complete"} <= job.events()
    assert f"{ROUNDS}/{ROUNDS}" in kubectl("get", "fljob/digits", "--no-headers")

    rows = job.rows()
    assert [row["clients"] for row in rows] == [16] * ROUNDS
    moved = sum(row["handoffs"]["ebpf"] for row in rows)
    assert moved >= ROUNDS * (16 + 2 * 2 + 2)  # updates to leaves, leaves to middles, to the top
    assert not any(row["handoffs"]["unix"] for row in rows)
    _no_byte_went_over_a_network(lifl, rows)

    _at_zero(lifl)


def _no_byte_went_over_a_network(lifl: Installation, rows: list[dict[str, Any]]) -> None:
    """Functions have an interface, over which nothing of the updates went."""
    updates = sum(row["bytes"] for row in rows)
    for pod in lifl.pods("function"):
        containers = [each["name"] for each in pod["spec"]["containers"]]
        assert containers == ["function"]  # and no queue-proxy
        said = lifl.functions(
            "exec", pod["metadata"]["name"], "--", "cat",
            "/sys/class/net/eth0/statistics/rx_bytes", "/sys/class/net/eth0/statistics/tx_bytes",
        )  # fmt: skip
        assert sum(map(int, said.split())) < min(20_000, updates / 10), pod["metadata"]["name"]


def _at_zero(lifl: Installation) -> None:
    lifl.functions("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    assert lifl.pods("function") == []


def test_a_deleted_job_leaves_nothing(lifl: Installation, run: Run, kubectl: Kubectl) -> None:
    job = run(digits(200))
    job.wait("condition=Running")
    kubectl("delete", "fljob/digits", "--wait=true", f"--timeout={PATIENCE_S}s")
    for what in ("jobs", "pods"):
        kubectl("wait", what, "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    assert kubectl("get", "jobs,pods,secrets,configmaps", "--output=name").split() == [
        "configmap/kube-root-ca.crt"
    ]
    lifl.functions("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    assert lifl.functions("get", "deployments", "--output=name") == ""
    records = lifl.system("get", "secrets", "--selector=lifl.dev/component=record", "-oname")
    assert records == ""
    for pod in lifl.pods("agent"):
        name = pod["metadata"]["name"]
        left = lifl.system("exec", name, "--", "sh", "-c", "ls /run/lifl/state/job-* || true")
        assert left == ""
        shown = lifl.system("exec", name, "--", "sh", "-c", "ls -l /proc/1/fd")
        assert "memfd" not in shown


def test_time_to_live(run: Run, kubectl: Kubectl) -> None:
    job = run(digits(1, ttlSecondsAfterFinished=0))
    kubectl("wait", f"fljob/{job.name}", "--for=delete", f"--timeout={PATIENCE_S}s")


def test_suspend_and_go_on(lifl: Installation, run: Run, kubectl: Kubectl) -> None:
    """Between the two nothing of it runs, and no round is lost."""
    rounds = 60
    job = run(digits(rounds))
    job.wait("condition=Running")
    kubectl("patch", "fljob/digits", "--type=merge", "--patch", '{"spec": {"suspend": true}}')
    job.wait("condition=Suspended")
    _at_zero(lifl)
    kubectl("wait", "pods", "--selector=lifl.dev/component=trainer", "--for=delete",
            f"--timeout={PATIENCE_S}s")  # fmt: skip
    before = job.status["round"]
    assert 0 < before < rounds
    kubectl("patch", "fljob/digits", "--type=merge", "--patch", '{"spec": {"suspend": false}}')
    assert job.complete()["progress"] == f"{rounds}/{rounds}"
    assert [row["round"] for row in job.rows()] == list(range(1, rounds + 1))


def test_what_cannot_be_is_refused_with_its_fix(kubectl: Kubectl, lifl: Installation) -> None:
    wrong = fljob("digits", digits(1, clients={"min": 17}))
    said = kubectl("apply", "--filename=-", stdin=json.dumps(wrong), fails=True)
    assert "clients.min" in said


def test_knative_without_its_webhook_is_refused(run: Run) -> None:
    job = run(digits(1, functions={"runtime": "knative"}))
    job.wait("condition=Accepted=false")
    said = next(c["message"] for c in job.status["conditions"] if c["type"] == "Accepted")
    assert "webhook.enabled: true" in said


def test_what_fits_nowhere_says_the_numbers(run: Run, cluster: Kubectl, nodes: list[str]) -> None:
    """Those that stand on the nodes, too."""
    for node in nodes:
        notes = cluster.get(f"node/{node}")["metadata"]["annotations"]
        assert notes["lifl.dev/arena-memory"] == str(256 << 20)
        assert int(notes["lifl.dev/cores"]) > 0
        assert int(notes["lifl.dev/fold-bytes-per-second"]) > 1 << 20
        assert int(notes["lifl.dev/ingress-bytes-per-second"]) > 1 << 20
    job = run(digits(1, memory={"arenaBytes": "1Gi"}))
    job.wait("condition=Placed=false")
    said = next(c["message"] for c in job.status["conditions"] if c["type"] == "Placed")
    assert str(1 << 30) in said
    assert str(256 << 20) in said


def test_a_higher_priority_comes_first_and_the_other_goes_on_after_it(
    run: Run, kubectl: Kubectl
) -> None:
    """Each of the two has enough clients for all of both nodes."""
    four = {
        "clients": {"min": 4}, "memory": {"inputSlots": 2},
        "trainer": digits(1)["trainer"] | {"clients": 4, "replicas": 1},
    }  # fmt: skip
    low = run(digits(2000, **four), "low")
    low.wait("jsonpath={.status.round}=2")
    high = run(digits(ROUNDS, **four, placement={"priority": 3}), "high")
    low.wait("condition=Placed=false")
    said = next(c for c in low.status["conditions"] if c["type"] == "Placed")
    assert said["reason"] == "NoShare"
    assert "high (priority 3) 2" in said["message"]
    assert high.complete()["progress"] == f"{ROUNDS}/{ROUNDS}"
    assert [row["clients"] for row in high.rows()] == [4] * ROUNDS
    low.wait("condition=Placed")
    assert "WaitsForShare" in low.events()
    goal = {"spec": {"stop": {"metric": "accuracy", "atLeast": 0.0}}}  # after the next round
    kubectl("patch", "fljob/low", "--type=merge", "--patch", json.dumps(goal))
    low.complete()
    rows = low.rows()
    assert [row["round"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["clients"] == 4 for row in rows)


def test_a_namespace_has_as_many_jobs_as_its_quota_says(
    lifl: Installation, kubectl: Kubectl, run: Run
) -> None:
    hard = "count/fljobs.fl.lifl.dev"
    kubectl("create", "quota", "jobs", f"--hard={hard}=1")
    kubectl.wait("quota/jobs", f"jsonpath={{.status.hard.{hard.replace('.', BACKSLASH)}}}=1")
    run(digits(1, suspend=True), "first")
    second = json.dumps(fljob("second", digits(1)))
    said = kubectl("apply", "--filename=-", stdin=second, fails=True)
    assert f"exceeded quota: jobs, requested: {hard}=1, used: {hard}=1, limited: {hard}=1" in said
    kubectl("delete", "fljob/first", "--wait=true", f"--timeout={PATIENCE_S}s")
    kubectl.wait("quota/jobs", f"jsonpath={{.status.used.{hard.replace('.', BACKSLASH)}}}=0")
    kubectl("apply", "--filename=-", stdin=second)
    kubectl("delete", "fljob/second", "--wait=true", f"--timeout={PATIENCE_S}s")


@pytest.mark.parametrize(
    ("verb", "what", "may"),
    [
        ("create", "secrets", True), ("delete", "secrets", True), ("get", "secrets", False),
        ("list", "secrets", False), ("watch", "secrets", False), ("patch", "secrets", False),
        ("get", "configmaps", False), ("patch", "nodes", False), ("create", "pods", False),
        ("create", "services", True), ("create", "jobs.batch", True),
    ],
)  # fmt: skip
def test_what_the_operator_may_do_in_the_namespaces_of_jobs(
    lifl: Installation, kubectl: Kubectl, verb: str, what: str, may: bool
) -> None:
    who = f"--as=system:serviceaccount:{lifl.name}:{lifl.name}-operator"
    said = kubectl("auth", "can-i", verb, what, who, fails=not may)
    assert may == (said.strip() == "yes")


def test_the_operator_logs_what_becomes_of_jobs_and_not_each_event(
    lifl: Installation, run: Run
) -> None:
    run(digits(1)).complete()
    said = lifl.system("logs", lifl.leader())
    assert "lifl.operator: functions of" in said
    assert "kopf" not in said


# -- kills --------------------------------------------------------------------------------------
def test_kill_the_operator_in_mid_round(
    lifl: Installation, run: Run, expected: dict[str, np.ndarray]
) -> None:
    """Its coordinator has opened round 3 and stands still; the pod is killed with everything."""
    deployment = f"deployment/{lifl.name}-operator"
    with lifl.armed(deployment, "coordinator:coordinator_round_sent:stop:3"):
        job = run(digits(ROUNDS))
        job.wait("jsonpath={.status.round}=3")
        before, epoch = lifl.leader(), job.status["epoch"]
        lifl.system("delete", f"pod/{before}", "--force", "--grace-period=0")
        check(job, expected)
        assert lifl.leader() != before
        assert job.status["epoch"] > epoch


@pytest.mark.parametrize("point", ["agent_registered", "agent_routed", "agent_poked"])
def test_kill_the_agents(
    lifl: Installation, run: Run, expected: dict[str, np.ndarray], point: str
) -> None:
    with lifl.armed(f"daemonset/{lifl.name}-agent", f"agent:{point}:kill:1"):
        job = run(digits(ROUNDS))
        check(job, expected)
        lifl.killed("agent", job)


@pytest.mark.parametrize("point", ["gateway_sealed", "gateway_acked", "gateway_closed"])
def test_kill_the_gateways(
    lifl: Installation, run: Run, expected: dict[str, np.ndarray], point: str
) -> None:
    with lifl.armed(f"daemonset/{lifl.name}-gateway", f"gateway:{point}:kill:2"):
        job = run(digits(ROUNDS))
        check(job, expected)
        lifl.killed("gateway", job)


def test_kill_an_aggregator_in_each_role(
    lifl: Installation, run: Run, kubectl: Kubectl, expected: dict[str, np.ndarray]
) -> None:
    run(digits(1), "first").complete()  # so that the Deployments are there
    faults = "leaf:fold_committed:kill:2,middle:sum_sealed:kill:2,top:fold_written:kill:2"
    patch = {"spec": {"template": {"spec": {
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [{
            "name": "function", "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "env": [{"name": "LIFL_FAULT", "value": faults},
                    {"name": "LIFL_FAULT_DIR", "value": "/tmp"}],
        }],
    }}}}  # fmt: skip
    for each in lifl.functions("get", "deployments", "--output=name").split():
        lifl.functions("patch", each, "--type=strategic", "--patch", json.dumps(patch))
    job = run(digits(ROUNDS))
    check(job, expected)
    assert {"leaf", "middle", "top"} <= _restarted(kubectl, job)


def _restarted(kubectl: Kubectl, job: Job) -> set[str]:
    chosen = f"--field-selector=involvedObject.name={job.name},reason=Restarted"
    events = kubectl.get("events", chosen)["items"]
    return {event["message"].partition(" on ")[0] for event in events}


def test_agents_without_a_job_are_replaced_and_gateways_stay(lifl: Installation, run: Run) -> None:
    """The next agents have other keys, since nothing was left to them; no container ends for it."""

    def restarts() -> dict[str, int]:
        return {
            pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["restartCount"]
            for pod in lifl.pods("gateway")
        }

    before = restarts()
    for _ in range(2):
        lifl.system("rollout", "restart", f"daemonset/{lifl.name}-agent")
        lifl.system("rollout", "status", f"daemonset/{lifl.name}-agent", f"--timeout={PATIENCE_S}s")
    run(digits(1)).complete()
    assert restarts() == before


LEFT = """
import os, sys
from pathlib import Path

name = sys.argv[1]
for path in Path("/host/run", name).rglob("*"):
    if not path.is_dir():
        print("file", path)
for path in Path("/host/bpf").glob("*"):
    if name in path.name:
        print("pin", path)
for line in Path("/proc/1/mounts").read_text().splitlines():
    if name in line:
        print("mount", line)
for process in Path("/proc").glob("[0-9]*"):
    try:
        words = (process / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
        files = [os.readlink(each) for each in (process / "fd").iterdir()]
    except OSError:
        continue
    if int(process.name) != os.getpid() and (name in words or "-m lifl" in words):
        print("process", words)
    for each in files:
        if each.startswith("/memfd:lifl"):
            print("memory", process.name, each)
"""


# -- the end ------------------------------------------------------------------------------------
def test_uninstalling_leaves_nothing_on_the_nodes(
    cluster: Kubectl, lifl: Installation, run: Run, pods: Pods, nodes: list[str]
) -> None:
    """Also with a job that runs: the chart's hook deletes it first."""
    job = run(digits(200))
    job.wait("condition=Running")
    lifl.helm("uninstall", lifl.name, "--wait", f"--timeout={PATIENCE_S}s")
    lifl.system("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    for node in nodes:
        ended = pods.run(
            f"look-{node}", ["python", "-c", LEFT, lifl.name], node=node, hostPID=True,
            security={"runAsUser": 0, "runAsNonRoot": False},
            mounts=[{"name": "run", "mountPath": "/host/run"},
                    {"name": "bpf", "mountPath": "/host/bpf"}],
            volumes=[{"name": "run", "hostPath": {"path": "/run"}},
                     {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}],
        )  # fmt: skip
        assert (ended.status, ended.log) == (0, ""), ended
    for node in nodes:
        notes = cluster.get(f"node/{node}")["metadata"]["annotations"]
        assert not [name for name in notes if name.startswith("lifl.dev/")]
    everywhere = cluster("get", "clusterroles,clusterrolebindings", "--output=name")
    assert lifl.name not in everywhere
    kinds = "deployments,daemonsets,jobs,pods,services,secrets,leases,configmaps"
    left = lifl.system("get", kinds, "--output=name").split()  # `all` has FLJobs, which are gone
    assert left == ["configmap/kube-root-ca.crt"]
