"""A long pause stops the runtimes of a job; an update starts them again, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess

import numpy as np
import pytest
from conftest import PROXY, Run, Runner, wait_until
from test_runs import fedavg

RUNTIME = "lifl.functions.aggregator"
PAUSED = 15  # the round before whose updates all clients wait; those before it are learned from
ROUNDS = PAUSED + 5


def start(runner: Runner) -> subprocess.Popen[str]:
    """A run of two leaves, a middle and a top, up to the pause."""
    path = runner.job_file(
        rounds=ROUNDS, trainers=4, aggregation={"fanIn": 2}, scaling={"keepAliveS": 0.2}
    )
    process = runner.start(path, "--proxy", PROXY, env={"TOY_ODD": f"-1 {PAUSED} pause"})
    assert process.stdout is not None
    for line in process.stdout:
        if '"published"' in line and f'"round": {PAUSED - 1},' in line:
            return process
    raise AssertionError("the run ended early")


def go_on(runner: Runner, process: subprocess.Popen[str]) -> Run:
    (runner.folder / "models" / "go").touch()
    run = runner.finish(process)
    assert run.status == 0, run.stderr
    assert len(run.rows) == ROUNDS
    for number in range(1, ROUNDS + 1):
        np.testing.assert_allclose(
            run.models[number]["double"], fedavg(number, 4)["double"], rtol=1e-12
        )
    assert not run.of("restart")
    return run


@pytest.mark.timeout(150)
def test_a_pause_stops_them_and_an_update_starts_them(runner: Runner) -> None:
    process = start(runner)
    wait_until(
        lambda: not runner.processes(RUNTIME),
        lambda: f"runtimes stay: {runner.processes(RUNTIME)}", 60,
    )  # fmt: skip
    row = go_on(runner, process).rows[PAUSED - 1]
    assert (row["zygote_starts"], row["cold_starts"], row["warm_starts"]) == (4, 0, 0)


@pytest.mark.timeout(150)
def test_one_that_was_to_leave_stays_where_an_update_is_there_meanwhile(runner: Runner) -> None:
    """It is stopped by the test before it hears that it is to leave."""
    process = start(runner)
    late = runner.processes(RUNTIME)[0]
    os.kill(late, signal.SIGSTOP)
    wait_until(
        lambda: runner.processes(RUNTIME) == [late],
        lambda: f"runtimes stay: {runner.processes(RUNTIME)}", 60,
    )  # fmt: skip
    (runner.folder / "models" / "go").touch()
    wait_until(lambda: len(runner.processes(RUNTIME)) >= 4, lambda: "nobody is started", 60)
    os.kill(late, signal.SIGCONT)
    go_on(runner, process)
