"""Bulk connections from a gateway to one other: tickets, greetings, and sums on their way out.

Owns when a connection is asked for, opened and given up, that nothing of it waits for the other
end, and when that cannot be reached: two gateways may send to one another at the same time, and
clients must not wait for either.  Where the other's host is a name, looking that up does wait.
Bytes are bulk_client.py's; what is sent and how, and what follows from an answer, is peers.py's.
"""

from __future__ import annotations

import itertools
import logging
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lifl.errors import LiflError
from lifl.functions.bulk_client import Broken, BulkConnection, Opening
from lifl.functions.transfer import Upload
from lifl.functions.wire import Keys, Message

log = logging.getLogger("lifl.gateway")

OPEN_S: Final = 5.0  # from a ticket to an open connection
ASK_S: Final = 1.0  # for an answer to the question for a ticket
TRIES: Final = 3  # connections that do not open, one after the other
SHUT_S: Final = 300.0  # until the next try
CHUNKS: Final = 8  # in one go; then it is another's turn
_IDLE: Final = select.EPOLLIN | select.EPOLLRDHUP


@dataclass
class _Outlet:
    """One job's connection, or what there is of it."""

    ticket: int  # which question for one it comes from
    until: float  # when there must be more of it (monotonic seconds)
    opening: Opening | None = None
    connection: BulkConnection | None = None  # of the same socket, once it is admitted
    transfer: int = 0  # that is sent, or was sent last
    fd: int = -1


class Outlets:
    """One connection a job, for as long as the job has something to send there.

    Args:
        ask: sends a message over the control channel to the same gateway.
        opened: called with a job whose connection may be used from now on.
        moved: called with a job of which bytes have left.
    """

    def __init__(
        self, keys: Keys, endpoint: str, server_key: str, *, ask: Callable[[Message], None],
        opened: Callable[[str], None], moved: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._keys, self._endpoint, self._server_key = keys, endpoint, server_key
        self._ask, self._opened, self._moved = ask, opened, moved
        self._epoll = select.epoll()
        self._tickets = itertools.count(1)
        self._outlets: dict[str, _Outlet] = {}
        self._jobs: dict[int, str] = {}  # by fd
        self._missed, self._shut_until = 0, 0.0  # tries in a row; monotonic seconds

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def is_shut(self) -> bool:
        """The other's bulk port cannot be reached, and for a while nobody tries."""
        return time.monotonic() < self._shut_until

    def is_open(self, job: str) -> bool:
        """Whether something can be sent.

        If not, a connection is made, and `opened` called; unless it `is_shut`.
        """
        outlet, now = self._outlets.get(job), time.monotonic()
        if outlet is not None and outlet.connection is not None:
            if outlet.connection.is_alive:
                return True
        elif outlet is not None and now < outlet.until:
            return False
        elif outlet is not None and outlet.opening is not None:
            self._failed(job, Broken(f"the bulk port did not answer for {OPEN_S:g} s"))
        self.close(job)
        if self.is_shut:
            return False
        number = next(self._tickets)
        self._outlets[job] = _Outlet(number, now + ASK_S)
        self._ask({"t": "ticket", "job": job, "n": number})
        return False

    def admit(self, message: Message) -> None:
        """The answer `ticket`."""
        job = message["job"]
        outlet = self._outlets.get(job)
        if outlet is None or outlet.ticket != message["n"] or outlet.opening is not None:
            return
        try:
            outlet.opening = Opening(
                message, self._keys, endpoint=self._endpoint, gateway=self._server_key, job=job
            )
        except LiflError as error:
            self._failed(job, error)
            return
        outlet.until = time.monotonic() + OPEN_S
        outlet.fd = outlet.opening.fileno()
        self._jobs[outlet.fd] = job
        self._epoll.register(outlet.fd, select.EPOLLOUT)

    def begin(self, job: str, upload: Upload, *, number: int, transfer: int) -> None:
        """Send it, unless this very transfer was begun before."""
        outlet = self._outlets.get(job)
        if outlet is None or outlet.connection is None or outlet.transfer == transfer:
            return
        outlet.transfer = transfer
        outlet.connection.begin(upload, number=number, transfer=transfer)
        self._epoll.modify(outlet.fd, _IDLE | select.EPOLLOUT)

    def stop(self, job: str) -> None:
        """What is under way is not wanted any more; the connection stays."""
        outlet = self._outlets.get(job)
        if outlet is not None and outlet.connection is not None:
            outlet.connection.stop()

    def turn(self) -> None:
        """Handle what is ready."""
        for fd, events in self._epoll.poll(0):
            job = self._jobs[fd]
            outlet = self._outlets[job]
            try:
                if outlet.connection is not None:
                    self._send(job, outlet, outlet.connection, events)
                elif outlet.opening is not None:
                    self._open(job, outlet, outlet.opening)
            except LiflError as error:
                self._failed(job, error)

    def _open(self, job: str, outlet: _Outlet, opening: Opening) -> None:
        outlet.connection = opening.step()
        self._epoll.modify(outlet.fd, _IDLE)
        if outlet.connection is not None:
            self._missed, self._shut_until = 0, 0.0
            self._opened(job)

    def _send(
        self, job: str, outlet: _Outlet, connection: BulkConnection, events: int
    ) -> None:
        if events & ~select.EPOLLOUT:  # nothing should come: the gateway has ended it
            raise Broken("the gateway has closed the bulk connection")
        is_sent = connection.pump(CHUNKS)
        self._moved(job)
        if is_sent:
            self._epoll.modify(outlet.fd, _IDLE)

    def _failed(self, job: str, error: LiflError) -> None:
        """Whoever has something to send asks again after a while."""
        log.warning("no bulk connection to %s for %s: %s", self._endpoint, job, error)
        if self._outlets[job].connection is None:
            self._count_miss()
        self.close(job)

    def _count_miss(self) -> None:
        """One may be chance."""
        self._missed += 1
        if self._missed >= TRIES:
            self._shut_until = time.monotonic() + SHUT_S
            log.warning(
                "sums go to %s over the control channel, as with lane: zmq, for %g s: let nodes "
                "reach its bulk port", self._endpoint, SHUT_S,
            )  # fmt: skip

    def close(self, job: str) -> None:
        outlet = self._outlets.pop(job, None)
        if outlet is None or outlet.opening is None:
            return
        del self._jobs[outlet.fd]
        if outlet.opening.fileno() >= 0:  # else it broke, and the kernel has forgotten it
            self._epoll.unregister(outlet.fd)
        outlet.opening.close()

    def close_all(self) -> None:
        for job in list(self._outlets):
            self.close(job)
        self._epoll.close()
