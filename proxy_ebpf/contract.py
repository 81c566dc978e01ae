"""What a router promises, whichever way it moves descriptors.

    runtime ──near end──► router ──► near end of the next hop's runtime
                            │
                            └─ what it does not route ─► far ends ─► the agent

Owns the contract and its values.  `ebpf.EbpfRouter` keeps it in the kernel, `unix.UnixRouter` in
user space; tests/contract/test_proxy.py holds both to it.  The agent owns one router and calls it
from one thread; no method blocks.

Rules of routing, the same in both (route.bpf.c and policy.py):

    UPDATE, SUM, MODEL   source is the sender               to the sender's next hop
    FLUSH                                                   to the sender's next hop
    RELEASE              next hop of source is the sender,  down, to source
                         and source has that many
                         unreleased
    anything else, and whatever finds no receiver           to the agent, on the far end

A message is judged whole, by its first descriptor: several are routed if they agree in kind and
source and are at most `BURST`, otherwise all go to the agent.

Quarantined, which is to say counted and sent to the agent: a message whose length is no multiple
of 16, or whose version or kind is unknown; an UPDATE, SUM or MODEL whose source is neither the
sender nor one of its children.  (A child's descriptor sent on by its parent is a misroute handed
back: to the agent, not quarantined.)

Credit: UPDATE, SUM and MODEL count up for their sender, the RELEASE routed back to it counts down.
At the limit everything goes to the agent until a RELEASE or `reset_credit`.  FLUSH has no RELEASE:
`FLUSHES` of them pass between two RELEASEs.  EXPECT is never routed.  So one endpoint alone can
leave at most CREDIT + FLUSHES descriptors unread with its receiver, and no RELEASE that answers
nothing (an unread descriptor is 1 KB of kernel memory).  What goes to the agent meets the far
end's buffer, as any TCP or unix socket's sender does.  Not bounded: two endpoints of one job that
conspire, one sending and the other releasing what it never reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from socket import socket
from typing import Final, Protocol

from lifl.proxy_ebpf.descriptor import Descriptor

CREDIT: Final = 256  # unreleased descriptors of one sender
BURST: Final = 16  # descriptors of one message that are routed; LIFL_BURST
FLUSHES: Final = 16  # FLUSH of one sender between two RELEASEs


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What one endpoint sent, in descriptors; sent = redirected + passed."""

    sent: int = 0
    redirected: int = 0  # to another endpoint
    passed: int = 0  # to the agent, for whatever reason
    quarantined: int = 0  # part of passed: malformed or forged
    credit_limited: int = 0  # part of passed: over credit
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Returned:
    """What an endpoint sent and the router did not route, or the end of its connection.

    The agent pokes the receiver of each descriptor; where `quarantined` is not 0, the next hop of
    `sender`, too, since a well-formed descriptor behind odd bytes may be among them.
    """

    job: int
    sender: int
    descriptors: tuple[Descriptor, ...] = ()
    quarantined: int = 0  # bytes that are no descriptor
    closed: bool = False  # last message of this registration, which is gone; its route is not


class Router(Protocol):
    """Moves descriptors between the endpoints of a job; see the module's rules."""

    @property
    def name(self) -> str:
        """`ebpf` or `unix`."""

    @property
    def reason(self) -> str:
        """Why it is not eBPF, in a sentence; empty where it is, or where unix was asked for."""

    def register(self, job: int, endpoint: int, near: socket, far: socket) -> None:
        """Make `near` speak for (job, endpoint); on return its routing is in force.

        Replaces an earlier registration of that endpoint, and one of that socket under another
        endpoint.  Keeps a duplicate of `far`; keeps nothing of `near`.  Acknowledge to the runtime
        only afterwards: a read entered before would never see what is redirected.

        Raises:
            lifl.errors.Refused: the two are not the ends of one connection of the right kind.
            lifl.errors.Busy: the router has no room for another endpoint.
        """

    def unregister(self, job: int, endpoint: int) -> None:
        """End a registration; its route and counters stay.  Unknown endpoints are ignored."""

    def route(self, job: int, sender: int, to: int | None) -> None:
        """Set or remove the next hop of `sender`, one change of one map."""

    def routes(self, job: int) -> dict[int, int]:
        """Next hops in force, by sender; also those that an earlier router set."""

    def forget(self, job: int) -> None:
        """End all registrations of `job` and remove its routes, counters and credit."""

    def counters(self, job: int) -> dict[int, Counters]:
        """By endpoint, since its first registration."""

    def poke(self, job: int, endpoint: int, descriptor: Descriptor) -> None:
        """Write `descriptor` to the endpoint, past routing and credit.

        A full buffer means that it is already poked; an unknown endpoint is ignored.
        """

    def reset_credit(self, job: int) -> None:
        """Give every sender of `job` its whole credit back.

        Due whenever RELEASEs may have been lost: a process died, or routes changed.
        """

    def mend(self) -> Counter[str]:
        """Put back what others have taken out of the kernel since the last call; how often what.

        `program`: attached again.  `socket`: its connection is ended, so that whoever has the
        other end makes a new pair and registers it, to which the program applies.  `credit`: given
        out again.  Routes are the caller's to compare.
        """

    def fileno(self) -> int:
        """One epoll descriptor, readable when `returned` has something."""

    def returned(self) -> list[Returned]:
        """What was not routed since the last call; bounded per call, so call it per wake-up."""

    def identity(self, near: socket) -> tuple[int, int] | None:
        """(job, endpoint) for which `near` is in force, as the router itself knows it.

        None: it is not, or no longer; the runtime makes a new pair.  The unix router has no
        memory across restarts and answers for its own registrations alone.
        """

    def close(self, *, keep_pins: bool = False) -> None:
        """Let go of everything; with `keep_pins` the kernel goes on routing for a successor."""
