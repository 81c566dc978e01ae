"""A runtime's side of one endpoint: the pair that it makes, and the end that it reads and writes.

Owns the near end and the bytes of a descriptor that arrived in part.  Knows nothing of routes.
Called by the runtimes and the gateway, which give both ends of the pair to the agent and keep
both as well: kept here, the far end does not say EOF when the agent dies.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from lifl.errors import Busy, LiflError, Refused, Unreachable
from lifl.proxy_ebpf.contract import BURST
from lifl.proxy_ebpf.descriptor import SIZE, Descriptor, unpack

_READ: Final = 4096
_READS: Final = 64  # per call of receive
_AT_ONCE: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)  # enumerations are slow
_AGAIN: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


def make_pair(name: str) -> tuple[socket.socket, socket.socket]:
    """(near, far) of the kind that the router `name` wants.

    `ebpf`: TCP over loopback, since a sockhash's message program sees TCP only.
    `unix`: a sequenced-packet pair, which keeps the limits of messages.
    """
    if name == "unix":
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:
        server.settimeout(5)
        near = socket.create_connection(server.getsockname(), timeout=5)
        try:
            while True:  # whoever else found the port meanwhile is turned away
                far, address = server.accept()
                if address == near.getsockname() and far.getsockname() == near.getpeername():
                    break
                far.close()
        except OSError:
            near.close()
            raise
    for end in (near, far):
        end.settimeout(None)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class Port:
    """Sends and receives descriptors on the near end of a registered pair.

    Args:
        near: registered before the first `receive`; this owns it from now on.
        send_timeout_s: how long a send may wait for an agent that does not read.
    """

    def __init__(self, near: socket.socket, *, send_timeout_s: float = 1.0) -> None:
        self._near = near
        self._send_timeout_s = send_timeout_s
        self._unsent = b""
        self._tail = b""
        self._closed = False

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._near.fileno()

    def send(self, *descriptors: Descriptor) -> None:
        """Send on to wherever the job's tree says; alike ones in messages of a whole burst.

        Raises:
            lifl.errors.Busy: neither the receiver nor the agent took it in time.  It was a hint:
                the slot stays as it is, and whoever scans finds it.
            lifl.errors.Unreachable: this socket's connection is gone; register a new pair.
            lifl.errors.Refused: the kernel will not take anything from this socket.
        """
        for at in range(0, len(descriptors), BURST):
            self._send(descriptors[at : at + BURST])

    def _send(self, descriptors: Sequence[Descriptor]) -> None:
        deadline = time.monotonic() + self._send_timeout_s
        data = self._unsent + b"".join(each.pack() for each in descriptors)
        retried = False
        while data:
            try:
                sent = self._near.send(data, _AT_ONCE)
                data = data[sent:]
                continue
            except OSError as error:
                if error.errno == errno.EPIPE and not retried:
                    retried = True  # the receiver may have died under the redirect: now it is gone
                    continue
                if error.errno not in _AGAIN or not self._wait(deadline):
                    # What the stream already took of this descriptor it must get whole.
                    self._unsent = data if len(data) % SIZE else b""
                    raise _told(error, descriptors[0]) from error
        self._unsent = b""

    def receive(self) -> list[Descriptor]:
        """Descriptors that have arrived, without waiting; empty when there is none.

        Raises:
            lifl.errors.Unreachable: the connection is closed, after all that came before.
        """
        found: list[Descriptor] = []
        for _ in range(_READS):
            if self._closed:
                break
            try:
                chunk = self._near.recv(_READ, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                chunk = b""
            self._closed = not chunk
            data = self._tail + chunk
            whole = len(data) // SIZE * SIZE
            found += unpack(data[:whole])
            self._tail = data[whole:]
        if self._closed and not found:
            raise Unreachable("the descriptor socket is closed: register a new pair")
        return found

    def close(self) -> None:
        self._near.close()

    def _wait(self, deadline: float) -> bool:
        """Wait until a send may work; False when the time is over.

        A full receiver does not show in this socket's readiness, so each wait is short.
        """
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poll = select.poll()
        poll.register(self._near, select.POLLOUT)
        if poll.poll(min(left, 0.05) * 1000):
            time.sleep(min(left, 0.001))
        return True


def _told(error: OSError, descriptor: Descriptor) -> LiflError:
    context: dict[str, Any] = {
        "kind": descriptor.kind.name, "slot": descriptor.slot, "round": descriptor.round,
    }  # fmt: skip
    if error.errno in _AGAIN:
        return Busy("the descriptor was not taken in time: the agent does not read", **context)
    if error.errno == errno.EACCES:
        return Refused(
            "a kernel program drops what this socket sends: register a new pair", **context
        )
    return Unreachable(
        f"the descriptor socket failed ({error.strerror}): register a new pair", **context
    )
