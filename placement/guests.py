"""Processes of a node in pods of their own: nobody here starts them or can kill them.

Owns the pool of an agent in a cluster: who has joined from which pod, for which tenant.  How many
runtimes there are is the operator's matter, which is told how many roles want one.  Called as
pool.py's Pool is.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from lifl.placement.pool import Pool, Process, ProcessKind

REJOIN_S: Final = 10.0  # for processes of the agent before this one; they look every 20 ms
_NOT_YET: Final = -1  # the pidfd of one that has not come back


class Guests(Pool):
    """All processes that have joined this node's agent, or the one before it."""

    def __init__(self, node: str, directory: Path, socket_path: Path) -> None:
        super().__init__(node, directory, [])
        self.socket_path = socket_path
        self._stuck: list[str] = []
        self._until = 0.0

    def start_runtime(self) -> Process | None:
        return None

    def start_gateway(self, listen: str) -> Process | None:
        return None

    def starting(self) -> int:
        """As many as anybody could want: they are started elsewhere."""
        return 1 << 30

    def kill(self, process: Process) -> None:
        self._stuck.append(process.pod)

    def take_stuck(self) -> list[str]:
        stuck, self._stuck = self._stuck, []
        return stuck

    def save(self) -> None:
        self._write([[p.pid, p.kind, p.role, p.tenant, p.pod] for p in self.processes.values()])

    def adopt(self) -> bool:
        """Expect those who were there before; True if there was an agent before this one."""
        try:
            rows = json.loads((self.directory / "processes.json").read_text())
        except FileNotFoundError:
            return False
        for name, kind, role, tenant, pod in rows:
            known: ProcessKind = kind
            self.processes[name] = Process(
                known, name, _NOT_YET, role=tuple(role) if role else None, tenant=tenant, pod=pod
            )
        self._until = time.monotonic() + REJOIN_S
        return True

    def came(self, process: Process, pidfd: int) -> None:
        """One that was expected is back."""
        if process.pidfd != _NOT_YET:
            os.close(process.pidfd)
        process.pidfd = pidfd

    def lost(self) -> list[Process]:
        """Those that were expected and have not come: dead, as far as anybody here can tell."""
        if time.monotonic() < self._until:
            return []
        return [process for process in self.processes.values() if process.pidfd == _NOT_YET]

    def end(self) -> None:
        """They live on in their pods."""
        (self.directory / "processes.json").unlink(missing_ok=True)
