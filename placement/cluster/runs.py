"""The coordinators of jobs, as children of the operator.

Owns starting one, reading what it says, ending it, and starting one again that was killed.  What a
job is and what its news mean is nobody's here: events go to whoever made it.  One task a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lifl.placement.record import write_whole

log = logging.getLogger("lifl.operator")

RESTARTS: Final = 10  # more is not a crash but a defect
PORTS: Final = range(30000, 31000)

Event = dict[str, Any]


class Coordinator:
    """One job's coordinator, and the port that outlives it.

    Args:
        config: as placement/coordinator.py reads it, without where it listens.
        address: of this pod.
        on_event: hears each of its events, and {"event": "ended", "code": …} at its end.
    """

    def __init__(
        self, name: str, run_dir: Path, config: dict[str, Any], address: str,
        on_event: Callable[[Event], None],
    ) -> None:  # fmt: skip
        self.name, self.on_event = name, on_event
        self._listener = _listen(address)
        self.endpoint = "tcp://{}:{}".format(*self._listener.getsockname())
        self._path = run_dir / "coordinator.json"
        config |= {"listen": self.endpoint, "listen_fd": self._listener.fileno()}
        write_whole(self._path, json.dumps(config).encode(), mode=0o600)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = self._hears = self._pausing = self._has_paused = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for _ in range(RESTARTS + 1):
            code = await self._once()
            if self._stopping or self._has_paused or code >= 0:
                break
            log.warning("%s: the coordinator was killed by signal %d", self.name, -code)
            self.on_event({"event": "restart", "what": "coordinator"})
        self._listener.close()
        if not self._stopping:
            self.on_event({"event": "ended", "code": 0 if self._has_paused else code})

    async def _once(self) -> int:
        self._hears = False
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lifl.placement.coordinator", "--config", str(self._path),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._listener.fileno()], limit=1 << 24, env=os.environ | _ONE_THREAD,
        )  # fmt: skip
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                log.warning("%s: %r", self.name, line[:200])
                continue
            self._see(event["event"])
            if not self._stopping:
                self.on_event(event)
        return await process.wait()

    def pause(self) -> None:
        """Let it end after the round that is under way; it says `paused` then."""
        if not self._pausing:
            self._pausing = True
            self._ask_to_pause()

    def _see(self, event: str) -> None:
        if event == "listening":  # it has a handler from here on; before, a signal would kill it
            self._hears = True
            self._ask_to_pause()
        self._has_paused = self._has_paused or event == "paused"

    def _ask_to_pause(self) -> None:
        """Once a process: one that is ending has no handler any more."""
        if self._pausing and self._hears and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGUSR1)

    async def stop(self) -> None:
        """End it, wherever it is."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 5.0)
            except TimeoutError:
                self._process.kill()
        await self.task


def _listen(address: str) -> socket.socket:
    """At the first port that is free."""
    for port in PORTS:
        with contextlib.suppress(OSError):
            return socket.create_server((address, port), backlog=1024)
    raise OSError(f"no port of {PORTS.start} to {PORTS.stop - 1} is free at {address}")


_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
