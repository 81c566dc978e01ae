"""The trainers of `lifl run`: client processes, forked from one that has imported the code.

Owns starting them, passing on what they print, and waiting for them; what follows from how they
ended is in fates.py.  Each goes through the client library like any client from outside, or is a
worker that runs many virtual ones.  Started by the local engine:

    python -m lifl.trainer --config FILE
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from lifl.api.entrypoints import takes_round
from lifl.api.job import FLJob
from lifl.api.load import load_job
from lifl.api.named import Figures, evaluator_of, trainer_of
from lifl.client import Client
from lifl.connection import Address
from lifl.errors import InvalidJob
from lifl.events import emit, keep_stdout, say
from lifl.fates import EVALUATOR, Fate, Fates
from lifl.functions.layout import Layout
from lifl.functions.sealing import preload
from lifl.functions.waiting import readable
from lifl.functions.wire import Keys
from lifl.observer import Observer
from lifl.placement.netns import enter
from lifl.placement.output import Outputs, Speaker, last_words
from lifl.placement.processes import end_with_parent, give_way
from lifl.placement.record import initial_model
from lifl.virtual import Worker

TOGETHER_S: Final = 0.3  # what happens to several clients within it is said once
TRIAL_S: Final = 2.0  # that clients wait at most for the evaluator's trial
DONE: Final = {"done": True}  # last words of who has heard that the job is done


class InRound(Exception):
    """What user code raised, its cause, in which round, and of which virtual client."""

    def __init__(self, number: int, client: str = "") -> None:
        super().__init__(number)
        self.number, self.client = number, client


def within(netns: str | None, work: Callable[[], Fate | None]) -> Fate | None:
    """`work`, in that network namespace if there is one: of a forked process that has no thread."""
    if netns is not None:
        enter(netns)
    return work()


def train(function: Callable[..., None], path: Path, rounds: int) -> Fate | None:
    """One client; None when it has heard that the job is done.

    A trainer that returns earlier leaves: its connection ends, and no round waits for it.
    """
    with Client.connect({"LIFL_CLIENT": str(path)}) as client:
        try:
            if takes_round(function):
                for round_ in client.rounds():
                    function(client, round_)
            else:
                function(client)
        except BaseException as error:
            raise InRound(client.last_round) from error
        if client.last_round < rounds and not client.is_over:
            return Fate(client.last_round)
        for _ in client.rounds():  # its last update may have to be sent again
            pass
        return None


def work(function: Callable[..., None], keys: list[str], config: dict[str, Any]) -> Fate | None:
    """One worker: whichever of its virtual clients a round has drawn, one after the other."""
    worker = Worker(
        [Address(*where) for where in config["gateways"].values()],
        job=config["name"], keys=Keys(*keys), count=config["client_count"],
    )  # fmt: skip
    try:
        worker.run(function)
    except BaseException as error:
        client = "" if worker.running is None else f"client-{worker.running}"
        raise InRound(worker.round, client) from error
    finally:
        worker.close()
    return None


class Trial:
    """The evaluator, called with the initial model in its own process before clients are started.

    An evaluator that cannot work at all so ends the run at once, and not when there is a model to
    measure.  One that takes longer than TRIAL_S has clients start meanwhile.
    """

    def __init__(self, job: FLJob, job_path: Path) -> None:
        self.job, self.job_path = job, job_path
        self._outcome, self._passed = os.pipe()

    def run(self, figures: Figures) -> None:
        """In the evaluator's process."""
        os.close(self._outcome)
        model = initial_model(self.job, self.job_path)
        try:
            figures(Layout.of(model).arrays(model))
        except BaseException as error:
            raise InRound(0) from error
        with contextlib.suppress(BrokenPipeError):  # nobody has waited for it
            os.write(self._passed, b"+")
        os.close(self._passed)

    def is_passed(self) -> bool:
        """Whether clients may start, in the process that starts them; asked once."""
        os.close(self._passed)
        ready = readable([self._outcome], TRIAL_S)
        has_failed = bool(ready) and not os.read(self._outcome, 1)
        os.close(self._outcome)
        return not has_failed


def evaluate(figures: Figures, config: dict[str, Any], trial: Trial | None) -> Fate | None:
    if trial is not None:
        trial.run(figures)
    observer = Observer(
        [Address(*where) for where in config["gateways"].values()],
        job=config["name"],
        keys=Keys(*config["observer"]),
    )
    try:
        for number, model in observer.models():
            if number > 0:
                try:
                    measured = figures(model)
                except BaseException as error:
                    raise InRound(number) from error
                observer.report(number, measured)
    finally:
        observer.close()
    return None


# -- processes -------------------------------------------------------------------------------
@dataclass
class Child:
    """A forked process."""

    what: str
    pid: int
    pidfd: int
    printed: int  # reading end of the pipe that is its standard output and error


def fork(what: str, work: Callable[[], Fate | None]) -> Child:
    """Run `work` in a child process; how it ended are its last words."""
    printed, output = os.pipe()
    pid = os.fork()
    if pid:
        os.close(output)
        return Child(what, pid, os.pidfd_open(pid), printed)
    end_with_parent()
    os.close(printed)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    status = 1
    try:
        fate = work()
        status = 0
    except BaseException as error:
        fate = _fate(error)
    finally:
        with contextlib.suppress(Exception):
            last_words(**(DONE if fate is None else asdict(fate)))
            sys.stdout.flush()
        os._exit(status)


def _fate(error: BaseException) -> Fate | None:
    number, client = 0, ""
    if isinstance(error, InRound) and error.__cause__ is not None:
        number, client, error = error.number, error.client, error.__cause__
    if isinstance(error, SystemExit) and not error.code:
        return Fate(number)  # as if it had returned
    if isinstance(error, InvalidJob):
        return Fate(number, str(error), is_said=True)
    return Fate.of(error, number, client)


class Children:
    """All of them, until they have ended or a run without those that failed cannot go on."""

    def __init__(self, children: list[Child], fates: Fates) -> None:
        self.fates = fates
        self.left = {child.pidfd: child for child in children}
        self.selector = selectors.DefaultSelector()
        self.outputs = Outputs(self.selector)
        self.speakers: dict[str, Speaker] = {}
        for child in children:
            speaker = self.speakers[child.what] = Speaker(child.what, say)
            self.outputs.listen(child.printed, speaker)
            self.selector.register(child.pidfd, selectors.EVENT_READ)

    def wait(self) -> str | None:
        """Why the run cannot go on; None when all have ended and it may."""
        told_at = math.inf
        while self.left or self.fates.has_news:
            wait_s = None if told_at == math.inf else max(0.0, told_at - time.monotonic())
            for key, _ in self.selector.select(wait_s if self.left else 0):
                if key.fd in self.outputs:
                    self.outputs.read(key.fd)
                elif key.fd in self.left:
                    self._ended(self.left.pop(key.fd))
            if self.fates.has_news and told_at == math.inf:
                told_at = time.monotonic() + TOGETHER_S
            if time.monotonic() >= told_at or not self.left:
                told_at = math.inf
                news = self.fates.news()
                for who, line in news.lines:
                    say(who, line)
                for text in news.warnings:
                    emit("warning", text=text)
                for text in news.missed:
                    emit("missed", text=text)  # the engine knows whether a round has begun
                if news.fatal is not None:
                    self.outputs.drain_all()
                    return news.fatal
        return None

    def _ended(self, child: Child) -> None:
        """Who was not killed says how it ended; without a word nothing has ended as it should."""
        self.selector.unregister(child.pidfd)
        os.close(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        speaker = self.speakers[child.what]
        self.outputs.drain(speaker)
        if speaker.words == DONE:
            return
        if speaker.words:
            self.fates.add(child.what, Fate.from_words(speaker.words))
        else:
            self.fates.add(child.what, Fate(status=code, is_silent=code == 0))


@click.command()
@click.option("--config", "config_path", type=click.Path(path_type=Path), required=True)
def main(config_path: Path) -> None:
    """Start every trainer and the evaluator of a run, and wait for them."""
    logging.basicConfig(format="%(levelname)s: %(name)s: %(message)s")  # trainers' own, too
    end_with_parent()
    run(json.loads(config_path.read_text()))


def run(config: dict[str, Any]) -> None:
    """Start them and wait; ends the process with 1 when what is needed has failed.

    Args:
        config: what the engine, or in a cluster member.py, has written down: all members of a run,
            or those of one pod.
    """
    job_path = Path(config["job"])
    job = load_job(job_path)
    spec = job.spec
    keep_stdout()
    give_way()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # two descriptors a client
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    children: list[Child] = []
    trial: Trial | None = None
    try:
        if spec.evaluator and config["observer"]:
            figures = evaluator_of(job, job_path)
            trial = Trial(job, job_path) if config.get("is_new") else None
            look = partial(evaluate, figures, config, trial)
            children.append(fork(EVALUATOR, partial(within, config.get("observer_netns"), look)))
        if spec.trainer and (config["workers"] or config["client_files"]):
            function = trainer_of(job, job_path)
            if spec.clients.lane == "fast":
                preload()  # once for all that are forked
            if trial is None or trial.is_passed():
                own = {
                    f"worker-{index}": partial(work, function, keys, config)
                    for index, keys in enumerate(config["workers"])
                } | {
                    path.stem: partial(train, function, path, spec.rounds)
                    for path in map(Path, config["client_files"])
                }
                children += [
                    fork(what, partial(within, config.get("netns"), each))
                    for what, each in own.items()
                ]
    except InvalidJob as error:
        emit("failed", error=str(error), code=error.code)
        sys.exit(1)
    clients = sum(child.what != EVALUATOR for child in children)
    # of workers none can be missed: nobody else runs its clients
    needed = clients if config["workers"] else config.get("needed", spec.clients.min)
    is_least = not config["workers"] and "needed" not in config
    fates = Fates(clients, needed, spec.rounds, is_least)
    fatal = None if config.get("others") else fates.too_few()
    fatal = fatal or Children(children, fates).wait()
    if fatal is not None:
        emit("failed", error=fatal, code="trainer-failed")
        sys.exit(1)


if __name__ == "__main__":
    main()
