"""What a job says of its clients and its tree, in whole runs: who is drawn, when a round has
enough, where clients go, and a fan-in that is chosen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import PROXY, Run, Runner

from lifl.placement.simulator.arrivals import read_trace
from lifl.placement.simulator.rounds import simulate
from lifl.placement.simulator.scenario import load_scenario

HERE = Path(__file__).parent


def steered(
    runner: Runner, *arguments: str, count: int, env: dict[str, str] | None = None, **spec: Any
) -> Run:
    """A run of `count` clients of steered.py."""
    (runner.folder / "steered.py").write_text((HERE / "steered.py").read_text())
    path = runner.job_file(
        model={"initial": "steered:initial_model"},
        trainer={"entrypoint": "steered:train", "clients": count},
        **spec,
    )
    run = runner.finish(runner.start(path, "--proxy", PROXY, *arguments, env=env))
    assert run.status == 0, (run.events[-5:], run.stderr)
    return run


def kinds(row: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [role["role"] for role in roles] for name, roles in row["tree"].items()}


@pytest.mark.parametrize("workers", [None, 2])
def test_power_of_choice_draws_those_with_the_highest_loss(
    runner: Runner, workers: int | None
) -> None:
    if workers:  # the same clients as virtual ones: their figures carry their names, too
        (runner.folder / "virtual.py").write_text(
            "import numpy as np\n"
            "def initial_model():\n    return {'x': np.zeros(4)}\n"
            "def train(client, round_):\n"
            "    round_.send(round_.model, weight=1.0, metrics={'loss': float(client.index)})\n"
        )
    name = "virtual" if workers else "steered"
    (runner.folder / "steered.py").write_text((HERE / "steered.py").read_text())
    path = runner.job_file(
        rounds=24, seed=5, clients={"fraction": 0.25, "selection": "power-of-choice"},
        model={"initial": f"{name}:initial_model"},
        trainer={"entrypoint": f"{name}:train", "clients": 8}
        | ({"workers": workers} if workers else {}),
    )  # fmt: skip
    run = runner.finish(runner.start(path, "--proxy", PROXY))
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [row["clients"] for row in run.rows] == [2] * 24
    late = [row["metrics"]["loss"] for row in run.rows[8:]]
    assert sum(late) / len(late) > 4.5  # uniform draws: 3.5 ± 0.4 over 16 rounds of two


def test_oort_draws_everybody_once_and_then_by_utility(runner: Runner) -> None:
    run = steered(
        runner, count=8, rounds=24, seed=5, clients={"fraction": 0.25, "selection": "oort"}
    )
    assert [row["clients"] for row in run.rows] == [2] * 24
    late = [row["metrics"]["loss"] for row in run.rows[8:]]
    assert sum(late) / len(late) > 3.5


def test_an_over_provisioned_round_closes_when_it_has_enough(runner: Runner) -> None:
    """Clients 2 and 3 cannot send before round 1 is over; they are late, and take part later."""
    folder = runner.folder / "fifos"
    folder.mkdir()
    for late in (2, 3):
        os.mkfifo(folder / str(late))
    run = steered(
        runner, count=4, rounds=3, clients={"overProvision": 2.0}, env={"STEERED_WAIT": str(folder)}
    )
    assert run.rows[0]["clients"] == 2
    assert run.rows[0]["metrics"]["loss"] == 0.5  # of clients 0 and 1
    assert all(row["clients"] >= 2 for row in run.rows)
    said = [event for event in run.events if "late in round 1" in str(event)]
    assert {"client-2", "client-3"} <= {word for event in said for word in str(event).split("'")}


def test_a_chosen_fan_in_and_a_random_policy(runner: Runner) -> None:
    run = steered(
        runner, "--nodes", "2", count=6, rounds=3, seed=9, aggregation={"fanIn": "auto"},
        placement={"policy": "random"},
    )  # fmt: skip
    first = kinds(run.rows[0])
    assert all(kinds(row) == first for row in run.rows)
    assert all(row["clients"] == 6 for row in run.rows)
    cores = len(os.sched_getaffinity(0))
    assert all(1 <= roles.count("leaf") <= cores for roles in first.values())

    trace = read_trace(run.run_dir / "trace.jsonl")  # what was recorded can be simulated
    assert [len(times) for times in trace] == [6, 6, 6]
    for times, row in zip(trace, run.rows, strict=True):
        assert 0 < times[0] <= times[-1] <= row["seconds"] + 1e-6
    path = runner.folder / "scenario.yaml"
    path.write_text(
        "clients: 6\nrounds: 3\nnodes: [{count: 2}]\nupdateBytes: 32\n"
        f"arrivals: {{kind: trace, file: {run.run_dir}/trace.jsonl}}\n"
    )
    made = simulate(load_scenario(path), "random", folder=path.parent)
    last = [row.seconds - row.aggregate_s for row in made]
    assert last == pytest.approx([times[-1] for times in trace])
