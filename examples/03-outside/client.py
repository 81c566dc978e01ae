"""A client that is started by hand: fits y = 3x + 1 to points that nobody else sees.

LIFL_CLIENT=runs/latest/clients/client-0.json python examples/03-outside/client.py
"""

from __future__ import annotations

import sys

import numpy as np

import lifl


def initial_model() -> dict[str, np.ndarray]:
    return {"line": np.zeros(2, np.float32)}  # slope, intercept


def main() -> None:
    with lifl.Client.connect() as client:
        x = np.random.default_rng(client.index).uniform(-1, 1, 100).astype(np.float32)
        points = np.stack([x, np.ones_like(x)], axis=1)
        y = 3 * x + 1
        for round in client.rounds():
            line = round.model["line"]
            for _ in range(20):
                line -= 0.3 * points.T @ (points @ line - y) / len(x)
            error = float(np.square(points @ line - y).mean())
            round.send({"line": line}, weight=len(x), metrics={"error": error})
            print(f"client {client.index}: round {round.number}, error {error:.2g}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except lifl.LiflError as error:  # no such run, or it has no place for this client any more
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
