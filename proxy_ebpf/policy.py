"""The rules of routing in user space: what route.bpf.c decides, decided in Python.

Owns next hops, credit and counters of every endpoint; does no I/O.  `unix.UnixRouter` carries out
what it says.  The rules themselves are stated in contract.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from lifl.proxy_ebpf.contract import BURST, CREDIT, FLUSHES, Counters
from lifl.proxy_ebpf.descriptor import SIZE, Descriptor, Kind, unpack


class Key(NamedTuple):
    """An endpoint of a job: `struct lifl_endpoint`."""

    job: int
    endpoint: int


@dataclass
class Held:
    """What a sender sent on and nobody has released: `struct lifl_held`."""

    held: int = 0
    flushes: int = 0


class Policy:
    """Decides message by message; `send(receiver, bytes)` says whether it was there."""

    def __init__(self, credit: int = CREDIT) -> None:
        self._limit = credit
        self.next_hop: dict[Key, int] = {}
        self.held: dict[Key, Held] = {}
        self.counters: dict[Key, Counters] = {}

    def admit(self, who: Key) -> None:
        self.held.setdefault(who, Held())
        self.counters.setdefault(who, Counters())

    def forget(self, job: int) -> None:
        self.next_hop = {key: hop for key, hop in self.next_hop.items() if key.job != job}
        self.held = {key: held for key, held in self.held.items() if key.job != job}
        self.counters = {key: count for key, count in self.counters.items() if key.job != job}

    def message(
        self, me: Key, data: bytes, send: Callable[[Key, bytes], bool]
    ) -> tuple[list[Descriptor], int]:
        """Route one message of `me`: (descriptors for the agent, bytes that are none)."""
        many = -(-len(data) // SIZE)
        if not data or len(data) % SIZE:
            self._count(me, len(data), passed=many, quarantined=many)
            return [], len(data)
        found = unpack(data)
        if many <= BURST and not unpack(data[:SIZE]):
            self._count(me, len(data), passed=many, quarantined=many)
        elif self._redirect(me, found, data, send):
            self._count(me, len(data), redirected=many)
            return [], 0
        return found, len(data) - SIZE * len(found)

    def _redirect(
        self, me: Key, found: list[Descriptor], data: bytes, send: Callable[[Key, bytes], bool]
    ) -> bool:
        """False: passed to the agent, and counted.  Step by step as in route.bpf.c."""
        many = len(data) // SIZE
        alike = len(found) == many and len({(what.kind, what.source) for what in found}) == 1
        if many > BURST or not alike:
            return self._pass(me, many)

        source, kind = Key(me.job, found[0].source), found[0].kind
        match kind:
            case Kind.UPDATE | Kind.SUM | Kind.MODEL | Kind.FLUSH:
                if kind is not Kind.FLUSH and source != me:
                    forged = not self._is_parent(me, source)
                    return self._pass(me, many, quarantined=many if forged else 0)
                hop = self.next_hop.get(me)
                if hop is None:
                    return self._pass(me, many)
                to, credit = Key(me.job, hop), self.held.get(me)
            case Kind.RELEASE:
                if not self._is_parent(me, source):
                    return self._pass(me, many)
                to, credit = source, self.held.get(source)
            case _:
                return self._pass(me, many)

        if credit is None:
            return self._pass(me, many)
        match kind:
            case Kind.RELEASE:
                over = credit.held < many
            case Kind.FLUSH:
                over = credit.flushes + many > FLUSHES
            case _:
                over = credit.held + many > self._limit
        if over:
            return self._pass(me, many, credit_limited=many)

        if not send(to, data):
            return self._pass(me, many)
        match kind:
            case Kind.RELEASE:
                credit.held -= many
                credit.flushes = 0
            case Kind.FLUSH:
                credit.flushes += many
            case _:
                credit.held += many
        return True

    def _is_parent(self, who: Key, child: Key) -> bool:
        return self.next_hop.get(child) == who.endpoint

    def _pass(self, me: Key, many: int, *, quarantined: int = 0, credit_limited: int = 0) -> bool:
        self._count(
            me, many * SIZE, passed=many, quarantined=quarantined, credit_limited=credit_limited
        )
        return False

    def _count(
        self,
        me: Key,
        size: int,
        *,
        redirected: int = 0,
        passed: int = 0,
        quarantined: int = 0,
        credit_limited: int = 0,
    ) -> None:
        was = self.counters[me]
        self.counters[me] = replace(
            was,
            sent=was.sent + redirected + passed,
            redirected=was.redirected + redirected,
            passed=was.passed + passed,
            quarantined=was.quarantined + quarantined,
            credit_limited=was.credit_limited + credit_limited,
            bytes=was.bytes + size,
        )
