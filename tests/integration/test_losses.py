"""A node is lost in mid-round: the round goes on without it, every update exactly once."""

from __future__ import annotations

import pytest
from conftest import PROXY, Run, Runner
from test_runs import check

SPREAD = {"policy": "worstfit", "nodeGraceS": 2}


def lose(runner: Runner, *faults: str, nodes: int = 2, rounds: int = 2, **spec: object) -> Run:
    run = runner(
        "--nodes", str(nodes), "--proxy", PROXY, "--liveness", "1", trainers=4, rounds=rounds,
        aggregation={"fanIn": 2}, placement=SPREAD, **spec, env={"LIFL_FAULT": ",".join(faults)},
    )  # fmt: skip
    points = {name.rpartition(":")[0] for name in run.fired}
    assert points == {":".join(fault.split(":")[:2]) for fault in faults}
    check(run, rounds=rounds, clients=4)
    return run


@pytest.mark.parametrize(
    "point", ["gateway_acked:lose:1", "gateway_forwarded:lose:1", "gateway_closed:lose:1"]
)
def test_a_node_with_a_leaf_is_lost(runner: Runner, point: str) -> None:
    run = lose(runner, f"gateway@node-1:{point}")
    assert [event["node"] for event in run.of("node_lost")] == ["node-1"]


@pytest.mark.parametrize(
    "point", ["gateway_acked:lose:1", "gateway_acked:lose:2", "gateway_closed:lose:1"]
)
def test_the_node_with_the_top_is_lost(runner: Runner, point: str) -> None:
    run = lose(runner, f"gateway@node-0:{point}")
    assert [event["node"] for event in run.of("node_lost")] == ["node-0"]
