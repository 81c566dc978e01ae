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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lifl.errors import TransientError
from lifl.placement.limits import full_disk_says
from lifl.placement.processes import ONE_THREAD
from lifl.placement.record import write_whole

log = logging.getLogger("lifl.operator")

RESTARTS: Final = 10  # more is not a crash but a defect
AGAIN_S: Final = 1.0  # after a process that could not be started
MAKE_ROOM: Final = "it is tried again: make room where the operator's models lie (operator.storage)"
PORTS: Final = range(30000, 31000)

Event = dict[str, Any]


class Coordinator:
    """One job's coordinator, and the port that outlives it.

    Args:
        config: as placement/coordinator.py reads it, without where it listens.
        address: of this pod.
        on_event: hears each of its events, and {"event": "ended", "how": a sentence} at its end.

    Raises:
        TransientError: there is no port for it, or no room for its file.
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
        try:
            with full_disk_says(self._path, MAKE_ROOM):
                write_whole(self._path, json.dumps(config).encode(), mode=0o600)
        except TransientError:
            self._listener.close()
            raise
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = self._hears = self._pausing = self._has_paused = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        left = RESTARTS
        code = await self._once()
        while code is None and left and not (self._stopping or self._has_paused):
            left -= 1
            self.on_event({"event": "restart", "what": "coordinator"})
            code = await self._once()
        self._listener.close()
        if not self._stopping:
            how = f"ended with status {code}"
            if code is None:
                how = f"was killed, or could not be started, {RESTARTS + 1 - left} times"
            self.on_event({"event": "ended", "how": how})

    async def _once(self) -> int | None:
        """Its exit status; None: it was killed, or there was no process to be had."""
        self._hears = False
        try:
            self._process = process = await self._started()
        except OSError as error:
            log.warning("%s: the coordinator cannot be started: %s", self.name, error)
            await asyncio.sleep(AGAIN_S)
            return None
        if self._stopping:  # meanwhile
            process.kill()
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
        code = await process.wait()
        if code >= 0:
            return code
        log.warning("%s: the coordinator was killed by signal %d", self.name, -code)
        return None

    async def _started(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lifl.placement.coordinator", "--config", str(self._path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            pass_fds=[self._listener.fileno()], limit=1 << 24, env=os.environ | ONE_THREAD,
        )  # fmt: skip

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something to the process that runs; the next one has to be told again."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

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
    """At the first port that is free.

    Raises:
        TransientError: none is.
    """
    for port in PORTS:
        try:
            return socket.create_server((address, port), backlog=1024)
        except OSError as error:
            why = error.strerror
    raise TransientError(
        f"the coordinator cannot listen at any port of {address} from {PORTS.start} to "
        f"{PORTS.stop - 1} ({why}): it is tried again; there may be too many jobs, or too many "
        "open files",
        code="port-in-use",
    )
