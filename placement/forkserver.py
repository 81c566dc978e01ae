"""The zygote of a node: aggregator runtimes are forked from a process that has imported their code.

Owns that process and the agent's end of the socket to it.  A runtime that is forked is there in
milliseconds and shares the zygote's pages; one that is started anew first imports for hundreds.
Single-threaded by construction, since a fork copies one thread: it opens no ZeroMQ context and runs
no role itself.  Where it is not ready yet, or is gone, the pool starts a process as before.  It
ends with its agent; runtimes do not.  Started by pool.py:

    python -m lifl.placement.forkserver --socket PATH --node NAME

with a seqpacket socket as standard input, on which each byte asks for a runtime and is answered
with its pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from lifl.faults import at_node
from lifl.functions.aggregator import Runtime
from lifl.functions.ending import end_on_sigterm
from lifl.placement.processes import end_with_parent

READY: Final = b"ready"
FORK_S: Final = 1.0  # that a fork may take
_THIS: Final = b"lifl.placement.forkserver"
_RUNTIME: Final = b"lifl.functions.aggregator"  # of the same length
_ARG_START: Final = 47  # in /proc/self/stat, counted from 0


class Zygote:
    """The agent's side."""

    def __init__(self, node: str, socket_path: Path, environment: dict[str, str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "lifl.placement.forkserver", "--socket", str(socket_path)]
        self._process = subprocess.Popen(
            [*command, "--node", node], stdin=theirs.fileno(), env=os.environ | environment
        )
        theirs.close()
        self._is_ready = False

    def fork(self) -> int | None:
        """Pid of a new runtime; None where the zygote is not ready, or is gone."""
        with contextlib.suppress(OSError):
            if not self._is_ready:
                self._channel.setblocking(False)
                self._is_ready = self._channel.recv(64) == READY
            if self._is_ready:
                self._channel.settimeout(FORK_S)
                self._channel.send(b"+")
                return int(self._channel.recv(64))
        return None

    def end(self) -> None:
        """It forks nobody any more."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


def serve(channel: socket.socket, socket_path: Path, node: str) -> None:
    """Fork whenever the agent asks, until it is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who dies is the agent's matter, by its pidfd
    channel.send(READY)
    while channel.recv(1):
        pid = os.fork()
        if pid == 0:
            channel.close()
            _run(socket_path, node)
        channel.send(str(pid).encode())


def _run(socket_path: Path, node: str) -> None:
    """A runtime, in the child; does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        _rename()
        end_on_sigterm()
        at_node(node)
        Runtime(socket_path).run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        logging.exception("the runtime failed")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _rename() -> None:
    """In /proc/PID/cmdline this process is what it is, an aggregator."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(fields[at - 2]) for at in (_ARG_START, _ARG_START + 1))
    words = ctypes.string_at(start, end - start)
    if (at := words.find(_THIS)) >= 0:
        ctypes.memmove(start + at, _RUNTIME, len(_RUNTIME))


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
def main(socket_path: Path, node: str) -> None:
    """Fork aggregator runtimes for the agent at the other end of standard input."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_with_parent()
    channel = socket.socket(fileno=os.dup(0))
    if len(os.listdir("/proc/self/task")) > 1:
        sys.exit("the zygote has several threads, and forks none of them: runtimes start cold")
    serve(channel, socket_path, node)


if __name__ == "__main__":
    main()
