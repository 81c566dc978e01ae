"""The coordinator: rounds, client selection, plans; never on the way of an update.

    nodes and clients report ─► snapshot ─► plan ─► agents ─► planned ─► round ─► gateways
                                                                            │
    rounds.jsonl, model.safetensors, summary.json ◄── published ◄───────────┘

Owns one job from its first client to its files.  Decisions are pure and elsewhere: planner.py
(who is where), rounds.py (when a round closes), selection.py (who takes part).  Started by the
local engine with a configuration file:

    python -m lifl.placement.coordinator --config FILE
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click
import zmq

from lifl.api.job import FLJob
from lifl.api.load import load_job
from lifl.errors import Busy, LiflError, Unreachable
from lifl.events import emit, keep_stdout
from lifl.functions.layout import Layout
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import (
    LARGEST_MESSAGE,
    Doorkeeper,
    Keys,
    Message,
    bound_endpoint,
    decode,
    encode,
    server,
)
from lifl.placement.capacity import capacity
from lifl.placement.planner import plan as make_plan
from lifl.placement.record import Recorder, initial_model
from lifl.placement.rounds import Order, Round
from lifl.placement.selection import select
from lifl.placement.snapshot import Client, Node, Plan, Snapshot
from lifl.shm.geometry import Geometry, up

log = logging.getLogger("lifl.coordinator")

JOB = 1  # number of the job in descriptors and routing maps of this run's agents
LAST_METRICS_S = 30.0
DROP_S = 5.0


@dataclass
class Known:
    """A node as far as it has reported itself."""

    name: str
    key: str = ""
    agent: bytes | None = None
    gateway: bytes | None = None
    endpoint: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    planned: int = -1  # epoch of the plan that it carries out
    ready: bool = False  # its gateway holds the job's arena


class Coordinator:
    """One job over the nodes of one run."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.job: FLJob = load_job(Path(config["job"]))
        spec = self.job.spec
        self.keys = Keys(*config["keys"])
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.door = Doorkeeper(self.context)
        self.router = server(self.context, self.keys)
        self.router.bind(config["listen"])
        self.nodes = {name: Known(name) for name in config["nodes"]}
        self.names: dict[str, str] = config["clients"]  # key -> name
        self.observers: list[str] = config["observers"]
        node_keys = list(config["nodes"].values())
        self.door.keys = set(node_keys)
        self.rights = {
            **dict.fromkeys(self.names, "client"),
            **dict.fromkeys(self.observers, "observer"),
            **dict.fromkeys(node_keys, "node"),
        }
        state = initial_model(self.job, Path(config["job"]).parent)
        self.layout = Layout.of(state)
        momentum = spec.aggregation.algorithm == "fedavgm"
        self.model_bytes = (
            self.layout.velocity_at + self.layout.sum_bytes
            if momentum
            else self.layout.update_bytes
        )
        self.initial = memoryview(bytearray(self.model_bytes))  # its velocity is zero
        self.layout.pack_into(state, self.initial)
        self.record = Recorder(self.job, Path(config["run_dir"]), spec.evaluator is not None)
        self.connected: dict[str, str] = {}  # client key -> node whose gateway it talks to
        self.plan: Plan | None = None
        self.roster: list[str] = []
        self.holding: set[str] = set()  # nodes that have memory of the job
        self.homes: dict[str, str] = {}  # client key -> node, also of clients that sit out
        self.epoch = 0
        self.round: Round | None = None
        self.deadline_at = math.inf
        self.done_at: float | None = None

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        emit("listening", endpoint=bound_endpoint(self.router))
        poller = zmq.Poller()
        poller.register(self.door.socket, zmq.POLLIN)
        poller.register(self.router, zmq.POLLIN)
        while not self._is_finished():
            wait_s = min(self.deadline_at, self.done_at or math.inf) - time.monotonic()
            timeout_ms = None if wait_s == math.inf else max(0, int(wait_s * 1000) + 1)
            ready = dict(poller.poll(timeout_ms))
            if self.door.socket in ready:
                self.door.answer()
            if self.router in ready:
                while self.router.poll(0):
                    peer, frame, *_ = self.router.recv_multipart(copy=False)
                    message = decode(frame.buffer, limit=LARGEST_MESSAGE)
                    self._handle(peer.bytes, str(peer.get("User-Id")), message)
            if time.monotonic() >= self.deadline_at:
                self.deadline_at = math.inf
                if self.round:
                    self._order(self.round.on_deadline())
        self._finish()

    def _send(self, peer: bytes | None, message: Message) -> None:
        if peer is None:
            return
        try:
            self.router.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            log.info("a node is away; it hears it when it is back")

    def _handle(self, peer: bytes, key: str, message: Message) -> None:
        node = self.nodes.get(message["node"])
        if node is None or self.config["nodes"][node.name] != key:
            log.warning("%r speaks for %r: ignored", key, message["node"])
            return
        match message["t"]:
            case "node":
                self._node(node, peer, key, message)
            case "gateway":
                node.gateway, node.endpoint = peer, message["endpoint"]
                self._send(peer, {
                    "t": "enrol", "keys": self.rights, "jobs": [self.job.metadata.name],
                })  # fmt: skip
                if all(n.gateway for n in self.nodes.values()):
                    self.record.gateways({n.name: [n.endpoint, n.key] for n in self._known()})
                self._try_to_plan()
            case "ready":
                self._ready(node, message["model"])
            case "client":
                self._client(node, message)
            case "planned" if message["epoch"] == self.epoch:
                node.planned = self.epoch
                self._try_to_start()
            case "accepted" if self.round and message["round"] == self.round.number:
                clients = int.from_bytes(message["clients"], "little")
                self.record.taken(message["bytes"], message["metrics"])
                self._order(self.round.on_accepted(node.name, clients))
                self.record.progress(self.round)
            case "closed" if self.round and message["round"] == self.round.number:
                clients = int.from_bytes(message["clients"], "little")
                self._order(self.round.on_closed(node.name, clients))
            case "published":
                self._published(message["round"])
            case "metrics":
                self.record.metrics(message["round"], message["metrics"])
            case "work":
                self.record.work(node.name, message)
            case "restart":
                emit("restart", what=f"{message['what']} on {node.name}")
            case "failed":
                raise LiflError(message["error"], node=node.name)

    def _known(self) -> list[Known]:
        return sorted(self.nodes.values(), key=lambda node: node.name)

    # -- who is there ------------------------------------------------------------------------
    def _node(self, node: Known, peer: bytes, key: str, message: Message) -> None:
        node.agent, node.key, node.measured = peer, key, message["capacity"]
        self.record.engine(message, len(self.nodes))
        if self.plan is not None:
            node.planned = -1
            self._send_plan(node)
        self._try_to_plan()

    def _client(self, node: Known, message: Message) -> None:
        if message["observer"]:
            return
        self.connected[message["key"]] = node.name
        if self.homes.get(message["key"], node.name) != node.name:
            self._redirect(node)
        if self.plan is None:
            needed = self._needed()
            emit("waiting", clients=len(self.connected), need=needed)
            self._try_to_plan()

    def _needed(self) -> int:
        """Clients that must be connected before the first round."""
        return max(self.job.spec.clients.min, len(self.names) if self.config["all"] else 1)

    def _ready(self, node: Known, model: int) -> None:
        """A gateway holds the arena, maybe again after a restart: it hears everything again."""
        node.ready = True
        self._send(node.gateway, {
            "t": "job", "job": self.job.metadata.name, "layout": self.layout.to_wire(),
            "settings": self._settings(),
        })  # fmt: skip
        if self.round is not None and self.round.phase != "published":
            if model >= self.round.number and node.name == self.round.top_node:
                self._published(self.round.number)
                return
            self._send_round(node)
            self._order(self.round.orders_for(node.name))
        else:
            self._try_to_start()

    def _settings(self) -> dict[str, Any]:
        spec = self.job.spec
        return {
            "model_bytes": self.model_bytes,
            "rounds": spec.rounds,
            "args": dict(spec.trainer.args) if spec.trainer else {},
        }

    # -- plan --------------------------------------------------------------------------------
    def _try_to_plan(self) -> None:
        if self.round is not None or len(self.connected) < self._needed():
            return
        if not all(node.agent and node.gateway for node in self.nodes.values()):
            return
        self._next_round()

    def _next_round(self) -> None:
        """Select, plan, and start as soon as everybody has what they need."""
        number = self.round.number + 1 if self.round else 1
        by_name = {self.names[key]: key for key in self.connected}
        spec = self.job.spec
        chosen = select(
            list(by_name),
            fraction=spec.clients.fraction,
            minimum=max(spec.clients.min, spec.clients.min_per_round)
            if spec.clients.fraction == 1
            else spec.clients.min_per_round,
            round=number,
            seed=spec.seed,
        )
        self.roster = [by_name[name] for name in sorted(chosen, key=_natural)]
        before = self.plan
        self.plan = make_plan(
            Snapshot(
                nodes=tuple(self._snapshot(node) for node in self._known()),
                clients=tuple(
                    Client(key=key, name=self.names[key], node=self.homes.get(key))
                    for key in self.roster
                ),
                fan_in=spec.aggregation.fan_in,
                policy=spec.placement.policy,
                previous=before,
                epoch=self.epoch,
            )
        )
        if self.plan.oversubscribed and before is None:
            emit("warning", text=f"{len(self.plan.oversubscribed)} clients are placed beyond the "
                 "capacity of their nodes: they wait for a free input slot")  # fmt: skip
        if self.plan.top_node is None:
            raise Busy("no node can take a single update: lower the model's size or add nodes")
        self.homes |= self.plan.homes()
        self.holding |= set(self.plan.used)
        changed = {name for name in self.nodes if _roles(before, name) != _roles(self.plan, name)}
        if changed:
            self.epoch += 1
            for node in self.nodes.values():  # the others only learn the epoch
                self._send_plan(node)
        index = {key: bit for bit, key in enumerate(self.roster)}
        selected = {
            name: sum(1 << index[key] for key in self.plan.nodes[name].clients)
            for name in self.plan.used
        }
        self.round = Round(number, selected, self.plan.top_node, minimum=spec.clients.min_updates)
        self.round.phase = "published"  # until it starts
        self._try_to_start()

    def _snapshot(self, node: Known) -> Node:
        spec = self.job.spec
        room = capacity(
            update_bytes=self.layout.update_bytes,
            fold_bytes_s=node.measured["fold_bytes_s"],
            ingress_bytes_s=node.measured["ingress_bytes_s"],
            input_slots=spec.memory.input_slots,
        )
        return Node(
            name=node.name,
            capacity_updates=room.updates,
            input_slots=spec.memory.input_slots,
            fold_bytes_s=node.measured["fold_bytes_s"],
            ingress_bytes_s=node.measured["ingress_bytes_s"],
            gateway=node.endpoint,
        )

    def _geometry(self) -> Geometry:
        """The same on every node, and large enough for all clients on one of them."""
        spec = self.job.spec
        clients = max(1, len(self.names))
        roles = 2 * (-(-clients // spec.aggregation.fan_in) + 1)
        return Geometry(
            inputs=spec.memory.input_slots + 1,
            sums=3 * roles,
            input_bytes=max(self.layout.update_bytes, self.layout.sum_bytes, self.model_bytes),
            sum_bytes=max(self.layout.sum_bytes, self.model_bytes),
            roster=up(clients, 64),
        )

    def _send_plan(self, node: Known) -> None:
        assert self.plan is not None
        spec = self.job.spec.aggregation
        geometry = self._geometry()
        roles = [
            {
                "endpoint": role.endpoint, "kind": role.kind, "parent": role.parent,
                "expected": role.expected, "lazy": spec.mode == "lazy",
            }
            for role in self.plan.nodes[node.name].roles
        ]  # fmt: skip
        self._send(node.agent, {
            "t": "plan", "job": JOB, "name": self.job.metadata.name, "epoch": self.epoch,
            "round": self.round.number if self.round else 1, "roles": roles,
            "geometry": {
                "inputs": geometry.inputs, "sums": geometry.sums, "roster": geometry.roster,
                "input_bytes": geometry.input_bytes, "sum_bytes": geometry.sum_bytes,
            },
            "sections": [
                [int(s.code), s.count, s.update_offset, s.sum_offset]
                for s in self.layout.sections
            ],
            "update_bytes": self.layout.update_bytes, "sum_bytes": self.layout.sum_bytes,
            "velocity_at": self.layout.velocity_at,
            "optimiser": {
                "name": spec.algorithm, "learning_rate": spec.server_learning_rate,
                "momentum": spec.momentum,
            },
        })  # fmt: skip

    # -- rounds ------------------------------------------------------------------------------
    def _try_to_start(self) -> None:
        """Start the round once its nodes carry out the plan and hold the arena."""
        if self.round is None or self.plan is None or self.round.phase != "published":
            return
        used = [self.nodes[name] for name in self.plan.used]
        if any(not node.ready or node.planned != self.epoch for node in used):
            return
        if self.round.number in self.record.started:
            return
        if self.round.number == 1:
            self._put_initial_model()
        self.round.phase = "open"
        self.record.start(self.round, self.plan, self.names)
        deadline_s = self.job.spec.deadline_s
        self.deadline_at = time.monotonic() + deadline_s if deadline_s else math.inf
        for node in used:
            self._send_round(node)
        for node in self.nodes.values():
            self._redirect(node)

    def _redirect(self, node: Known) -> None:
        """Tell clients that called this node's gateway where they belong."""
        away = [
            [key, self.nodes[self.homes[key]].endpoint, self.nodes[self.homes[key]].key]
            for key, where in self.connected.items()
            if where == node.name and self.homes.get(key, where) != where
        ]
        if away:
            name = self.job.metadata.name
            self._send(node.gateway, {"t": "redirect", "job": name, "clients": away})

    def _put_initial_model(self) -> None:
        """The only model that passes through here: the first, to the node of the top."""
        assert self.plan is not None
        assert self.plan.top_node is not None
        put = {"t": "put", "kind": "model", "job": self.job.metadata.name, "round": 0}
        self._transfer(self.nodes[self.plan.top_node], Upload(put, self.initial))

    def _transfer(self, node: Known, work: Upload | Download, limit_s: float = 60.0) -> None:
        """Move a model to or from a gateway, as any other peer does."""
        through: list[Message | None] = []
        peer = Peer(self.context, self.keys, node.endpoint, node.key)
        try:
            name = self.job.metadata.name
            peer.start(name, Transfer(work, lambda: through.append(None), through.append))
            until = time.monotonic() + limit_s
            while not through:
                if time.monotonic() > until:
                    raise Unreachable(f"the gateway of {node.name} did not answer")
                if peer.socket.poll(200):
                    peer.receive()
                if self.door.socket.poll(0):
                    self.door.answer()
                peer.tick()
        finally:
            peer.close()
        if through[0] is not None:
            raise Unreachable(f"the gateway of {node.name} refused: {through[0].get('text')}")

    def _send_round(self, node: Known) -> None:
        assert self.plan is not None
        assert self.round is not None
        part = self.plan.nodes[node.name]
        top = self.nodes[self.round.top_node]
        is_top = node is top
        index = {key: bit for bit, key in enumerate(self.roster)}
        self._send(node.gateway, {
            "t": "round", "job": self.job.metadata.name, "round": self.round.number,
            "epoch": self.epoch, "roster": self.roster,
            "lanes": {str(index[key]): leaf for key, leaf in part.lanes.items()},
            "nodes": {n.key: 0 for n in self._known() if n is not node} if is_top else {},
            "top": self.plan.top.endpoint if is_top and self.plan.top else 0,
            "forward": None if is_top else [top.endpoint, top.key],
            "model_from": None if is_top and self.round.number == 1 else self._model_source(node),
        })  # fmt: skip

    def _model_source(self, node: Known) -> list[str] | None:
        """Where the model of the last round is: with the gateway that published it."""
        assert self.round is not None
        holder = self.nodes[self.record.published_by or self.round.top_node]
        return None if holder is node else [holder.endpoint, holder.key]

    def _order(self, orders: list[Order]) -> None:
        for order in orders:
            assert self.round is not None
            self._send(self.nodes[order.node].gateway, {
                "t": order.verb, "job": self.job.metadata.name, "round": self.round.number,
            })  # fmt: skip

    def _published(self, number: int) -> None:
        """The model of a round exists; the same news twice is harmless."""
        if self.round is None or number != self.round.number or self.round.phase == "published":
            return
        self.round.on_published()
        self.deadline_at = math.inf
        self.record.published(self.round)
        assert self.plan is not None
        for name in self.plan.used:
            self._send(self.nodes[name].agent, {"t": "report", "job": JOB, "round": number})
        if number < self.job.spec.rounds:
            self._next_round()
        else:
            self.done_at = time.monotonic() + LAST_METRICS_S

    # -- the end -----------------------------------------------------------------------------
    def _is_finished(self) -> bool:
        return self.done_at is not None and (
            self.record.is_complete or time.monotonic() >= self.done_at
        )

    def _finish(self) -> None:
        """Everything is aggregated: write the files, let clients and nodes go."""
        assert self.round is not None
        buffer = memoryview(bytearray(self.layout.update_bytes))
        name, number = self.job.metadata.name, self.round.number
        self._transfer(self.nodes[self.round.top_node], Download(name, number, buffer))
        self.record.finish(self.layout, buffer, len(self.nodes))
        for node in self.nodes.values():
            self._send(node.gateway, {"t": "end", "job": name, "round": number})
            self._send(node.agent, {"t": "drop", "job": JOB})
        self._wait_until_dropped()
        self.router.close(linger=200)
        self.door.socket.close()
        self.context.term()


    def _wait_until_dropped(self) -> None:
        """Nodes give the job's memory back before its coordinator is gone."""
        until = time.monotonic() + DROP_S
        while self.holding and time.monotonic() < until:
            if self.door.socket.poll(0):
                self.door.answer()
            if self.router.poll(50):
                _, frame = self.router.recv_multipart()
                message = decode(frame)
                if message["t"] == "dropped":
                    self.holding.discard(message["node"])


def _natural(name: str) -> list[Any]:
    """client-2 before client-10."""
    head, _, tail = name.rpartition("-")
    return [head, int(tail)] if tail.isdigit() else [name, 0]


def _roles(plan: Plan | None, name: str) -> list[Any]:
    """What an agent must know of a plan; the same roles need no new one."""
    roles = plan.nodes[name].roles if plan else ()
    return [(role.endpoint, role.kind, role.parent, role.expected) for role in roles]


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Run one job to its end; events go to standard output, one JSON object a line."""
    logging.basicConfig(format="%(name)s: %(message)s")
    keep_stdout()

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        Coordinator(json.loads(config.read_text())).run()
    except LiflError as error:
        emit("failed", error=str(error), code=error.code)
        sys.exit(1)


if __name__ == "__main__":
    main()
