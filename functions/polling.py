"""Waiting for several sources at once, without registering them again each time.

Owns no source.  Called by loops whose sources seldom change: gateway, agent and worker.  A client's
conversation, whose one socket nobody else uses, knows when that is quiet and need not look
(lifl/connection.py); who waits once, or without ZeroMQ, has waiting.py.
"""

from __future__ import annotations

import select
from typing import Any

import zmq

_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # enumerations are slow


class Sources:
    """Polls sockets and descriptors for something to read; made anew when they are others.

    One look at each ZeroMQ socket and one poll of all descriptors: libzmq's own poll, which has to
    be fair to whatever its caller does, makes two of each.
    """

    def __init__(self) -> None:
        self._polled = list[Any]()
        self._poll = select.poll()
        self._sockets: dict[int, Any] = {}  # ZeroMQ's, by the descriptor that says that they stir
        self._others: dict[int, Any] = {}

    def ready(self, wanted: list[Any], timeout_ms: int | None) -> set[Any]:
        """Those of `wanted` that have something to read.

        Args:
            wanted: ZeroMQ sockets, and file descriptors as numbers or of what has `fileno`.
            timeout_ms: None: no limit.

        Returns:
            None of them when the time is over, or sooner where a ZeroMQ socket stirred for nothing.
        """
        if wanted != self._polled:
            self._register(wanted)
        # a descriptor stirs once, and maybe while its socket was used: hence the look before
        ready = {sock for sock in self._sockets.values() if _has_message(sock)}
        stirred = {fd for fd, _ in self._poll.poll(0 if ready else timeout_ms)}
        ready |= {self._others[fd] for fd in stirred & self._others.keys()}
        woken = (self._sockets[fd] for fd in stirred & self._sockets.keys())
        return ready | {sock for sock in woken if _has_message(sock)}

    def _register(self, wanted: list[Any]) -> None:
        self._polled, self._poll = wanted, select.poll()
        self._sockets, self._others = {}, {}
        for source in wanted:
            if isinstance(source, zmq.Socket):
                fd = int(source.get(zmq.FD))
                self._sockets[fd] = source
            else:
                fd = source if isinstance(source, int) else source.fileno()
                self._others[fd] = source
            self._poll.register(fd, select.POLLIN)


def _has_message(sock: Any) -> bool:
    return bool(sock.get(_EVENTS) & _POLLIN)
