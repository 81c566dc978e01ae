"""The router in user space: for machines and users without the privileges for eBPF.

Owns the far ends of sequenced-packet pairs and carries out what policy.py decides, in the agent's
own poll loop: nothing moves unless `returned` is called when `fileno` is readable.  Same contract
as ebpf.py, but each hop costs two system calls and a wake-up of the agent.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import Final

from lifl.errors import Refused
from lifl.proxy_ebpf.contract import CREDIT, Counters, Returned
from lifl.proxy_ebpf.descriptor import Descriptor
from lifl.proxy_ebpf.ends import Ends
from lifl.proxy_ebpf.policy import Held, Key, Policy

SO_COOKIE: Final = 57


class UnixRouter:
    """Keeps `contract.Router`, without a trace in the kernel."""

    name: Final = "unix"

    def __init__(self, *, reason: str = "", credit: int = CREDIT) -> None:
        self.reason = reason
        self._policy = Policy(credit)
        self._ends = Ends()
        self._cookies: dict[int, Key] = {}

    def register(self, job: int, endpoint: int, near: socket.socket, far: socket.socket) -> None:
        key = Key(job, endpoint)
        for end in (near, far):
            if (end.family, end.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                raise Refused(
                    f"{end.family.name} {end.type.name} cannot be routed in user space: "
                    "make the pair with make_pair('unix')",
                    job=job,
                    endpoint=endpoint,
                )
        cookie = cookie_of(near)
        before = self._cookies.get(cookie)
        if before is not None and before != key:
            self.unregister(*before)
        self.unregister(*key)
        self._policy.admit(key)
        self._ends.add(key, far)
        self._cookies[cookie] = key

    def unregister(self, job: int, endpoint: int) -> None:
        self._ends.drop(Key(job, endpoint))
        self._forget_cookie(Key(job, endpoint))

    def route(self, job: int, sender: int, to: int | None) -> None:
        if to is None:
            self._policy.next_hop.pop(Key(job, sender), None)
        else:
            self._policy.next_hop[Key(job, sender)] = to

    def routes(self, job: int) -> dict[int, int]:
        hops = self._policy.next_hop
        return {key.endpoint: to for key, to in hops.items() if key.job == job}

    def forget(self, job: int) -> None:
        for key in self._ends.of(job):
            self.unregister(*key)
        self._policy.forget(job)

    def counters(self, job: int) -> dict[int, Counters]:
        counts = self._policy.counters
        return {key.endpoint: count for key, count in counts.items() if key.job == job}

    def poke(self, job: int, endpoint: int, descriptor: Descriptor) -> None:
        self._ends.write(Key(job, endpoint), descriptor.pack())

    def reset_credit(self, job: int) -> None:
        for key in self._policy.held:
            if key.job == job:
                self._policy.held[key] = Held()

    def mend(self) -> Counter[str]:
        return Counter()  # nothing of it is in the kernel

    def fileno(self) -> int:
        return self._ends.fileno()

    def returned(self) -> list[Returned]:
        found: list[Returned] = []
        for key, message in self._ends.read():
            if not message:
                self._forget_cookie(key)
                found.append(Returned(job=key.job, sender=key.endpoint, closed=True))
                continue
            descriptors, odd = self._policy.message(key, message, self._ends.write)
            if descriptors or odd:
                found.append(
                    Returned(
                        job=key.job,
                        sender=key.endpoint,
                        descriptors=tuple(descriptors),
                        quarantined=odd,
                    )
                )
        return found

    def identity(self, near: socket.socket) -> tuple[int, int] | None:
        return self._cookies.get(cookie_of(near))

    def close(self, *, keep_pins: bool = False) -> None:
        self._ends.close()
        self._cookies.clear()

    def _forget_cookie(self, key: Key) -> None:
        for cookie in [cookie for cookie, whose in self._cookies.items() if whose == key]:
            del self._cookies[cookie]


def cookie_of(end: socket.socket) -> int:
    """The kernel's number for this socket, never given out twice."""
    raw = end.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    return int.from_bytes(raw, "little")
