"""What the planner is told and what it answers: values only.

Owns `Snapshot` (nodes, roster, previous plan) and `Plan` (where everybody is, the tree, what
to start).  Does no measuring (the agent), no deciding (planner.py) and no acting (the
coordinator and the agents, which build the one and carry out the other).  Everything here
is frozen and compares by value, so "the same plan" is `==`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lifl.errors import InvalidJob
from lifl.placement.fanin import Work
from lifl.placement.tree import Role


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine as its agent last reported it.

    Attributes:
        name: unique; ties between nodes go to the first name.
        capacity_updates: MC, see capacity.py; 0: cannot hold even one update of this job.
        arrival_per_s: k, updates per second of traffic that this plan does **not** place
            (other jobs).  The job's own clients are counted one by one as they are placed;
            in k as well they would count twice, and move with every measurement.
        service_s: E, mean time that one such update is in service.
        input_slots, fold_bytes_s, ingress_bytes_s: what MC was computed from.
        cores: that aggregators can use.
        leaves_max: most leaves that are of use here (its cores and slots, see autoscaler.py):
            beyond that leaves get more than `fan_in` clients each; None: no such bound.
        runtimes_warm: live runtimes that the plan may use, idle or in a role of this job.
        draining: takes no new clients, and between rounds gives away those that it has.
        alive: its agent answers.
        gateway: where clients and other nodes reach its gateway, as `tcp://host:port`.
    """

    name: str
    capacity_updates: int
    arrival_per_s: float = 0.0
    service_s: float = 0.0
    input_slots: int = 0
    fold_bytes_s: float = 0.0
    ingress_bytes_s: float = 0.0
    cores: int = 1
    leaves_max: int | None = None
    runtimes_warm: int = 0
    draining: bool = False
    alive: bool = True
    gateway: str = ""


@dataclass(frozen=True, kw_only=True)
class Client:
    """One selected client.

    Attributes:
        key: its identity (never a field of its message).
        name: for people.
        node: the node that an earlier plan gave it, kept while it has room; None: never
            placed.  Which gateway a client happened to call first is not a placement.
        pinned: the only node that it can reach; None: it can reach all.
    """

    key: str
    name: str = ""
    node: str | None = None
    pinned: str | None = None


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """One node's part of a plan: all that its agent needs.

    Attributes:
        roles: leaves by endpoint, then the middle, then the top; empty: nothing to do here.
        lanes: client key → endpoint of its leaf, in roster order.
        clients: the keys of `lanes`.
        forward_to: name of the top's node, whose gateway gets this node's sum; None on the
            top's own node and where there are no roles.
        starts: runtimes to start.
        reuses: roles that a live runtime keeps or takes over.
        stops: live runtimes left without a role; how long they stay warm is the pool's matter.
    """

    name: str
    roles: tuple[Role, ...] = ()
    lanes: Mapping[str, int] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    forward_to: str | None = None
    starts: int = 0
    reuses: int = 0
    stops: int = 0

    @property
    def root(self) -> Role | None:
        """The role whose consumer is the gateway: top, middle or single leaf."""
        return next((role for role in self.roles if role.parent == 0), None)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan is expected to cost, in the units that policies are compared in.

    Attributes:
        nodes: nodes with at least one role.
        crossings: sums that cross from node to node in a round.
        levels: of the tree; 0 without clients.
        starts: runtimes to start, over all nodes.
        moves: clients that had a node and get another.
    """

    nodes: int = 0
    crossings: int = 0
    levels: int = 0
    starts: int = 0
    moves: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who runs where.

    Attributes:
        epoch: the snapshot's.
        top_node: where the top is; None when nobody is placed.
        nodes: one entry per *alive* node, by name, so that a node that lost its last role
            is told so; `used` has those with roles.
        unplaced: clients that no node can take (say, pinned to one that is gone),
            in roster order; the top does not expect them.
        oversubscribed: placed beyond their node's capacity: they wait for an input slot.
    """

    epoch: int
    top_node: str | None
    nodes: Mapping[str, NodePlan]
    unplaced: tuple[str, ...] = ()
    oversubscribed: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the nodes with at least one role."""
        return tuple(name for name, node in self.nodes.items() if node.roles)

    @property
    def top(self) -> Role | None:
        """The top's role; None when nobody is placed."""
        return None if self.top_node is None else self.nodes[self.top_node].root

    def homes(self) -> dict[str, str]:
        """Client key → name of its node."""
        homes: dict[str, str] = {}
        for name, node in self.nodes.items():
            homes.update(dict.fromkeys(node.clients, name))
        return homes


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a plan depends on.

    Attributes:
        nodes: in any order, dead and draining ones included.
        clients: the selected roster, in roster order.
        fan_in: most clients of one leaf, unless its node has a `leaves_max`; None: chosen for
            each node by what `work` costs there (fanin.py).
        work: what a round asks of a node; needed where `fan_in` is None.
        policy: a name in `policies.NAMES`.
        seed: of the policy `random`.
        share: how many of these clients may take up capacity, where several jobs share nodes
            (shares.py); the others are placed as those for which there is no room.  None: all.
        previous: the plan in force; None: the first.
        epoch: number of the plan to be made.
        mid_round: updates may already be on their way up the tree, so nothing that still
            works is moved: clients keep node and leaf, the top its node, a draining node
            what it has.  Between rounds leaves are balanced again and the top may go to
            the node with most traffic.

    Raises:
        InvalidJob: `fan_in` below 1.
        ValueError: neither `fan_in` nor `work`, two nodes of one name, two clients of one key.
    """

    nodes: tuple[Node, ...]
    clients: tuple[Client, ...]
    fan_in: int | None
    policy: str = "bestfit"
    seed: int = 0
    share: int | None = None
    previous: Plan | None = None
    epoch: int = 0
    mid_round: bool = False
    work: Work | None = None

    def __post_init__(self) -> None:
        if self.fan_in is None and self.work is None:
            raise ValueError("a fan-in is chosen by what work costs, and none is given")
        if self.fan_in is not None and self.fan_in < 1:
            raise InvalidJob(f"fan-in is {self.fan_in}: a leaf needs at least 1 client")
        for what, names in (
            ("nodes are named", [node.name for node in self.nodes]),
            ("clients have the key", [client.key for client in self.clients]),
        ):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"two {what} {twice!r}")
