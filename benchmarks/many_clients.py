"""Clients of a job as threads of one process, each with the trainer of the benchmarks.

    python -m benchmarks.many_clients CLIENT-FILE...
"""

from __future__ import annotations

import os
import sys
import threading

from benchmarks.bench_trainer import train
from lifl import Client, LiflError

STACK_BYTES = 256 * 1024


def take_part(path: str) -> None:
    try:
        with Client.connect({"LIFL_CLIENT": path}) as client:
            train(client)
    except LiflError as error:
        print(f"{path}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the others of this process would wait for nothing


def main() -> None:
    threading.stack_size(STACK_BYTES)
    threads = [
        threading.Thread(target=take_part, args=(path,), daemon=True) for path in sys.argv[1:]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
