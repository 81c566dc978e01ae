"""Clients of a job as threads of one process, each with a trainer of the benchmarks.

    LIFL_BENCH_TRAIN=train|lean python -m benchmarks.many_clients CLIENT-FILE...
"""

from __future__ import annotations

import os
import sys
import threading

from benchmarks import bench_trainer
from lifl import Client, LiflError
from lifl.placement.processes import give_way

STACK_BYTES = 256 * 1024
TURN_S = 1.0  # of a thread that goes on: each of a hundred that want to would look every 5 ms
train = getattr(bench_trainer, os.environ["LIFL_BENCH_TRAIN"])


def take_part(path: str) -> None:
    try:
        with Client.connect({"LIFL_CLIENT": path}) as client:
            train(client)
    except LiflError as error:
        print(f"{path}: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # the others of this process would wait for nothing


def main() -> None:
    give_way()  # as trainers of `lifl run`
    sys.setswitchinterval(TURN_S)
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
