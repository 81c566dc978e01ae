"""A thousand virtual clients, each with twelve handwritten digits of at most three kinds.

The model is a softmax regression in NumPy on scikit-learn's digits; a fifth of the images is held
out.  What `fit` remembers of a client it keeps under the client's index: the same process runs
the same clients in every round.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from lifl import Round
    from lifl.virtual import VirtualClient

Model = dict[str, np.ndarray[Any, Any]]

SEED = 2024
OWNED = 12  # images of a client
KINDS = 3  # digits that it has seen

drawn: dict[int, int] = {}  # client -> rounds that it took part in


@cache
def data() -> tuple[Model, Model]:
    """Training and test set: images with a constant pixel, and labels."""
    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    images = np.hstack([bunch.data[order] / 16, np.ones((len(order), 1))]).astype(np.float32)
    labels = bunch.target[order]
    test = len(order) // 5
    return (
        {"images": images[test:], "labels": labels[test:]},
        {"images": images[:test], "labels": labels[:test]},
    )


def part(index: int) -> Model:
    """What client `index` owns."""
    rng = np.random.default_rng((SEED, index))
    images, labels = data()[0].values()
    kinds = rng.choice(10, KINDS, replace=False)
    mine = rng.choice(np.flatnonzero(np.isin(labels, kinds)), OWNED, replace=False)
    return {"images": images[mine], "labels": labels[mine]}


def chances(model: Model, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    scores = images @ model["weight"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def accuracy(model: Model, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
    return float((chances(model, images).argmax(axis=1) == labels).mean())


# ---------------------------------------------------------------- entry points of the job


def initial_model() -> Model:
    return {"weight": np.zeros((65, 10), np.float32)}


def fit(client: VirtualClient, round: Round) -> None:
    """One client in one round: look at the global model, train it, send it."""
    images, labels = part(client.index).values()
    drawn[client.index] = drawn.get(client.index, 0) + 1
    model = round.model
    before = accuracy(model, images, labels)
    target = np.eye(10, dtype=np.float32)[labels]
    for _ in range(round.settings["epochs"]):
        error = (chances(model, images) - target) / len(labels)
        model["weight"] -= np.float32(round.settings["rate"]) * (images.T @ error)
    round.send(
        model, weight=float(len(labels)),
        metrics={"accuracy_before": before, "times_drawn": drawn[client.index]},
    )  # fmt: skip


def evaluate(model: Model) -> dict[str, float]:
    return {"accuracy": accuracy(model, *data()[1].values())}
