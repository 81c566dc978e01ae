"""A whole job as `lifl run` runs it, with clients that train nothing.

Owns the job file, its folder and the process; reads rounds.jsonl.  Called by the cases.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.system import cpu_s, processes

TRAINER = Path(__file__).parent / "bench_trainer.py"
GATEWAY = "lifl.functions.gateway"
AGGREGATOR = "lifl.functions.aggregator"
ZYGOTE = "lifl.functions.zygote"
AGENT = "lifl.placement.agent"
END_S = 60.0
LIMIT_S = 180.0  # of a job; a benchmark that hangs says so


@dataclass
class Job:
    """A job under way."""

    process: subprocess.Popen[str]
    folder: Path

    def events(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends.

        Raises:
            RuntimeError: it failed; the last lines of its standard error are in the message.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "failed":
                raise RuntimeError(f"the job failed: {event['error']}\n{self.last_words()}")
            yield event
        if self.process.wait():
            raise RuntimeError(
                f"the job ended with status {self.process.returncode}\n{self.last_words()}"
            )

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next such event."""
        for found in self.events():
            if found["event"] == event and fields.items() <= found.items():
                return found
        raise RuntimeError(f"the job ended before its event {event} {fields}")

    def last_words(self) -> str:
        return (self.folder / "stderr").read_text()[-2000:]

    def pids(self, *modules: str) -> list[int]:
        return processes(self.process.pid, *modules)

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "latest"

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_dir / "rounds.jsonl").open()]


@contextmanager
def started(
    *, clients: int, size_bytes: int, rounds: int, busy_rounds: int | None = None,
    trainers: bool = True, train: str = "train", spec: dict[str, Any] | None = None,
    flags: Sequence[str] = (), limit_s: float = LIMIT_S,
) -> Iterator[Job]:  # fmt: skip
    """A job of `clients` × `size_bytes`, ended when the block is left, or after `limit_s`.

    Args:
        busy_rounds: after so many the clients train for ever.
        trainers: False: clients come from outside, with the files of the run directory.
        train: which function of bench_trainer.py the clients run.
        spec: what else the job has.
        flags: of `lifl run`.
    """
    folder = Path(tempfile.mkdtemp(prefix="lifl-bench-", dir="/tmp"))  # short: socket paths are
    shutil.copy(TRAINER, folder)
    whole: dict[str, Any] = {
        "rounds": rounds, "clients": {"min": clients}, "aggregation": {"fanIn": 8},
        "model": {"initial": "bench_trainer:initial_model"}, **(spec or {}),
    }  # fmt: skip
    if trainers:
        whole["trainer"] = {"entrypoint": f"bench_trainer:{train}", "clients": clients}
    (folder / "job.json").write_text(json.dumps({
        "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": "bench"},
        "spec": whole,
    }))  # fmt: skip
    environment = os.environ | {
        "LIFL_BENCH_BYTES": str(size_bytes), "XDG_RUNTIME_DIR": str(folder),
    }  # fmt: skip
    if busy_rounds is not None:
        environment["LIFL_BENCH_BUSY_ROUNDS"] = str(busy_rounds)
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "lifl", "run", str(folder / "job.json"), "--json",
             "--out", str(folder / "runs"), *flags],
            stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
        )  # fmt: skip
    limit = threading.Timer(limit_s, process.terminate)
    limit.start()
    try:
        yield Job(process, folder)
    finally:
        limit.cancel()
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C would; `lifl run` ends everything that it started."""
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its engine sees the lifeline close
        process.communicate()


@dataclass(frozen=True)
class Rounds:
    """Seconds of the first round and of each after it, and what a warm round costs.

    Attributes:
        cpu_s: of gateway and aggregators together, a warm round.
    """

    first_s: float
    warm_s: list[float]
    cpu_s: float


def job_rounds(
    *, clients: int, size_bytes: int, warm: int, train: str = "train",
    spec: dict[str, Any] | None = None,
) -> Rounds:  # fmt: skip
    """A job of one first round, `warm` warm ones and a last one that is not counted.

    The last one is there for the CPU clocks, which are read when a round was published: after
    the last the processes may be gone already.
    """
    with started(
        clients=clients, size_bytes=size_bytes, rounds=warm + 2, train=train, spec=spec
    ) as job:
        job.until("published", round=1)
        node = job.pids(GATEWAY, AGGREGATOR)
        before = sum(map(cpu_s, node))
        job.until("published", round=warm + 1)
        used = sum(map(cpu_s, node)) - before
        for _ in job.events():
            pass
        seconds = [row["seconds"] for row in job.rows()]
    return Rounds(seconds[0], seconds[1 : warm + 1], used / warm)
