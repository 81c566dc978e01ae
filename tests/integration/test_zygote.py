"""Runtimes that are forked from a process that has imported their code."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

from lifl.placement.forkserver import Zygote
from lifl.placement.pool import Pool
from lifl.proxy_ebpf.control import Control, listen


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    made = listen(tmp_path / "agent.sock")
    yield made
    made.close()


def forked(zygote: Zygote) -> int:
    """A runtime, once the zygote is ready."""
    pids: list[int] = []

    def fork() -> bool:
        pid = zygote.fork()
        pids.extend([pid] if pid is not None else [])
        return pid is not None

    wait_until(fork, lambda: "the zygote is never ready", 60)
    return pids[0]


def test_a_runtime_that_is_forked_joins_its_agent(listener: socket.socket, tmp_path: Path) -> None:
    zygote = Zygote("node-0", tmp_path / "agent.sock", {"OMP_NUM_THREADS": "1"})
    assert zygote.fork() is None  # it still imports
    pid = forked(zygote)
    pidfd = os.pidfd_open(pid)
    try:
        select.select([listener], [], [], 30)
        received = Control(listener.accept()[0]).receive()
        assert received is not None
        assert received[0]["t"] == "runtime"
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert b"lifl.functions.aggregator" in words
        assert str(tmp_path / "agent.sock").encode() in words
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
        zygote.end()
        assert not select.select([pidfd], [], [], 0)[0]  # runtimes outlive it
        assert zygote.fork() is None
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 30)[0]
        os.close(pidfd)


def test_without_a_zygote_a_runtime_starts_cold(listener: socket.socket, tmp_path: Path) -> None:
    pool = Pool("node-0", tmp_path, [])
    try:
        pool.start_zygote()
        first = pool.start_runtime()
        assert first is not None
        assert first.started is not None
        assert first.started[0] == "cold"
        assert pool.cold_starts == 1
    finally:
        pool.end()
    assert not pool.processes
