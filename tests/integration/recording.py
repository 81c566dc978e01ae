"""The digits job with every update and every model written down."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lifl

sys.path.insert(0, os.environ["DIGITS"])
import digits

initial_model = digits.initial_model
evaluate = digits.evaluate


class Recorded:
    """A round whose model and update go to disk."""

    def __init__(self, round_: Any, index: int) -> None:
        self.round, self.index = round_, index
        self.number, self.model = round_.number, round_.model
        self.folder = Path(os.environ["RECORDED"])
        if index == 0:
            np.savez(self.folder / f"model-{self.number - 1}.npz", **self.model)

    def send(self, model: dict[str, Any], *, weight: float, metrics: dict[str, float]) -> None:
        path = self.folder / f"update-{self.number}-{self.index}.npz"
        np.savez(path, **model, __weight__=weight)
        self.round.send(model, weight=weight, metrics=metrics)


class Client:
    """A client that records; otherwise the library's."""

    def __init__(self, client: lifl.Client) -> None:
        self.client, self.index, self.count = client, client.index, client.count
        self.settings = client.settings

    def rounds(self) -> Iterator[Recorded]:
        for round_ in self.client.rounds():
            yield Recorded(round_, self.index)


def train(client: lifl.Client) -> None:
    digits.train(Client(client))  # type: ignore[arg-type]
