"""FLJobs on a real cluster: the model that `lifl run` gives, whatever is killed meanwhile.

Each kill is at a named point (lifl/faults.py), or while the coordinator stands still at one, and
what was killed is shown to have been.  The model is compared with that of `lifl run` for the same
file: five rounds of training carry a difference of one unit in the last place to 1e-6 or so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from tests.cluster.installation import (
    CRD,
    PATIENCE_S,
    Installation,
    Job,
    digits,
    fljob,
    new_name,
    run_here,
)
from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROUNDS = 5
FAR = 1e-4
Run = Callable[..., Job]


@pytest.fixture(scope="module")
def lifl(cluster: Kubectl) -> Iterator[Installation]:
    if shutil.which("helm") is None:
        pytest.fail("helm is not in PATH")
    there = cluster("get", CRD, "--ignore-not-found", "--output=name")
    lifl = Installation(new_name(), brings_crd=not there)
    try:
        lifl.install()
        yield lifl
    finally:
        patience = f"--timeout={PATIENCE_S}s"
        lifl.helm("uninstall", lifl.name, "--ignore-not-found", "--wait", patience)
        for namespace in (lifl.name, lifl.functions.namespace):
            cluster("delete", "namespace", namespace, "--ignore-not-found", "--wait=true")


@pytest.fixture
def run(lifl: Installation, kubectl: Kubectl) -> Iterator[Run]:
    """Apply an FLJob; it is deleted after the test, which shows that its finalizer lets go."""
    names: list[str] = []

    def apply(spec: dict[str, Any], name: str = "digits") -> Job:
        kubectl.apply(fljob(name, spec))
        names.append(name)
        return Job(kubectl, name, lifl)

    yield apply
    if not kubectl("get", CRD, "--ignore-not-found", "--output=name"):
        return  # it went with the chart, and with it every FLJob
    for name in names:
        kubectl("delete", f"fljob/{name}", "--wait=true", f"--timeout={PATIENCE_S}s",
                "--ignore-not-found")  # fmt: skip


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The model that `lifl run` gives for the same spec."""
    spec = {name: value for name, value in digits(ROUNDS).items() if name != "template"}
    return load_file(run_here(spec, tmp_path_factory.mktemp("here") / "job"))


def check(job: Job, expected: dict[str, np.ndarray]) -> None:
    status = job.complete()
    assert status["progress"] == f"{ROUNDS}/{ROUNDS}"
    model = load(job.file("model.safetensors"))
    assert model.keys() == expected.keys()
    for name, value in expected.items():
        assert np.abs(model[name] - value).max() < FAR, name


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


def test_what_fits_nowhere_says_the_numbers(run: Run) -> None:
    job = run(digits(1, memory={"arenaBytes": "1Gi"}))
    job.wait("condition=Placed=false")
    said = next(c["message"] for c in job.status["conditions"] if c["type"] == "Placed")
    assert str(1 << 30) in said
    assert str(256 << 20) in said


def test_a_higher_priority_comes_first_and_the_other_goes_on_after_it(
    run: Run, kubectl: Kubectl, expected: dict[str, np.ndarray]
) -> None:
    """Each of the two has enough clients for all of both nodes."""
    low = run(digits(2000), "low")
    low.wait("jsonpath={.status.round}=2")
    high = run(digits(ROUNDS, placement={"priority": 3}), "high")
    low.wait("condition=Placed=false")
    said = next(c for c in low.status["conditions"] if c["type"] == "Placed")
    assert said["reason"] == "NoShare"
    assert "high (priority 3) 8" in said["message"]
    check(high, expected)
    low.wait("condition=Placed")
    assert "WaitsForShare" in low.events()
    goal = {"spec": {"stop": {"metric": "accuracy", "atLeast": 0.0}}}  # after the next round
    kubectl("patch", "fljob/low", "--type=merge", "--patch", json.dumps(goal))
    low.complete()
    rows = low.rows()
    assert [row["round"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["clients"] == 16 for row in rows)


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


# -- who may not ----------------------------------------------------------------------------------
JOIN = """
import json, socket, sys
sys.path.insert(0, "/opt/lifl/lib/python3.11/site-packages")
from lifl.errors import Unreachable
from lifl.proxy_ebpf.control import Control
from pathlib import Path
control = Control.connect(Path("/run/lifl/agent.sock"))
control.send({"t": sys.argv[1], "endpoint": "x", "token": open("/token/token").read()})
print(json.dumps(control.receive()[0]))
"""


@pytest.mark.parametrize("what", ["runtime", "gateway", "keys"])
def test_a_pod_of_a_tenant_does_not_join(
    lifl: Installation, pods: Pods, nodes: list[str], what: str
) -> None:
    """It has the socket, which takes a host path, and its own token for the agent's audience."""
    before = sum(lifl.figures("lifl_joins_refused_total").values())
    token = {"audience": "lifl-agent", "path": "token"}
    ended = pods.run(
        "intruder", ["python", "-c", JOIN, what], node=nodes[0],
        security={"runAsNonRoot": True, "runAsUser": 10001},
        mounts=[{"name": "socket", "mountPath": "/run/lifl", "readOnly": True},
                {"name": "token", "mountPath": "/token"}],
        volumes=[
            {"name": "socket", "hostPath": {"path": f"/run/{lifl.name}/{nodes[0]}/socket"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        ],
    )  # fmt: skip
    assert ended.status == 0, ended
    said = json.loads(ended.log)
    assert (said["t"], said["code"]) == ("refused", "not-allowed")
    assert sum(lifl.figures("lifl_joins_refused_total").values()) == before + 1


# -- the end ------------------------------------------------------------------------------------
def test_uninstalling_leaves_nothing_on_the_nodes(
    cluster: Kubectl, lifl: Installation, run: Run, pods: Pods, nodes: list[str]
) -> None:
    """Also with a job that runs: the chart's hook deletes it first."""
    job = run(digits(200))
    job.wait("condition=Running")
    lifl.helm("uninstall", lifl.name, "--wait", f"--timeout={PATIENCE_S}s")
    lifl.system("wait", "pods", "--all", "--for=delete", f"--timeout={PATIENCE_S}s")
    look = f"find /host/run/{lifl.name} -not -type d; ls /host/bpf | grep {lifl.name} || true"
    for node in nodes:
        ended = pods.run(
            f"look-{node}", ["sh", "-c", look], node=node,
            security={"runAsUser": 0, "runAsNonRoot": False},
            mounts=[{"name": "run", "mountPath": "/host/run"},
                    {"name": "bpf", "mountPath": "/host/bpf"}],
            volumes=[{"name": "run", "hostPath": {"path": "/run"}},
                     {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}],
        )  # fmt: skip
        assert (ended.status, ended.log) == (0, ""), ended
    everywhere = cluster("get", "clusterroles,clusterrolebindings", "--output=name")
    assert lifl.name not in everywhere
    kinds = "deployments,daemonsets,jobs,pods,services,secrets,leases,configmaps"
    left = lifl.system("get", kinds, "--output=name").split()  # `all` has FLJobs, which are gone
    assert left == ["configmap/kube-root-ca.crt"]
