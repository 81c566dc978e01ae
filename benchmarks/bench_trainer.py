"""The job of the benchmarks: clients that train nothing and send back what they were given.

Copied beside a job file by runs.py; its size comes from the environment of the run, and so does
the number of rounds after which a client trains for ever, which makes a job idle.
"""

from __future__ import annotations

import mmap
import os
import signal

import numpy as np

import lifl
from lifl.buffers import Buffers
from lifl.functions.transfer import Upload, Whole

FLOATS = int(os.environ["LIFL_BENCH_BYTES"]) // 4
BUSY_ROUNDS = int(os.environ.get("LIFL_BENCH_BUSY_ROUNDS", "1000000"))
_shared = memoryview(mmap.mmap(-1, 4 * FLOATS + mmap.PAGESIZE))  # nothing until it is written


def initial_model() -> dict[str, np.ndarray]:
    return {"weights": np.zeros(FLOATS, np.float32)}


def train(client: lifl.Client) -> None:
    for round_ in client.rounds():
        if round_.number > BUSY_ROUNDS:
            signal.pause()
        round_.send(round_.model, weight=1.0)


class Shared(Buffers):
    """Memory of all clients together: they are forked, and all of them get and send zeros."""

    def prepare(self, size: int) -> None:
        """It is there."""

    def take(self, size: int) -> memoryview:
        return _shared[:size]


def lean(client: lifl.Client) -> None:
    """As `carry`, by clients that hold one model all together: dozens of them fit a machine."""
    client._exchange.buffers = Shared()
    carry(client)


def carry(client: lifl.Client) -> None:
    """The data path alone: the bytes that came go back as they lie, without `round_.send`.

    What that leaves out is a client's own work: its checks and, in the clear, its copy.
    """
    exchange = client._exchange
    for round_ in client.rounds():
        assert exchange.layout is not None
        put = {
            "t": "put", "kind": "update", "job": client.job, "round": round_.number,
            "digest": exchange.layout.digest, "weight": 1.0, "metrics": {},
        }  # fmt: skip
        exchange.upload(Upload(put, Whole(memoryview(round_.model["weights"]).cast("B"))))
