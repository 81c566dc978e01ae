"""Handwritten digits with torch: a small CNN with batch normalisation.

Every client has an eighth of scikit-learn's digits; a fifth of all images is held out.  What
travels is `net.state_dict()` as it is: weights and running statistics in float32, and the
`num_batches_tracked` of batch normalisation, an int64 without dimensions.
"""

from __future__ import annotations

from functools import cache

import torch
import torch._dynamo  # what torch.optim loads at its first use: here once, not in every client
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lifl

SEED = 2024
torch.set_num_threads(1)  # the clients share the machine


def network() -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


@cache
def data() -> tuple[Tensor, Tensor, int]:
    """Images, labels, and how many of the first are for the test."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(SEED))
    images = torch.tensor(bunch.images, dtype=torch.float32)[order] / 16
    return images.unsqueeze(1), torch.tensor(bunch.target)[order], len(order) // 5


def fit(net: nn.Module, images: Tensor, labels: Tensor, settings: dict) -> float:
    """Train for some epochs; returns the last loss."""
    net.train()
    optimiser = torch.optim.SGD(net.parameters(), lr=settings["rate"], momentum=0.9)
    for _ in range(settings["epochs"]):
        for part in torch.randperm(len(labels)).split(settings["batch"]):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(net(images[part]), labels[part])
            loss.backward()
            optimiser.step()
    return loss.item()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    net.eval()
    return (net(images).argmax(dim=1) == labels).float().mean().item()


# ---------------------------------------------------------------- entry points of the job


def initial_model() -> dict[str, Tensor]:
    return network().state_dict()


def train(client: lifl.Client) -> None:
    images, labels, test = data()
    images, labels = (whole[test:][client.index :: client.count] for whole in (images, labels))
    net = network()
    for round in client.rounds():
        round.load_into(net)
        before = accuracy(net, images, labels)  # of the global model, on this client's own data
        loss = fit(net, images, labels, round.settings)
        metrics = {"loss": loss, "accuracy_before": before}
        round.send(net.state_dict(), weight=len(labels), metrics=metrics)


def evaluate(model: dict) -> dict[str, float]:
    images, labels, test = data()
    net = network()
    lifl.load_into(net, model)
    return {"accuracy": accuracy(net, images[:test], labels[:test])}
