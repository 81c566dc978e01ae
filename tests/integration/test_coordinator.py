"""The coordinator killed at each of its named points: the next one finishes the round."""

from __future__ import annotations

import pytest
from conftest import PROXY, Runner
from test_runs import check

from lifl.faults import COORDINATOR_POINTS

ROUNDS = 8
KILLS = (
    ("coordinator_plan_saved:1", "coordinator_accepted:3", "coordinator_published:4",
     "checkpoint_written:1"),
    ("coordinator_plan_sent:1", "coordinator_round_saved:2", "coordinator_all_in:5",
     "coordinator_row_written:5"),
    ("coordinator_round_sent:2", "coordinator_close_sent:5", "checkpoint_partial:1",
     "coordinator_files_written:1"),
)  # fmt: skip


@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: kills[0])
def test_kill_the_coordinator_again_and_again(runner: Runner, kills: tuple[str, ...]) -> None:
    """On two nodes, each of which has to be heard again; several kills spare starting runs."""
    faults = ["coordinator:{}:kill:{}".format(*kill.split(":")) for kill in kills]
    run = runner(
        "--nodes", "2", "--proxy", PROXY, rounds=ROUNDS, trainers=4, aggregation={"fanIn": 2},
        memory={"inputSlots": 2}, env={"LIFL_FAULT": ",".join(faults)},
    )  # fmt: skip
    fired = {name.rpartition(":")[0] for name in run.fired}
    assert fired == {f"coordinator:{kill.partition(':')[0]}" for kill in kills}
    check(run, rounds=ROUNDS, clients=4)
    restarts = [e["what"] for e in run.of("restart")]
    assert {*restarts} == {"coordinator"}, run.stderr
    # a checkpoint is written in a thread of its own: one process may be killed at both points
    assert len(kills) - 1 <= len(restarts) <= len(kills)
    assert run.summary["updates"] == 4 * ROUNDS
    for what in (lambda row: row["bytes"], lambda row: row["metrics"]["index"]):
        assert {what(row) for row in run.rows} == {what(run.rows[0])}


def test_every_point_is_killed_somewhere() -> None:
    """Those of a loss in test_losses.py."""
    of_a_loss = {f"coordinator_{step}" for step in ("loss_saved", "fenced", "moved", "settled")}
    killed = {kill.partition(":")[0] for kills in KILLS for kill in kills}
    assert killed | of_a_loss == set(COORDINATOR_POINTS)
