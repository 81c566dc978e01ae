"""The coordinator: rounds, client selection, plans; never on the way of an update.

    nodes and clients report ─► snapshot ─► plan ─► agents ─► planned ─► round ─► gateways
                                                                            │
    rounds.jsonl, model.safetensors, summary.json ◄── published ◄───────────┘

Owns one job from its first client to its files: the process, its loop, and what follows from each
message.  Elsewhere are who is there (membership.py), what nodes are told (planning.py, and under it
selection.py and planner.py), when a round closes (rounds.py), what stays (record.py).  Started by
the local engine with a configuration file:

    python -m lifl.placement.coordinator --config FILE
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

import click
import zmq

from lifl.api.codes import error_of
from lifl.api.job import FLJob
from lifl.api.load import load_job
from lifl.errors import Busy, InvalidUpdate, LiflError
from lifl.events import emit, keep_stdout
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import (
    LARGEST_MESSAGE,
    Doorkeeper,
    Keys,
    Message,
    bind,
    bound_endpoint,
    decode,
    encode,
    sender,
    server,
)
from lifl.placement.enrolment import Enrolment
from lifl.placement.limits import unwritten
from lifl.placement.membership import Known, Membership
from lifl.placement.models import move
from lifl.placement.planning import JOB, Planning, roles_of, selected
from lifl.placement.processes import end_with_parent
from lifl.placement.record import Recorder, initial_model
from lifl.placement.rounds import Order, Round
from lifl.placement.scrape import Endpoint
from lifl.placement.snapshot import Plan

log = logging.getLogger("lifl.coordinator")

LAST_METRICS_S = 30.0
DROP_S = 5.0
RECONNECT_S = 5.0  # for clients whose gateway was replaced


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
        bind(self.router, config["listen"])
        self.enrolment = Enrolment(Path(config["keyring"]), config["clients"])
        self.members = Membership(config["nodes"], self.enrolment.names, config["observers"])
        self.door.keys = set(config["nodes"].values())
        state = initial_model(self.job, Path(config["job"]).parent)
        self.layout = Layout.of(state)
        self.planning = Planning(self.job, self.layout, len(self.members.names))
        self.initial = memoryview(bytearray(self.planning.model_bytes))  # its velocity is zero
        self.layout.pack_into(state, self.initial)
        self.record = Recorder(self.job, Path(config["run_dir"]), spec.evaluator is not None)
        self.endpoint = Endpoint(
            self.record.monitoring.figures, self._refresh, config["metrics_port"]
        )
        self.record.monitoring.url = self.endpoint.url
        self.plan: Plan | None = None
        self.roster: list[str] = []
        self.holding: set[str] = set()  # nodes that have memory of the job
        self.epoch = 0
        self.round: Round | None = None
        self.ended: set[int] = set()  # rounds whose model exists
        self.early: deque[tuple[bytes, str, Message]] = deque()  # came while a model was moved
        self.grace_s = spec.clients.grace_s
        self.deadline_at = math.inf
        self.done_at: float | None = None

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        emit("listening", endpoint=bound_endpoint(self.router))
        if self.job.spec.insecure:
            emit("warning", text="insecure: true: nothing is encrypted and anybody may pass for "
                 "any client; leave it out for CURVE")  # fmt: skip
        poller = zmq.Poller()
        poller.register(self.door.socket, zmq.POLLIN)
        poller.register(self.router, zmq.POLLIN)
        for fd in (*self.endpoint.fds, self.enrolment.fileno()):
            poller.register(fd, zmq.POLLIN)
        while not self._is_finished():
            due = (self.deadline_at, self.done_at or math.inf, self.members.next_gone_at)
            wait_s = min(due) - time.monotonic()
            timeout_ms = None if wait_s == math.inf else max(0, int(wait_s * 1000) + 1)
            ready = dict(poller.poll(timeout_ms))
            if self.door.socket in ready:
                self.door.answer()
            if self.enrolment.fileno() in ready:
                self._keys_changed()
            while self.early or self.router.poll(0):
                self._take(*(self.early.popleft() if self.early else self._receive()))
            self._let_go()
            if ready.keys() & set(self.endpoint.fds):
                self.endpoint.answer()
            if time.monotonic() >= self.deadline_at:
                self.deadline_at = math.inf
                if self.round:
                    self._deadline(self.round)
        self._finish()

    def _refresh(self) -> None:
        """Before a scrape."""
        self.record.monitoring.figures.set("lifl_clients_connected", len(self.members.connected))

    def _receive(self) -> tuple[bytes, str, Message]:
        """(connection, key, message) of the next that waits; an unreadable one is empty."""
        peer, *frames = self.router.recv_multipart(copy=False)
        key = sender(peer)
        try:
            return peer.bytes, key, decode(frames[0].buffer, limit=LARGEST_MESSAGE)
        except (InvalidUpdate, IndexError) as error:
            log.warning("%r sent what cannot be read: %s", key, error)
            return peer.bytes, key, {"t": "", "node": ""}

    def _take(self, peer: bytes, key: str, message: Message) -> None:
        """One bad message ends no job."""
        try:
            self._handle(peer, key, message)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a %r of %r cannot be used: %r", message.get("t"), key, error)

    def _deadline(self, round_: Round) -> None:
        self._order(round_.on_deadline())
        if round_.phase == "open":
            emit("warning", text=f"round {round_.number}: the deadline has passed with "
                 f"{round_.in_count} updates, and spec.clients.minUpdates is {round_.minimum}: "
                 "the round waits for more")  # fmt: skip

    def _send(self, peer: bytes | None, message: Message) -> None:
        if peer is None:
            return
        try:
            self.router.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            log.info("a node is away; it hears it when it is back")

    def _handle(self, peer: bytes, key: str, message: Message) -> None:
        node = self.members.speaker(message.get("node", ""), key)
        if node is None:
            log.warning("%r speaks for %r: ignored", key, message.get("node"))
            return
        match message["t"]:
            case "node":
                self._node(node, peer, message)
            case "gateway":
                self._enrol(node, peer, message)
                if where := self.members.gateways:
                    self.record.gateways(where)
                self._try_to_plan()
            case "ready":
                self._ready(node, message["model"])
            case "client":
                self._client(node, message)
            case "gone":
                self.members.leaves(message["key"], node.name, time.monotonic() + self.grace_s)
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
                self.record.closed(node.name, message)
                self._order(self.round.on_closed(node.name, clients))
            case "published":
                self._published(message["round"])
            case "metrics":
                self.record.metrics(message["round"], message["metrics"])
            case "work":
                self.record.work(node.name, message)
            case "restart":
                self.record.restarted(node.name, message["what"])
            case "failed":
                raise error_of(message["code"], message["error"], retry=False, node=node.name)

    # -- who is there ------------------------------------------------------------------------
    def _node(self, node: Known, peer: bytes, message: Message) -> None:
        node.agent, node.measured = peer, message["capacity"]
        self.record.engine(message, len(self.members.nodes))
        if self.plan is not None:
            node.planned = -1
            self._send_plan(node)
        self._try_to_plan()

    def _enrol(self, node: Known, peer: bytes, message: Message) -> None:
        """A gateway, maybe after a restart, hears who may call it; its clients call again."""
        if node.gateway not in (None, peer):
            gone_at = time.monotonic() + self.grace_s + RECONNECT_S
            for client in list(self.members.connected):
                self.members.leaves(client, node.name, gone_at)
        node.gateway, node.endpoint = peer, message["endpoint"]
        self._tell_rights(node)

    def _tell_rights(self, node: Known) -> None:
        """Who may speak to a gateway; whom this does not name has no rights there."""
        names = [self.job.metadata.name]
        self._send(node.gateway, {"t": "enrol", "keys": self.members.rights, "jobs": names})

    def _keys_changed(self) -> None:
        """Somebody was enrolled or revoked: gateways hear it before whoever did it does."""
        change = self.enrolment.look()
        self.members.names = self.enrolment.names
        for node in self.members:
            self._tell_rights(node)
        for key in change.revoked:
            self.members.forget(key)
            if self.round and key in self.roster:
                self._order(self.round.on_gone(1 << self.roster.index(key)))
        if change.enrolled or change.revoked:
            emit("keys", enrolled=[*change.enrolled.values()], revoked=[*change.revoked.values()])
        self.enrolment.answer(
            job=self.job.metadata.name, run_dir=self.config["run_dir"],
            gateways=self.members.gateways or {},
        )  # fmt: skip

    def _client(self, node: Known, message: Message) -> None:
        if message["observer"] or message["job"] != self.job.metadata.name:
            return
        if message["key"] not in self.members.names:  # revoked meanwhile
            return
        key = message["key"]
        self.members.comes(key, node.name)
        if self.members.homes.get(key, node.name) != node.name:
            self._redirect(node)
        if self.round and key in self.roster:
            self.round.on_back(1 << self.roster.index(key))
        self._try_to_plan()

    def _let_go(self) -> None:
        """Clients that left and did not come back in time are not waited for any more."""
        for key in self.members.gone(time.monotonic()):
            emit("warning", text=f"{self.members.names[key]} has left: its connection ended "
                 f"{self.grace_s:g} s ago")  # fmt: skip
            if self.round and key in self.roster:
                self._order(self.round.on_gone(1 << self.roster.index(key)))

    def _needed(self) -> int:
        """Clients that must be connected before a round; for the first, all that will come."""
        own = len(self.config["clients"])
        everybody = own if self.config["all"] and self.plan is None else 1
        return max(self.job.spec.clients.min, everybody)

    def _ready(self, node: Known, model: int) -> None:
        """A gateway holds the arena, maybe again after a restart: it hears everything again."""
        node.ready = True
        self._send(node.gateway, self.planning.job_to_gateway())
        if self.round is not None and self.round.phase != "published":
            if model >= self.round.number and node.name == self.round.top_node:
                self._published(self.round.number)
                return
            self._send_round(node)
            self._order(self.round.orders_for(node.name))
        else:
            self._try_to_start()

    # -- plan --------------------------------------------------------------------------------
    def _try_to_plan(self) -> None:
        """The next round, if none is under way and enough clients are there."""
        if not self.members.is_whole or (self.round and self.round.number not in self.ended):
            return
        if len(self.ended) == self.job.spec.rounds:
            return
        needed, here = self._needed(), len(self.members.connected)
        if here < needed or self.plan is None:
            emit("waiting", clients=here, need=needed)
        if here >= needed:
            self._next_round()

    def _next_round(self) -> None:
        """Select, plan, and start as soon as everybody has what they need."""
        number = self.round.number + 1 if self.round else 1
        members, before = self.members, self.plan
        by_name = {members.names[key]: key for key in members.connected}
        self.roster = self.planning.draw(number, by_name)
        self.plan = self.planning.plan(members, self.roster, previous=before, epoch=self.epoch)
        if self.plan.oversubscribed and before is None:
            emit("warning", text=f"{len(self.plan.oversubscribed)} clients are placed beyond the "
                 "capacity of their nodes: they wait for a free input slot")  # fmt: skip
        if self.plan.top_node is None:
            raise Busy("no node can take a single update: lower the model's size or add nodes")
        members.homes |= self.plan.homes()
        self.holding |= set(self.plan.used)
        minimum = self.job.spec.clients.min_updates
        self.round = Round(
            number, selected(self.plan, self.roster), self.plan.top_node, minimum=minimum
        )
        self.round.phase = "published"  # until it starts
        if any(roles_of(before, name) != roles_of(self.plan, name) for name in members.nodes):
            self.epoch += 1
            for node in members:  # those whose roles stay only learn the epoch
                self._send_plan(node)
        self._try_to_start()

    def _send_plan(self, node: Known) -> None:
        assert self.plan is not None
        number = self.round.number if self.round else 1
        self._send(
            node.agent,
            self.planning.to_agent(self.plan, node.name, epoch=self.epoch, number=number),
        )

    # -- rounds ------------------------------------------------------------------------------
    def _try_to_start(self) -> None:
        """Start the round once its nodes carry out the plan and hold the arena."""
        if self.round is None or self.plan is None or self.round.phase != "published":
            return
        used = [self.members[name] for name in self.plan.used]
        if any(not node.ready or node.planned != self.epoch for node in used):
            return
        if self.round.number in self.record.started:
            return
        if self.round.number == 1:
            self._put_initial_model()
        self.round.phase = "open"
        self.record.start(self.round, self.plan)
        deadline_s = self.job.spec.deadline_s
        self.deadline_at = time.monotonic() + deadline_s if deadline_s else math.inf
        for node in used:
            self._send_round(node)
        for node in self.members:
            self._redirect(node)

    def _redirect(self, node: Known) -> None:
        """Tell clients that called this node's gateway where they belong."""
        away = self.members.astray(node.name)
        if away:
            name = self.job.metadata.name
            self._send(node.gateway, {"t": "redirect", "job": name, "clients": away})

    def _put_initial_model(self) -> None:
        """The only model that passes through here: the first, to the node of the top."""
        assert self.plan is not None
        assert self.plan.top_node is not None
        put = {"t": "put", "kind": "model", "job": self.job.metadata.name, "round": 0}
        self._move(self.members[self.plan.top_node], Upload(put, self.initial))

    def _move(self, node: Known, work: Upload | Download) -> None:
        name = self.job.metadata.name
        move(self.context, self.keys, node, name, work, meanwhile=self._meanwhile)

    def _meanwhile(self) -> None:
        """While a model is moved a gateway may be replaced, and must be let in to go on."""
        self._answer_at_the_door()
        while self.router.poll(0):
            peer, key, message = self._receive()
            node = self.members.speaker(message["node"], key)
            if message["t"] == "gateway" and node is not None:
                self._enrol(node, peer, message)
            self.early.append((peer, key, message))

    def _answer_at_the_door(self) -> None:
        if self.door.socket.poll(0):
            self.door.answer()

    def _send_round(self, node: Known) -> None:
        assert self.plan is not None
        assert self.round is not None
        self._send(
            node.gateway,
            self.planning.round_to_gateway(
                self.plan, node, self.members, epoch=self.epoch, number=self.round.number,
                roster=self.roster, model_at=self.record.published_by,
                elapsed_s=self.record.elapsed_s(self.round.number),
            ),
        )  # fmt: skip

    def _order(self, orders: list[Order]) -> None:
        for order in orders:
            assert self.round is not None
            self._send(self.members[order.node].gateway, {
                "t": order.verb, "job": self.job.metadata.name, "round": self.round.number,
            })  # fmt: skip

    def _published(self, number: int) -> None:
        """The model of a round exists; the same news twice is harmless."""
        if self.round is None or number != self.round.number or self.round.phase == "published":
            return
        self.round.on_published()
        self.ended.add(number)
        self.deadline_at = math.inf
        self.record.published(self.round)
        assert self.plan is not None
        for name in self.plan.used:
            self._send(self.members[name].agent, {"t": "report", "job": JOB, "round": number})
        if number < self.job.spec.rounds:
            self._try_to_plan()
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
        self._move(self.members[self.round.top_node], Download(name, number, buffer))
        self.record.finish(self.layout, buffer, len(self.members.nodes))
        for node in self.members:
            self._send(node.gateway, {"t": "end", "job": name, "round": number})
            self._send(node.agent, {"t": "drop", "job": JOB})
        self._wait_until_dropped()
        self.enrolment.close()
        self.router.close(linger=200)
        self.door.socket.close()
        self.context.term()

    def _wait_until_dropped(self) -> None:
        """Nodes give the job's memory back before its coordinator is gone."""
        until = time.monotonic() + DROP_S
        while self.holding and time.monotonic() < until:
            self._answer_at_the_door()
            if self.router.poll(50):
                _, frame = self.router.recv_multipart()
                message = decode(frame)
                if message["t"] == "dropped":
                    self.holding.discard(message["node"])


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Run one job to its end; events go to standard output, one JSON object a line."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_with_parent()
    keep_stdout()

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        Coordinator(json.loads(config.read_text())).run()
    except (LiflError, OSError) as error:
        failure = error if isinstance(error, LiflError) else unwritten(error)
        if failure is None:
            raise
        emit("failed", error=str(failure), code=failure.code)
        sys.exit(1)


if __name__ == "__main__":
    main()
