"""The first example: its job is valid, its data are dealt fairly, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifl.api.load import entrypoint, load_job
from lifl.placement.trial import try_out

pytest.importorskip("sklearn", reason="the example needs scikit-learn: pip install '.[examples]'")

FOLDER = Path(__file__).parents[2] / "examples" / "01-digits"


class Turn:
    """One round of a client, without a network."""

    def __init__(self, number: int, model: dict[str, Any]) -> None:
        self.number, self.model = number, {k: v.copy() for k, v in model.items()}
        self.sent: tuple[dict[str, Any], float] | None = None

    def send(self, model: dict[str, Any], *, weight: float, metrics: dict[str, float]) -> bool:
        assert np.isfinite(metrics["loss"])
        self.sent = model, weight
        return True


class Client:
    """A client whose rounds are handed in one by one."""

    def __init__(self, index: int, count: int, settings: dict[str, Any]) -> None:
        self.index, self.count, self.settings = index, count, settings
        self.turns: list[Turn] = []

    def rounds(self) -> Any:
        yield from self.turns


def test_the_job_is_valid_and_what_it_names_is_there() -> None:
    job = load_job(FOLDER / "job.yaml")
    try_out(job, FOLDER / "job.yaml")
    assert (job.spec.rounds, job.spec.clients.min, job.spec.nodes) == (30, 16, 2)
    assert job.spec.memory.input_slots * job.spec.nodes == job.spec.clients.min


def test_every_example_has_one_owner_and_clients_differ() -> None:
    deal = entrypoint("digits:deal", FOLDER)
    _, labels, _, _ = entrypoint("digits:_data", FOLDER)()
    for clients in (1, 2, 16, 100):
        hands = deal(labels, clients, 0.5)
        assert np.array_equal(np.sort(np.concatenate(hands)), np.arange(len(labels)))
        assert min(map(len, hands)) >= 8
    shares = [np.bincount(labels[hand], minlength=10) / len(hand) for hand in deal(labels, 16, 0.5)]
    assert np.mean([share.max() for share in shares]) > 0.25  # 0.1 if all were alike


def test_thirty_rounds_of_fedavg_in_one_process() -> None:
    """McMahan et al. 2017: w = Σ nᵢwᵢ / Σ nᵢ, here in float64 and without LIFL."""
    job = load_job(FOLDER / "job.yaml")
    spec = job.spec
    assert spec.trainer is not None
    train = entrypoint(spec.trainer.entrypoint, FOLDER)
    evaluate = entrypoint("digits:evaluate", FOLDER)
    model = entrypoint("digits:initial_model", FOLDER)()
    assert evaluate(model)["accuracy"] < 0.3
    clients = [Client(n, spec.clients.min, spec.trainer.args) for n in range(spec.clients.min)]
    for number in range(1, spec.rounds + 1):
        for client in clients:
            client.turns = [Turn(number, model)]
            train(client)
        sent = [client.turns[0].sent for client in clients]
        total = sum(weight for _, weight in filter(None, sent))
        model = {
            name: sum(weight * update[name].astype(np.float64) for update, weight in sent if update)
            / total
            for name in model
        }
        model = {name: value.astype(np.float32) for name, value in model.items()}
    assert evaluate(model)["accuracy"] >= 0.95
