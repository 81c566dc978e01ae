"""Many clients of large updates in little memory: threads of one process that take turns.

    python -m benchmarks.lean_clients CLIENT-FILE...

Each is a `lifl.Client` with a connection, a key and an upload of its own; what they send lies in
memory that they share, and one of a process sends at a time.  They do not fetch the model, whose
way down is the same whatever the tree is.  Called by case_fanin.py, which starts several.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import numpy as np

import lifl.exchange
from lifl import Client, LiflError
from lifl.buffers import Buffers
from lifl.functions.transfer import Upload, Whole

STACK_BYTES = 256 * 1024
SIZE = int(os.environ["LIFL_BENCH_BYTES"]) // 4 * 4

_turn = threading.Lock()


class Nothing(Buffers):
    """Memory for no model."""

    def prepare(self, size: int) -> None:
        pass


def take_part(path: str, update: memoryview) -> None:
    try:
        with Client.connect({"LIFL_CLIENT": path}) as client:
            exchange = client._exchange

            def fetch(_: int) -> dict[str, Any]:
                return {}

            exchange.fetch = fetch  # type: ignore[assignment,method-assign]
            for round_ in client.rounds():
                assert exchange.layout is not None
                put = {
                    "t": "put", "kind": "update", "job": client.job, "round": round_.number,
                    "digest": exchange.layout.digest, "weight": 1.0, "metrics": {},
                }  # fmt: skip
                with _turn:
                    exchange.upload(Upload(put, Whole(update)))
    except LiflError as error:
        print(f"{path}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the others of this process would wait for nothing


def main() -> None:
    lifl.exchange.Buffers = Nothing  # type: ignore[attr-defined]
    update = np.ones(SIZE // 4, np.float32).data.cast("B")
    threading.stack_size(STACK_BYTES)
    threads = [
        threading.Thread(target=take_part, args=(path, update), daemon=True)
        for path in sys.argv[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
