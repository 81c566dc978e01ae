"""The trainers of `lifl run`: client processes, forked from one that has imported the code.

Owns starting them and waiting for them.  Each goes through the client library like any client
from outside, or is a worker that runs many virtual ones.  Started by the local engine:

    python -m lifl.trainer --config FILE
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lifl.api.entrypoints import check_parameters, entrypoint, takes_round
from lifl.api.load import load_job
from lifl.client import Client
from lifl.events import emit, keep_stdout
from lifl.exchange import Address
from lifl.functions.wire import Keys
from lifl.observer import Observer
from lifl.placement.processes import end_with_parent
from lifl.virtual import Worker

EVALUATOR = "the evaluator"


def train(function: Callable[..., None], path: Path) -> None:
    """One client: a loop of its own, or a function called for each of its rounds."""
    with Client.connect({"LIFL_CLIENT": str(path)}) as client:
        if takes_round(function):
            for round_ in client.rounds():
                function(client, round_)
            return
        function(client)
        for _ in client.rounds():  # a loop that ended early leaves its client idle, not missing
            pass


def work(function: Callable[..., None], keys: list[str], config: dict[str, Any]) -> None:
    """One worker: whichever of its virtual clients a round has drawn, one after the other."""
    worker = Worker(
        [Address(*where) for where in config["gateways"].values()],
        job=config["name"], keys=Keys(*keys), count=config["client_count"],
    )  # fmt: skip
    try:
        worker.run(function)
    finally:
        worker.close()


def evaluate(
    function: Callable[[dict[str, Any]], dict[str, float]], config: dict[str, Any]
) -> None:
    observer = Observer(
        [Address(*where) for where in config["gateways"].values()],
        job=config["name"],
        keys=Keys(*config["observer"]),
    )
    try:
        for number, model in observer.models():
            if number > 0:
                observer.report(number, function(model))
    finally:
        observer.close()


def fork(what: str, work: Callable[[], None]) -> int:
    """Run `work` in a child process; its traceback goes to standard error."""
    pid = os.fork()
    if pid:
        return pid
    end_with_parent()
    status = 1
    try:
        work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        print(f"{what} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True)
def main(config_path: Path) -> None:
    """Start every trainer and the evaluator of a run, and wait for them."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_with_parent()
    config = json.loads(config_path.read_text())
    job_path = Path(config["job"])
    spec = load_job(job_path).spec
    keep_stdout()
    children: dict[int, str] = {}
    if spec.evaluator:
        judge = entrypoint(spec.evaluator.entrypoint, job_path.parent)
        children[fork(EVALUATOR, lambda: evaluate(judge, config))] = EVALUATOR
    if spec.trainer:
        function = entrypoint(spec.trainer.entrypoint, job_path.parent)
        check_parameters(spec.trainer, function)
        for index, keys in enumerate(config["workers"]):
            what = f"worker-{index}"
            pid = fork(what, lambda keys=keys: work(function, keys, config))  # type: ignore[misc]
            children[pid] = what
        for path in map(Path, config["client_files"]):
            pid = fork(path.stem, lambda path=path: train(function, path))  # type: ignore[misc]
            children[pid] = path.stem
    sys.exit(wait_for(children, spec.clients.min))


def wait_for(children: dict[int, str], needed: int) -> int:
    """Until all have ended, or a run without those that failed cannot go on; the exit status.

    Args:
        children: pid -> what it is.
        needed: clients without which no round begins.
    """
    failed = 0
    clients = sum(what != EVALUATOR for what in children.values())
    while children:
        pid, status = os.wait()
        what = children.pop(pid)
        if not status:
            continue
        code = os.waitstatus_to_exitcode(status)
        emit("warning", text=f"{what} ended with status {code}")
        failed += 1
        if what == EVALUATOR or clients - failed < needed:
            return 1
    return 0


if __name__ == "__main__":
    main()
