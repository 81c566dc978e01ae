"""Waiting for several sources at once, without registering them again each time.

Owns no source.  Called by loops whose sources seldom change: gateway, agent, worker and
a client's conversation.
"""

from __future__ import annotations

from typing import Any

import zmq


class Sources:
    """Polls sockets and descriptors for something to read; made anew when they are others."""

    def __init__(self) -> None:
        self._poller, self._polled = zmq.Poller(), list[Any]()

    def ready(self, wanted: list[Any], timeout_ms: int | None) -> set[Any]:
        """Those of `wanted` that have something to read.

        Args:
            wanted: ZeroMQ sockets, and file descriptors as numbers or of what has `fileno`.
            timeout_ms: None: until one has.
        """
        if wanted != self._polled:
            self._poller, self._polled = zmq.Poller(), wanted
            for source in wanted:
                self._poller.register(source, zmq.POLLIN)
        return {source for source, _ in self._poller.poll(timeout_ms)}
