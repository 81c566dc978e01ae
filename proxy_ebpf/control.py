"""The agent's unix socket: one message, and the descriptors handed over with it.

Owns framing (SEQPACKET, msgpack) and SCM_RIGHTS.  Does not know what messages mean: that is
in placement/members.py and in the processes that join.
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
        """The next message and the descriptors that came with it; None when the peer is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, _LARGEST, _MOST_FDS)
        except (ConnectionError, OSError):
            return None
        if not data:
            close_all(fds)
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        message = msgpack.unpackb(data)
        if not isinstance(message, dict):
            close_all(fds)
            return None
        return message, fds

    def peer_pidfd(self) -> int | None:
        """A pidfd of the process at the other end; readable when it is dead."""
        try:
            return self.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError:
            pid = int.from_bytes(
                self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little"
            )
            return os.pidfd_open(pid) if pid > 0 else None

    def close(self) -> None:
        self.socket.close()


def listen(path: Path) -> socket.socket:
    """A listening socket, mode 0600; replaces what a dead agent left."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(256)
    return listener


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
