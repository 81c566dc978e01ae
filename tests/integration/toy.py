"""Entry points of the test jobs: updates whose sums are exact, so that one lost or doubled
update shows in every digit.

Client i sends in round r the value 1 + i + 100·r in every element, with weight 1 + i % 3; client 0
writes every global model down.  Sizes come from the environment of the run, and so does what one
client does wrong: TOY_ODD="2 3 die" is client 2 in round 3, and -1 is every client.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import lifl

SIZE = int(os.environ.get("TOY_SIZE", "1000"))


def initial_model() -> dict[str, np.ndarray]:
    return {
        "weight": np.zeros(SIZE, np.float32),
        "half": np.zeros((3, 5), np.float16),
        "brain": np.zeros(7, ml_dtypes.bfloat16),
        "double": np.zeros(2, np.float64),
        "batches": np.zeros((), np.int64),
        "mask": np.zeros(3, bool),
        "empty": np.zeros((0, 4), np.float32),
        "名前 ✓": np.zeros(1, np.float32),
    }


def update(index: int, number: int) -> tuple[dict[str, np.ndarray], float]:
    value = 1 + index + 100 * number
    model = {
        name: np.full(array.shape, value % 2 if array.dtype == bool else value, array.dtype)
        for name, array in initial_model().items()
    }
    return model, float(1 + index % 3)


def train(client: lifl.Client) -> None:
    index, number, what = os.environ.get("TOY_ODD", "0 0 nothing").split()
    if int(number) == 0 and int(index) == client.index:  # before the first round
        end(what)
    for round_ in client.rounds():
        if int(index) in (client.index, -1) and round_.number == int(number):
            match what:
                case "die" | "quit":
                    end(what)
                case "skip":
                    continue
                case "raise":
                    raise RuntimeError("this trainer is broken")
                case "return":
                    return
                case "pause":  # until somebody says that it goes on
                    while not (Path(os.environ["TOY_MODELS"]) / "go").exists():
                        time.sleep(0.02)
                case "heavy":
                    try:
                        round_.send(round_.model, weight=1e39)
                    except lifl.InvalidUpdate:
                        print("refused", flush=True)  # to standard output, where events go
        if client.index == 0 and round_.number > 1:  # what the round before came to
            keep(round_.number - 1, round_.model)
        time.sleep(float(os.environ.get("TOY_SLOW", "0")))  # training takes a while
        model, weight = update(client.index, round_.number)
        round_.send(model, weight=weight, metrics={"index": client.index})


def fit(client: Any, round_: lifl.Round) -> None:
    """A virtual client."""
    model, weight = update(client.index, round_.number)
    round_.send(model, weight=weight)


def end(what: str) -> None:
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "quit":
        os._exit(0)


def keep(number: int, model: dict[str, np.ndarray]) -> None:
    path = Path(os.environ["TOY_MODELS"]) / f"{number}.npz"
    np.savez(path, **{name: np.asarray(value, np.float64) for name, value in model.items()})


def evaluate(model: dict[str, np.ndarray]) -> dict[str, float]:
    return {"accuracy": float(model["double"][0])}


def evaluate_loss(model: dict[str, np.ndarray]) -> dict[str, float]:
    print("evaluating")
    logging.warning("measured")
    return {"loss": float(model["double"][0]), "round": 1.0}


def evaluate_nothing(model: dict[str, np.ndarray]) -> dict[str, float]:
    raise RuntimeError("this evaluator is broken")


def evaluate_late(model: dict[str, np.ndarray]) -> dict[str, float]:
    """Fails on every model but the initial one."""
    if model["weight"][0]:
        raise RuntimeError("this evaluator breaks later")
    return {"accuracy": 0.0}
