"""The agent's end of its zygote: asking for runtimes, and what becomes of it when it is stuck.

Owns the zygote's process, the requests that it has not answered and how long they may take.  Does
not own the runtimes that come of it: they are the pool's, which calls this, as it does to learn
that it has to start them itself.

A zygote that dies is started again if it had begun to serve; one that has not would die again.
One that leaves a request unanswered for `LATE_S` is killed, and its requests are started cold;
while it still imports, which a cold start would have to do as well, it has `BEGIN_S`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lifl.errors import Unreachable
from lifl.functions.waiting import readable
from lifl.proxy_ebpf.control import Control, close_all

log = logging.getLogger("lifl.agent")

LATE_S: Final = 10.0
BEGIN_S: Final = 60.0


@dataclass(frozen=True)
class Forked:
    """A runtime that the zygote made: its pid, its pidfd, and when it was asked for (monotonic)."""

    pid: int
    pidfd: int
    asked_at: float


@dataclass
class _Alive:
    pid: int
    line: Control
    is_ready: bool = False
    heard_at: float = 0.0


class Forking:
    """A node's zygote.

    Args:
        command: of the zygote, without the number of its descriptor.
        environment: that it is started with.
        clock: monotonic seconds.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._command, self._environment, self._clock = list(command), dict(environment), clock
        self._zygote: _Alive | None = None
        self._asked: deque[float] = deque()
        self.deaths = 0  # that nobody has heard of yet

    def start(self) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            child = subprocess.Popen(
                [*self._command, "--requests", str(far.fileno())],
                stdin=subprocess.DEVNULL, env=self._environment, pass_fds=[far.fileno()],
            )  # fmt: skip
        child.returncode = 0  # reaped in _end
        near.setblocking(False)
        self._zygote = _Alive(child.pid, Control(near), heard_at=self._clock())

    @property
    def pid(self) -> int | None:
        return self._zygote.pid if self._zygote else None

    @property
    def fds(self) -> list[int]:
        return [self._zygote.line.fileno()] if self._zygote else []

    def has_news(self, ready: Container[object]) -> bool:
        """Whether `answers` may have something: what is readable, or a request that is late."""
        return bool(self._asked) or any(fd in ready for fd in self.fds)

    @property
    def unanswered(self) -> int:
        return len(self._asked)

    def ask(self) -> bool:
        """For one runtime; False: there is no zygote to ask."""
        if self._zygote is None:
            return False
        try:
            self._zygote.line.send({"t": "fork"})
        except Unreachable:  # dead, or it does not read: `answers` will see to it
            return False
        self._asked.append(self._clock())
        return True

    def answers(self) -> tuple[list[Forked], list[float]]:
        """What has come: runtimes, and when those were asked for that must be started cold."""
        forked: list[Forked] = []
        cold: list[float] = []
        while self._zygote is not None and readable([self._zygote.line], 0):
            received = self._zygote.line.receive()
            if received is None:
                cold += self._lose("died")
                break
            message, fds = received
            self._zygote.heard_at = self._clock()
            if message["t"] == "ready":
                self._zygote.is_ready = True
            elif message["t"] == "forked" and self._asked:
                forked.append(Forked(message["pid"], fds.pop(), self._asked.popleft()))
            elif message["t"] == "failed" and self._asked:
                log.warning("the zygote cannot fork: %s", message["error"])
                cold.append(self._asked.popleft())
            close_all(fds)
        if self._zygote is not None and self.late_in_s() == 0:
            cold += self._lose("does not answer")
        return forked, cold

    def late_in_s(self) -> float | None:
        """When a request will have been unanswered for too long; None: there is none."""
        if self._zygote is None or not self._asked:
            return None
        since = max(self._asked[0], self._zygote.heard_at)
        limit_s = LATE_S if self._zygote.is_ready else BEGIN_S
        return max(0.0, since + limit_s - self._clock())

    def _lose(self, how: str) -> list[float]:
        assert self._zygote is not None
        was_ready = self._zygote.is_ready
        log.warning("the zygote %d %s", self._zygote.pid, how)
        self.end()
        self.deaths += 1
        asked, self._asked = list(self._asked), deque()
        if was_ready:
            self.start()
        else:
            log.warning("it had not begun to serve: runtimes are started without one")
        return asked

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        zygote, self._zygote = self._zygote, None
        if zygote is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(zygote.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(zygote.pid, 0)
        zygote.line.close()
