"""Snapshot in, plan out.

Owns who is on which node: stickiness, the order of clients, what happens when there is no
room.  Does no I/O, reads no clock and keeps nothing between calls; the policy's formula is in
policies.py, the tree in tree.py.  Called by the coordinator at every round and whenever a
node joins, drains or dies.

    1. sort out the nodes: who is alive, who takes new clients
    2. keep: pinned clients on their node, the others where they were while there is room
    3. place the rest by the policy, where one more fits (RC ≥ 1)
    4. beyond all capacity: stay, or go where most room is; they wait for input slots,
       which bound memory, and are reported as oversubscribed
    5. choose the top's node, build the tree, count what to start and stop

Outcomes that are not a full plan:

    nobody to place                    a plan without roles; `top_node` is None
    pinned to a node that is gone      in `unplaced`; everybody else is planned
    draining node                      takes nobody new; between rounds gives its clients away,
                                       but for those pinned to it, which have nowhere to go
    a node whose arena cannot hold     takes nobody; clients pinned to it are in `unplaced`
    one update (MC = 0)
    more clients than the job's share  the rest is placed, and reported as oversubscribed
    no node for anybody                `Busy`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heapreplace

from lifl.errors import Busy
from lifl.placement import policies, tree
from lifl.placement.fanin import Means, choose
from lifl.placement.snapshot import Client, Cost, Node, NodePlan, Plan, Snapshot

__all__ = ["NodePlan", "Plan", "grown", "plan"]


def plan(snapshot: Snapshot) -> Plan:
    """The plan for a snapshot; equal snapshots give equal plans.

    Between two plans nobody moves who does not have to: with the first plan as `previous`
    and nothing else changed, the second has the same clients, lanes, roles and endpoints.
    Parts of the previous plan that stay as they are, are taken over whole, so that a plan
    after one node was lost costs little more than looking at every client once.

    Raises:
        Busy: there are clients, and no node for any of them.
        InvalidJob: unknown policy, or more roles on a node than endpoints.
    """
    by_name = sorted(snapshot.nodes, key=lambda node: node.name)
    alive = {node.name: node for node in by_name if node.alive}
    in_force = snapshot.previous.homes() if snapshot.previous else {}
    placed = _place(snapshot, alive, in_force)
    if not placed and snapshot.clients and not any(map(_takes_clients, alive.values())):
        raise _no_node(snapshot, alive)

    clients: dict[str, list[str]] = {name: [] for name in alive}
    unplaced = []
    for client in snapshot.clients:
        key = client.key
        if (name := placed.get(key)) is not None:
            clients[name].append(key)
        else:
            unplaced.append(key)

    top_node, trees = _grow(snapshot, alive, clients)
    previous = snapshot.previous.nodes if snapshot.previous else {}
    nodes = {
        name: _node_plan(
            node, clients[name], trees.get(name, ()), top_node, before=previous.get(name)
        )
        for name, node in alive.items()
    }
    return Plan(
        epoch=snapshot.epoch,
        top_node=top_node,
        nodes=nodes,
        unplaced=tuple(unplaced),
        oversubscribed=_oversubscribed(snapshot, placed, alive, clients),
        cost=Cost(
            nodes=len(trees),
            crossings=max(0, len(trees) - 1),
            levels=max((roles[-1].level for roles in trees.values()), default=0),
            starts=sum(node.starts for node in nodes.values()),
            moves=sum(
                placed.get(client.key, before) != before
                for client in snapshot.clients
                if (before := in_force.get(client.key, client.node)) is not None
            ),
        ),
    )


def grown(before: Plan, name: str, *, leaves: int, movable: Container[str]) -> Plan:
    """The plan in force with so many leaves on one node, in mid-round.

    No role leaves and no other node changes.  Of the node's clients those that are `movable` are
    spread over all its leaves; the others stay in theirs.  Above more than one leaf there is a
    middle, as in every plan.

    Raises:
        InvalidJob: more roles on the node than there are endpoints.
    """
    assert before.top_node is not None
    nodes = before.nodes
    most = max(map(len, (node.clients for node in nodes.values())))
    trees = tree.build(
        {node: part.clients for node, part in nodes.items()},
        fan_in=dict.fromkeys(nodes, most) | {name: -(-len(nodes[name].clients) // leaves)},
        top_node=before.top_node,
        previous={
            node: tuple(
                replace(role, clients=tuple(key for key in role.clients if key not in movable))
                for role in part.roles
            ) if node == name else part.roles
            for node, part in nodes.items()
        },
        same=nodes.keys() - {name},
        keep=True,
    )  # fmt: skip
    roles = trees[name]
    leaf_of = {key: role.endpoint for role in roles for key in role.clients}
    clients = nodes[name].clients
    part = replace(nodes[name], roles=roles, lanes={key: leaf_of[key] for key in clients})
    return replace(before, nodes={**nodes, name: part})


def _takes_clients(node: Node) -> bool:
    return not node.draining and node.capacity_updates > 0


def _place(
    snapshot: Snapshot, alive: Mapping[str, Node], in_force: Mapping[str, str]
) -> dict[str, str]:
    """Client key → node name; clients that no node can take are left out.

    `in_force` is where those of the previous plan are; it goes before a client's own `node`.
    """
    rank = policies.policy(snapshot.policy, seed=snapshot.seed)
    share = len(snapshot.clients) if snapshot.share is None else snapshot.share
    placed: dict[str, str] = {}
    for client in snapshot.clients:
        pinned = client.pinned
        if pinned is not None and pinned in alive and alive[pinned].capacity_updates > 0:
            placed[client.key] = pinned

    takers = {name: node for name, node in alive.items() if _takes_clients(node)}
    count = Counter(placed.values())
    left = {name: policies.room(node) - count[name] for name, node in takers.items()}
    stay = alive if snapshot.mid_round else {}
    moving: list[Client] = []
    for client in snapshot.clients:
        if client.pinned is not None:
            continue
        key = client.key
        home = in_force.get(key, client.node)
        if home is None:
            moving.append(client)
        elif home in left and left[home] > 0:
            placed[key] = home
            left[home] -= 1
        elif home in stay and key in in_force:
            placed[key] = home
        else:
            moving.append(client)
    if not moving:
        return placed

    count = Counter(placed.values())
    within = share - len(placed)  # of the job's share
    roomy = _Ranked(takers.values(), count, rank=rank, fit=True)
    emptiest = _Ranked(takers.values(), count, rank=policies.worstfit, fit=False)
    for client in moving:
        last = in_force.get(client.key, client.node)
        name = roomy.best() if within > 0 else None
        if name is None:
            name = last if last in takers else emptiest.best()
        if name is not None:
            placed[client.key] = name
            count[name] += 1
            within -= 1
    return placed


class _Ranked:
    """The node of lowest rank, as clients are put on nodes.

    A rank depends on its node's count alone.  Between two calls either only the first
    node's count grew, or ranks grow with the count; so no entry but the first can be too
    high, and it is enough to look again at the first until it is up to date.
    """

    def __init__(
        self, nodes: Iterable[Node], count: Counter[str], *, rank: policies.Policy, fit: bool
    ) -> None:
        self._rank, self._fit, self._count = rank, fit, count
        self._nodes = {node.name: node for node in nodes}
        self._heap = [(rank(node, count[name]), name) for name, node in self._nodes.items()]
        heapify(self._heap)

    def best(self) -> str | None:
        """Name of the first by (rank, name); None when there is no node, or no room."""
        while self._heap:
            rank, name = self._heap[0]
            node, placed = self._nodes[name], self._count[name]
            if self._fit and not policies.fits(node, placed):
                heappop(self._heap)
            elif (now := self._rank(node, placed)) != rank:
                heapreplace(self._heap, (now, name))
            else:
                return name
        return None


def _oversubscribed(
    snapshot: Snapshot,
    placed: Mapping[str, str],
    alive: Mapping[str, Node],
    members: Mapping[str, Sequence[str]],
) -> tuple[str, ...]:
    """Clients beyond their node's capacity, or the job's share of all.

    The pinned come first, then the roster's order.
    """
    room = {name: policies.room(alive[name]) for name, keys in members.items() if keys}
    within = len(placed) if snapshot.share is None else snapshot.share
    if within >= len(placed) and all(len(members[name]) <= fit for name, fit in room.items()):
        return ()
    beyond: set[str] = set()
    for client in sorted(snapshot.clients, key=lambda client: client.pinned is None):
        name = placed.get(client.key)
        if name is None:
            continue
        if room[name] > 0 and within > 0:
            room[name] -= 1
            within -= 1
        else:
            beyond.add(client.key)
    return tuple(client.key for client in snapshot.clients if client.key in beyond)


def _grow(
    snapshot: Snapshot, alive: Mapping[str, Node], clients: Mapping[str, Sequence[str]]
) -> tuple[str | None, dict[str, tuple[tree.Role, ...]]]:
    """The top's node, and the roles of every node that has any."""
    previous = snapshot.previous
    top_node = previous.top_node if previous and previous.top_node in alive else None
    if top_node is None or not snapshot.mid_round:
        lasting = {name: keys for name, keys in clients.items() if not alive[name].draining}
        top_node = tree.place_top(lasting, stay=top_node) or tree.place_top(clients, stay=top_node)
    if top_node is None:
        return None, {}
    before = previous.nodes if previous else {}
    return top_node, tree.build(
        clients,
        fan_in={name: _fan_in(snapshot, alive[name], len(keys)) for name, keys in clients.items()},
        top_node=top_node,
        previous={name: node.roles for name, node in before.items() if name in alive},
        same={name for name in clients if name in before and _same(before[name], clients[name])},
        keep=snapshot.mid_round,
    )


def _same(before: NodePlan, keys: Sequence[str]) -> bool:
    return len(before.clients) == len(keys) and before.clients == tuple(keys)


def _fan_in(snapshot: Snapshot, node: Node, count: int) -> int:
    """Clients of one leaf of this node."""
    if snapshot.fan_in is None:
        assert snapshot.work is not None
        cores = node.cores if node.leaves_max is None else min(node.cores, node.leaves_max)
        means = Means(
            cores=cores, input_slots=node.input_slots, fold_bytes_s=node.fold_bytes_s,
            ingress_bytes_s=node.ingress_bytes_s, runtimes_warm=node.runtimes_warm,
        )  # fmt: skip
        return choose(count, snapshot.work, means).fan_in
    if node.leaves_max is None:
        return snapshot.fan_in
    return max(snapshot.fan_in, tree.leaf_count(count, max(1, node.leaves_max)))


def _node_plan(
    node: Node, clients: Sequence[str], roles: tuple[tree.Role, ...], top_node: str | None,
    *, before: NodePlan | None,
) -> NodePlan:  # fmt: skip
    forward_to = top_node if roles and node.name != top_node else None
    warm, wanted = node.runtimes_warm, len(roles)
    starts, reuses, stops = max(0, wanted - warm), min(wanted, warm), max(0, warm - wanted)
    if before is not None and before.roles is roles:  # which have their clients
        if (before.forward_to, before.starts, before.reuses, before.stops) == (
            forward_to, starts, reuses, stops,
        ):  # fmt: skip
            return before
        lanes: Mapping[str, int] = before.lanes
    else:
        leaf_of = {key: role.endpoint for role in roles for key in role.clients}
        lanes = {key: leaf_of[key] for key in clients}
    return NodePlan(
        name=node.name, roles=roles, lanes=lanes, clients=tuple(clients), forward_to=forward_to,
        starts=starts, reuses=reuses, stops=stops,
    )  # fmt: skip


def _no_node(snapshot: Snapshot, alive: Mapping[str, Node]) -> Busy:
    """Why nobody can be placed, and what helps."""
    known = len(snapshot.nodes)
    if not alive:
        why = f"none of {known} known nodes is alive: start an agent"
    elif all(node.draining for node in alive.values()):
        why = f"every living node is draining ({', '.join(alive)}): uncordon one or add one"
    else:
        why = (
            "no living node that takes clients can hold even one update "
            f"({', '.join(alive)}): raise the memory budget or add a larger node"
        )
    return Busy(f"{len(snapshot.clients)} clients wait for a node, and {why}", epoch=snapshot.epoch)
