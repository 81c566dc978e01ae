"""The agent's unix socket: one message, and the descriptors handed over with it.

Owns framing (SEQPACKET, msgpack), SCM_RIGHTS, and the proof of who a process is: its pidfd, and in
a cluster its pod's token.  Does not know what messages mean: that is in placement/members.py and in
the processes that join.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from lifl.errors import Unreachable

_LARGEST: Final = 1 << 18
_MOST_FDS: Final = 16
_SO_PEERPIDFD: Final = 77
TOKEN_VARIABLE: Final = "LIFL_TOKEN"  # names the file of the pod's token


class Control:
    """One end of a connection to the agent, or of the agent to a process."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    @classmethod
    def connect(cls, path: Path) -> Control:
        """Connect to the agent of this node.

        Raises:
            Unreachable: no agent listens there (yet).
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise Unreachable(f"no agent listens at {path} ({error.strerror})") from error
        return cls(connection)

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message; the descriptors stay open here.

        Raises:
            Unreachable: the other end is gone.
        """
        data: bytes = msgpack.packb(message)
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds))
            else:
                self.socket.send(data)
        except OSError as error:
            raise Unreachable(f"the other end is gone ({error.strerror})") from error

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and the descriptors that came with it; None when the peer is gone.

        What cannot be read is a message without anything in it: whoever sent it may be anybody.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, _LARGEST, _MOST_FDS)
        except (ConnectionError, OSError):
            return None
        if not data:
            close_all(fds)
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            message = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException):
            message = None
        return (message if isinstance(message, dict) else {}), fds

    def peer(self) -> tuple[int, int] | None:
        """(name, pidfd) of the process at the other end; None when it is gone already.

        The pidfd is readable when the process is dead.  Its name is its pid where this process can
        see it, else, in a pod of its own, minus the inode of the pidfd, which no other process has
        until the next boot (pidfs, Linux 6.9).
        """
        try:
            pidfd = self.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            pid = int.from_bytes(
                self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little"
            )
            try:
                return (pid, os.pidfd_open(pid)) if pid > 0 else None
            except ProcessLookupError:
                return None
        os.set_inheritable(pidfd, False)
        pid = _pid(pidfd)
        if pid < 0:
            os.close(pidfd)
            return None
        return pid or -os.fstat(pidfd).st_ino, pidfd

    def close(self) -> None:
        self.socket.close()


def _pid(pidfd: int) -> int:
    """As this process sees it: 0 in a pid namespace that is not below its own, -1 when reaped."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return int(value)
    return -1


def credentials() -> dict[str, str]:
    """What a process shows the agent of its node: in a pod its token, else nothing."""
    path = os.environ.get(TOKEN_VARIABLE)
    return {"token": Path(path).read_text().strip()} if path else {}


def listen(path: Path, *, to_all: bool = False) -> socket.socket:
    """A listening socket; replaces what a dead agent left.

    Args:
        to_all: anybody who sees the path may connect; else this user alone.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o111 if to_all else 0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(256)
    return listener


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
