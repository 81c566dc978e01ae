"""The far ends that the agent holds: what arrives there, and pokes on their way in.

Owns duplicates of the far ends, one epoll over them, and the bytes of a descriptor that are still
to come or to go.  Knows nothing of routes.  Both routers have one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Final

from lifl.proxy_ebpf.descriptor import SIZE, Descriptor, unpack
from lifl.proxy_ebpf.policy import Key

_READ: Final = 1 << 16
_READS: Final = 16  # per end and call: one busy sender does not hold up the others
_EVENTS: Final = 64
_ESTABLISHED: Final = 1  # tcpi_state
_NOW: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class _End:
    def __init__(self, key: Key, far: socket.socket) -> None:
        self.key = key
        # Flags of a socket are shared with the runtime's duplicate, so they stay as they are.
        self.socket = socket.socket(fileno=os.dup(far.fileno()))
        self.unsent = b""  # of a poke that the stream took in part

    def read(self) -> bytes | None:
        """One message or a stretch of the stream; empty at the end; None: nothing now."""
        try:
            # One byte more than a multiple of 16: a message cut off here is not taken for whole.
            return self.socket.recv(_READ + 1, _NOW)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: bytes) -> bool:
        """False: not taken, or not whole; the rest of a descriptor goes before the next."""
        try:
            if self.unsent:
                self.unsent = self.unsent[self.socket.send(self.unsent, _NOW) :]
                if self.unsent:
                    return False
            sent = self.socket.send(data, _NOW)
        except OSError:
            return False
        self.unsent = data[sent:]
        return not self.unsent


class Ends:
    """Far ends by endpoint."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_key: dict[Key, _End] = {}
        self._by_fd: dict[int, _End] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, key: Key, far: socket.socket) -> None:
        self.drop(key)
        end = _End(key, far)
        self._by_key[key] = self._by_fd[end.socket.fileno()] = end
        self._epoll.register(end.socket, select.EPOLLIN)

    def drop(self, key: Key) -> None:
        end = self._by_key.pop(key, None)
        if end is not None:
            # The runtime's duplicate keeps the socket open, and epoll would go on reporting it.
            self._epoll.unregister(end.socket)
            del self._by_fd[end.socket.fileno()]
            end.socket.close()

    def sever(self, key: Key) -> None:
        """End the connection for both sides: the runtime makes a new pair and registers it."""
        end = self._by_key.get(key)
        if end is not None:
            with contextlib.suppress(OSError):  # it has ended already
                end.socket.shutdown(socket.SHUT_RDWR)
            self.drop(key)

    def is_whole(self, key: Key) -> bool:
        """The runtime's end of this TCP connection is open; one that is not will say so itself."""
        end = self._by_key.get(key)
        return end is not None and end.socket.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, 1
        )[0] == _ESTABLISHED

    def of(self, job: int) -> list[Key]:
        return [key for key in self._by_key if key.job == job]

    def write(self, key: Key, data: bytes) -> bool:
        end = self._by_key.get(key)
        return end is not None and end.write(data)

    def read(self) -> Iterator[tuple[Key, bytes]]:
        """What has arrived; empty bytes are the end of that connection, which is dropped."""
        for fd, _ in self._epoll.poll(0, _EVENTS):
            end = self._by_fd.get(fd)
            for _ in range(_READS):
                if end is None or (data := end.read()) is None:
                    break
                if not data:
                    self.drop(end.key)
                    end_key, end = end.key, None
                    yield end_key, data
                else:
                    yield end.key, data

    def close(self) -> None:
        for key in list(self._by_key):
            self.drop(key)
        self._epoll.close()


def split(tail: bytes, chunk: bytes) -> tuple[list[Descriptor], int, bytes]:
    """(descriptors, bytes that are none, next tail) of a stream that a sender may have misaligned.

    A tail is reported at once: mostly it is not a descriptor that arrived in part.  If what comes
    next does not complete it to a descriptor, it is dropped, and the stream is aligned again.
    """
    data = tail + chunk
    if tail and len(data) >= SIZE and not unpack(data[:SIZE]):
        data = chunk
    whole = len(data) // SIZE * SIZE
    found = unpack(data[:whole])
    rest = data[whole:]
    return found, whole - SIZE * len(found) + len(rest), rest
