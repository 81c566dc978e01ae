"""Entry points and Python clients of the jobs that Go clients take part in.

Every client adds 1 + index to each element of the model that is a number, and has the weight
1 + index % 3: what examples/04-go-client does.  Client 0 is in Python and writes every global
model down.

    LIFL_CLIENT=FILE python mixed.py
"""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import toy

import lifl

SIZE = int(os.environ.get("TOY_SIZE", "1000"))


def initial_model(size: int = SIZE) -> dict[str, np.ndarray]:
    """Values that differ from element to element, so that one in the wrong place shows."""

    def values(*shape: int) -> np.ndarray:
        return (np.arange(np.prod(shape)) % 509).reshape(shape) / 8

    return {
        "steps": np.array(7, np.int64),
        "weight": values(size).astype(np.float32),
        "half": values(257, 3).astype(np.float16),
        "double": values(size // 10, 2),
        "brain": values(7).astype(ml_dtypes.bfloat16),
        "counts": np.arange(-40, 60, dtype=np.int64).reshape(10, 10),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float32),
        "bytes": np.arange(5, dtype=np.uint8),
        "名前 ✓": values(5).astype(np.float32),
    }


def update(model: dict[str, np.ndarray], index: int) -> tuple[dict[str, np.ndarray], float]:
    changed = {
        name: array if array.dtype == bool else (array + np.array(1 + index, array.dtype))
        for name, array in model.items()
    }
    return changed, float(1 + index % 3)


def main() -> None:
    with lifl.Client.connect() as client:
        for round_ in client.rounds():
            if client.index == 0 and round_.number > 1:
                toy.keep(round_.number - 1, round_.model)
            model, weight = update(round_.model, client.index)
            round_.send(model, weight=weight, metrics={"index": client.index})


if __name__ == "__main__":
    main()
