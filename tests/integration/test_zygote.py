"""The zygote: runtimes come from it, with nothing of its own; without it they start cold."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROXY, Runner, wait_until

from lifl.placement import forking
from lifl.placement.forking import Forked, Forking
from tests.clock import Clock

ZYGOTE, RUNTIME = "lifl.functions.zygote", "lifl.functions.aggregator"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def zygote(tmp_path: Path, clock: Clock) -> Iterator[Forking]:
    """One of a node whose directory is gone: what it forks finds no agent, and ends."""
    command = [sys.executable, "-m", ZYGOTE, "--socket", str(tmp_path / "gone" / "agent.sock")]
    made = Forking([*command, "--node", "n"], dict(os.environ), clock)
    made.start()
    yield made
    made.end()


def answers(zygote: Forking) -> tuple[list[Forked], list[float]]:
    """The next that has something."""
    while True:
        forked, cold = zygote.answers()
        if forked or cold:
            return forked, cold
        assert select.select(zygote.fds, [], [], 60)[0], "the zygote says nothing"


def is_dead(pidfd: int, limit_s: float = 30) -> bool:
    return bool(select.select([pidfd], [], [], limit_s)[0])


def test_what_it_forks_is_reaped_and_another_comes(zygote: Forking) -> None:
    for _ in range(3):
        assert zygote.ask()
        assert zygote.unanswered == 1
        (forked,), cold = answers(zygote)
        assert (cold, zygote.unanswered) == ([], 0)
        assert is_dead(forked.pidfd)
        os.close(forked.pidfd)
    pid = zygote.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: not children.read_text(), lambda: f"zombies: {children.read_text()}")
    assert zygote.deaths == 0


def test_one_that_is_killed_is_started_again(zygote: Forking) -> None:
    assert zygote.ask()
    answers(zygote)[0]
    first = zygote.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    assert zygote.ask()
    assert zygote.ask()
    os.kill(first, signal.SIGKILL)
    _, cold = answers(zygote)
    assert len(cold) == 2  # whoever asked is not forgotten
    assert zygote.deaths == 1
    assert zygote.pid not in (None, first)
    assert zygote.ask()
    assert len(answers(zygote)[0]) == 1


def test_one_that_dies_before_it_serves_is_not(zygote: Forking) -> None:
    assert zygote.ask()
    assert zygote.pid is not None
    os.kill(zygote.pid, signal.SIGKILL)
    _, cold = answers(zygote)
    assert len(cold) == 1
    assert (zygote.pid, zygote.fds, zygote.ask()) == (None, [], False)


def test_one_that_does_not_answer_is_killed(zygote: Forking, clock: Clock) -> None:
    assert zygote.ask()
    answers(zygote)
    stuck = zygote.pid
    assert stuck is not None
    pidfd = os.pidfd_open(stuck)
    os.kill(stuck, signal.SIGSTOP)
    assert zygote.late_in_s() is None
    assert zygote.ask()
    assert zygote.answers() == ([], [])
    assert 0 < (zygote.late_in_s() or 0) <= forking.LATE_S
    clock.now += forking.LATE_S
    forked, cold = zygote.answers()
    assert (forked, len(cold)) == ([], 1)
    assert is_dead(pidfd)
    os.close(pidfd)


def published(process: subprocess.Popen[str], more: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        more -= json.loads(line)["event"] == "published"
        if more == 0:
            return
    raise AssertionError("the run ended early")


def replaced(runner: Runner) -> None:
    """Kill a runtime, and see another in its place."""
    dies, *others = runner.processes(RUNTIME)
    os.kill(dies, signal.SIGKILL)
    wait_until(
        lambda: len({*runner.processes(RUNTIME)} - {dies, *others}) == 1,
        lambda: f"no runtime comes after {dies}: {runner.processes(RUNTIME)}",
    )


def fds(pid: int) -> list[str]:
    """What a process has open, without numbers of sockets and pipes."""
    return sorted(os.readlink(fd).split(":")[0] for fd in Path(f"/proc/{pid}/fd").iterdir())


def test_a_run_whose_runtimes_come_from_it(runner: Runner) -> None:
    """From the first round on, after a crash, and after the zygote's own; with nothing of its."""
    path = runner.job_file(rounds=100_000, trainers=4, aggregation={"fanIn": 2})
    process = runner.start(path, "--proxy", PROXY, "--liveness", "1")
    published(process, 2)
    (zygote,) = runner.processes(ZYGOTE)
    assert len(os.listdir(f"/proc/{zygote}/task")) == 1
    assert [what for what in fds(zygote) if "memfd" in what or "bpf" in what] == []
    assert fds(zygote).count("socket") == 1
    runtimes = runner.processes(RUNTIME)
    assert len(runtimes) == 4
    for pid in runtimes:
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"PPid:\t{zygote}\n" in status
        assert "Threads:\t1\n" in status
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        assert command[1:3] == [b"-m", RUNTIME.encode()]
        assert [part for part in command if part.startswith(b"--")] == [b"--socket", b"--node"]
        has = fds(pid)
        assert sum(what.startswith("anon_inode") for what in has) == 0  # no pidfd, epoll, bpf
        assert has.count("socket") == 3  # to the agent, and its pair

    replaced(runner)
    os.kill(zygote, signal.SIGKILL)
    wait_until(
        lambda: set(runner.processes(ZYGOTE)) - {zygote}, lambda: "no zygote comes after it"
    )
    replaced(runner)

    (agent,) = runner.processes("lifl.placement.agent")
    before = runner.processes(ZYGOTE)
    os.kill(agent, signal.SIGKILL)
    published(process, 4)
    wait_until(
        lambda: len(runner.processes(ZYGOTE)) == 1 and runner.processes(ZYGOTE) != before,
        lambda: f"zygotes: {runner.processes(ZYGOTE)}, before the agent died {before}",
    )
    replaced(runner)
    published(process, 500)  # of which some began after that
    process.send_signal(signal.SIGINT)
    run = runner.finish(process)
    starts = [row["zygote_starts"] for row in run.rows]
    assert starts[0] == 4
    assert sum(starts[1:]) >= 1  # an agent that is killed takes what it had not reported along
    assert sum(row["cold_starts"] for row in run.rows) == 0
    assert run.rows[0]["start_seconds"]["zygote"] > 0
