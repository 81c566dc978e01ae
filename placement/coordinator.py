"""The coordinator: rounds, client selection, plans; never on the way of an update.

    nodes and clients report ─► snapshot ─► plan ─► agents ─► planned ─► round ─► gateways
                                                                            │
    rounds.jsonl, model.safetensors, summary.json ◄── published ◄───────────┘

Owns the process: sockets, loop, who is told what, when a whole model is moved, how the job ends.
Elsewhere are the rounds (course.py), who is there (membership.py), what stays (store.py, record.py,
checkpoint.py).  Started by engine or operator, and again when it was killed, with a configuration
file:

    python -m lifl.placement.coordinator --config FILE
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import shutil
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
from lifl.errors import InvalidUpdate, LiflError, ModelLost, TransientError, Unreachable
from lifl.events import emit, keep_stdout
from lifl.faults import fault
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import (
    LARGEST_MESSAGE,
    Doorkeeper,
    Keys,
    Message,
    bound_endpoint,
    clients_of,
    decode,
    encode,
    sender,
    server,
)
from lifl.placement import drains
from lifl.placement.asking import STDIN, Asking
from lifl.placement.checkpoint import Checkpoints, due_every, read_model
from lifl.placement.course import RECONNECT_S, Course
from lifl.placement.enrolment import Enrolment
from lifl.placement.limits import unwritten
from lifl.placement.membership import Known, Membership, Outside
from lifl.placement.models import NotServed, move
from lifl.placement.netns import enter
from lifl.placement.planning import JOB, Planning
from lifl.placement.presence import Presence
from lifl.placement.processes import end_with_parent
from lifl.placement.record import Recorder, initial_model
from lifl.placement.resume import REWIND, STORE, as_text, checkpoint_folder, rewound
from lifl.placement.scrape import Endpoint, listen
from lifl.placement.store import Change, Checkpoint, JobStore, Saved
from lifl.placement.store_sqlite import SqliteStore

log = logging.getLogger("lifl.coordinator")

DROP_S = 5.0
LAST_CHECKPOINT_S = 30.0  # until the last model is on disk


class Coordinator:
    """One job over the nodes of one run."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        metrics = listen(config["metrics_port"])
        if config.get("netns"):  # what listens already can be reached from where it was made
            enter(config["netns"])
        self.job: FLJob = load_job(Path(config["job"]))
        self.name = self.job.metadata.full_name
        spec, run_dir = self.job.spec, Path(config["run_dir"])
        self.keys = Keys(*config["keys"])
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.door = Doorkeeper(self.context)
        self.router = server(self.context, self.keys)
        self.router.setsockopt(zmq.USE_FD, config["listen_fd"])  # outlives this process
        self.router.bind(config["listen"])
        self.enrolment = Enrolment(Path(config["keyring"]), config["clients"])
        self.members = Membership(
            config["nodes"], self.enrolment.names, config["observers"], config["workers"],
            outside=Outside.of(config.get("outside")),
        )
        self.door.keys = set(config["nodes"].values())
        self._see_who_drains()
        self.presence = Presence(
            config["nodes"], self.job.spec.placement.node_grace_s, time.monotonic()
        )
        self.early: deque[tuple[bytes, str, Message]] = deque()  # came while a model was moved
        self.grace_s = spec.clients.grace_s
        self.record = Recorder(self.job, run_dir, spec.evaluator is not None)
        self.endpoint = Endpoint(self.record.monitoring.figures, self._refresh, metrics)
        self.record.monitoring.url = self.endpoint.url
        self.store = _open_store(config, run_dir)
        saved = self.store.load()
        self.record.is_continued = saved is not None and saved.start == config["start"]
        if saved is None or not self.record.is_continued:
            saved = self._begin(saved, run_dir)
            self.record.has_run_for(saved.clock.elapsed_s)
        else:
            self.record.has_run_for(saved.clock.elapsed_s + time.time() - saved.clock.at_s)
        self.layout = Layout.from_wire(saved.layout)
        enrolled = max(len(self.members.names), spec.client_count)
        planning = Planning(
            self.job, self.layout, enrolled, self.members.at_once, start=config["start"],
            number=config.get("number", JOB), cores=len(os.sched_getaffinity(0)),
            asking=Asking(is_shared=config.get("shared", False)),
        )  # fmt: skip
        self.model_bytes = planning.model_bytes
        self.folder = checkpoint_folder(self.job, Path(config["job"]), run_dir)
        every, pause_s = due_every(spec.checkpoint.every, self.model_bytes)
        self.checkpoints = Checkpoints(
            self.folder, self.layout, self.model_bytes, job=self.name, keys=self.keys,
            every=every, pause_s=pause_s, keep=spec.checkpoint.keep,
            last=saved.checkpoint.number if saved.checkpoint else 0,
        )  # fmt: skip
        self.course = Course(
            self.job, self.members, planning, self.record, self.store, send=self._send,
            put_model=self._put_model, offer=self.checkpoints.offer,
            must_be_kept=self._must_be_kept,
        )  # fmt: skip
        self.course.first_needs = self._started()
        self.course.go_on(saved)
        self.pausing = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def pause(self) -> None:
        """End after the round that is under way, with a checkpoint; may be called by a signal."""
        os.eventfd_write(self.pausing, 1)

    def _begin(self, before: Saved | None, run_dir: Path) -> Saved:
        """A new run, or one that starts again at its last checkpoint."""
        if before is not None:
            saved = rewound(before, run_dir, start=self.config["start"])
        else:
            saved = Saved(
                job=as_text(self.job), names=self.members.names, start=self.config["start"],
                layout=Layout.of(self._initial_model()).to_wire(), clock=self.record.clock(),
            )  # fmt: skip
        self.store.begin(saved)
        return saved

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        emit("listening", endpoint=bound_endpoint(self.router))
        if self.job.spec.insecure and not self.record.is_continued:
            emit("warning", text="insecure: true: nothing is encrypted and anybody may pass for "
                 "any client; leave it out for CURVE")  # fmt: skip
        course = self.course
        poller = zmq.Poller()
        for what in (self.door.socket, self.router):
            poller.register(what, zmq.POLLIN)
        own = [self.checkpoints.fileno(), self.enrolment.fileno(), self.pausing]
        own += [STDIN] if course.planning.asking.is_shared else []
        for fd in (*own, *self.endpoint.fds):
            poller.register(fd, zmq.POLLIN)
        while not course.is_over:
            due = (
                course.deadline_at, course.done_at or math.inf, self.members.next_gone_at,
                self.enrolment.answer_by, self._next_look(),
            )  # fmt: skip
            wait_s = min(due) - time.monotonic()
            timeout_ms = None if wait_s == math.inf else max(0, int(wait_s * 1000) + 1)
            ready = dict(poller.poll(timeout_ms))
            if self.door.socket in ready:
                self.door.answer()
            if self.enrolment.fileno() in ready:
                self._keys_changed()
            while self.early or self.router.poll(0):
                self._take(*(self.early.popleft() if self.early else self._receive()))
            if self.checkpoints.fileno() in ready:
                self._checkpointed()
            if STDIN in ready:
                is_news, may_go_on = course.planning.asking.hear()
                if not may_go_on:
                    poller.unregister(STDIN)
                if is_news:
                    course.share_has_changed()
            if self.pausing in ready:
                os.eventfd_read(self.pausing)
                course.is_paused = True
            if course.is_paused and course.is_between and course.done_at is None:
                self._pause()
                return
            self._let_go()
            self._answer_enrolment()
            self._look_for_the_lost()
            if ready.keys() & set(self.endpoint.fds):
                self.endpoint.answer()
            if time.monotonic() >= course.deadline_at:
                course.deadline()
            course.wait_for_the_last_figures()
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
        if message["t"] not in ("node", "gateway") and peer not in (node.agent, node.gateway):
            if node.is_lost:
                self._send(peer, {"t": "who"})
            return  # meant for the coordinator before this one; all of it is said again
        is_agent = message["t"] == "node" or peer == node.agent
        self.presence.heard(node.name, "agent" if is_agent else "gateway")
        if node.is_lost:
            self._comes_back(node, peer, message)
            return
        match message["t"]:
            case "here":
                pass
            case "dropped":  # a node that drains
                node.ready, node.begun, node.model = False, 0, -1
                self.course.holding.discard(node.name)
            case "fenced":
                self.course.losses.fenced(node, message)
            case "lost":
                self._lost(node.name, message["error"])
                self._begins_anew(self.members[node.name], peer)
            case "node":
                self._agent_says(node, peer, message)
                self.course.agent_is_back(node)
                self.course.try_to_plan()
            case "gateway":
                self._gateway(node, peer, message)
            case "ready":
                node.ready, node.model = True, message["model"]
                node.begun = max(node.begun, message["model"] + 1)
                node.in_model = clients_of(message["in_model"])
                self._send(node.gateway, self.course.planning.job_to_gateway())
                self.course.catch_up(node)
            case "enrolled":
                node.enrolled = message["look"]
            case "client":
                self._client(node, message)
            case "gone":
                self.members.leaves(message["key"], node.name, time.monotonic() + self.grace_s)
            case "planned":
                self.course.is_planned(node, message["epoch"])
            case "accepted":
                self.course.accepted(node, message)
            case "crowd":
                self.course.crowds.comes(node, message)
            case "closed":
                self.course.closed(node, message)
            case "published":
                self.course.published(message["round"])
            case "metrics":
                self.record.metrics(message["round"], message["metrics"])
                self.course.look_whether_to_stop()
            case "work":
                node.queue = message["queue"]
                self.record.work(node.name, message)
            case "restart":
                self.record.restarted(node.name, message["what"])
            case "failed":
                code = message.get("code", "defect")
                raise error_of(code, message["error"], retry=False, node=node.name)

    # -- who is there ------------------------------------------------------------------------
    def _agent_says(self, node: Known, peer: bytes, message: Message) -> None:
        node.agent = peer
        node.measured = message["capacity"] | {"budget_bytes": message["budget_bytes"]}
        self.record.engine(message, len(self.members.nodes))

    def _gateway(self, node: Known, peer: bytes, message: Message) -> None:
        was_last = node.gateway is None
        self._enrol(node, peer, message)
        if where := self.members.gateways:
            self.record.gateways(where)
            for other in self.members.here if was_last else ():  # who had to wait for its address
                self.course.redirect(other)
                self.course.catch_up(other)
                self.course.tell_elsewhere(other)
        self.course.try_to_plan()

    def _enrol(self, node: Known, peer: bytes, message: Message) -> None:
        """A gateway, maybe after a restart, hears who may call it; its clients call again."""
        if node.gateway not in (None, peer):
            gone_at = time.monotonic() + self.grace_s + RECONNECT_S
            for client in list(self.members.connected):
                self.members.leaves(client, node.name, gone_at)
        if node.gateway != peer:
            node.ready = False
        node.gateway, node.endpoint = peer, message["endpoint"]
        self._tell_rights(node)

    def _tell_rights(self, node: Known) -> None:
        """Who may speak to a gateway; whom this does not name has no rights there."""
        self._send(node.gateway, {
            "t": "enrol", "keys": self.members.rights, "jobs": [self.name],
            "ports": self.members.outside.ports(node.name),
            "look": self.enrolment.looks,
        })  # fmt: skip

    def _keys_changed(self) -> None:
        """Somebody was enrolled or revoked: gateways go by it before whoever did it is answered."""
        change = self.enrolment.look()
        self.members.names = self.enrolment.names
        for node in self.members:
            self._tell_rights(node)
        for key in change.revoked:
            self.members.forget(key)
            self.course.client_is_gone(key)
        self.course.first_needs = self._started()
        self.course.try_to_plan()
        if change.enrolled or change.revoked:
            emit("keys", enrolled=[*change.enrolled.values()], revoked=[*change.revoked.values()])

    def _answer_enrolment(self) -> None:
        """Once every gateway goes by the new keys: a client that is refused does not try again."""
        due, looks = self.enrolment.answer_by, self.enrolment.looks
        missing = any(node.gateway is not None and node.enrolled < looks for node in self.members)
        if due == math.inf or (missing and time.monotonic() < due):
            return
        self.enrolment.answer(
            job=self.name, run_dir=self.config["run_dir"], gateways=self.members.gateways or {},
            own=len(self.config["clients"]),
        )

    def _started(self) -> int:
        """Clients that the run starts itself and that have their rights still."""
        trainer = self.job.spec.trainer
        own = [*self.config["clients"]][: trainer.clients] if trainer else []
        return max(1, sum(key in self.members.names for key in own))

    def _client(self, node: Known, message: Message) -> None:
        if message["job"] != self.name:
            return
        if message["observer"]:
            self.members.is_observed = True
            return
        key = message["key"]
        if key not in self.members.names and key not in self.members.shares:  # revoked meanwhile
            return
        self.members.comes(key, node.name)
        if self.members.homes.get(key, node.name) != node.name:
            self.course.redirect(node)
        self.course.client_is_back(key)
        self.course.try_to_plan()

    def _let_go(self) -> None:
        """Clients that left and did not come back in time are not waited for any more."""
        for key in self.members.gone(time.monotonic()):
            name = self.members.names.get(key, key)
            emit("warning", text=f"{name} has left: its connection ended {self.grace_s:g} s ago")
            self.course.client_is_gone(key)

    # -- nodes that are lost, and come back --------------------------------------------------
    def _next_look(self) -> float:
        return self.presence.next_at if len(self.members.nodes) > 1 else math.inf

    def _look_for_the_lost(self) -> None:
        """Ask whoever is here; one that does not answer is lost, if another is there."""
        now = time.monotonic()
        if not self._ask_who_is_here(now):
            return
        self._see_who_drains()
        for node in list(self.members):
            self._take_back(node)
        for node in self.members.here:
            was_silent, node.is_silent = node.is_silent, node.name in self.presence.quiet(now)
            if was_silent and not node.is_silent:  # whose clients may have gone elsewhere
                for other in self.members.here:
                    self.course.redirect(other)
        for name in self._silent(now):
            if not self.members[name].is_lost:  # one that had to be given a model, meanwhile
                self._lost(name, f"silent for {self.presence.grace_s:g} s")

    def _ask_who_is_here(self, now: float) -> bool:
        """Ask every node that is here, if it is time to; with one node there is no use in it."""
        here = self.members.here
        if len(self.members.nodes) == 1 or not self.presence.ask((n.name for n in here), now):
            return False
        for node in here:
            for peer in (node.agent, node.gateway):
                self._send(peer, {"t": "ask"})
        return True

    def _silent(self, now: float) -> list[str]:
        """Nodes that have not answered for too long; where none does this process hears nobody."""
        silent = self.presence.silent(now)
        return silent if len(silent) < len(self.members.here) else []

    def _see_who_drains(self) -> None:
        """Nodes that are to be left: from the next round on nobody is there."""
        draining = drains.read(Path(self.config["run_dir"]))
        for node in self.members:
            if node.is_draining != (node.name in draining):
                node.is_draining = not node.is_draining
                emit("draining" if node.is_draining else "uncordoned", node=node.name)

    def _lost(self, name: str, why: str) -> None:
        """A node is lost; without another the job ends here.

        Raises:
            TransientError: this was the last.
        """
        if [node.name for node in self.members.here] == [name]:
            raise TransientError(f"{name}: {why}", code="node-lost")
        self.course.losses.lose(name, why)

    def _comes_back(self, node: Known, peer: bytes, message: Message) -> None:
        """A node that was lost begins anew: what it has of the job goes first."""
        match message["t"]:
            case "node":
                self._agent_says(node, peer, message)
                self._begins_anew(node, peer)
            case "gateway":
                node.gateway, node.endpoint = peer, message["endpoint"]
                self._tell_rights(node)
                self.course.send_away(node.name, peer)
            case "dropped":
                node.is_empty = True
            case "client":  # who called where it always did, and belongs elsewhere
                self._client(node, message)
            case "gone":
                self.members.leaves(message["key"], node.name, time.monotonic() + self.grace_s)
        self._take_back(node)

    def _begins_anew(self, node: Known, peer: bytes) -> None:
        node.agent, node.is_empty = peer, False
        self._send(peer, self._drop())

    def _take_back(self, node: Known) -> None:
        """It has nothing any more, and the round that lost it is settled: a node like others."""
        if not node.is_lost or self.course.losses.stage:
            return
        if node.is_empty and node.agent and node.gateway:
            self.members.returns(node.name)
            self.presence.heard(node.name, "agent")
            emit("node_back", node=node.name)
            for other in self.members.here:
                self.course.tell_elsewhere(other)
            self.course.try_to_plan()

    def _drop(self) -> Message:
        return {"t": "drop", "job": self.course.planning.number, "name": self.name}

    def _must_be_kept(self, number: int) -> None:
        """The model of a round is lost with its node, unless it is on disk.

        Raises:
            ModelLost: it is not.
        """
        self._checkpointed()  # one may have been written just now
        last = self.checkpoints.last
        if last != number and number:
            where = f"the checkpoint of round {last}" if last else "the beginning"
            raise ModelLost(
                f"the model of round {number} was on a node that is lost, and on no other: rounds "
                f"go on from {where}"
            )

    # -- whole models ------------------------------------------------------------------------
    def _initial_model(self) -> dict[str, Any]:
        return initial_model(self.job, Path(self.config["job"]))

    def _first_model(self, base: int) -> memoryview:
        """What this start of the run begins with: the last checkpoint, or the initial model."""
        if base:
            return read_model(self.folder, base, self.layout, self.model_bytes)
        model = memoryview(bytearray(self.model_bytes))  # its velocity is zero
        self.layout.pack_into(self._initial_model(), model)
        return model

    def _put_model(self, node: Known, base: int) -> bool:
        """The only model that passes through here: the first, to the node of the top."""
        put = {"t": "put", "kind": "model", "job": self.name, "round": base}
        return self._move(node, Upload(put, self._first_model(base)))

    def _move(self, node: Known, work: Upload | Download) -> bool:
        """False: the node was lost meanwhile, and the job has gone on without it as far as it can.

        Raises:
            TransientError: ... and it was the last.
        """
        try:
            move(self.context, self.keys, node, self.name, work,
                 meanwhile=lambda: self._meanwhile(node))  # fmt: skip
        except NotServed:
            raise
        except Unreachable as error:
            self._lost(node.name, error.sentence)
            return False
        return True

    def _meanwhile(self, other: Known) -> None:
        """While a model is moved a gateway may be replaced, and must be let in to go on.

        Raises:
            Unreachable: the node at the `other` end is lost.
        """
        self._answer_at_the_door()
        while self.router.poll(0):
            peer, key, message = self._receive()
            self.early.append((peer, key, message))
            node, what = self.members.speaker(message.get("node", ""), key), message.get("t")
            if node is None or node.is_lost:
                continue
            self.presence.heard(
                node.name, "agent" if what == "node" or peer == node.agent else "gateway"
            )
            if what == "gateway":
                self._enrol(node, peer, message)
            if what == "lost" and node is other and peer == node.agent:
                raise Unreachable(message["error"])
        now = time.monotonic()
        self._ask_who_is_here(now)
        if other.name in self._silent(now):
            raise Unreachable(f"silent for {self.presence.grace_s:g} s")

    def _answer_at_the_door(self) -> None:
        if self.door.socket.poll(0):
            self.door.answer()

    def _checkpointed(self) -> None:
        """A checkpoint is there, or could not be written, which costs no round anything."""
        outcome = self.checkpoints.outcome()
        if outcome is None:
            return
        number = outcome.number
        if outcome.result == "written":
            place = self.checkpoints.place(number)
            self.store.save(Change(checkpoint=Checkpoint(number=number, place=place)))
            emit("checkpoint", round=number, place=place)
        elif outcome.result == "failed" and self.checkpoints.counts["failed"] == 1:
            emit("warning", text=f"the checkpoint of round {number} cannot be written to "
                 f"{self.folder.where}: {outcome.text}; make room there or name another "
                 "spec.checkpoint.path; the rounds go on")  # fmt: skip

    # -- the end -----------------------------------------------------------------------------
    def _pause(self) -> None:
        """The newest model becomes a checkpoint; nodes and clients are left to whoever asked."""
        round_, number = self.course.round, self.checkpoints.last
        if round_ is not None and round_.phase == "published" and self.course.plan is not None:
            number = round_.number
            self._checkpoint_now(number, self.members[round_.top_node])
        emit("paused", round=number)
        self.enrolment.close()
        self.store.close()

    def _finish(self) -> None:
        """Everything is aggregated: write the files, let clients and nodes go."""
        course = self.course
        assert course.round is not None
        number = course.round.number
        model = self._last_model(number)
        summary = self.record.finish(
            self.layout, model, len(self.members.nodes), checkpoints=self.checkpoints.counts,
            starts=self.config["start"],
        )  # fmt: skip
        fault("coordinator_files_written", "coordinator")
        self.store.save(Change(rows=self.record.take_unsaved(), complete=True))
        self._tidy_checkpoints()
        emit("done", **summary)
        for node in self.members:
            self._send(node.gateway, {"t": "end", "job": self.name, "round": number})
        self._wait_until_all("ended", {node.name for node in self.members if node.ready})
        for node in self.members:
            self._send(node.agent, self._drop())
        self._wait_until_all("dropped", course.holding)
        self.enrolment.close()
        self.router.close(linger=200)
        self.door.socket.close()
        self.context.term()
        self.store.close()

    def _last_model(self, number: int) -> memoryview:
        """From a node that has it; the checkpoint of that round where there is none.

        There is none where everything was killed after that checkpoint, or the node is lost.

        Raises:
            ModelLost: its node was lost just now, and there is no such checkpoint.
        """
        model = memoryview(bytearray(self.layout.update_bytes))
        while (holder := self.course.holder_of(number)) is not None:
            if self._move(holder, Download(self.name, number, model)):
                self._last_checkpoint(number, holder)
                return model
        return self._first_model(number)

    def _last_checkpoint(self, number: int, node: Known) -> None:
        """Where the job names a place of its own the last model goes there, too."""
        if self.job.spec.checkpoint.path is not None:
            self._checkpoint_now(number, node)

    def _checkpoint_now(self, number: int, node: Known) -> None:
        """Wait until the model of a round is on disk, or cannot be."""
        until = time.monotonic() + LAST_CHECKPOINT_S
        self.checkpoints.every, self.checkpoints.pause_s = 1, 0.0
        while self.checkpoints.last < number and time.monotonic() < until:
            self.checkpoints.offer(number, node)
            select.select([self.checkpoints], [], [], 1.0)
            self._checkpointed()
            if self.checkpoints.counts["failed"]:
                break

    def _tidy_checkpoints(self) -> None:
        """In the run's directory they have served: model.safetensors is there."""
        self.checkpoints.close()
        with contextlib.suppress(OSError):
            if self.job.spec.checkpoint.path is None:
                shutil.rmtree(self.folder.where)
            else:
                self.checkpoints.prune()

    def _wait_until_all(self, news: str, nodes: set[str]) -> None:
        """Clients hear of the end, then nodes give the memory back, before this process is gone."""
        until = time.monotonic() + DROP_S
        while nodes and time.monotonic() < until:
            self._answer_at_the_door()
            if self.router.poll(50):
                _, _, message = self._receive()
                if message["t"] == news:
                    nodes.discard(message["node"])


def _open_store(config: dict[str, Any], run_dir: Path) -> JobStore:
    """In the run's directory; in a cluster the FLJob's status, and its object's path is given."""
    if "fljob" not in config:
        return SqliteStore(run_dir / STORE)
    from lifl.placement.cluster.api import Api
    from lifl.placement.cluster.store_cluster import ClusterStore

    return ClusterStore(Api.of_pod(), config["fljob"], epoch=config["epoch"])


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
        coordinator = Coordinator(json.loads(config.read_text()))
        signal.signal(signal.SIGUSR1, lambda *_: coordinator.pause())
        coordinator.run()
    except ModelLost as error:
        emit("warning", text=str(error))
        emit("rewind", why=str(error))
        sys.exit(REWIND)
    except (LiflError, OSError) as error:
        failure = error if isinstance(error, LiflError) else unwritten(error)
        if failure is None:
            raise
        emit("failed", error=str(failure), code=failure.code)
        sys.exit(1)


if __name__ == "__main__":
    main()
