"""The planner and its tree: properties of every plan, hand examples, and what moves when."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import Busy, InvalidJob
from lifl.placement.planner import grown, plan
from lifl.placement.policies import NAMES, ROUNDING, fits, residual, room
from lifl.placement.snapshot import Client, Node, Plan, Snapshot
from lifl.placement.tree import ENDPOINT_MAX, Role, leaf_count

reproducible = settings(derandomize=True, deadline=None, max_examples=300)


def clients(count: int, *, start: int = 0) -> tuple[Client, ...]:
    return tuple(Client(key=f"k{number:04}") for number in range(start, start + count))


def nodes(*capacities: int) -> tuple[Node, ...]:
    return tuple(
        Node(name=f"n{at}", capacity_updates=capacity) for at, capacity in enumerate(capacities)
    )


def snapshot(
    some_nodes: tuple[Node, ...], some_clients: tuple[Client, ...], *, fan_in: int = 4
) -> Snapshot:
    return Snapshot(nodes=some_nodes, clients=some_clients, fan_in=fan_in)


def kinds(made: Plan, name: str) -> list[str]:
    return [role.kind for role in made.nodes[name].roles]


def shape(made: Plan) -> object:
    """All that agents and clients notice of a plan."""
    return made.top_node, {
        name: (node.roles, node.lanes, node.clients, node.forward_to)
        for name, node in made.nodes.items()
        if node.roles
    }


@st.composite
def snapshots(draw: st.DrawFn, *, plain: bool = False) -> Snapshot:
    """Any snapshot; `plain`: nobody dead, draining, pinned or pre-placed."""
    some_nodes = tuple(
        Node(
            name=f"n{at}",
            capacity_updates=draw(st.integers(0 if not plain else 1, 12)),
            arrival_per_s=draw(st.sampled_from([0.0, 0.5, 3.0])),
            service_s=draw(st.sampled_from([0.0, 0.4, 1.5])),
            leaves_max=draw(st.sampled_from([None, None, 1, 2, 3])),
            runtimes_warm=draw(st.integers(0, 6)),
            draining=not plain and draw(st.integers(0, 5)) == 0,
            alive=plain or draw(st.integers(0, 5)) > 0,
        )
        for at in range(draw(st.integers(1, 6)))
    )
    names = [*(node.name for node in some_nodes), "gone"]
    place = st.none() if plain else st.sampled_from([None, None, None, *names])
    some_clients = tuple(
        Client(key=f"k{at:03}", node=draw(place), pinned=draw(place))
        for at in range(draw(st.integers(0, 40)))
    )
    return Snapshot(
        nodes=some_nodes,
        clients=some_clients,
        fan_in=draw(st.integers(1, 9)),
        policy=draw(st.sampled_from(sorted(NAMES))),
        seed=draw(st.integers(0, 2)),
        share=None if plain else draw(st.sampled_from([None, None, 0, 1, 7])),
        mid_round=not plain and draw(st.booleans()),
    )


def widest(asked: Snapshot, made: Plan, name: str) -> int:
    """Most clients of one leaf of this node."""
    (node,) = (node for node in asked.nodes if node.name == name)
    here = made.nodes[name].clients
    if node.leaves_max is None or leaf_count(len(here), asked.fan_in) <= node.leaves_max:
        return asked.fan_in
    return leaf_count(len(here), node.leaves_max)


def plan_or_none(asked: Snapshot) -> Plan | None:
    """None where the outcome is Busy, and rightly so."""
    try:
        return plan(asked)
    except Busy:
        takers = [n for n in asked.nodes if n.alive and not n.draining and n.capacity_updates]
        assert asked.clients
        assert not takers
        return None


def check_tree(asked: Snapshot, made: Plan) -> None:
    """Connected, acyclic, one top, fan-in respected, expected sums right."""
    placed = len(asked.clients) - len(made.unplaced)
    tops = [(name, r) for name, n in made.nodes.items() for r in n.roles if r.kind == "top"]
    if not placed and not tops:
        assert made.top_node is None
        assert made.used == ()
        return
    ((top_name, top),) = tops
    assert top_name == made.top_node
    assert top == made.top
    assert top.parent == 0
    assert top.expected == placed

    below_top: list[Role] = []
    for name, node in made.nodes.items():
        by_endpoint = {role.endpoint: role for role in node.roles}
        assert len(by_endpoint) == len(node.roles)
        assert all(1 <= endpoint <= ENDPOINT_MAX for endpoint in by_endpoint)
        assert node.forward_to == (None if name == top_name or not node.roles else top_name)
        if not node.roles:
            continue
        roots = [role for role in node.roles if role.parent == 0]
        assert roots == [node.root]
        below_top += [role for role in roots if name != top_name]
        for role in node.roles:
            if role.parent:
                assert by_endpoint[role.parent].level > role.level  # so there is no cycle
        for role in node.roles:
            children = [child for child in node.roles if child.parent == role.endpoint]
            if role.kind == "leaf":
                assert not children
                assert role.expected == len(role.clients) <= widest(asked, made, name)
                assert all(node.lanes[key] == role.endpoint for key in role.clients)
            elif role.kind == "middle":
                assert not role.clients
                assert role.expected == sum(child.expected for child in children)
                assert {child.kind for child in children} == {"leaf"}
            else:
                below_top += children
        leaves = [role for role in node.roles if role.kind == "leaf"]
        assert len(leaves) == leaf_count(len(node.clients), widest(asked, made, name))
        if leaves:
            sizes = [leaf.expected for leaf in leaves]
            assert max(sizes) - min(sizes) <= 1
        assert kinds(made, name).count("middle") == (len(leaves) > 1)
    assert sum(role.expected for role in below_top) == top.expected
    assert top.level == 1 + max(role.level for role in below_top) == made.cost.levels


@reproducible
@given(snapshots())
def test_every_plan_is_a_tree(asked: Snapshot) -> None:
    made = plan_or_none(asked)
    if made is not None:
        check_tree(asked, made)


@reproducible
@given(snapshots())
def test_everybody_is_somewhere_once_and_nobody_where_they_cannot_be(asked: Snapshot) -> None:
    made = plan_or_none(asked)
    if made is None:
        return
    by_name = {node.name: node for node in asked.nodes}
    where = Counter(key for node in made.nodes.values() for key in node.clients)
    where.update(made.unplaced)
    assert where == Counter(client.key for client in asked.clients)
    leaves = Counter(
        key for node in made.nodes.values() for role in node.roles for key in role.clients
    )
    assert leaves == where - Counter(made.unplaced)
    homes = made.homes()
    for client in asked.clients:
        name = homes.get(client.key)
        if name is not None:
            assert by_name[name].alive
            assert client.pinned in (None, name)
    for name, node in made.nodes.items():
        assert list(node.lanes) == list(node.clients) == sorted(node.clients)
        warm = by_name[name].runtimes_warm
        assert node.starts + node.reuses == len(node.roles)
        assert node.reuses + node.stops == warm


@reproducible
@given(snapshots(plain=True))
def test_clients_go_only_where_they_fit_when_there_is_room(asked: Snapshot) -> None:
    made = plan(asked)
    by_name = {node.name: node for node in asked.nodes}
    room = sum(max(0, int(residual(node, 0) + 1e-9)) for node in asked.nodes)
    assert made.unplaced == ()
    if len(asked.clients) <= room:
        assert made.oversubscribed == ()
        for name, node in made.nodes.items():
            assert residual(by_name[name], len(node.clients)) >= -1e-9 or not node.clients
    else:
        assert len(made.oversubscribed) == len(asked.clients) - room


@reproducible
@given(snapshots(), st.randoms(use_true_random=False))
def test_same_snapshot_same_plan(asked: Snapshot, shuffler: random.Random) -> None:
    shuffled = list(asked.nodes)
    shuffler.shuffle(shuffled)
    assert plan_or_none(asked) == plan_or_none(replace(asked, nodes=tuple(shuffled)))


@reproducible
@given(snapshots(), st.booleans())
def test_nothing_moves_when_nothing_changed(asked: Snapshot, mid_round: bool) -> None:
    asked = replace(asked, mid_round=False)
    first = plan_or_none(asked)
    if first is None:
        return
    second = plan(replace(asked, previous=first, epoch=1, mid_round=mid_round))
    assert shape(second) == shape(first)
    assert second.oversubscribed == first.oversubscribed
    assert second.cost.moves == 0
    assert second.epoch == 1


@reproducible
@given(snapshots(plain=True), st.data())
def test_after_a_lost_node_only_its_clients_and_its_subtree_move(
    asked: Snapshot, data: st.DataObject
) -> None:
    first = plan(asked)
    lost = data.draw(st.sampled_from([node.name for node in asked.nodes]))
    left = tuple(replace(n, alive=n.name != lost) for n in asked.nodes)
    for mid_round in (False, True):
        second = plan_or_none(replace(asked, nodes=left, previous=first, mid_round=mid_round))
        if second is None:
            continue
        homes = second.homes()
        orphans = set(first.nodes[lost].clients)
        for name, node in first.nodes.items():
            if name == lost:
                assert name not in second.nodes
                continue
            assert all(homes[key] == name for key in node.clients)
            if not mid_round:
                continue
            now = second.nodes[name]
            assert all(now.lanes[key] == node.lanes[key] for key in node.clients)
            after = {role.endpoint: role for role in now.roles}
            for role in node.roles:
                assert after[role.endpoint].kind == role.kind
                assert set(after[role.endpoint].clients) - set(role.clients) <= orphans
        if mid_round and first.top_node != lost:
            assert second.top_node == first.top_node
        assert second.cost.moves == len(orphans)
        if not mid_round:
            check_tree(replace(asked, nodes=left), second)


@reproducible
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 60))
def test_bestfit_takes_no_more_nodes_than_worstfit(many: int, capacity: int, count: int) -> None:
    asked = snapshot(nodes(*[capacity] * many), clients(count))
    best, worst = (plan(replace(asked, policy=name)) for name in ("bestfit", "worstfit"))
    assert best.cost.nodes <= worst.cost.nodes
    assert best.cost.nodes == min(many, leaf_count(count, capacity))


def test_unequal_idle_nodes_are_where_bestfit_takes_more() -> None:
    asked = snapshot(nodes(1, 1, 9), clients(3))
    assert plan(asked).cost.nodes == 3  # 1, 1, then the large one
    assert plan(replace(asked, policy="worstfit")).cost.nodes == 1


def test_sixteen_clients_on_two_nodes_of_eight() -> None:
    made = plan(snapshot(nodes(8, 8), clients(16)))
    assert {name: len(node.clients) for name, node in made.nodes.items()} == {"n0": 8, "n1": 8}
    assert kinds(made, "n0") == ["leaf", "leaf", "middle", "top"]
    assert kinds(made, "n1") == ["leaf", "leaf", "middle"]
    assert [(r.endpoint, r.parent, r.expected, r.level) for r in made.nodes["n0"].roles] == [
        (1, 3, 4, 1),
        (2, 3, 4, 1),
        (3, 4, 8, 2),
        (4, 0, 16, 3),
    ]
    assert [(r.endpoint, r.parent, r.expected, r.level) for r in made.nodes["n1"].roles] == [
        (1, 3, 4, 1),
        (2, 3, 4, 1),
        (3, 0, 8, 2),
    ]
    assert made.top_node == "n0"
    assert made.nodes["n0"].forward_to is None
    assert made.nodes["n1"].forward_to == "n0"
    assert (made.cost.nodes, made.cost.crossings, made.cost.starts) == (2, 1, 7)


def test_a_single_leaf_still_has_a_top_above_it() -> None:
    made = plan(snapshot(nodes(8), clients(1)))
    leaf, top = made.nodes["n0"].roles
    assert (leaf.kind, leaf.parent, leaf.level) == ("leaf", top.endpoint, 1)
    assert (top.kind, top.parent, top.level, top.expected) == ("top", 0, 2, 1)


def test_top_goes_where_most_traffic_is() -> None:
    made = plan(snapshot(nodes(3, 5), clients(8)))
    assert made.top_node == "n1"


def test_top_stays_among_equals_and_follows_traffic_only_between_rounds() -> None:
    first = plan(snapshot(nodes(3, 5), clients(8)))
    equal = plan(replace(snapshot(nodes(5, 5), clients(10)), previous=first))
    assert equal.top_node == "n1"
    more = replace(snapshot(nodes(9, 5), clients(14)), previous=first)
    assert plan(more).top_node == "n0"
    assert plan(replace(more, mid_round=True)).top_node == "n1"


def test_endpoints_of_roles_that_stay_are_kept_and_a_freed_number_rests() -> None:
    first = plan(snapshot(nodes(20), clients(8)))  # leaves 1, 2; middle 3; top 4
    second = plan(replace(snapshot(nodes(20), clients(12)), previous=first))
    third = plan(replace(snapshot(nodes(20), clients(4)), previous=second))
    fourth = plan(replace(snapshot(nodes(20), clients(8)), previous=third))
    assert [(r.kind, r.endpoint) for r in second.nodes["n0"].roles] == [
        ("leaf", 1),
        ("leaf", 2),
        ("leaf", 5),
        ("middle", 3),
        ("top", 4),
    ]
    ((_, leaf), (_, top)) = [(r.kind, r.endpoint) for r in third.nodes["n0"].roles]
    assert top == 4
    assert leaf in (1, 2, 5)
    assert {r.endpoint for r in fourth.nodes["n0"].roles} == {1, 2, 3, 4}


def test_newcomers_in_mid_round_leave_the_leaves_of_others_alone() -> None:
    first = plan(snapshot(nodes(8), clients(4)))
    grown = replace(snapshot(nodes(8), clients(5)), previous=first)
    assert [r.expected for r in plan(grown).nodes["n0"].roles if r.kind == "leaf"] == [3, 2]
    kept = plan(replace(grown, mid_round=True))
    assert [r.expected for r in kept.nodes["n0"].roles if r.kind == "leaf"] == [4, 1]


def test_in_mid_round_no_role_leaves_the_tree() -> None:
    first = plan(snapshot(nodes(8), clients(8)))
    fewer = replace(snapshot(nodes(8), clients(3)), previous=first)
    assert kinds(plan(fewer), "n0") == ["leaf", "top"]
    assert kinds(plan(replace(fewer, mid_round=True)), "n0") == ["leaf", "leaf", "middle", "top"]


def test_beyond_capacity_clients_go_where_most_room_is_and_are_named() -> None:
    made = plan(snapshot(nodes(4, 2), clients(9)))
    assert {name: len(node.clients) for name, node in made.nodes.items()} == {"n0": 6, "n1": 3}
    assert made.oversubscribed == ("k0006", "k0007", "k0008")
    assert made.unplaced == ()


def test_a_node_that_joins_takes_only_those_that_were_too_many() -> None:
    first = plan(snapshot(nodes(4, 2), clients(9)))
    second = plan(replace(snapshot(nodes(4, 2, 3), clients(9)), previous=first))
    assert second.nodes["n2"].clients == first.oversubscribed
    assert second.oversubscribed == ()
    assert second.cost.moves == 3


def test_a_client_returns_to_the_node_it_had() -> None:
    some = (Client(key="a", node="n1"), Client(key="b", node="n0"), Client(key="c"))
    made = plan(snapshot(nodes(4, 4), some))
    assert made.homes() == {"a": "n1", "b": "n0", "c": "n0"}
    assert made.cost.moves == 0


def test_a_draining_node_gives_its_clients_away_between_rounds_only() -> None:
    first = plan(snapshot(nodes(4, 8), clients(8)))
    drains = tuple(replace(node, draining=node.name == "n0") for node in nodes(4, 8))
    asked = replace(snapshot(drains, clients(8)), previous=first)
    assert plan(asked).used == ("n1",)
    kept = plan(replace(asked, mid_round=True))
    assert shape(kept) == shape(first)


def test_clients_pinned_to_a_draining_node_stay_and_the_top_does_not() -> None:
    drains = tuple(replace(node, draining=node.name == "n0") for node in nodes(4, 4))
    pinned = tuple(replace(client, pinned="n0") for client in clients(3))
    made = plan(snapshot(drains, (*pinned, *clients(2, start=3))))
    assert [len(node.clients) for node in made.nodes.values()] == [3, 2]
    assert made.top_node == "n1"


def test_clients_pinned_to_a_missing_node_are_named_and_not_expected() -> None:
    some = (*clients(2), Client(key="p", pinned="elsewhere"))
    made = plan(snapshot(nodes(4), some))
    assert made.unplaced == ("p",)
    assert made.top is not None
    assert made.top.expected == 2


def test_only_clients_pinned_to_a_missing_node() -> None:
    made = plan(snapshot(nodes(4), (Client(key="p", pinned="elsewhere"),)))
    assert (made.top_node, made.top, made.used, made.unplaced) == (None, None, (), ("p",))


def test_pinned_clients_come_before_the_others() -> None:
    some = (*clients(4), *(replace(c, pinned="n0") for c in clients(4, start=4)))
    made = plan(snapshot(nodes(4, 4), some))
    assert made.nodes["n0"].clients == ("k0004", "k0005", "k0006", "k0007")
    assert made.oversubscribed == ()


def test_no_clients_is_a_plan_without_roles_that_tells_nodes_to_stop() -> None:
    warm = (Node(name="n0", capacity_updates=4, runtimes_warm=3),)
    first = plan(snapshot(warm, clients(2)))
    made = plan(replace(snapshot(warm, ()), previous=first))
    assert made.top_node is None
    assert (made.nodes["n0"].roles, made.nodes["n0"].stops) == ((), 3)
    assert plan(snapshot((), ())).nodes == {}


@pytest.mark.parametrize(
    ("some", "sentence"),
    [
        ((), "none of 0 known nodes is alive"),
        ((Node(name="a", capacity_updates=4, alive=False),), "none of 1 known nodes is alive"),
        (
            (Node(name="a", capacity_updates=4, draining=True),),
            r"every living node is draining \(a",
        ),
        ((Node(name="a", capacity_updates=0),), "can hold even one update"),
    ],
)
def test_no_node_is_busy_with_a_sentence(some: tuple[Node, ...], sentence: str) -> None:
    with pytest.raises(Busy, match=sentence) as caught:
        plan(snapshot(some, clients(2)))
    assert caught.value.retryable


def test_warm_runtimes_are_reused_before_any_is_started() -> None:
    some = tuple(replace(n, runtimes_warm=w) for n, w in zip(nodes(8, 8), (2, 5), strict=True))
    made = plan(snapshot(some, clients(16)))
    assert [(n.starts, n.reuses, n.stops) for n in made.nodes.values()] == [(2, 2, 0), (0, 3, 2)]


def test_more_roles_than_endpoints_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidJob, match="raise the job's fan-in"):
        plan(snapshot(nodes(40_000), clients(ENDPOINT_MAX), fan_in=1))


@pytest.mark.parametrize("fan_in", [0, -3])
def test_fan_in_below_one_is_refused(fan_in: int) -> None:
    with pytest.raises(InvalidJob, match="fan-in"):
        snapshot(nodes(1), clients(1), fan_in=fan_in)


def test_names_and_keys_are_unique() -> None:
    with pytest.raises(ValueError, match="two nodes are named 'n0'"):
        snapshot((*nodes(1), *nodes(1)), ())
    with pytest.raises(ValueError, match="two clients have the key 'k0000'"):
        snapshot(nodes(1), (*clients(1), *clients(1)))


@reproducible
@given(
    st.integers(0, 30), st.floats(0, 5), st.sampled_from([0.0, 0.1, 0.4, 3.0]), st.integers(0, 40)
)
def test_room_is_how_many_fit(capacity: int, arrival: float, service: float, placed: int) -> None:
    node = Node(name="n", capacity_updates=capacity, arrival_per_s=arrival, service_s=service)
    edge = abs(residual(node, placed) - (1 - ROUNDING)) < 1e-12
    assert edge or fits(node, placed) == (placed < room(node))


def test_random_takes_any_node_with_room_as_often_and_depends_on_the_seed_alone() -> None:
    some = nodes(2, 9, 9)
    first = Counter[str]()
    for seed in range(600):
        asked = replace(snapshot(some, clients(3)), policy="random", seed=seed)
        made = plan(asked)
        assert made == plan(replace(asked, nodes=some[::-1]))
        first.update(made.homes()[f"k{at:04}"] for at in range(3))
    full = 600 * (1 / 3) ** 3  # times that the small node would have had a third one
    expected = {"n0": 600 - full, "n1": 600 + full / 2, "n2": 600 + full / 2}
    assert all(abs(first[name] - count) < 75 for name, count in expected.items())  # 3.7 σ


def test_leaves_beyond_what_a_node_can_use_are_shared_out() -> None:
    (node,) = nodes(40)
    made = plan(snapshot((replace(node, leaves_max=3),), clients(20)))
    assert [r.expected for r in made.nodes["n0"].roles if r.kind == "leaf"] == [7, 7, 6]
    one = plan(snapshot((replace(node, leaves_max=1),), clients(20)))
    assert kinds(one, "n0") == ["leaf", "top"]


def test_a_share_leaves_the_rest_oversubscribed_though_there_is_room() -> None:
    made = plan(replace(snapshot(nodes(8, 8), clients(10)), share=6))
    assert len(made.homes()) == 10
    assert made.oversubscribed == ("k0006", "k0007", "k0008", "k0009")


def test_an_update_larger_than_a_nodes_arena_goes_elsewhere_or_nowhere() -> None:
    some = (*clients(3), Client(key="p", pinned="n0"))
    made = plan(snapshot(nodes(0, 4), some))
    assert made.homes() == {"k0000": "n1", "k0001": "n1", "k0002": "n1"}
    assert made.unplaced == ("p",)


@reproducible
@given(snapshots(), st.data())
def test_what_stays_is_taken_over_whole_and_equals_a_plan_made_anew(
    asked: Snapshot, data: st.DataObject
) -> None:
    """The short cut of a re-plan changes nothing: it equals the long way, part for part."""
    first = plan_or_none(replace(asked, mid_round=False))
    if first is None or not first.nodes:
        return
    lost = data.draw(st.sampled_from(sorted(first.nodes)))
    changed = tuple(replace(node, alive=node.alive and node.name != lost) for node in asked.nodes)
    again = replace(asked, nodes=changed, previous=first)
    second = plan_or_none(again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifl.placement.tree._stays", lambda *_, **__: False)
        assert plan_or_none(again) == second
    if second is None:
        return
    same = [
        name for name, node in second.nodes.items()
        if node == first.nodes[name] and node.roles and name != second.top_node
    ]  # fmt: skip
    assert all(second.nodes[name] is first.nodes[name] for name in same)


# -- more leaves on one node, in mid-round ----------------------------------------------------
@reproducible
@given(asked=snapshots(plain=True), leaves=st.integers(2, 6), data=st.data())
def test_a_tree_that_grows_takes_nobody_along(
    asked: Snapshot, leaves: int, data: st.DataObject
) -> None:
    before = plan_or_none(asked)
    if before is None or not before.used:
        return
    name = data.draw(st.sampled_from(before.used))
    here = before.nodes[name]
    if not here.clients or kinds(before, name).count("leaf") >= leaves:
        return
    movable = {key for key in here.clients if data.draw(st.booleans())}
    after = grown(before, name, leaves=leaves, movable=movable)
    grew = after.nodes[name]
    assert {n: p for n, p in after.nodes.items() if n != name} == {
        n: p for n, p in before.nodes.items() if n != name
    }
    assert (after.top_node, after.epoch) == (before.top_node, before.epoch)
    assert grew.clients == here.clients
    assert sorted(key for role in grew.roles for key in role.clients) == sorted(here.clients)
    assert all(grew.lanes[key] == here.lanes[key] for key in here.clients if key not in movable)
    kept = {role.endpoint: role.kind for role in grew.roles}
    assert all(kept[role.endpoint] == role.kind for role in here.roles), "no role leaves"
    assert kinds(after, name).count("leaf") <= leaves
    assert sum(role.parent == 0 for role in grew.roles) == 1
    children = {role.parent for role in grew.roles if role.kind == "leaf"}
    assert len(children) == 1
    assert grown(before, name, leaves=leaves, movable=movable) == after


def test_who_waits_is_spread_over_old_and_new_leaves() -> None:
    before = plan(snapshot(nodes(12), clients(12), fan_in=12))
    after = grown(before, "n0", leaves=3, movable={f"k{at:04}" for at in range(3, 12)})
    assert kinds(before, "n0") == ["leaf", "top"]
    assert kinds(after, "n0") == ["leaf", "leaf", "leaf", "middle", "top"]
    sizes = [role.expected for role in after.nodes["n0"].roles if role.kind == "leaf"]
    assert sizes == [4, 4, 4]
