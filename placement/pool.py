"""Processes of a node: aggregator runtimes and the gateway, as the agent knows them.

Owns starting them, noticing that they died (pidfd) or do not answer, and which runtime is idle.
Does not own what they do: placement/node.py gives out roles.  Runtimes outlive roles and rounds;
a role that gets an idle one starts warm.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lifl.proxy_ebpf.control import Control

ProcessKind = Literal["runtime", "gateway"]


@dataclass
class Process:
    """One process of this node.  It is dead when its pidfd says so, not when it disconnects.

    Attributes:
        pid: its name: below 0 for one in a pod of its own, see Control.peer.
        tenant: whose jobs it may work for; None: anybody's.
        pod: in which it runs, in a cluster.
    """

    kind: ProcessKind
    pid: int
    pidfd: int
    control: Control | None = None
    role: tuple[int, int] | None = None  # (job, endpoint) that it was given
    joined: bool = False
    holds: set[int] = field(default_factory=set)  # jobs whose memory it said that it has
    asked_at: float | None = None  # when it was asked what it has not answered (monotonic)
    tenant: str | None = None
    pod: str = ""

    def fileno(self) -> int:
        return self.pidfd

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Pool:
    """All processes that this node's agent, or the one before it, has started."""

    def __init__(self, node: str, directory: Path, gateway_arguments: list[str]) -> None:
        self.node = node
        self.directory = directory
        self.socket_path = directory / "agent.sock"
        self.gateway_arguments = gateway_arguments
        self.processes: dict[int, Process] = {}
        self.cold_starts = 0

    # -- starting ----------------------------------------------------------------------------
    def start_runtime(self) -> Process | None:
        self.cold_starts += 1
        return self._start("runtime", "lifl.functions.aggregator", [])

    def start_gateway(self, listen: str) -> Process | None:
        arguments = [*self.gateway_arguments, "--listen", listen]
        return self._start("gateway", "lifl.functions.gateway", arguments)

    def _start(self, kind: ProcessKind, module: str, arguments: list[str]) -> Process:
        command = [sys.executable, "-m", module, "--socket", str(self.socket_path)]
        child = subprocess.Popen(
            [*command, "--node", self.node, *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | _QUIET,
        )
        process = Process(kind, child.pid, os.pidfd_open(child.pid))
        child.returncode = 0  # reaped through the pidfd, not by subprocess
        self.processes[child.pid] = process
        self.save()
        return process

    # -- who is there ------------------------------------------------------------------------
    @property
    def gateway(self) -> Process | None:
        return next((p for p in self.processes.values() if p.kind == "gateway"), None)

    def kill(self, process: Process) -> None:
        """End one that does not answer."""
        process.kill()

    def take_stuck(self) -> list[str]:
        """Pods of processes to be killed that nobody here can kill, once; somebody else must."""
        return []

    def idle(self, but: Process | None = None, *, tenant: str = "") -> Process | None:
        """A connected runtime without a role, that may work for this tenant."""
        return next(
            (
                p
                for p in self.processes.values()
                if p.kind == "runtime" and p.control is not None and p.role is None and p is not but
                and p.tenant in (None, tenant)
            ),
            None,
        )

    def starting(self) -> int:
        """Runtimes that were started and have not connected yet."""
        return sum(
            p.kind == "runtime" and p.control is None and p.role is None
            for p in self.processes.values()
        )

    def holder(self, job: int, endpoint: int) -> Process | None:
        return next((p for p in self.processes.values() if p.role == (job, endpoint)), None)

    def bury(self, process: Process) -> int | None:
        """Forget a dead process; its exit status, if it was this process's own child."""
        status = None
        if process.pid > 0:
            with contextlib.suppress(ChildProcessError):
                status = os.waitstatus_to_exitcode(os.waitpid(process.pid, os.WNOHANG)[1])
        if process.pidfd >= 0:
            os.close(process.pidfd)
        if process.control:
            process.control.close()
        self.processes.pop(process.pid, None)
        self.save()
        return status

    # -- across restarts of the agent -----------------------------------------------------------
    def save(self) -> None:
        """Write down who is running, for the agent after this one; atomic."""
        self._write([[p.pid, p.kind, p.role] for p in self.processes.values()])

    def _write(self, rows: list[list[Any]]) -> None:
        path = self.directory / "processes.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(rows))
        temporary.rename(path)

    def came(self, process: Process, pidfd: int) -> None:
        """A process that is known has connected again."""
        os.close(pidfd)

    def lost(self) -> list[Process]:
        """Those that count as dead although no pidfd says so."""
        return []

    def adopt(self) -> bool:
        """Find the processes of the agent before this one; True if there was one."""
        try:
            rows = json.loads((self.directory / "processes.json").read_text())
        except FileNotFoundError:
            return False
        for pid, kind, role in rows:
            try:
                pidfd = os.pidfd_open(pid)
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if str(self.socket_path).encode() in command:
                self.processes[pid] = Process(kind, pid, pidfd, role=tuple(role) if role else None)
            else:
                os.close(pidfd)
        return True

    def end(self) -> None:
        """Kill every process and wait until it is gone."""
        for process in self.processes.values():
            process.kill()
        for process in list(self.processes.values()):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
            self.bury(process)
        (self.directory / "processes.json").unlink(missing_ok=True)


_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
