"""Runs of whole jobs, as a user starts them, and what must hold after every one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leftovers import MARKER, leftovers, processes

from lifl.placement.record import load_model

HERE = Path(__file__).parent
PROXY = os.environ.get("LIFL_TEST_PROXY") or ("ebpf" if os.geteuid() == 0 else "unix")


@dataclass
class Run:
    """A job that has ended."""

    status: int
    events: list[dict[str, Any]]
    run_dir: Path
    stderr: str
    models: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    fired: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        lines = (self.run_dir / "rounds.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return result

    def of(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]


class Runner:
    """Starts `lifl run` on a job made of `spec`, in a process of its own."""

    def __init__(self, folder: Path, runtime_dir: Path) -> None:
        self.folder = folder
        self.runtime_dir = runtime_dir  # short, since socket paths are
        self.mark = runtime_dir.name
        self.started: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        """Whatever a test that failed has left running."""
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()

    def processes(self, module: str) -> list[int]:
        """Pids of this runner's processes that run a module of LIFL."""
        return processes(self.mark, module)

    def leftovers(self) -> set[str]:
        return leftovers(self.mark, self.runtime_dir)

    def job_file(self, **spec: Any) -> Path:
        clients = spec.pop("trainers", 4)
        whole = {
            "apiVersion": "fl.lifl.dev/v1alpha1",
            "kind": "FLJob",
            "metadata": {"name": spec.pop("name", "toy")},
            "spec": {
                "rounds": 2,
                "clients": {"min": clients},
                "model": {"initial": "toy:initial_model"},
                "trainer": {"entrypoint": "toy:train", "clients": clients},
                **spec,
            },
        }
        (self.folder / "toy.py").write_text((HERE / "toy.py").read_text())
        path = self.folder / "job.json"
        path.write_text(json.dumps(whole))
        return path

    def start(
        self, path: Path | None, *arguments: str, env: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> subprocess.Popen[str]:  # fmt: skip
        """`within`: a command that ends with running its arguments; no path: a run goes on."""
        (self.folder / "models").mkdir(exist_ok=True)
        (self.folder / "faults").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [*within, sys.executable, "-m", "lifl", "run", *([str(path)] if path else []), "--json",
             *(["--out", str(self.folder / "runs")] if path else []), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ
            | {MARKER: self.mark, "XDG_RUNTIME_DIR": str(self.runtime_dir),
               "TOY_MODELS": str(self.folder / "models"),
               "LIFL_FAULT_DIR": str(self.folder / "faults")}
            | (env or {}),
        )  # fmt: skip
        self.started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str], limit_s: float = 90) -> Run:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
            raise AssertionError(f"hangs; last events:\n{out[-3000:]}\n{err[-3000:]}") from None
        return Run(
            process.returncode,
            [json.loads(line) for line in out.splitlines() if line.startswith("{")],
            self.folder / "runs" / "latest",
            err,
            self.models(),
            sorted(path.name for path in (self.folder / "faults").iterdir()),
        )

    def models(self) -> dict[int, dict[str, np.ndarray]]:
        """The global model of every round, the last one from the run's own file."""
        found = {
            int(path.stem): dict(np.load(path)) for path in (self.folder / "models").glob("*.npz")
        }
        last = self.folder / "runs" / "latest" / "model.safetensors"
        if last.exists():
            final = load_model(last)
            rows = (last.parent / "rounds.jsonl").read_text().splitlines()
            found[json.loads(rows[-1])["round"]] = {
                name: np.asarray(value, np.float64) for name, value in final.items()
            }
        return found

    def __call__(self, *arguments: str, env: dict[str, str] | None = None, **spec: Any) -> Run:
        return self.finish(self.start(self.job_file(**spec), *arguments, env=env))


@pytest.fixture(autouse=True, scope="session")
def hears_hangups() -> Iterator[None]:
    """Runs are started as from a terminal, also where the tests themselves are under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """A runner, after whose test nothing of its runs is left on this machine."""
    runtime_dir = Path(tempfile.mkdtemp(prefix="run-", dir="/tmp"))
    runner = Runner(tmp_path, runtime_dir)
    before = runner.leftovers()  # of BPF objects that nobody holds
    try:
        yield runner
        wait_until(
            lambda: not (runner.leftovers() - before),
            lambda: f"left: {runner.leftovers() - before}",
        )
    finally:
        runner.end()
        shutil.rmtree(runtime_dir, ignore_errors=True)


def wait_until(condition: Callable[[], Any], say: Callable[[], str], limit_s: float = 10) -> None:
    """Poll for something that other processes do; fail with a sentence."""
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(say())
        time.sleep(0.02)
