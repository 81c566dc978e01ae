"""Processes of a node: aggregator runtimes and the gateway, as the agent knows them.

Owns starting them, noticing that they died (pidfd) or do not answer, and which runtime is idle.
Does not own what they do: placement/node.py gives out roles.  Runtimes outlive roles and rounds;
a role that gets an idle one starts warm.  New ones are forked by the node's zygote (forking.py),
or cold, as an interpreter of their own, where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from lifl.faults import fault
from lifl.functions.waiting import readable
from lifl.placement.forking import Forking
from lifl.placement.processes import ONE_THREAD, words_of
from lifl.proxy_ebpf.control import Control

ProcessKind = Literal["runtime", "gateway"]
StartKind = Literal["zygote", "cold"]
STARTS: Final[tuple[StartKind, ...]] = ("zygote", "cold")


@dataclass
class Process:
    """One process of this node.  It is dead when its pidfd says so, not when it disconnects.

    Attributes:
        pid: its name: below 0 for one in a pod of its own, see Control.peer.
        tenant: whose jobs it may work for; None: anybody's.
        pod: in which it runs, in a cluster.
        start: how it was started.
        began_at: when it was asked for (monotonic), until it has joined; None: nobody here knows.
        idle_since_s: since when it has had no role, where it has none (monotonic).
        has_served: it has had one.
        is_retired: it was told to end, since nobody needs it.
        is_given_up: it does not answer, and is being ended.
        awaited_since_s: since when it is to connect, or to join with the role that it was given
            (monotonic).
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
    start: StartKind = "cold"
    began_at: float | None = None
    idle_since_s: float = field(default_factory=time.monotonic)
    has_served: bool = False
    is_retired: bool = False
    is_given_up: bool = False
    awaited_since_s: float = field(default_factory=time.monotonic)

    @property
    def is_awaited(self) -> bool:
        """Not connected, or on its way into its role; it cannot be asked whether it is well."""
        if self.is_retired or self.is_given_up:
            return False
        return self.control is None or (self.role is not None and not self.joined)

    @property
    def is_free(self) -> bool:
        """A connected runtime without a role, which is not on its way out."""
        return (
            self.kind == "runtime" and self.control is not None and self.role is None
            and not self.is_retired and not self.is_given_up
        )  # fmt: skip

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
        self.starts: Counter[StartKind] = Counter()  # runtimes that joined, since the last report
        self.start_s = dict.fromkeys(STARTS, 0.0)  # and how long that took, in all
        self.zygote: Forking | None = None
        self.draining: frozenset[str] = frozenset()  # pods that are to take no role

    # -- starting ----------------------------------------------------------------------------
    def start_zygote(self) -> None:
        """Have runtimes forked from now on."""
        command = [sys.executable, "-m", "lifl.functions.zygote", "--socket", str(self.socket_path)]
        self.zygote = Forking([*command, "--node", self.node], os.environ | ONE_THREAD)
        self.zygote.start()

    def start_runtime(self) -> None:
        if self.zygote is None or not self.zygote.ask():
            self._start_cold(time.monotonic())

    def _start_cold(self, asked_at: float) -> None:
        process = self._start("runtime", "lifl.functions.aggregator", [])
        process.began_at = asked_at

    def take_forked(self) -> int:
        """Know what the zygote has forked, start what it cannot; how often it died meanwhile.

        To be called before anybody is let in: a runtime is known here before it joins.
        """
        if self.zygote is None:
            return 0
        forked, cold = self.zygote.answers()
        for each in forked:
            self.processes[each.pid] = Process(
                "runtime", each.pid, each.pidfd, start="zygote", began_at=each.asked_at
            )
        if forked:
            self.save()
        for asked_at in cold:
            self._start_cold(asked_at)
        deaths, self.zygote.deaths = self.zygote.deaths, 0
        return deaths

    def started(self, process: Process) -> float | None:
        """A runtime has joined: how long it took, where that is known."""
        self.starts[process.start] += 1
        if process.began_at is None:
            return None
        took_s, process.began_at = time.monotonic() - process.began_at, None
        self.start_s[process.start] += took_s
        return took_s

    def take_starts(self) -> tuple[Counter[StartKind], dict[StartKind, float]]:
        """How many have joined since the last time by how they were started, and their seconds."""
        taken = self.starts, self.start_s
        self.starts, self.start_s = Counter(), dict.fromkeys(STARTS, 0.0)
        return taken

    def start_gateway(self, listen: str) -> None:
        arguments = [*self.gateway_arguments, "--listen", listen]
        self._start("gateway", "lifl.functions.gateway", arguments)

    def _start(self, kind: ProcessKind, module: str, arguments: list[str]) -> Process:
        command = [sys.executable, "-m", module, "--socket", str(self.socket_path)]
        child = subprocess.Popen(
            [*command, "--node", self.node, *arguments],
            stdin=subprocess.DEVNULL,
            env=os.environ | ONE_THREAD,
        )
        process = Process(kind, child.pid, os.pidfd_open(child.pid))
        child.returncode = 0  # reaped through the pidfd, not by subprocess
        self.processes[child.pid] = process
        if kind == "gateway":
            fault("agent_gateway_started", "agent")
        self.save()
        return process

    # -- who is there ------------------------------------------------------------------------
    @property
    def gateway(self) -> Process | None:
        return next((p for p in self.processes.values() if p.kind == "gateway"), None)

    def kill(self, process: Process) -> None:
        """End one that does not answer."""
        process.kill()

    def retire(self, process: Process) -> None:
        """End one that has no role and is not needed."""
        process.is_retired = True
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
                if p.is_free and p is not but and p.tenant in (None, tenant)
                and p.pod not in self.draining
            ),
            None,
        )

    def starting(self) -> int:
        """Runtimes that were started, or asked for, and have not connected yet."""
        return (self.zygote.unanswered if self.zygote else 0) + sum(
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
        self._adopt_unwritten()
        return True

    def _adopt_unwritten(self) -> None:
        """A gateway that the last agent started and had no time to write down: it has the port."""
        words = {b"lifl.functions.gateway", str(self.socket_path).encode()}
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            if pid not in self.processes and words <= words_of(pid):
                with contextlib.suppress(OSError):
                    self.processes[pid] = Process("gateway", pid, os.pidfd_open(pid))

    def end(self) -> None:
        """Kill every process and wait until it is gone: the zygote first, whose children it reaps.

        What it forked and nobody heard of finds nobody to talk to, and ends.
        """
        if self.zygote is not None:
            self.zygote.end()
        for process in self.processes.values():
            process.kill()
        for process in list(self.processes.values()):
            readable([process.pidfd])
            self.bury(process)
        (self.directory / "processes.json").unlink(missing_ok=True)
