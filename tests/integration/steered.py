"""A trainer whose loss is its index, and one half of whose clients waits until a round is over.

Client i sends the value i with weight 1 and loss i.  STEERED_WAIT names a folder with FIFOs: there
clients 2 and 3 send nothing for round 1 before client 0 has seen round 2.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import lifl

LATE = (2, 3)


def initial_model() -> dict[str, np.ndarray]:
    return {"x": np.zeros(4)}


def train(client: lifl.Client) -> None:
    folder = os.environ.get("STEERED_WAIT")
    for round_ in client.rounds():
        if folder and client.index == 0 and round_.number == 2:
            for late in LATE:
                (Path(folder) / str(late)).open("w").close()  # blocks until it is read
        if folder and client.index in LATE and round_.number == 1:
            (Path(folder) / str(client.index)).open().read()  # blocks until it is written
        index = float(client.index)
        taken = round_.send({"x": np.full(4, index)}, weight=1.0, metrics={"loss": index})
        if not taken:
            print(f"late in round {round_.number}", flush=True)
