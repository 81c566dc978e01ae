"""Handwritten digits over clients that see different ones.

scikit-learn's 1,797 images of 8 x 8 pixels; a fifth is held out for the test.  The others are
dealt to the clients class by class, in shares drawn from a Dirichlet distribution (Hsu et al.,
"Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
arXiv 1909.06335): at alpha = 0.5 most clients hardly know some of the digits.  The model is a
perceptron with two hidden layers, trained by SGD with momentum, all in NumPy.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from lifl import Client

Array = NDArray[np.float32]
Labels = NDArray[np.int64]
Model = dict[str, Array]

SIZES = (64, 64, 64, 10)
SEED = 2024
TEST_SHARE = 0.2
LEAST_EXAMPLES = 8  # of every client

# ---------------------------------------------------------------- data


@cache
def _data() -> tuple[Array, Labels, Array, Labels]:
    """Training images and labels, test images and labels; pixels from 0 to 1."""
    bunch = load_digits()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))
    images = (bunch.data[order] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    test = round(len(labels) * TEST_SHARE)
    return images[test:], labels[test:], images[:test], labels[:test]


def deal(labels: Labels, clients: int, alpha: float) -> list[NDArray[np.int64]]:
    """Indices of every client's examples; each example has one owner."""
    rng = np.random.default_rng(SEED)
    hands: list[list[int]] = [[] for _ in range(clients)]
    for digit in range(SIZES[-1]):
        owned = rng.permutation(np.flatnonzero(labels == digit))
        shares = rng.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(owned)).astype(int)
        for hand, part in zip(hands, np.split(owned, cuts), strict=True):
            hand.extend(part.tolist())
    for hand in hands:  # whom the draw left with next to nothing, the richest gives
        while len(hand) < LEAST_EXAMPLES:
            hand.append(max(hands, key=len).pop())
    return [np.array(sorted(hand)) for hand in hands]


# ---------------------------------------------------------------- model


def initial_model() -> Model:
    """Weights by He et al. 2015 (arXiv 1502.01852), biases of zero."""
    rng = np.random.default_rng(SEED)
    model: Model = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(SIZES)):
        weight = rng.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out))
        model[f"layer{layer}.weight"] = weight.astype(np.float32)
        model[f"layer{layer}.bias"] = np.zeros(fan_out, np.float32)
    return model


def forward(model: Model, images: Array) -> tuple[list[Array], Array]:
    """Inputs of every layer, and the probability of every digit, [images, 10]."""
    inputs = [images]
    for layer in range(len(SIZES) - 2):
        weight, bias = model[f"layer{layer}.weight"], model[f"layer{layer}.bias"]
        inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
    last = len(SIZES) - 2
    scores = inputs[-1] @ model[f"layer{last}.weight"] + model[f"layer{last}.bias"]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return inputs, powers / powers.sum(axis=1, keepdims=True)


def step(model: Model, velocity: Model, images: Array, labels: Labels, rate: float) -> float:
    """One step of SGD with momentum 0.9, in place; returns the cross entropy before it."""
    inputs, chances = forward(model, images)
    rows = np.arange(len(labels))
    loss = -float(np.log(chances[rows, labels] + 1e-12).mean())
    error = chances
    error[rows, labels] -= 1
    error /= len(labels)
    for layer in reversed(range(len(inputs))):
        weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
        gradients = {weight: inputs[layer].T @ error, bias: error.sum(axis=0)}
        error = (error @ model[weight].T) * (inputs[layer] > 0)
        for name, gradient in gradients.items():
            velocity[name] = np.float32(0.9) * velocity[name] + gradient
            model[name] -= np.float32(rate) * velocity[name]
    return loss


def fit(
    model: Model,
    images: Array,
    labels: Labels,
    *,
    rng: np.random.Generator,
    epochs: int,
    rate: float,
    batch: int,
) -> float:
    """Train in place for some epochs; returns the mean loss of the last."""
    velocity = {name: np.zeros_like(value) for name, value in model.items()}
    losses: list[float] = []
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        losses = [
            step(model, velocity, images[part], labels[part], rate)
            for part in (order[at : at + batch] for at in range(0, len(order), batch))
        ]
    return float(np.mean(losses))


# ---------------------------------------------------------------- entry points of the job


def train(client: Client) -> None:
    """What each client process does, from the first round to the last."""
    settings = client.settings
    images, labels, _, _ = _data()
    mine = deal(labels, client.count, settings["alpha"])[client.index]
    images, labels = images[mine], labels[mine]
    for turn in client.rounds():
        model = turn.model
        loss = fit(
            model,
            images,
            labels,
            rng=np.random.default_rng((SEED, client.index, turn.number)),
            epochs=settings["epochs"],
            rate=settings["rate"],
            batch=settings["batch"],
        )
        turn.send(model, weight=float(len(labels)), metrics={"loss": loss})


def evaluate(model: Model) -> dict[str, float]:
    """Share of the held-out images that the model reads rightly."""
    _, _, images, labels = _data()
    _, chances = forward(model, images)
    return {"accuracy": float((chances.argmax(axis=1) == labels).mean())}
