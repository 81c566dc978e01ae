"""A node is lost in mid-round: the round goes on without it, every update exactly once.

`make test` loses a node at a few points; `make test-losses` at all of them.
"""

from __future__ import annotations

import pytest
import toy
from click.testing import CliRunner
from conftest import PROXY, Run, Runner, wait_until
from test_runs import check

from lifl.cli import main
from lifl.cli.memory import find

SMALL, LARGE = 1000, 700_001  # elements: a large model goes over the bulk port
SPREAD = {"policy": "worstfit", "nodeGraceS": 2}
LEAF = ("gateway_writing:1", "gateway_sealed:1", "gateway_accepted:2", "gateway_acked:2",
        "gateway_closed:1", "gateway_flushed:1", "gateway_model_released:1")  # fmt: skip
TOP = ("gateway_writing:1", "gateway_sealed:2", "gateway_sealed:3", "gateway_acked:3",
       "gateway_closed:1", "gateway_flushed:1", "gateway_published:2",
       "gateway_model_released:2")  # fmt: skip
STEPS = ("loss_saved", "fenced", "moved", "settled")
ROLES = ("leaf@node-1:fold_written", "leaf@node-1:sum_sealed", "top@node-0:fold_written",
         "top@node-0:sum_sealed", "leaf@node-0:input_released")  # fmt: skip


def lose(
    runner: Runner, *faults: str, nodes: int = 2, rounds: int = 3, trainers: int = 4,
    size: int = SMALL, **spec: object,
) -> Run:  # fmt: skip
    run = runner(
        "--nodes", str(nodes), "--proxy", PROXY, "--liveness", "1", trainers=trainers,
        rounds=rounds, aggregation={"fanIn": 2}, placement=SPREAD, **spec,
        env={"LIFL_FAULT": ",".join(faults), "TOY_SIZE": str(size)},
    )  # fmt: skip
    points = {name.rpartition(":")[0] for name in run.fired}
    assert points == {":".join(fault.split(":")[:2]) for fault in faults}
    check(run, rounds=rounds, clients=trainers)
    return run


def lost(run: Run) -> list[str]:
    return [event["node"] for event in run.of("node_lost")]


def test_a_node_is_lost_whose_sum_has_arrived(runner: Runner) -> None:
    """The round ends as it is, and the next one moves both of its clients."""
    run = lose(runner, "gateway@node-1:gateway_forwarded:lose:1")
    assert lost(run) == ["node-1"]
    assert [event["clients"] for event in run.of("moved")] == [2]


def test_two_nodes_are_lost_the_top_among_them_and_the_coordinator_dies(runner: Runner) -> None:
    """It is killed at each of its steps of the first loss; the second is in a round after that."""
    run = lose(
        runner, "gateway@node-2:gateway_acked:lose:1", "gateway@node-0:gateway_closed:lose:2",
        *(f"coordinator:coordinator_{step}:kill:1" for step in STEPS), nodes=3, trainers=6,
    )  # fmt: skip
    assert lost(run) == ["node-2", "node-0"]
    assert [e["what"] for e in run.of("restart")].count("coordinator") == len(STEPS)


def test_the_node_that_everybody_was_on_is_lost(runner: Runner) -> None:
    """No other node has the model: the run goes back to its last checkpoint by itself."""
    run = runner(
        "--nodes", "2", "--proxy", PROXY, "--liveness", "1", trainers=2, rounds=3,
        placement={"policy": "bestfit", "nodeGraceS": 2},
        env={"LIFL_FAULT": "gateway@node-0:gateway_acked:lose:4"},
    )  # fmt: skip
    check(run, rounds=3, clients=2)
    assert lost(run) == ["node-0"]


def test_a_node_is_lost_while_it_is_given_the_first_model(runner: Runner) -> None:
    """`gateway_model_begun`: another has the top then, and is given it."""
    assert lost(lose(runner, "gateway@node-0:gateway_model_begun:lose:1")) == ["node-0"]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_node_is_lost_while_the_last_model_is_fetched(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """`gateway_model_asked`: there is no other copy, and the rounds since the checkpoint, of
    which there is none, are done again.
    """
    monkeypatch.setattr(toy, "SIZE", size)
    run = lose(
        runner, "gateway@node-0:gateway_model_asked:lose:1", rounds=2, checkpoint={"every": 9},
        size=size,
    )
    assert lost(run) == ["node-0"]


@pytest.mark.losses
@pytest.mark.parametrize("point", LEAF)
def test_a_node_with_a_leaf_is_lost(runner: Runner, point: str) -> None:
    name, nth = point.split(":")
    assert lost(lose(runner, f"gateway@node-1:{name}:lose:{nth}")) == ["node-1"]


@pytest.mark.losses
@pytest.mark.parametrize("point", TOP)
def test_the_node_with_the_top_is_lost(runner: Runner, point: str) -> None:
    name, nth = point.split(":")
    assert lost(lose(runner, f"gateway@node-0:{name}:lose:{nth}")) == ["node-0"]


@pytest.mark.losses
@pytest.mark.parametrize("point", ROLES)
def test_a_node_is_lost_while_a_role_works(runner: Runner, point: str) -> None:
    assert len(lost(lose(runner, f"{point}:lose:1"))) == 1


@pytest.mark.losses
@pytest.mark.parametrize("step", ["reopened"])
def test_the_gateway_that_becomes_the_tops_is_killed(runner: Runner, step: str) -> None:
    lose(runner, "gateway@node-0:gateway_closed:lose:1", f"gateway@node-1:gateway_{step}:kill:1")


@pytest.mark.losses
@pytest.mark.parametrize("step", STEPS)
def test_the_coordinator_is_killed_while_the_top_moves(runner: Runner, step: str) -> None:
    lose(
        runner, "gateway@node-0:gateway_acked:lose:3",  # the other's sum: it has begun the round
        f"coordinator:coordinator_{step}:kill:1",
    )  # fmt: skip


@pytest.mark.losses
@pytest.mark.parametrize("step", STEPS)
def test_the_coordinator_is_killed_when_a_round_is_opened_again(runner: Runner, step: str) -> None:
    """The next one knows that the third node stays closed, and waits for who has to send again."""
    run = lose(
        runner, "gateway@node-0:gateway_closed:lose:1",
        f"coordinator:coordinator_{step}:kill:1", nodes=3, trainers=6,
    )  # fmt: skip
    assert lost(run) == ["node-0"]


@pytest.mark.losses
def test_two_nodes_are_lost_in_one_round(runner: Runner) -> None:
    run = lose(
        runner, "gateway@node-2:gateway_acked:lose:1", "gateway@node-0:gateway_sealed:lose:2",
        nodes=3, trainers=6,
    )  # fmt: skip
    assert sorted(lost(run)) == ["node-0", "node-2"]


@pytest.mark.losses
@pytest.mark.parametrize("node", ["node-0", "node-1"])
def test_a_node_is_lost_while_three_close(runner: Runner, node: str) -> None:
    """The round is opened again, and the third node, which is closed, does not end it early."""
    lose(runner, f"gateway@{node}:gateway_closed:lose:1", nodes=3, trainers=6)


@pytest.mark.losses
def test_a_second_node_is_lost_after_the_round_was_opened_again(runner: Runner) -> None:
    """Its clients go to no node that is closed."""
    lose(
        runner, "gateway@node-0:gateway_closed:lose:1", "gateway@node-1:gateway_writing:lose:5",
        nodes=4, trainers=12, rounds=2,
    )  # fmt: skip


@pytest.mark.losses
def test_virtual_clients_of_a_lost_node_are_trained_again(runner: Runner) -> None:
    run = runner(
        "--nodes", "2", "--proxy", PROXY, "--liveness", "1", name="virtual", rounds=2,
        clients={"min": 12}, placement=SPREAD, aggregation={"fanIn": 4},
        trainer={"entrypoint": "toy:fit", "clients": 12, "workers": 2},
        env={"LIFL_FAULT": "gateway@node-1:gateway_acked:lose:3"},
    )  # fmt: skip
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [row["clients"] for row in run.rows] == [12, 12]
    assert lost(run) == ["node-1"]


def arenas(runner: Runner) -> int:
    """Nodes whose gateway holds memory of the job."""
    gateways = {*runner.processes("lifl.functions.gateway")}
    return sum(found.part == "inputs" and bool(gateways & {*found.pids}) for found in find())


def test_a_node_is_drained_and_holds_nothing(runner: Runner) -> None:
    """It finishes its round; then its clients are elsewhere, and its memory is given back."""
    process = runner.start(
        runner.job_file(rounds=20, trainers=4, aggregation={"fanIn": 2}, placement=SPREAD),
        "--nodes", "2", "--proxy", PROXY, env={"TOY_SLOW": "0.25"},
    )  # fmt: skip
    latest = runner.folder / "runs" / "latest"
    rows = latest / "rounds.jsonl"
    wait_until(lambda: rows.exists() and rows.read_text().count("\n") >= 1, lambda: "no round", 60)
    done = CliRunner().invoke(main, ["nodes", "drain", "node-0", "--run", str(latest)])
    assert done.exit_code == 0, done.output
    wait_until(lambda: arenas(runner) == 1, lambda: f"{arenas(runner)} arenas", 60)
    run = runner.finish(process)
    check(run, rounds=20, clients=4)
    assert set(run.rows[0]["tree"]) == {"node-0", "node-1"}
    assert set(run.rows[-1]["tree"]) == {"node-1"}
    assert [event["node"] for event in run.of("draining")] == ["node-0"]
