"""The metrics endpoint of an agent or a coordinator: GET /metrics over HTTP.

    scraper ─► listener ─► a thread that reads the request ─► the loop copies its figures
            ◄──────────── text ◄─ rendered in that thread ◄──┘

Owns the listener and the wire format, by prometheus-client.  Does not own the figures: the loop of
the process does, and hands out a copy, so that nothing of the process needs a lock and a slow
scraper delays nobody.  Between scrapes there is no thread, and the libraries for it are imported
with the first.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Final

from lifl.errors import Busy
from lifl.metrics import Figures

HOST: Final = "127.0.0.1"
MOST: Final = 8  # scrapes at a time
LIMIT_S: Final = 5.0

Answer = queue.SimpleQueue[Figures]


def listen(port: int = 0, *, host: str = HOST) -> socket.socket:
    """Where scrapers call: a socket of the network namespace that this process is in now.

    Args:
        port: 0 for any.

    Raises:
        Busy: the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Busy(
            f"metrics cannot be served on {host}:{port} ({error.strerror}): choose another "
            "--metrics-port, or 0 for any"
        ) from error
    listener.listen(MOST)
    listener.setblocking(False)
    return listener


class Endpoint:
    """Where a process can be asked for its figures.

    Args:
        figures: what is handed out.
        refresh: brings the figures up to date; called in the loop, before each copy.
        listener: of `listen`.
    """

    def __init__(
        self, figures: Figures, refresh: Callable[[], None], listener: socket.socket
    ) -> None:
        self.figures, self.refresh, self.listener = figures, refresh, listener
        self.asked = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.waiting: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.room = threading.BoundedSemaphore(MOST)

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()
        return f"http://{host}:{port}/metrics"

    @property
    def fds(self) -> tuple[int, int]:
        """Readable when `answer` is due."""
        return self.listener.fileno(), self.asked

    def answer(self) -> None:
        """Take in who calls, and give those who have asked what they asked for."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection, _ = self.listener.accept()
            if self.room.acquire(blocking=False):
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()
            else:
                connection.close()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.asked)
        if self.waiting.empty():
            return
        self.refresh()
        while not self.waiting.empty():
            self.waiting.get().put(self.figures.copy())

    def _serve(self, connection: socket.socket) -> None:
        try:
            from lifl.placement.exposition import serve

            connection.settimeout(LIMIT_S)
            serve(connection, self._ask)
        finally:
            connection.close()
            self.room.release()

    def _ask(self) -> Figures | None:
        """From a scraper's thread: the figures, or None where the loop does not get to it."""
        mine: Answer = queue.SimpleQueue()
        self.waiting.put(mine)
        os.eventfd_write(self.asked, 1)
        try:
            return mine.get(timeout=LIMIT_S)
        except queue.Empty:
            return None

    def close(self) -> None:
        self.listener.close()
