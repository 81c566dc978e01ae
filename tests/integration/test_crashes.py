"""Every named fault point, in every process that passes it: the round gives the right model.

A process kills (or stops) itself at the point; nothing here is timed by a sleep.  The point that
fired is a file in the faults folder, so a point that is never reached fails its test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PROXY, Run, Runner
from test_runs import check

from lifl.faults import POINTS

FOLD = ["fold_writing", "fold_written", "fold_committed"]
JOIN = ["role_locked", "role_registered", "role_scanned"]
SUM = ["input_released", "release_sent", "sum_sealed", "sum_sent"]
GATEWAY = [
    "gateway_writing", "gateway_payload_partial", "gateway_sealed", "gateway_accepted",
    "gateway_sent", "gateway_acked", "gateway_closed", "gateway_flushed", "gateway_published",
    "gateway_model_released", "gateway_rebuilt",
]  # fmt: skip
TREE = {"trainers": 4, "rounds": 2, "aggregation": {"fanIn": 2}, "memory": {"inputSlots": 2}}


def crash(
    runner: Runner, *faults: str, nodes: int = 1, fired: int | None = None, size: int = 1000
) -> Run:
    run = runner(
        "--nodes", str(nodes), "--proxy", PROXY, "--liveness", "1",
        **TREE, env={"LIFL_FAULT": ",".join(faults), "TOY_SIZE": str(size)},
    )  # fmt: skip
    points = {name.rpartition(":")[0] for name in run.fired}
    assert points == {":".join(fault.split(":")[:2]) for fault in faults}
    check(run, rounds=2, clients=4)
    return run


@pytest.mark.parametrize("point", [*JOIN, *FOLD, *SUM])
@pytest.mark.parametrize("role", ["leaf", "middle", "top"])
def test_kill_an_aggregator(runner: Runner, role: str, point: str) -> None:
    run = crash(runner, f"{role}:{point}:kill:1")
    assert [event["what"] for event in run.of("restart")] == [f"{role} on node-0"]


@pytest.mark.parametrize("point", GATEWAY)
def test_kill_the_gateway(runner: Runner, point: str) -> None:
    run = crash(runner, f"gateway:{point}:kill:1")
    assert [event["what"] for event in run.of("restart")] == ["gateway on node-0"]


@pytest.mark.parametrize(
    ("point", "nth"),
    [("gateway_writing", 2), ("gateway_payload_partial", 3), ("gateway_sealed", 1),
     ("gateway_acked", 1), ("gateway_rebuilt", 1)],
)  # fmt: skip
def test_kill_the_gateway_of_the_bulk_port(runner: Runner, point: str, nth: int) -> None:
    """Updates of three chunks; no ticket and no connection outlives the gateway."""
    crash(runner, f"gateway:{point}:kill:{nth}", size=700_001)


@pytest.mark.parametrize("point", ["gateway_sealed", "gateway_accepted", "gateway_acked"])
def test_kill_the_gateway_with_the_last_update(runner: Runner, point: str) -> None:
    crash(runner, f"gateway:{point}:kill:4")


@pytest.mark.parametrize(
    ("point", "nth"),
    [("agent_registered", 1), ("agent_registered", 4), ("agent_poked", 1), ("agent_poked", 4),
     ("agent_routed", 1)],
)  # fmt: skip
def test_kill_the_agent(runner: Runner, point: str, nth: int) -> None:
    run = crash(runner, f"agent:{point}:kill:{nth}")
    assert any("agent" in e["what"] for e in run.of("restart"))


def test_kill_the_agent_when_it_saw_a_death(runner: Runner) -> None:
    crash(runner, "leaf:fold_written:kill:1", "agent:agent_saw_death:kill:1")


def test_kill_the_agent_when_it_has_started_another_gateway(runner: Runner) -> None:
    """The next agent finds it, though nobody wrote it down: the port is that gateway's."""
    crash(runner, "gateway:gateway_accepted:kill:1", "agent:agent_gateway_started:kill:2")


def test_kill_the_agent_that_restarted(runner: Runner) -> None:
    crash(runner, "agent:agent_poked:kill:3", "agent:agent_restarted:kill:1")


@pytest.mark.parametrize("role", ["leaf", "middle", "top"])
@pytest.mark.parametrize("point", ["fold_written", "input_released", "sum_sealed"])
def test_stop_an_aggregator(runner: Runner, role: str, point: str) -> None:
    """It is alive and holds the lock: its successor waits until it is fenced."""
    crash(runner, f"{role}:{point}:stop:1")


@pytest.mark.losses
@pytest.mark.parametrize("role", ["leaf", "middle", "top"])
def test_stop_an_aggregator_that_has_not_joined(runner: Runner, role: str) -> None:
    """It holds the lock and answers nothing yet: takes as long as a start may take."""
    crash(runner, f"{role}:role_locked:stop:1")


def test_stop_the_gateway(runner: Runner) -> None:
    crash(runner, "gateway:gateway_sealed:stop:2")


def test_kill_the_gateway_that_forwarded(runner: Runner) -> None:
    crash(runner, "gateway:gateway_forwarded:kill:1", nodes=2)


@pytest.mark.parametrize("point", ["gateway_sealed", "gateway_accepted", "gateway_sent"])
def test_kill_the_gateway_that_takes_the_other_nodes_sum(runner: Runner, point: str) -> None:
    """Two updates of its own clients, then the sum."""
    crash(runner, f"gateway@node-0:{point}:kill:3", nodes=2)


@pytest.mark.parametrize(
    ("node", "point", "nth"),
    [("node-1", "gateway_forwarded", 1), ("node-0", "gateway_payload_partial", 8),
     ("node-0", "gateway_sealed", 3)],
)  # fmt: skip
def test_kill_a_gateway_of_a_sum_on_the_bulk_port(
    runner: Runner, node: str, point: str, nth: int
) -> None:
    """Two updates and a sum, three chunks each, come to node-0."""
    crash(runner, f"gateway@{node}:{point}:kill:{nth}", nodes=2, size=700_001)


@pytest.mark.parametrize("role", ["leaf", "middle", "top"])
def test_kill_an_aggregator_that_leaves(runner: Runner, role: str) -> None:
    crash(runner, f"{role}:role_left:kill:1")


def test_every_point_is_killed_somewhere() -> None:
    """Read from this file as it stands, so that a test that goes takes its point with it."""
    text = Path(__file__).read_text()
    killed = {point for point in POINTS if f'"{point}"' in text or f":{point}:" in text}
    assert killed == set(POINTS)
