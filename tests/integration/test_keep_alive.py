"""Runtimes to zero and from zero, by what was learned or by queues; and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import numpy as np
import pytest
from conftest import PROXY, Run, Runner, wait_until
from test_runs import fedavg

RUNTIME = "lifl.functions.aggregator"
PAUSED = 15  # the round before whose updates all clients wait; those before it are learned from


def start(
    runner: Runner, *, paused: int = PAUSED, fan_in: int = 2, slow_s: float = 0.0, **scaling: Any
) -> subprocess.Popen[str]:
    """A run of four clients, up to the pause."""
    path = runner.job_file(
        rounds=paused + 5, trainers=4, aggregation={"fanIn": fan_in},
        scaling={"keepAliveS": 0.2} | scaling,
    )  # fmt: skip
    process = runner.start(
        path, "--proxy", PROXY, env={"TOY_ODD": f"-1 {paused} pause", "TOY_SLOW": str(slow_s)}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"published"' in line and f'"round": {paused - 1},' in line:
            return process
    raise AssertionError("the run ended early")


def go_on(runner: Runner, process: subprocess.Popen[str]) -> Run:
    (runner.folder / "models" / "go").touch()
    run = runner.finish(process)
    assert run.status == 0, run.stderr
    for number in range(1, len(run.rows) + 1):
        np.testing.assert_allclose(
            run.models[number]["double"], fedavg(number, 4)["double"], rtol=1e-12
        )
    assert not run.of("restart")
    return run


@pytest.mark.timeout(150)
def test_a_pause_stops_them_and_an_update_starts_them(runner: Runner) -> None:
    process = start(runner, slow_s=0.3, keepAliveS=1.0)  # times between rounds are alike
    wait_until(
        lambda: not runner.processes(RUNTIME),
        lambda: f"runtimes stay: {runner.processes(RUNTIME)}", 60,
    )  # fmt: skip
    row = go_on(runner, process).rows[PAUSED - 1]
    assert (row["zygote_starts"], row["cold_starts"], row["warm_starts"]) == (4, 0, 0)


@pytest.mark.timeout(150)
def test_one_that_was_to_leave_stays_where_an_update_is_there_meanwhile(runner: Runner) -> None:
    """It is stopped by the test before it hears that it is to leave."""
    process = start(runner, leaves="queue", idleS=10.0)
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


@pytest.mark.timeout(150)
def test_leaves_that_follow_a_queue(runner: Runner) -> None:
    """Four clients that train most of the time are no queue for four leaves, but for one."""
    process = start(
        runner, paused=60, fan_in=1, slow_s=0.05, leaves="queue", periodS=0.5, alpha=0.3, idleS=1.0
    )
    wait_until(
        lambda: not runner.processes(RUNTIME),
        lambda: f"runtimes stay: {runner.processes(RUNTIME)}", 60,
    )  # fmt: skip
    rows = go_on(runner, process).rows
    leaves = [
        sum(role["role"] == "leaf" for role in row["tree"]["node-0"]) for row in rows
    ]  # fmt: skip
    assert leaves[0] > 1  # nothing was measured yet
    assert 1 in leaves, "however long a busy machine makes the queue of one round or another"
