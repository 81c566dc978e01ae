"""From a job and its nodes to a plan, and from a plan to what agents and gateways are told.

Owns the snapshot that planner.py is asked with, the size of the job's memory and the content of
`plan`, `job` and `round` messages.  No I/O; coordinator.py, course.py and loss.py send what is
made here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.errors import Busy
from lifl.functions.layout import Layout
from lifl.functions.wire import Message, bits
from lifl.placement.asking import Asking
from lifl.placement.autoscaler import Room, leaves_for
from lifl.placement.capacity import capacity
from lifl.placement.fanin import LEAVES_MOST, Work, leaves_bound
from lifl.placement.history import History, Seen
from lifl.placement.membership import Known, Membership
from lifl.placement.planner import plan as make_plan
from lifl.placement.selection import (
    at_random,
    check_enough,
    draw_size,
    enough,
    oort,
    over_provisioned,
    power_of_choice,
)
from lifl.placement.snapshot import Client, Node, Plan, Snapshot
from lifl.placement.tree import leaf_count, wide_enough
from lifl.shm.arena import arena_bytes
from lifl.shm.geometry import Geometry, up

JOB: Final = 1  # number of a local run's only job in descriptors and routing maps


class Planning:
    """Plans of one job.

    Args:
        layout: of its model.
        clients: how many are enrolled: memory is made for all that a round can draw of them, on
            one node, and for some that are enrolled later.
        at_once: how many of them can have an update under way, where workers run them.
        start: how often the run was started; tells clients that rounds may be repeated.
        number: of the job in descriptors and routing maps.
        cores: most that a node has; with `fanIn: auto` no node has more leaves, and memory is
            made for no more.
        asking: what of the nodes the job may use.
    """

    def __init__(
        self, job: FLJob, layout: Layout, clients: int, at_once: int | None = None, *, start: int,
        number: int = JOB, cores: int = LEAVES_MOST, asking: Asking | None = None,
    ) -> None:  # fmt: skip
        self.asking = asking or Asking(is_shared=False)
        self.job, self.layout, self.at_once, self.start = job, layout, at_once, start
        self.number, self.name = number, job.metadata.full_name
        self.leaves_most = leaves_bound(cores=cores, input_slots=job.spec.memory.input_slots)
        spec = job.spec
        self.model_bytes = (
            layout.velocity_at + layout.sum_bytes
            if spec.aggregation.algorithm == "fedavgm"
            else layout.update_bytes
        )
        self.history = History()
        self.geometry = self._geometry(up(max(1, clients), 64))

    def _geometry(self, clients: int) -> Geometry:
        """The same on every node, and large enough for all clients on one of them."""
        spec, layout = self.job.spec, self.layout
        clients = self._drawn(clients)
        fan_in = self._fan_in(clients)
        leaves = self.leaves_most if fan_in is None else leaf_count(clients, fan_in)
        roles = 2 * (min(leaves, clients) + 1)
        return Geometry(
            inputs=spec.memory.input_slots + 1,
            sums=3 * roles,
            input_bytes=max(layout.update_bytes, layout.sum_bytes, self.model_bytes),
            sum_bytes=max(layout.sum_bytes, self.model_bytes),
            roster=clients,
        )

    def _fan_in(self, clients: int) -> int | None:
        """Clients of one leaf, more where workers can only send a few at once; None: auto."""
        fan_in = self.job.spec.aggregation.fan_in
        if fan_in is None or self.at_once is None:
            return fan_in
        return wide_enough(clients, fan_in, self.at_once)

    # -- who, where --------------------------------------------------------------------------
    def draw(self, number: int, by_name: Mapping[str, str]) -> list[str]:
        """Keys of the clients of a round, of those that are there: its roster."""
        clients, seed = self.job.spec.clients, self.job.spec.seed
        check_enough(len(by_name), minimum=clients.least_drawn, round=number)
        count = self.drawn(len(by_name))
        match clients.selection:
            case "random":
                chosen = at_random(list(by_name), count=count, round=number, seed=seed)
            case "power-of-choice":
                chosen = power_of_choice(
                    list(by_name), self._known(by_name), count=count, round=number, seed=seed
                )
            case "oort":
                chosen = oort(
                    list(by_name), History(self._known(by_name), self.history.utilities),
                    count=count, round=number, seed=seed,
                )  # fmt: skip
        return [by_name[name] for name in sorted(chosen, key=_natural)]

    def _known(self, by_name: Mapping[str, str]) -> dict[str, Seen]:
        """The last that was seen of those clients of whom anything was."""
        seen = {name: self.history.clients.get(key) for name, key in by_name.items()}
        return {name: last for name, last in seen.items() if last is not None}

    def accepted(
        self, number: int, elapsed_s: float, rows: Iterable[tuple[float, dict[str, float], str]]
    ) -> None:
        """Remember what a selection goes by that is not random."""
        if self.job.spec.clients.selection != "random":
            self.history.accepted(number, elapsed_s, rows)

    def drawn(self, clients: int) -> int:
        """How many a round draws of so many that are there, as far as the memory is made for it."""
        return min(self._drawn(clients), self.geometry.roster)

    def _drawn(self, clients: int) -> int:
        """How many a round draws of so many that are there."""
        spec = self.job.spec.clients
        needed = draw_size(clients, fraction=spec.fraction, minimum=spec.least_drawn)
        return over_provisioned(needed, of=clients, factor=spec.over_provision)

    def enough(self, drawn: int) -> int | None:
        """Updates with which a round that drew so many closes; None: it waits for all."""
        spec = self.job.spec.clients
        return enough(drawn, factor=spec.over_provision, minimum=spec.min_updates)

    def plan(
        self, members: Membership, roster: Sequence[str], *, previous: Plan | None, epoch: int,
        takers: Container[str] | None = None,
    ) -> Plan:
        """Who is where.

        Args:
            takers: in mid-round, nodes that may be given clients; None: between rounds.
        """
        spec = self.job.spec

        def over(nodes: tuple[Node, ...]) -> Plan:
            return make_plan(
                Snapshot(
                    nodes=nodes,
                    clients=tuple(
                        Client(
                            key=key, name=members.names.get(key, key),
                            node=members.homes.get(key),
                        )
                        for key in roster
                    ),
                    mid_round=takers is not None,
                    fan_in=self._fan_in(len(roster)),
                    work=Work(
                        update_bytes=self.layout.update_bytes, sum_bytes=self.layout.sum_bytes,
                        lazy=spec.aggregation.mode == "lazy",
                    ),
                    policy=spec.placement.policy,
                    seed=spec.seed,
                    previous=previous,
                    epoch=epoch,
                )
            )

        nodes = tuple(
            self._node(node, takes=takers is None or node.name in takers)
            for node in members if node.measured
        )  # fmt: skip
        try:
            return over(tuple(map(self._within_share, nodes)))
        except Busy:  # the nodes of its share are gone, and it has no other share yet
            return over(nodes)

    def _cores(self, node: Known) -> int:
        """Of a node, as far as the job's leaves can use them."""
        return min(self.leaves_most, int(node.measured["cores"]))

    def _node(self, node: Known, *, takes: bool) -> Node:
        slots = self.job.spec.memory.input_slots
        fold, ingress = node.measured["fold_bytes_s"], node.measured["ingress_bytes_s"]
        cores = self._cores(node)
        room = capacity(
            update_bytes=self.layout.update_bytes, fold_bytes_s=fold, ingress_bytes_s=ingress,
            input_slots=slots,
        )  # fmt: skip
        return Node(
            name=node.name, capacity_updates=room.updates, input_slots=slots, fold_bytes_s=fold,
            ingress_bytes_s=ingress, gateway=node.endpoint,
            cores=cores, leaves_max=self._leaves_max(node, Room(cores=cores, input_slots=slots)),
            alive=not node.is_lost, draining=node.is_draining or not takes,
        )  # fmt: skip

    # -- a share of the nodes ----------------------------------------------------------------
    def _within_share(self, node: Node) -> Node:
        """As much of a node as the job may use."""
        return replace(
            node, capacity_updates=min(node.capacity_updates, self.asking.updates(node.name)),
            input_slots=self.slots(node.name),
        )  # fmt: skip

    def slots(self, node: str) -> int:
        """Input slots that the job may use on a node."""
        return min(self.job.spec.memory.input_slots, self.asking.slots(node))

    def want(self, members: Membership, clients: int, holding: Iterable[str]) -> dict[str, Any]:
        """What the job asks for, as arbiter.Want, for so many clients in its round."""
        spec = self.job.spec
        most = max(clients, self.drawn(spec.client_count))
        fixed = arena_bytes(self.geometry, self._sum_slots(most), inputs=0)
        return {
            "job": self.name, "clients": clients, "slots": spec.memory.input_slots,
            "priority": spec.placement.priority, "weight": spec.placement.weight,
            "policy": spec.placement.policy,
            "nodes": {
                node.name: self._node(node, takes=True).capacity_updates
                for node in members.here if node.measured and not node.is_draining
            },
            "budgets": {
                node.name: int(node.measured["budget_bytes"])
                for node in members.here if node.measured
            },
            "fixed_bytes": fixed, "slot_bytes": self.geometry.for_inputs.slot_bytes,
            "holding": sorted(holding),
        }  # fmt: skip

    def _sum_slots(self, clients: int) -> int:
        """Of the leaves, middle and top of a node that serves so many: pairs, three for the top."""
        fan_in = self._fan_in(clients)
        leaves = min(clients, self.leaves_most) if fan_in is None else leaf_count(clients, fan_in)
        return min(self.geometry.sums, 2 * (leaves + 1) + 3)

    def _leaves_max(self, node: Known, room: Room) -> int | None:
        """By the node's queue, where that is what leaves follow; None: by the roster alone.

        With `fanIn: auto` there are at most as many leaves as there are updates in the queue.
        """
        if self.job.spec.scaling.leaves != "queue" or node.queue is None:
            return None
        return leaves_for(node.queue, fan_in=self.least_fan_in, room=room)

    @property
    def least_fan_in(self) -> int:
        """Clients that are worth a leaf of their own."""
        return self.job.spec.aggregation.fan_in or 1

    def leaves_for_queue(self, node: Known, queue: int, clients: int) -> int:
        """Leaves for so many updates that wait now, of so many clients."""
        room = Room(cores=self._cores(node), input_slots=self.slots(node.name))
        return leaves_for(min(queue, clients), fan_in=self.least_fan_in, room=room)

    # -- messages ----------------------------------------------------------------------------
    def to_agent(
        self, plan: Plan, name: str, *, epoch: int, number: int, slots: int
    ) -> Message:  # fmt: skip
        """A node's part of the plan, with so many input slots."""
        spec, geometry = self.job.spec.aggregation, self.geometry
        scaling = self.job.spec.scaling
        roles = [
            {
                "endpoint": role.endpoint, "kind": role.kind, "parent": role.parent,
                "expected": role.expected, "lazy": spec.mode == "lazy",
            }
            for role in (plan.nodes[name].roles if name in plan.nodes else ())
        ]  # fmt: skip
        return {
            "t": "plan", "job": self.number, "name": self.name,
            "tenant": self.job.metadata.namespace, "epoch": epoch, "round": number, "roles": roles,
            "slots": slots,
            "limit_bytes": self.job.spec.memory.arena_bytes or 0,
            "geometry": {
                "inputs": geometry.inputs, "sums": geometry.sums, "roster": geometry.roster,
                "input_bytes": geometry.input_bytes, "sum_bytes": geometry.sum_bytes,
            },
            "sections": [
                [int(s.code), s.count, s.update_offset, s.sum_offset]
                for s in self.layout.sections
            ],
            "scaling": scaling.model_dump(),
            "lane": self.job.spec.clients.lane,
            "update_bytes": self.layout.update_bytes, "sum_bytes": self.layout.sum_bytes,
            "velocity_at": self.layout.velocity_at,
            "optimiser": {
                "name": spec.algorithm, "learning_rate": spec.server_learning_rate,
                "momentum": spec.momentum,
            },
        }  # fmt: skip

    def job_to_gateway(self) -> Message:
        spec = self.job.spec
        settings: dict[str, Any] = {
            "model_bytes": self.model_bytes,
            "rounds": spec.rounds,
            "non_finite": spec.aggregation.non_finite,
            "stall_s": spec.memory.stall_s,
            "min_upload_rate": spec.memory.min_upload_rate,
            "start": self.start,
            "args": dict(spec.trainer.args) if spec.trainer else {},
            "lane": spec.clients.lane,
            "all_drawn": spec.clients.fraction == 1,
        }
        return {
            "t": "job", "job": self.name, "layout": self.layout.to_wire(),
            "settings": settings,
        }  # fmt: skip

    def round_to_gateway(
        self, plan: Plan, node: Known, members: Membership, *, epoch: int, number: int,
        roster: Sequence[str], holder: Known, elapsed_s: float, excused: int,
        made_in: int, crowd_at: int | None = None,
    ) -> Message:  # fmt: skip
        """A node's part of a round; the model of the one before is at `holder`.

        Args:
            made_in: the start of the run in which that model was made.
            crowd_at: a queue of which its gateway is to tell, once.
        """
        assert plan.top_node is not None
        part, top = plan.nodes[node.name], members[plan.top_node]
        is_top = node is top
        trainer = self.job.spec.trainer
        index = {key: bit for bit, key in enumerate(roster)}
        return {
            "t": "round", "job": self.name, "round": number,
            "epoch": epoch, "roster": list(roster), "elapsed_s": elapsed_s,
            "lanes": {str(index[key]): leaf for key, leaf in part.lanes.items()},
            "nodes": {n.key: n.epoch for n in members if n is not node} if is_top else {},
            "top": plan.top.endpoint if is_top and plan.top else 0,
            "excused": bits(excused),
            "settings": trainer.settings(number) if trainer else {},
            "forward": None if is_top else [top.endpoint, top.key],
            "model_from": None if holder is node else [holder.endpoint, holder.key],
            "crowd_at": crowd_at, "made": made_in,
        }  # fmt: skip


def roles_of(plan: Plan | None, name: str) -> list[Any]:
    """What an agent must know of a plan; the same roles need no new one."""
    roles = plan.nodes[name].roles if plan and name in plan.nodes else ()
    return [(role.endpoint, role.kind, role.parent, role.expected) for role in roles]


def settled(plan: Plan, keys: Sequence[str]) -> Plan:
    """The same with these clients at the top's node, which has their updates and expects none.

    Whoever of them asks there hears that its update counts.
    """
    if not keys:
        return plan
    assert plan.top_node is not None
    node = plan.nodes[plan.top_node]
    first, *others = node.roles
    roles = (replace(first, clients=(*first.clients, *keys)), *others)
    lanes = dict(node.lanes) | dict.fromkeys(keys, first.endpoint)
    node = replace(node, roles=roles, lanes=lanes, clients=(*node.clients, *keys))
    return replace(plan, nodes={**plan.nodes, node.name: node})


def selected(plan: Plan, roster: Iterable[str]) -> dict[str, int]:
    """Clients of each node that takes part, as sets of roster bits."""
    index = {key: bit for bit, key in enumerate(roster)}
    return {name: sum(1 << index[key] for key in plan.nodes[name].clients) for name in plan.used}


@lru_cache(maxsize=1 << 16)
def _natural(name: str) -> tuple[str, int]:
    """client-2 before client-10."""
    head, _, tail = name.rpartition("-")
    return (head, int(tail)) if tail.isdigit() else (name, 0)
