"""Processes that the engine of a local run has started, and what they say.

    start ─► pipes ─► lines of output (output.py), events of those that have some ─► ended

Owns the pipes and who is behind them.  Decides nothing: what an event or an end means is
engine.py's to say, which collects the dead and calls this.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lifl.events import say
from lifl.placement.localjob import LocalJob
from lifl.placement.output import Outputs, Speaker
from lifl.placement.processes import ONE_THREAD

OnEvent = Callable[[LocalJob, dict[str, Any]], None]


@dataclass
class Child:
    """A process that the engine itself started."""

    what: str
    pid: int
    speaker: Speaker
    job: LocalJob | None = None  # None: an agent
    events: int = -1  # pipe of its events, of those that have some

    def send(self, number: signal.Signals) -> None:
        """A signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ending(self, what: str, code: int) -> str:
        """Why it has ended, in its own words where it had some."""
        last = self.speaker.last
        killed = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
        how = killed or f"ended with status {code}"
        return f"{what} {how}" + (f": {last}" if last and code > 0 else "")


class Children:
    """All of a run that live, or have not been collected.

    Args:
        selector: in which their pipes are registered.
        on_event: takes what a process of a job has said, other than as a line of output.
    """

    def __init__(self, selector: selectors.BaseSelector, on_event: OnEvent) -> None:
        self.by_pid: dict[int, Child] = {}
        self._selector, self._on_event = selector, on_event
        self._outputs = Outputs(selector)
        self._unread: dict[int, bytes] = {}  # what each has begun to say, by its pipe
        self._speaking: dict[int, LocalJob] = {}  # whose process that is

    def start(
        self, what: str, module: str, *arguments: str, job: LocalJob | None = None,
        pass_fds: Sequence[int] = (), listens: bool = False,
    ) -> Child:  # fmt: skip
        """Start a process; what it prints comes here, and so do its events if it is a job's.

        Args:
            listens: its standard input is what the job is told.
        """
        printed, output = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
            stdout=subprocess.PIPE if job else output,
            stderr=output,
            env=os.environ | ONE_THREAD,
            pass_fds=pass_fds,
        )
        os.close(output)
        process.returncode = 0  # collected by the engine, not by subprocess
        child = Child(what, process.pid, Speaker(what, _sayer(job)), job)
        self.by_pid[child.pid] = child
        self._outputs.listen(printed, child.speaker)
        if process.stdin is not None and job is not None:
            job.hears(os.dup(process.stdin.fileno()))
            process.stdin.close()
        if process.stdout is not None and job is not None:
            child.events = os.dup(process.stdout.fileno())
            process.stdout.close()
            os.set_blocking(child.events, False)
            self._unread[child.events], self._speaking[child.events] = b"", job
            self._selector.register(child.events, selectors.EVENT_READ, "events")
        return child

    # -- who is there ------------------------------------------------------------------------
    def named(self, what: str) -> Child | None:
        return next((child for child in self.by_pid.values() if child.what == what), None)

    def of(self, job: LocalJob | None) -> list[Child]:
        """Those of a job; None: agents."""
        return [child for child in self.by_pid.values() if child.job is job]

    @property
    def are_agents(self) -> bool:
        """No process of any job is left."""
        return len(self.of(None)) == len(self.by_pid)

    def ended(self, pid: int) -> Child | None:
        """One is dead; all that it has said is heard before, since it may be the reason."""
        child = self.by_pid.pop(pid, None)
        if child is not None:
            self._outputs.drain(child.speaker)
            while child.events in self._unread and self._read_events(child.events):
                pass
        return child

    # -- what they say -----------------------------------------------------------------------
    def read(self, fd: int) -> None:
        """What a pipe has, unless it was closed since, with its process."""
        if fd in self._outputs:
            self._outputs.read(fd)
        elif fd in self._unread:
            self._read_events(fd)

    def _read_events(self, fd: int) -> bool:
        """What is there now; False where there was nothing, or will be nothing any more."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(fd)
            os.close(fd)
            del self._unread[fd], self._speaking[fd]
            return False
        *lines, self._unread[fd] = (self._unread[fd] + data).split(b"\n")
        job = self._speaking[fd]
        for line in lines:
            self._on_event(job, json.loads(line))
        return True

    def hear_the_last(self) -> None:
        """What they have printed, once all are gone."""
        self._outputs.drain_all()
        self._outputs.close_all()


def _sayer(job: LocalJob | None) -> Callable[[str, str], None]:
    """Takes a line that a process has printed."""
    return say if job is None else lambda who, text: job.say("output", who=who, text=text)
