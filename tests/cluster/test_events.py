"""CloudEvents of a job at a sink that is a pod, also one that comes when the job is over."""

from __future__ import annotations

import json
import subprocess
import threading
from typing import Any

import pytest

from tests.cluster.installation import PATIENCE_S, Installation, Run, digits
from tests.cluster.kubectl import Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SINK = """
import http.server
class Sink(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(202)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 8080), Sink).serve_forever()
"""
ROUNDS = 3


@pytest.fixture
def url(kubectl: Kubectl) -> str:
    kubectl.apply({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sink"},
        "spec": {"selector": {"pod": "sink"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })  # fmt: skip
    return f"http://sink.{kubectl.namespace}.svc/events"


def start(pods: Pods, kubectl: Kubectl) -> None:
    pods.start("sink", ["python", "-c", SINK], security={"runAsNonRoot": True, "runAsUser": 10001})
    kubectl.wait("pod/sink", "condition=Ready")


def heard(kubectl: Kubectl) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kubectl("logs", "sink").splitlines()]


def until_it_has_all(kubectl: Kubectl) -> list[dict[str, Any]]:
    """Follows the sink's log to the job's last event."""
    follow = ["kubectl", f"--namespace={kubectl.namespace}", "logs", "--follow", "sink"]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as log:
        giving_up = threading.Timer(PATIENCE_S, log.kill)
        giving_up.start()
        assert log.stdout is not None
        has_all = any("dev.lifl.job.completed" in line for line in log.stdout)
        giving_up.cancel()
        log.kill()
    assert has_all
    return heard(kubectl)


def check(events: list[dict[str, Any]], job: str) -> None:
    kinds = [event["type"].removeprefix("dev.lifl.") for event in events]
    assert (kinds[0], kinds[-1]) == ("job.started", "job.completed")
    for kind in ("model.published", "round.completed"):
        rounds = [e["data"]["round"] for e in events if e["type"] == f"dev.lifl.{kind}"]
        assert rounds == list(range(1, ROUNDS + 1)), kind
    assert {event["data"]["job"] for event in events} == {job}
    assert {event["specversion"] for event in events} == {"1.0"}
    assert len({(event["source"], event["id"]) for event in events}) == len(events)
    done = events[-1]["data"]
    assert done["rounds"] == ROUNDS
    assert done["place"].endswith("/model.safetensors")


def test_a_sink_hears_what_becomes_of_a_job(
    lifl: Installation, run: Run, kubectl: Kubectl, pods: Pods, url: str
) -> None:
    start(pods, kubectl)
    run(digits(ROUNDS, eventSink=url)).complete()
    events = until_it_has_all(kubectl)
    check(events, f"{kubectl.namespace}/digits")
    completed = [e for e in events if e["type"] == "dev.lifl.round.completed"]
    assert {e["data"]["clients"] for e in completed} == {16}
    path = f"/apis/fl.lifl.dev/v1alpha1/namespaces/{kubectl.namespace}/fljobs/digits"
    assert {e["source"] for e in events} == {path}
    assert lifl.operator_figure("lifl_sink_events_total") == len(events)


def test_a_sink_that_is_away_delays_no_round_and_hears_of_all_later(
    lifl: Installation, run: Run, kubectl: Kubectl, pods: Pods, url: str
) -> None:
    before = lifl.operator_figure("lifl_sink_retries_total")
    job = run(digits(ROUNDS, eventSink=url))
    status = job.complete()
    assert status["progress"] == f"{ROUNDS}/{ROUNDS}"
    assert lifl.operator_figure("lifl_sink_waiting") > 2 * ROUNDS
    assert lifl.operator_figure("lifl_sink_retries_total") > before
    start(pods, kubectl)
    check(until_it_has_all(kubectl), f"{kubectl.namespace}/digits")
    assert lifl.operator_figure("lifl_sink_waiting") == 0
