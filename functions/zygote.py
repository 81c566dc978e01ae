"""The zygote: it has imported what a runtime needs, and forks one whenever the agent asks.

    agent ── fork ──► zygote ── fork(2) ──► runtime ── forked: its pid and pidfd ──► agent

Owns the fork: what a runtime that begins in one has, and has not.  It has one thread, three
standard descriptors and its end of a socket pair; no ZeroMQ context, no eBPF object and no memory
of a job, none of which it is ever given.  A runtime closes the socket pair and the pidfds of those
before it, takes the command line that a runtime has, and is from then on what `python -m
lifl.functions.aggregator` is.  The zygote reaps its children and ends when the agent's end is
closed, however that came about; its children are then the next subreaper's.  Started by the
agent's pool:

    python -m lifl.functions.zygote --socket PATH --node NAME --requests FD
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from lifl.errors import LiflError, Unreachable
from lifl.faults import at_node
from lifl.functions.aggregator import Runtime
from lifl.functions.ending import end_on_sigterm
from lifl.functions.kernels import choose
from lifl.proxy_ebpf.control import Control

RUNTIME = "lifl.functions.aggregator"  # what a child says of itself
_ARG_START, _ARG_END = 45, 46  # of /proc/self/stat, counted from the state: proc(5)


class Zygote:
    """The process before it forks: its line to the agent, and the children to be reaped.

    Args:
        agent: this end of the socket pair.
    """

    def __init__(self, agent: Control) -> None:
        self.agent = agent
        self.children: dict[int, int] = {}  # pidfd -> pid

    def serve(self) -> None:
        """Fork when asked to.  Returns in every child.

        Raises:
            SystemExit: the agent is gone.
        """
        self._tell({"t": "ready"})
        while True:
            poller = select.poll()
            for fd in (self.agent.fileno(), *self.children):
                poller.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poller.poll()}
            for pidfd in [pidfd for pidfd in self.children if pidfd in ready]:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.children.pop(pidfd), 0)
                os.close(pidfd)
            if self.agent.fileno() in ready:
                if self.agent.receive() is None:
                    raise SystemExit(0)
                if self._fork():
                    return

    def _fork(self) -> bool:
        """True in the child, which says itself who it is: the agent knows it before it joins."""
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"t": "failed", "error": error.strerror})
            return False
        if pid:
            self.children[os.pidfd_open(pid)] = pid
            return False
        for pidfd in self.children:
            os.close(pidfd)
        self.children.clear()
        itself = os.pidfd_open(os.getpid())
        self._tell({"t": "forked", "pid": os.getpid()}, [itself])
        os.close(itself)
        self.agent.close()
        return True

    def _tell(self, message: dict[str, object], fds: Sequence[int] = ()) -> None:
        try:
            self.agent.send(message, fds)
        except Unreachable:
            raise SystemExit(0) from None


def call_itself(command: Sequence[str]) -> None:
    """Be this command: for `ps` and whoever else reads it, and for a start anew (ending.py).

    It is written over the one that the process was started with, which must not be shorter.
    """
    sys.orig_argv = list(command)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    text = b"".join(os.fsencode(part) + b"\0" for part in command)
    if start and len(text) <= end - start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
@click.option("--requests", type=int, required=True, help="fd of a socket pair's end")
def main(socket_path: Path, node: str, requests: int) -> None:
    """Fork runtimes for the agent until it closes its end; in a child, run one."""
    logging.basicConfig(format="%(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    at_node(node)
    with contextlib.suppress(LiflError):  # who needs them and cannot have them says so
        choose("auto")
    gc.collect()
    gc.freeze()  # so that no collection in a child writes to pages that it shares
    Zygote(Control(socket.socket(fileno=requests))).serve()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_on_sigterm()
    call_itself([sys.executable, "-m", RUNTIME, "--socket", str(socket_path), "--node", node])
    Runtime(socket_path).run()


if __name__ == "__main__":
    main()
