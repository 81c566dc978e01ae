"""Tickets of the bulk port: who may open a connection, once.

Owns what was given out and whether a greeting redeems it; says nothing on the wire itself.
Called by bulk.py for greetings and by clients.py for new tickets.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from lifl.functions.sealing import Mode, Ticket, about, ticket_id

TICKET_S: Final = 60.0


@dataclass
class Issued:
    """A ticket that was given out.

    Args:
        talks: its holder takes messages over the connection.
        listens: its holder was in no round when it asked.
    """

    ticket: Ticket
    key: str
    job: str
    until: float
    talks: bool = False
    listens: bool = False
    used: bool = False


class Tickets:
    """The last ticket of every client and job, for a gateway with this public key."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._by_id: dict[bytes, Issued] = {}
        self._newest: dict[tuple[str, str], bytes] = {}

    def issue(
        self, key: str, job: str, mode: Mode, *, talks: bool = False, listens: bool = False
    ) -> Ticket:
        """A new ticket; the one before it is void from now on.  For the rest, see `Issued`."""
        self._by_id.pop(self._newest.get((key, job), b""), None)
        ticket = Ticket(
            secrets.token_bytes(16), secrets.token_bytes(32), mode,
            about(mode, gateway=self._gateway, client=key, job=job),
        )  # fmt: skip
        self._newest[key, job] = ticket.id
        until = time.monotonic() + TICKET_S
        self._by_id[ticket.id] = Issued(ticket, key, job, until, talks, listens)
        return ticket

    def redeem(self, greeting: bytes) -> Issued | str:
        """Whose ticket this is, or why it is none: one look-up and one HMAC, whatever came."""
        issued = self._by_id.get(ticket_id(greeting) or b"")
        if issued is None:
            return "unknown"
        if not issued.ticket.admits(greeting):
            return "stolen"
        if issued.used:
            return "replayed"
        if time.monotonic() > issued.until:
            return "expired"
        issued.used = True
        return issued

    def void(self, key: str, job: str) -> None:
        """Who has lost its right in a job opens no connection any more."""
        self._by_id.pop(self._newest.pop((key, job), b""), None)

    def forget(self, job: str) -> None:
        for pair in [pair for pair in self._newest if pair[1] == job]:
            self._by_id.pop(self._newest.pop(pair), None)
