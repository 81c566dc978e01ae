"""The agent's line to the operator: what this node is, what it needs, which jobs there are.

    agent ─► operator     node (again when the operator is a new one), demand, evict
    operator ─► agent     jobs, drain, who, refused

Owns that line, and how long this node is silent after it was refused: the operator asks the API
server about each try.  What follows from the news is node.py's, members.py's and the lines' matter:
a job that is there gets a line to its coordinator, one that is there no more is dropped.  Called by
the agent's loop in a cluster.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from lifl.functions.lines import Lines
from lifl.functions.wire import LARGEST_TRUSTED, Keys, Line, Message, decode, encode
from lifl.placement.members import Members
from lifl.placement.node import Node

log = logging.getLogger("lifl.node")

TOKEN_VARIABLE: Final = "LIFL_OPERATOR_TOKEN"  # names the file of this pod's token
SILENT_S: Final = 1.0  # after the first refusal, twice as long after each that follows
LONGEST_S: Final = 60.0


class Steward:
    """This node, towards the operator.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, operator: tuple[str, str],
        node: Node, members: Members, lines: Lines, *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._line = Line(context, keys, *operator)
        self._node, self._members, self._lines = node, members, lines
        self._said: dict[str, Message] = {}
        self._clock, self._silent_s, self._until = clock, 0.0, 0.0

    @property
    def sockets(self) -> list[Any]:
        return [self._line.socket, self._line.monitor]

    def turn(self, ready: set[Any], about: Message) -> list[str]:
        """Once per turn of the loop: say what has changed, hear what there is.

        Args:
            about: what this node is.

        Returns:
            Jobs whose coordinator has still to hear of this node.
        """
        if self._line.monitor in ready and self._line.came_back():
            self._begin_anew()
        new: list[str] = []
        while self._line.socket in ready and self._line.socket.poll(0):
            message = decode(self._line.socket.recv(), limit=LARGEST_TRUSTED)
            if message["t"] == "jobs":
                self._silent_s = 0.0
                new += led_by(message["jobs"], self._node, self._members, self._lines)
            elif message["t"] == "drain":
                self._node.drain(message["pods"])
            elif message["t"] == "refused":
                self._fall_silent(message["text"])
            elif message["t"] == "who":  # it did not know this node when it heard something
                self._said.clear()
        if self.silent_for_s():
            return new
        self._say(about | {"gateway": self._gateway(), "token": _token()}, but="token")
        self._say(demand(self._node))
        for pod in self._node.pool.take_stuck():
            self._send({"t": "evict", "pod": pod})
        return new

    def silent_for_s(self) -> float:
        """How long until something can be said again; 0: now."""
        return max(0.0, self._until - self._clock())

    def _begin_anew(self) -> None:
        """There is another operator, which has refused nothing."""
        self._said.clear()
        self._silent_s = self._until = 0.0

    def _fall_silent(self, why: str) -> None:
        self._silent_s = min(LONGEST_S, 2 * self._silent_s or SILENT_S)
        self._until = self._clock() + self._silent_s
        self._said.clear()
        log.warning("the operator refuses %s, tried again in %g s: %s", self._node.name,
                    self._silent_s, why)  # fmt: skip

    def _gateway(self) -> str:
        gateway = self._node.pool.gateway
        return self._members.gateway_address() if gateway and gateway.control else ""

    def _say(self, message: Message, but: str = "") -> None:
        """If it is news."""
        news = {name: value for name, value in message.items() if name != but}
        if self._said.get(message["t"]) != news:
            self._said[message["t"]] = news
            self._send(message)

    def _send(self, message: Message) -> None:
        self._line.socket.send(encode(message | {"node": self._node.name}))


def led_by(jobs: list[Message], node: Node, members: Members, lines: Lines) -> list[str]:
    """What there is now, and nothing else; those whose coordinator has still to hear of the node.

    Called with what the operator says, or where there is none with what the local engine does.
    """
    members.coordinators = jobs
    new = lines.lead_to({job["name"]: (job["endpoint"], job["key"]) for job in jobs})
    if node.pool.gateway is not None:
        members.tell_coordinators(node.pool.gateway)
    there = {job["number"] for job in jobs}
    for number in [number for number in node.jobs if number not in there]:
        node.drop(number)
    return new


def demand(node: Node) -> Message:
    """How many runtimes each job wants here: one a role, also while it leaves.

    None where no update is expected for long (idling.py).  And which pods have a role, and which
    of those that are to go have none and get none.
    """
    wanted: Counter[str] = Counter()
    for job in node.jobs.values():
        if not job.over:
            roles = () if job.idling.asleep else job.roles
            wanted[job.name] += len({*roles, *job.assigned})
    busy = {
        process.pod for process in node.pool.processes.values()
        if process.kind == "runtime" and process.role is not None
    }  # fmt: skip
    return {
        "t": "demand", "runtimes": dict(wanted), "busy": sorted(busy),
        "draining": sorted(node.pool.draining - busy),
    }  # fmt: skip


def _token() -> str:
    path = os.environ.get(TOKEN_VARIABLE)
    return Path(path).read_text().strip() if path else ""
