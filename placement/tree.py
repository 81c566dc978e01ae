"""The aggregation tree over clients that have been placed.

Owns leaves, middles, the top, their endpoints and what each is to expect.  Does not own who
is on which node (planner.py, the only caller) nor processes (the agent).

    node a                                 node b
    clients ─► leaf ─┐                     clients ─► leaf ─┐
    clients ─► leaf ─┴► middle ─► top      clients ─► leaf ─┴► middle ─► gateway b ─► gateway a
                                   ▲                                                     │
                                   └─────────────────────────────────────────────────────┘

Per node with Q clients there are ⌈Q / fan_in⌉ leaves and, above more than one leaf, one
middle (LIFL, MLSys 2024, arXiv 2405.10968).  Over all there is one top, a role of its own
even above a single leaf, since it alone divides and decides that a round is complete.  Of
each node exactly one role, the *root*, has the gateway (endpoint 0) as its parent.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, Literal

from lifl.errors import InvalidJob

Kind = Literal["leaf", "middle", "top"]

GATEWAY: Final = 0  # as a parent
ENDPOINT_MAX: Final = 0x7FFF  # bit 15 marks the gateway's lanes, see proxy_ebpf/descriptor.h


@dataclass(frozen=True, kw_only=True)
class Role:
    """One aggregator's place in the tree; a runtime fills it, none is it.

    Attributes:
        endpoint: 1 … 0x7fff, unique on its node and stable while the role lasts.
        parent: endpoint on the same node; 0: the gateway.
        expected: updates in its sum when it is complete; the top's: all placed clients.
        clients: keys, in roster order, of a leaf; empty otherwise.
        level: 1 for leaves, one more than the highest child for others.
    """

    endpoint: int
    kind: Kind
    parent: int
    expected: int
    clients: tuple[str, ...] = ()
    level: int


def leaf_count(clients: int, fan_in: int) -> int:
    """⌈Q / fan_in⌉; 0 without clients."""
    return -(-clients // fan_in)


def wide_enough(clients: int, fan_in: int, at_once: int) -> int:
    """Clients of one leaf when only `at_once` of them can have an update under way.

    The paper's Q is a queue: with W workers it is never longer than W, however many virtual
    clients a round draws, so that ⌈min(Q, W) / fan_in⌉ leaves do and share the clients.
    """
    leaves = leaf_count(min(clients, at_once), fan_in)
    return -(-clients // leaves) if leaves else fan_in


def place_top(clients: Mapping[str, Sequence[str]], *, stay: str | None) -> str | None:
    """The node with most clients; of equals `stay` (where the top is now), then by name."""
    used = [name for name, keys in clients.items() if keys]
    return min(used, key=lambda name: (-len(clients[name]), name != stay, name), default=None)


def build(
    clients: Mapping[str, Sequence[str]],
    *,
    fan_in: Mapping[str, int],
    top_node: str,
    previous: Mapping[str, Sequence[Role]],
    same: Container[str] = (),
    keep: bool,
) -> dict[str, tuple[Role, ...]]:
    """Roles of every node that has any.

    Args:
        clients: living node → keys of its clients, in roster order; may be empty.
        fan_in: most clients of one leaf, by node.
        top_node: where the top goes; it need not have clients.
        previous: living node → roles in force.  A role that stays keeps its endpoint, and
            a client its leaf as far as `keep` says.
        same: nodes whose clients are those of `previous`, in the same order.
        keep: a round is under way: no role of a living node leaves the tree and no client
            its leaf, since sums may be on their way; newcomers go to the emptiest leaves.
            Otherwise leaves are as few as they can be and differ by at most one client.

    A node whose tree stays as it is keeps the very tuple that is in `previous`.

    Raises:
        InvalidJob: more roles on a node than there are endpoints.
    """
    free = _unused(top_node, previous.get(top_node, ()))
    trees: dict[str, tuple[Role, ...]] = {}
    for name, keys in clients.items():
        before = previous.get(name, ())
        if name in same and name != top_node and _stays(before, fan_in=fan_in[name], keep=keep):
            trees[name] = tuple(before)
        elif keys or (keep and _endpoints(before, "leaf")):
            unused = free if name == top_node else _unused(name, before)
            trees[name] = _node_tree(
                keys, fan_in=fan_in[name], previous=before, free=unused, keep=keep
            )
    endpoint = _endpoint(previous.get(top_node, ()), "top", free)
    below = tuple(
        replace(role, parent=endpoint) if role.parent == GATEWAY else role
        for role in trees.get(top_node, ())
    )
    top = Role(
        endpoint=endpoint,
        kind="top",
        parent=GATEWAY,
        expected=sum(len(keys) for keys in clients.values()),
        level=1 + max((roles[-1].level for roles in trees.values()), default=0),
    )
    trees[top_node] = (*below, top)
    return trees


def _stays(before: Sequence[Role], *, fan_in: int, keep: bool) -> bool:
    """Whether the tree of a node without the top, whose clients are the same, stays as it is.

    It is then what `_node_tree` would make of it again.
    """
    if not before or before[-1].kind == "top" or before[-1].parent != GATEWAY:
        return False
    sizes = [role.expected for role in before if role.kind == "leaf"]
    most, count = max(sizes), sum(sizes)
    if keep:
        return most <= fan_in and count > 0
    leaves = leaf_count(count, fan_in)
    return (
        len(sizes) == leaves
        and most - min(sizes) <= 1
        and (before[-1].kind == "middle") == (leaves > 1)
    )


def _node_tree(
    keys: Sequence[str], *, fan_in: int, previous: Sequence[Role], free: Iterator[int], keep: bool
) -> tuple[Role, ...]:
    """Leaves by endpoint, then the middle if there is one; the last role is the root."""
    sets = _leaf_sets(keys, fan_in=fan_in, previous=previous, free=free, keep=keep)
    middle = None
    if len(sets) > 1 or (keep and _endpoints(previous, "middle")):
        middle = _endpoint(previous, "middle", free)
    leaves = tuple(
        Role(
            endpoint=endpoint,
            kind="leaf",
            parent=GATEWAY if middle is None else middle,
            expected=len(members),
            clients=members,
            level=1,
        )
        for endpoint, members in sorted(sets.items())
    )
    if middle is None:
        return leaves
    root = Role(endpoint=middle, kind="middle", parent=GATEWAY, expected=len(keys), level=2)
    return (*leaves, root)


def _leaf_sets(
    keys: Sequence[str], *, fan_in: int, previous: Sequence[Role], free: Iterator[int], keep: bool
) -> dict[int, tuple[str, ...]]:
    """Endpoint → clients.  The fullest old leaves stay; newcomers go where fewest are."""
    here = set(keys)
    staying = {
        role.endpoint: [key for key in role.clients if key in here]
        for role in previous
        if role.kind == "leaf"
    }
    old = sorted(staying, key=lambda endpoint: (-len(staying[endpoint]), endpoint))
    count = leaf_count(len(keys), fan_in)
    if keep:
        count = max(count, len(old))
    leaves = old[:count] + list(islice(free, max(0, count - len(old))))
    least, larger = divmod(len(keys), count)
    room = {
        leaf: max(fan_in, len(staying.get(leaf, ()))) if keep else least + (at < larger)
        for at, leaf in enumerate(leaves)
    }

    place = {key: at for at, key in enumerate(keys)}
    members = {
        leaf: sorted(staying.get(leaf, ()), key=place.__getitem__)[: room[leaf]] for leaf in leaves
    }
    settled = {key for keys_ in members.values() for key in keys_}
    emptiest = [(len(members[leaf]), leaf) for leaf in leaves if len(members[leaf]) < room[leaf]]
    heapify(emptiest)
    for key in keys:
        if key in settled:
            continue
        size, leaf = heappop(emptiest)
        members[leaf].append(key)
        if size + 1 < room[leaf]:
            heappush(emptiest, (size + 1, leaf))
    return {leaf: tuple(sorted(keys_, key=place.__getitem__)) for leaf, keys_ in members.items()}


def _endpoints(roles: Sequence[Role], kind: Kind) -> list[int]:
    return [role.endpoint for role in roles if role.kind == kind]


def _endpoint(previous: Sequence[Role], kind: Kind, free: Iterator[int]) -> int:
    """The number that the node's only role of this kind had, or else a free one."""
    return next(iter(_endpoints(previous, kind)), None) or next(free)


def _unused(node: str, previous: Sequence[Role]) -> Iterator[int]:
    """Numbers of no role in force, lowest first.

    A number whose role leaves rests for one plan: sealed slots may still name it.
    """
    taken = {role.endpoint for role in previous}
    yield from (endpoint for endpoint in range(1, ENDPOINT_MAX + 1) if endpoint not in taken)
    raise InvalidJob(
        f"more than {ENDPOINT_MAX} roles on one node: raise the job's fan-in", node=node
    )
