"""Who is there: nodes as far as they have reported themselves, clients and where they called.

Owns names, keys and rights of a job's participants, and which gateway each client talks to.
Sends nothing and decides nothing; placement/coordinator.py fills it and asks it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lifl.functions.wire import worker_and_number


@dataclass
class Known:
    """A node as far as it has reported itself."""

    name: str
    key: str  # of its agent and its gateway
    agent: bytes | None = None  # routing ids of their connections
    gateway: bytes | None = None
    endpoint: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    planned: int = -1  # epoch of the plan that it carries out
    ready: bool = False  # its gateway holds the job's arena
    model: int = -1  # ... and in it the model of this round
    in_model: int = 0  # with the updates of these clients
    queue: float | None = None  # Q̂ of its queue, where that is measured and a period has ended


class Membership:
    """Nodes and clients of one job.

    Args:
        nodes: public key of each node, by name.
        names: name of each enrolled client, by key.
        observers: keys of those who may see models and report on them.
        workers: keys of those who speak for virtual clients.

    Attributes:
        connected: client key → node whose gateway it talks to; "" for a virtual one, whose worker
            talks to all of them.
        shares: worker's key → keys of its clients.
        homes: client key → node that the plan gave it, also of clients that sit out.
        is_observed: an observer has called.
    """

    def __init__(
        self, nodes: Mapping[str, str], names: Mapping[str, str], observers: Iterable[str],
        workers: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self.nodes = {name: Known(name, key) for name, key in nodes.items()}
        self.names = dict(names)
        self.observers = list(observers)
        self.is_observed = False
        self.connected: dict[str, str] = {}
        self.homes: dict[str, str] = {}
        self.shares: dict[str, list[str]] = {key: [] for key in workers}
        for key in self.names:
            if (virtual := worker_and_number(key)) is not None:
                self.shares[virtual[0]].append(key)
        self._leaving: dict[str, float] = {}  # client key → when it counts as gone (monotonic s)

    def __iter__(self) -> Iterator[Known]:
        return iter(sorted(self.nodes.values(), key=lambda node: node.name))

    def __getitem__(self, name: str) -> Known:
        return self.nodes[name]

    def speaker(self, name: str, key: str) -> Known | None:
        """The node of this name, if this is its key."""
        node = self.nodes.get(name)
        return node if node is not None and node.key == key else None

    @property
    def rights(self) -> dict[str, str]:
        """What each enrolled key may be: a gateway's list."""
        return {
            **dict.fromkeys((k for k in self.names if worker_and_number(k) is None), "client"),
            **dict.fromkeys(self.shares, "worker"),
            **dict.fromkeys(self.observers, "observer"),
            **dict.fromkeys((node.key for node in self.nodes.values()), "node"),
        }

    @property
    def at_once(self) -> int | None:
        """How many can have an update under way; None where each is a process of its own."""
        virtual = sum(len(share) for share in self.shares.values())
        return len(self.shares) + len(self.names) - virtual if self.shares else None

    # -- clients that come and go ------------------------------------------------------------
    def comes(self, key: str, node: str) -> None:
        if key in self.shares:
            self.connected |= dict.fromkeys(self.shares[key], "")
            return
        self.connected[key] = node
        self._leaving.pop(key, None)

    def leaves(self, key: str, node: str, gone_at: float) -> None:
        """Its connection to this node's gateway ended; it may come back, there or elsewhere."""
        if self.connected.get(key) == node:
            self._leaving[key] = gone_at

    def is_away(self, key: str) -> bool:
        """Its connection has ended, and its time to come back is not over."""
        return key in self._leaving

    def forget(self, key: str) -> None:
        """A client that is not waited for: revoked, or it has cost a round its deadline."""
        self.connected.pop(key, None)
        self._leaving.pop(key, None)

    @property
    def next_gone_at(self) -> float:
        return min(self._leaving.values(), default=math.inf)

    def gone(self, now: float) -> list[str]:
        """Keys of clients whose time to come back is over; each once."""
        over = [key for key, at in self._leaving.items() if at <= now]
        for key in over:
            del self._leaving[key], self.connected[key]
        return over

    @property
    def is_whole(self) -> bool:
        """Agent and gateway of every node have reported."""
        return all(node.agent and node.gateway for node in self.nodes.values())

    @property
    def gateways(self) -> dict[str, list[str]] | None:
        """Endpoint and key of every gateway, once all are known."""
        if not all(node.gateway for node in self.nodes.values()):
            return None
        return {node.name: [node.endpoint, node.key] for node in self}

    def astray(self, name: str) -> list[list[str]]:
        """[client key, endpoint, server key] of clients that called here and belong elsewhere.

        Without those whose gateway has not reported yet.
        """
        homes, nodes = self.homes, self.nodes
        return [
            [key, nodes[homes[key]].endpoint, nodes[homes[key]].key]
            for key, where in self.connected.items()
            if where == name and homes.get(key, where) != where and nodes[homes[key]].endpoint
        ]
