"""A client's control connection to one gateway.

Owns the DEALER, its monitor, and the ZeroMQ context of this process, which all connections share: a
thread that moves bytes is there once, however many clients a process has.  What is said is
exchange.py's and observer.py's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import zmq
import zmq.utils.monitor

from lifl.errors import Refused
from lifl.functions.transfer import Outgoing
from lifl.functions.wire import LARGEST_TRUSTED, Keys, Message, dealer, decode, encode

Context = zmq.Context[zmq.Socket[bytes]]

MOST_SOCKETS: Final = 65_535  # libzmq's own limit

_lock = threading.Lock()
_shared: dict[int, tuple[Context, int]] = {}  # by pid, since a context ends at a fork: with users


def _borrow() -> Context:
    with _lock:
        context, users = _shared.get(os.getpid(), (None, 0))
        if context is None:
            context = zmq.Context(io_threads=1)
            context.max_sockets = MOST_SOCKETS
        _shared[os.getpid()] = context, users + 1
        return context


def _give_back(pid: int) -> None:
    """The last connection to close takes the context's threads with it.

    A child that closes what it has from its parent gives nothing back: it borrowed nothing.
    """
    with _lock:
        context, users = _shared.pop(pid, (None, 0)) if pid == os.getpid() else (None, 0)
        if context is not None and users > 1:
            _shared[pid] = context, users - 1
        elif context is not None:
            context.destroy(linger=0)


@dataclass(frozen=True)
class Address:
    """A gateway: where it listens, and its public key."""

    endpoint: str
    key: str


class Connection:
    """One DEALER to a gateway that says when it has (re)connected.

    Args:
        whose: context of its errors.

    Attributes:
        fd, monitor_fd: descriptors that stir when there is something on socket or monitor.
        is_quiet: nothing can have come on the socket that would not stir `fd` again: libzmq may
            take notice of a message, once, whenever the socket is used.
        is_up: a gateway has let this client in, and is there.
        down_at: since when not, where it is not (monotonic seconds).
    """

    def __init__(
        self, keys: Keys, address: Address, whose: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.address, self._whose, self._pid = address, whose, os.getpid()
        context = _borrow()
        try:
            self.socket = dealer(
                context, keys, address.endpoint, address.key,
                events=zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
                | zmq.EVENT_DISCONNECTED,
            )  # fmt: skip
        except BaseException:
            _give_back(self._pid)
            raise
        self.monitor = self.socket.get_monitor_socket()
        self.fd, self.monitor_fd = int(self.socket.get(zmq.FD)), int(self.monitor.get(zmq.FD))
        self.is_quiet = False
        self._connections = 0
        self.is_up, self.down_at = False, time.monotonic()

    def send(self, outgoing: list[Outgoing]) -> None:
        self.is_quiet = False
        for message, payload in outgoing:
            frames: list[Any] = [encode(message)]
            self.socket.send_multipart(frames if payload is None else [*frames, payload])

    def reconnected(self) -> bool:
        """A handshake succeeded since the last call, and it was not the first.

        Raises:
            Refused: the gateway does not know this key.
        """
        found = False
        while self.monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise Refused(
                    f"the gateway at {self.address.endpoint} does not know this client's key, or "
                    "it was revoked: lifl keys list says which, where the job runs; a new key is "
                    "enrolled (lifl keys enroll), and in place of a revoked one a new one is made "
                    "(lifl keys new)",
                    code="not-enrolled", **self._whose,
                )
            if event == zmq.EVENT_DISCONNECTED:  # also of each attempt that gets no further
                self.down_at = time.monotonic() if self.is_up else self.down_at
                self.is_up = False
                continue
            self._connections += 1
            self.is_up = True
            found = self._connections > 1
        return found

    def receive(self) -> tuple[Message, memoryview | None] | None:
        """The next message, if one waits."""
        try:
            head = self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            self.is_quiet = True
            return None
        self.is_quiet, payload = False, None
        while self.socket.rcvmore:
            payload = self.socket.recv(copy=False).buffer
        return decode(head, limit=LARGEST_TRUSTED), payload

    def close(self) -> None:
        """End it; may be called twice."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.monitor.close()
            self.socket.close(linger=0)
            _give_back(self._pid)
