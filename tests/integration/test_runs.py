"""Whole jobs: every round's model is FedAvg of exactly the updates that were accepted."""

from __future__ import annotations

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


def check(run: Run, *, rounds: int, clients: int) -> None:
    """Every update of every round, once."""
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [row["round"] for row in run.rows] == list(range(1, rounds + 1))
    assert [row["clients"] for row in run.rows] == [clients] * rounds
    assert sorted(run.models) == list(range(1, rounds + 1))
    for number, model in run.models.items():
        for name, expected in fedavg(number, clients).items():
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


def test_one_client_and_one_slot(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=1, rounds=2, memory={"inputSlots": 1})
    check(run, rounds=2, clients=1)


def test_more_clients_than_slots(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=12, memory={"inputSlots": 1}, aggregation={"fanIn": 4})
    check(run, rounds=2, clients=12)


def test_chunks(runner: Runner) -> None:
    """Updates larger than a message, each slot used many times."""
    run = runner(
        "--proxy", PROXY, "--nodes", "2", trainers=6, memory={"inputSlots": 3},
        aggregation={"fanIn": 2}, env={"TOY_SIZE": "700001"},
    )  # fmt: skip
    check(run, rounds=2, clients=6)
