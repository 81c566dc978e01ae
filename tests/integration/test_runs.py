"""Whole jobs: every round's model is FedAvg of exactly the updates that were accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy
from conftest import PROXY, Run, Runner


def fedavg(number: int, clients: int) -> dict[str, np.ndarray]:
    """Σ wᵢxᵢ / Σ wᵢ in float64, in one process."""
    updates = [toy.update(index, number) for index in range(clients)]
    total = sum(weight for _, weight in updates)
    mean = {}
    for name, array in toy.initial_model().items():
        value = sum(w * np.asarray(u[name], np.float64) for u, w in updates) / total
        if array.dtype == bool:
            value = value >= 0.5
        elif array.dtype.kind == "i":
            value = np.rint(value)
        mean[name] = np.asarray(value, np.float64)
    return mean


def check(run: Run, *, rounds: int, clients: int | list[int]) -> None:
    """Every update of every round, once; `clients` of each round, or of all."""
    assert run.status == 0, (run.events[-5:], run.stderr)
    counts = [clients] * rounds if isinstance(clients, int) else clients
    assert [row["round"] for row in run.rows] == list(range(1, rounds + 1))
    assert [row["clients"] for row in run.rows] == counts
    assert sorted(run.models) == list(range(1, rounds + 1))
    for number, model in run.models.items():
        for name, expected in fedavg(number, counts[number - 1]).items():
            # float16 and bfloat16 round the result to 11 and 8 bits; sums themselves are exact
            bits = {"half": 11, "brain": 8, "double": 50}.get(name, 23)
            everywhere = np.broadcast_to(
                expected.flat[0] if expected.size else 0, model[name].shape
            )
            np.testing.assert_allclose(model[name], everywhere, rtol=2.0**-bits, err_msg=name)


@pytest.mark.parametrize("proxy", [pytest.param("ebpf", marks=pytest.mark.bpf), "unix"])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("mode", ["eager", "lazy"])
def test_every_round_is_fedavg(runner: Runner, proxy: str, nodes: int, mode: str) -> None:
    run = runner(
        "--nodes", str(nodes), "--proxy", proxy, trainers=6, rounds=3,
        aggregation={"fanIn": 2, "mode": mode}, memory={"inputSlots": 3},
    )  # fmt: skip
    check(run, rounds=3, clients=6)
    assert run.summary["proxy"] == proxy
    assert run.summary["handoffs"][proxy] > 0
    assert run.summary["nodes"] == nodes
    assert run.summary["updates"] == 18


def test_an_evaluator_sees_every_model(runner: Runner) -> None:
    run = runner("--proxy", PROXY, rounds=3, evaluator={"entrypoint": "toy:evaluate"})
    check(run, rounds=3, clients=4)
    expected = [float(fedavg(number, 4)["double"][0]) for number in (1, 2, 3)]
    assert [row["accuracy"] for row in run.rows] == pytest.approx(expected)
    assert run.summary["accuracy"] == pytest.approx(expected[-1])


def test_a_misspelt_goal_is_said_in_the_first_round(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, rounds=4, evaluator={"entrypoint": "toy:evaluate"},
        stop={"metric": "acuracy", "atLeast": 100},
    )  # fmt: skip
    check(run, rounds=4, clients=4)
    (said,) = [e["text"] for e in run.of("warning") if "spec.stop" in e["text"]]
    assert "'acuracy', which nobody has reported by round" in said
    assert "(evaluator: accuracy, clients: index)" in said
    assert run.summary["stopped"] is None


def test_one_client_and_one_slot(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=1, rounds=2, memory={"inputSlots": 1})
    check(run, rounds=2, clients=1)


def test_more_clients_than_slots(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=12, memory={"inputSlots": 1}, aggregation={"fanIn": 4})
    check(run, rounds=2, clients=12)


@pytest.mark.parametrize("lane", ["fast", "zmq", "insecure"])
def test_chunks(runner: Runner, lane: str) -> None:
    """Updates larger than a message, each slot used many times."""
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=6, memory={"inputSlots": 3},
        clients={"min": 6, "lane": "zmq" if lane == "zmq" else "fast"},
        insecure=lane == "insecure", aggregation={"fanIn": 2}, env={"TOY_SIZE": "700001"},
    )  # fmt: skip
    check(run, rounds=2, clients=6)


def test_a_client_that_is_gone_is_not_waited_for(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=3, rounds=4, aggregation={"fanIn": 2},
        clients={"min": 2, "graceS": 0.2}, env={"TOY_ODD": "2 2 die"},
    )  # fmt: skip
    check(run, rounds=4, clients=[3, 2, 2, 2])
    assert any("client-2 has left" in event["text"] for event in run.of("warning"))


def test_a_deadline_closes_a_round_without_the_one_who_is_silent(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=3, rounds=3, deadlineS=1.5,
        aggregation={"fanIn": 2}, env={"TOY_ODD": "2 2 skip"},
    )  # fmt: skip
    check(run, rounds=3, clients=[3, 2, 3])


def test_a_dead_trainer_costs_one_deadline(runner: Runner) -> None:
    """Its grace is longer; the round after the one that it died in does not draw it again."""
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=3, rounds=4, deadlineS=1.5,
        aggregation={"fanIn": 2}, clients={"min": 2, "graceS": 60}, env={"TOY_ODD": "2 2 die"},
    )  # fmt: skip
    check(run, rounds=4, clients=[3, 2, 2, 2])
    assert [event["clients"] for event in run.of("round_started")] == [3, 3, 2, 2]
    assert any(
        event["text"].startswith("client-2 has left: its connection had ended when the deadline of "
                                 "round 2 passed")
        for event in run.of("warning")
    )  # fmt: skip


def test_a_trainer_that_raises_ends_a_run_that_needs_it(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=3, rounds=4, env={"TOY_ODD": "1 2 raise"})
    assert run.status == 1
    assert run.of("failed")[0]["error"] == (
        "client-1 failed in round 2: RuntimeError: this trainer is broken; 2 clients are left, and "
        "a round needs 3 (spec.clients.min)"
    )


def test_an_impossible_weight_is_refused_and_prints_do_no_harm(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, trainers=2, evaluator={"entrypoint": "toy:evaluate_loss"},
        env={"TOY_ODD": "1 1 heavy"},
    )  # fmt: skip
    check(run, rounds=2, clients=2)
    assert [row["evaluation"]["round"] for row in run.rows] == [1.0, 1.0]
    assert not run.of("restart")


def test_trees_that_change_with_the_drawn_clients(runner: Runner) -> None:
    """Roles come and go and change their kind; every round has the updates of its clients."""
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=12, rounds=25, seed=3,
        clients={"fraction": 0.4}, aggregation={"fanIn": 2}, placement={"policy": "worstfit"},
    )  # fmt: skip
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [row["clients"] for row in run.rows] == [5] * 25
    assert not run.of("restart")
    for row in run.rows:
        expected = row["metrics"]["index"]  # the mean of the drawn clients' indices, by weight
        model = run.models.get(row["round"])
        if model is not None:
            assert model["double"][0] == pytest.approx(1 + expected + 100 * row["round"])


def test_momentum_over_two_nodes(runner: Runner) -> None:
    """v ← βv + (w - mean), w ← w - ηv (FedAvgM, arXiv 1909.06335), with a model of many chunks."""
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=4, rounds=3, env={"TOY_SIZE": "200000"},
        aggregation={"fanIn": 1, "algorithm": "fedavgm", "serverMomentum": 0.5,
                     "serverLearningRate": 0.25},
    )  # fmt: skip
    assert run.status == 0, (run.events[-5:], run.stderr)
    model = velocity = 0.0
    for number in (1, 2, 3):
        velocity = 0.5 * velocity + (model - float(fedavg(number, 4)["double"][0]))
        model -= 0.25 * velocity
        np.testing.assert_allclose(run.models[number]["double"], model, rtol=1e-6)
        np.testing.assert_allclose(run.models[number]["weight"], model, rtol=1e-6)


def test_two_runs_at_once_do_not_meet(runner: Runner, tmp_path: Path) -> None:
    """Two jobs of one name on one machine, each with its own nodes, memory and program."""
    other = Runner(tmp_path / "other", runner.runtime_dir)
    other.folder.mkdir()
    first = runner.start(
        runner.job_file(trainers=3, rounds=20), "--proxy", PROXY, "--nodes", "2"
    )
    second = other.start(
        other.job_file(trainers=5, rounds=20, aggregation={"fanIn": 2}), "--proxy", PROXY
    )
    runs = runner.finish(first), other.finish(second)
    check(runs[0], rounds=20, clients=3)
    check(runs[1], rounds=20, clients=5)
    assert not [event for run in runs for event in run.of("restart")]
