"""Who is there: nodes as far as they have reported themselves, clients and where they called.

Owns names, keys and rights of a job's participants, and which gateway each client talks to.
Sends nothing and decides nothing; attendance.py fills it, coordinator.py and course.py ask it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    enrolled: int = 0  # its gateway goes by the keys of this look at the key directory
    is_lost: bool = False  # it has been silent for too long, or has lost its memory
    is_draining: bool = False  # takes nobody new, and gives its clients away between rounds
    is_empty: bool = False  # lost, and it has nothing of the job any more
    is_silent: bool = False  # it has not answered lately: nobody is sent there
    begun: int = 0  # newest round whose first model it has
    epoch: int = 0  # of the last plan that it was lost in; what it had before counts no more


@dataclass(frozen=True)
class Outside:
    """How clients from outside of a cluster reach gateways: not as nodes reach one another.

    Attributes:
        clients: their keys.
        doors: endpoint and port for models and updates, as they see them, by node.
    """

    clients: frozenset[str] = frozenset()
    doors: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> Outside:
        """From a coordinator's configuration; None: everybody is inside."""
        if config is None:
            return cls()
        doors = {node: (endpoint, port) for node, (endpoint, port) in config["doors"].items()}
        return cls(frozenset(config["clients"]), doors)

    def wire(self) -> dict[str, Any]:
        return {"clients": sorted(self.clients), "doors": dict(self.doors)}

    def endpoint(self, client: str, node: Known) -> str:
        """Where this client finds that node's gateway."""
        return self.door(node) if client in self.clients else node.endpoint

    def door(self, node: Known) -> str:
        """Where those from outside do."""
        return self.doors[node.name][0] if node.name in self.doors else node.endpoint

    def ports(self, node: str) -> dict[str, int]:
        """Where each of them finds the bulk port of that node."""
        return dict.fromkeys(self.clients, self.doors[node][1]) if node in self.doors else {}


class Membership:
    """Nodes and clients of one job.

    Args:
        nodes: public key of each node, by name.
        names: name of each enrolled client, by key.
        observers: keys of those who may see models and report on them.
        workers: keys of those who speak for virtual clients.
        outside: who does not call at the addresses that nodes have among themselves.

    Attributes:
        connected: client key → node whose gateway it talks to; "" for a virtual one, whose worker
            talks to all of them.
        shares: worker's key → keys of its clients.
        homes: client key → node that the plan gave it, also of clients that sit out.
        is_observed: an observer has called.
    """

    def __init__(
        self, nodes: Mapping[str, str], names: Mapping[str, str], observers: Iterable[str],
        workers: Iterable[str] = (), *, outside: Outside | None = None,
    ) -> None:  # fmt: skip
        self.nodes = {name: Known(name, key) for name, key in nodes.items()}
        self.names = dict(names)
        self.observers, self.outside = list(observers), outside or Outside()
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
        """Agent and gateway of every node have reported, but for those that are lost."""
        return all(node.agent and node.gateway for node in self.here)

    @property
    def here(self) -> list[Known]:
        """Nodes that are not lost, by name."""
        return [node for node in self if not node.is_lost]

    @property
    def gateways(self) -> dict[str, list[str]] | None:
        """Endpoint and key of every gateway, once all are known; of lost nodes none."""
        if not all(node.gateway for node in self.here):
            return None
        return {node.name: [node.endpoint, node.key] for node in self.here}

    def lose(self, name: str, epoch: int, gone_at: float) -> None:
        """Forget where a node was; its clients have until `gone_at` to call elsewhere."""
        node = self.nodes[name]
        self.nodes[name] = Known(
            node.name, node.key, measured=node.measured, is_lost=True, epoch=epoch
        )
        for key, where in self.connected.items():
            if where == name:
                self._leaving.setdefault(key, gone_at)

    def returns(self, name: str) -> None:
        """A node that was lost is here again, with nothing of the job."""
        self.nodes[name].is_lost = False
        self.nodes[name].planned = -1

    def astray(self, name: str) -> list[list[str]]:
        """[client key, endpoint, server key] of clients that called here and belong elsewhere.

        Without those whose gateway has not reported yet, or does not answer.
        """
        where = [key for key, at in self.connected.items() if at == name]
        return self.sent_away(name, where)

    def sent_away(self, name: str, keys: Iterable[str]) -> list[list[str]]:
        """[client key, endpoint, server key] of those who belong to another node than this one."""
        at = {key: self.nodes[self.homes.get(key, name)] for key in keys}
        return [
            [key, self.outside.endpoint(key, node), node.key]
            for key, node in at.items()
            if node.name != name and node.endpoint and not node.is_silent
        ]

    def elsewhere(self, name: str, most: int = 8) -> list[Known]:
        """Other nodes with gateways: where clients of this one go without it.

        Of many nodes each is told of a few, the next ones by name, so that not all go to the same.
        """
        names = [node.name for node in self.here if node.endpoint and node.name != name]
        later = [other for other in names if other > name]
        order = [*later, *(other for other in names if other < name)][:most]
        return [self.nodes[other] for other in order]
