"""What an FLJob needs next."""

from __future__ import annotations

from lifl.api.status import Status
from lifl.placement.cluster.decide import Decision, Ready, Seen, decide
from tests.unit.clusterjobs import job

NODES = (
    Ready(name="n1", key="key of n1", endpoint="tcp://10.0.0.1:7710", budget_bytes=1 << 30),
    Ready(name="n2", key="key of n2", endpoint="tcp://10.0.0.2:7710", budget_bytes=1 << 28),
)
PLACED = {node.name: node.key for node in NODES}


def so(decision: Decision, kind: str) -> bool | None:
    return next((said.so for said in decision.conditions if said.type == kind), None)


def test_without_a_node_it_waits_and_says_why() -> None:
    found = decide(job(), Seen(status=Status()))
    assert (found.phase, so(found, "Accepted"), so(found, "Placed")) == ("Pending", True, False)
    assert "no node is ready" in found.message
    assert not found.coordinator
    assert not found.members


def test_nodes_that_are_ready_are_given_to_it_once() -> None:
    found = decide(job(), Seen(status=Status(), nodes=NODES))
    assert (found.phase, found.place, so(found, "Placed")) == ("Placed", PLACED, True)
    again = decide(job(), Seen(status=Status(), nodes=NODES[:1], placed=PLACED))
    assert again.place == {}


def test_a_node_whose_budget_is_too_small_is_none_of_its() -> None:
    large = job(memory={"arenaBytes": "512Mi"})
    assert decide(large, Seen(status=Status(), nodes=NODES)).place == {"n1": "key of n1"}


def test_what_fits_nowhere_says_the_numbers() -> None:
    found = decide(job(memory={"arenaBytes": "2Gi"}), Seen(status=Status(), nodes=NODES))
    assert so(found, "Placed") is False
    for number in (2 << 30, 1 << 30, 1 << 28):
        assert str(number) in found.message


def test_the_initial_model_comes_before_everything_else() -> None:
    found = decide(job(), Seen(status=Status(), placed=PLACED))
    assert (found.members, found.coordinator) == (("initial",), False)
    found = decide(job(), Seen(status=Status(), placed=PLACED, has_initial=True))
    assert (found.members, found.coordinator) == (("trainer",), True)


def test_an_evaluator_gets_a_pod_of_its_own() -> None:
    evaluated = job(evaluator={"entrypoint": "toy:evaluate"})
    found = decide(evaluated, Seen(status=Status(), placed=PLACED, has_initial=True))
    assert found.members == ("evaluator", "trainer")


def test_a_job_that_a_cluster_cannot_run_is_not_accepted() -> None:
    found = decide(job(insecure=True), Seen(status=Status(), nodes=NODES))
    assert (so(found, "Accepted"), found.place, found.coordinator) == (False, {}, False)
    assert "insecure" in found.message


def test_suspended_it_finishes_its_round_and_then_nothing_of_it_runs() -> None:
    running = Status(phase="Running")
    seen = Seen(status=running, placed=PLACED, has_initial=True, is_running=True)
    first = decide(job(suspend=True), seen)
    assert (first.phase, first.coordinator, first.pause, first.clear) == (
        "Running", True, True, False,
    )  # fmt: skip
    found = decide(job(suspend=True), Seen(status=running, placed=PLACED, has_initial=True))
    assert (found.phase, found.coordinator, found.members, found.clear) == (
        "Suspended", False, (), True,
    )  # fmt: skip
    assert (so(found, "Suspended"), so(found, "Running")) == (True, False)
    after = decide(
        job(), Seen(status=Status(phase="Suspended"), placed=PLACED, has_initial=True)
    )
    assert (after.coordinator, so(after, "Suspended")) == (True, False)


def test_pods_that_fail_for_good_end_the_job() -> None:
    seen = Seen(
        status=Status(phase="Running"), placed=PLACED, has_initial=True,
        failures={"trainer": "BackoffLimitExceeded"},
    )  # fmt: skip
    found = decide(job(), seen)
    assert found.failed == ("MemberFailed", "the pods of the trainer have failed: "
                            "BackoffLimitExceeded")  # fmt: skip
    assert not found.coordinator


def test_after_its_end_nothing_of_it_is_started() -> None:
    for phase in ("Complete", "Failed"):
        seen = Seen(status=Status(phase=phase), nodes=NODES, placed=PLACED, has_initial=True)
        found = decide(job(), seen)
        assert (found.phase, found.coordinator, found.members, found.place) == (
            phase, False, (), {},
        )  # fmt: skip
        assert found.clear is (phase == "Failed")


def test_a_job_for_which_nothing_is_left_is_not_placed_and_says_the_numbers() -> None:
    why = "waits for a share of the nodes: n1 takes 8 of its updates at once, of which has b 8"
    seen = {"placed": PLACED, "has_initial": True, "crowded_out": why}
    found = decide(job(), Seen(status=Status(), **seen))
    assert (found.phase, so(found, "Placed"), found.message) == ("Pending", False, why)
    assert found.coordinator  # which goes on as soon as it has a share
    assert decide(job(), Seen(status=Status(phase="Running"), **seen)).phase == "Running"
    after = decide(job(), Seen(status=Status(phase="Pending"), placed=PLACED, has_initial=True))
    assert (after.phase, so(after, "Placed")) == ("Placed", True)


def test_a_job_whose_functions_cannot_run_is_not_accepted() -> None:
    found = decide(job(), Seen(status=Status(), nodes=NODES, no_runtime="there is no Knative"))
    assert (found.phase, so(found, "Accepted")) == ("Pending", False)
    assert found.message == "there is no Knative"
    assert not found.place
