"""However a run ends, nothing of it stays; and what can be mended does not end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROXY, Runner, wait_until
from leftovers import bpf_ids, leftovers
from test_runs import fedavg

from lifl.proxy_ebpf import objects


def until_round(process: subprocess.Popen[str], number: int) -> None:
    """Read events until a round is published."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "published" and event["round"] >= number:
            return
    raise AssertionError(f"the run ended early: {process.stderr and process.stderr.read()}")


def start(runner: Runner) -> subprocess.Popen[str]:
    path = runner.job_file(rounds=100_000, trainers=2)
    process = runner.start(path, "--proxy", PROXY, "--nodes", "2", "--liveness", "1")
    until_round(process, 2)
    return process


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.wait(30)


@pytest.mark.parametrize("sign", ["SIGKILL", "SIGINT", "SIGTERM", "SIGHUP"])
def test_the_command_is_ended(runner: Runner, sign: str) -> None:
    process = start(runner)
    assert (runner.folder / "runs/latest/metrics.json").exists()
    process.send_signal(getattr(signal, sign))
    end(process)
    assert process.returncode == (-9 if sign == "SIGKILL" else 130)
    gone = runner.folder / "runs/latest/metrics.json"  # nobody answers there any more
    wait_until(lambda: not gone.exists(), lambda: f"{gone} stays")


def test_everybody_who_could_end_it_is_killed(runner: Runner) -> None:
    """Gateway and aggregators wait for an agent that nobody starts; then they end, and clear up."""
    process = start(runner)
    os.kill(runner.processes("lifl.placement.engine")[0], signal.SIGSTOP)  # it sees no death
    modules = ("lifl.placement.agent", "lifl.placement.coordinator", "lifl.placement.engine")
    doomed = [pid for module in modules for pid in runner.processes(module)]
    process.kill()
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    end(process)
    assert runner.processes("lifl.functions.gateway")
    assert runner.processes("lifl.functions.aggregator")
    wait_until(
        lambda: not (runner.processes("lifl.functions.gateway") or [*runner.runtime_dir.iterdir()]),
        lambda: f"there is still {runner.leftovers()}", 60,
    )  # fmt: skip


def test_interrupted_twice(runner: Runner) -> None:
    process = start(runner)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    end(process)
    assert process.returncode != 0


@pytest.mark.parametrize("module", ["lifl.placement.engine", "lifl.trainer"])
def test_a_process_that_the_run_needs_is_killed(runner: Runner, module: str) -> None:
    process = start(runner)
    os.kill(min(runner.processes(module)), signal.SIGKILL)
    process.communicate(timeout=30)  # reading on, since a run that is not read waits
    assert process.returncode == 1
    assert not (runner.folder / "runs/latest/metrics.json").exists()


@pytest.mark.parametrize(
    "module",
    ["lifl.placement.agent", "lifl.functions.gateway", "lifl.functions.aggregator",
     "lifl.functions.zygote", "lifl.placement.coordinator"],
)  # fmt: skip
def test_a_process_that_is_started_again_is_killed(runner: Runner, module: str) -> None:
    process = start(runner)
    os.kill(runner.processes(module)[0], signal.SIGKILL)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "restart":
            break
    published = 0
    for line in process.stdout:
        event = json.loads(line)
        published += event["event"] == "published"
        if published >= 5:
            break
    assert published >= 5
    for number in range(1, event["round"]):  # written before that round's updates
        with np.load(runner.folder / "models" / f"{number}.npz") as model:
            np.testing.assert_allclose(model["double"], fedavg(number, 2)["double"], rtol=1e-12)
    process.send_signal(signal.SIGINT)
    end(process)


ANOTHER = """
import os, signal, sys
from pathlib import Path
from lifl.placement.processes import private_bpffs
from lifl.proxy_ebpf.open import open_router

folder = Path(sys.argv[1])
assert private_bpffs(folder) == ""
if (agent := os.fork()) == 0:
    router = open_router("ebpf", folder / "node-0")
    print(os.getpid(), flush=True)
    signal.pause()
sys.stdin.readline()
os.kill(agent, signal.SIGKILL)
os.waitpid(agent, 0)
print("dead", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(PROXY != "ebpf", reason="there is nothing in the kernel")
def test_what_another_run_has_pinned_is_its_own(runner: Runner, tmp_path: Path) -> None:
    """Its agent was killed: nobody holds it, while somebody of that run is still there."""
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(tmp_path / "bpf")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as another:  # fmt: skip
        assert another.stdin is not None
        assert another.stdout is not None
        its = bpf_ids(Path("/proc", another.stdout.readline().strip()))
        another.stdin.write("kill it\n")
        another.stdin.flush()
        assert another.stdout.readline() == "dead\n"
        assert {what for what, _ in its} == {"prog", "map"}
        assert {(each.kind, each.id) for each in objects.listed()} >= its
        found = {tuple(line.split()[1:3]) for line in runner.leftovers()}
        assert not found & {(what, str(number)) for what, number in its}
        pinned = leftovers(runner.mark, tmp_path)  # it would be, were that folder of this run
        assert {tuple(line.split()[1:3]) for line in pinned} >= {
            (what, str(number)) for what, number in its
        }


def test_only_what_is_running_is_there(runner: Runner) -> None:
    """The check itself sees what it looks for."""
    process = start(runner)
    found = runner.leftovers()
    assert any(line.startswith("process") for line in found)
    assert any("memfd" in line for line in found)
    assert any(line.startswith("file") for line in found)
    if PROXY == "ebpf":
        assert any(line.startswith("bpf") for line in found)
    process.send_signal(signal.SIGINT)
    end(process)
    wait_until(lambda: not runner.processes("lifl.placement.engine"), lambda: "the engine stays")
