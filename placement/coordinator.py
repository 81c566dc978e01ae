"""The coordinator: rounds, client selection, plans; never on the way of an update.

    nodes and clients report ─► snapshot ─► plan ─► agents ─► planned ─► round ─► gateways
                                                                            │
    rounds.jsonl, model.safetensors, summary.json ◄── published ◄───────────┘

Owns the process: sockets, loop, who says what, the job's last files.  Elsewhere are the rounds
(course.py), who is there (attendance.py), the first and the last model (global_model.py) and what
stays (store.py, record.py).  Started by engine or operator, and again when it was killed, with a
configuration file:

    python -m lifl.placement.coordinator --config FILE
"""

from __future__ import annotations

import json
import logging
import math
import os
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
from lifl.errors import InvalidUpdate, LiflError, ModelLost, Unreachable
from lifl.events import emit, keep_stdout
from lifl.faults import fault
from lifl.functions.layout import Layout
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
from lifl.placement.asking import STDIN, Asking
from lifl.placement.attendance import Attendance, see_who_drains
from lifl.placement.course import Course
from lifl.placement.enrolment import Enrolment
from lifl.placement.global_model import GlobalModel
from lifl.placement.limits import unwritten
from lifl.placement.membership import Known, Membership, Outside
from lifl.placement.netns import enter
from lifl.placement.planning import JOB, Planning
from lifl.placement.presence import Presence
from lifl.placement.processes import end_with_parent
from lifl.placement.record import Recorder, initial_model
from lifl.placement.resume import REWIND, STORE, as_text, checkpoint_folder, rewound
from lifl.placement.scrape import Endpoint, listen
from lifl.placement.store import Change, JobStore, Saved
from lifl.placement.store_sqlite import SqliteStore

log = logging.getLogger("lifl.coordinator")

DROP_S = 5.0


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
        see_who_drains(self.members, run_dir)
        self.presence = Presence(
            config["nodes"], self.job.spec.placement.node_grace_s, time.monotonic()
        )
        self.early: deque[tuple[bytes, str, Message]] = deque()  # came while a model was moved
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
        self.model = GlobalModel(
            self.job, checkpoint_folder(self.job, Path(config["job"]), run_dir), self.layout,
            planning.model_bytes, initial=self._initial_model,
            last=saved.checkpoint.number if saved.checkpoint else 0,
            start=config["start"], store=self.store,
            context=self.context, keys=self.keys, meanwhile=self._meanwhile,
            lost=lambda name, why: self.attendance.lost(name, why),
        )  # fmt: skip
        self.checkpoints = self.model.checkpoints
        self.course = Course(
            self.job, self.members, planning, self.record, self.store, send=self._send,
            put_model=self.model.put, offer=self.checkpoints.offer,
            must_be_kept=self.model.must_be_kept,
        )  # fmt: skip
        self.attendance = Attendance(
            self.job, run_dir, config["clients"], course=self.course, enrolment=self.enrolment,
            presence=self.presence, send=self._send,
        )  # fmt: skip
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

    def _initial_model(self) -> dict[str, Any]:
        return initial_model(self.job, Path(self.config["job"]))

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        emit("listening", endpoint=bound_endpoint(self.router))
        if self.job.spec.insecure and not self.record.is_continued:
            emit("warning", text="insecure: true: nothing is encrypted and anybody may pass for "
                 "any client; leave it out for CURVE")  # fmt: skip
        course, attendance = self.course, self.attendance
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
                self.enrolment.answer_by, attendance.next_look_at, self.record.next_word_at,
            )  # fmt: skip
            wait_s = min(due) - time.monotonic()
            timeout_ms = None if wait_s == math.inf else max(0, int(wait_s * 1000) + 1)
            ready = dict(poller.poll(timeout_ms))
            if self.door.socket in ready:
                self.door.answer()
            if self.enrolment.fileno() in ready:
                attendance.keys_changed()
            while self.early or int(self.router.EVENTS) & zmq.POLLIN:
                self._take(*(self.early.popleft() if self.early else self._receive()))
            if self.checkpoints.fileno() in ready:
                self.model.take_outcome()
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
            attendance.let_go()
            attendance.answer_enrolment()
            attendance.look_for_the_lost()
            if ready.keys() & set(self.endpoint.fds):
                self.endpoint.answer()
            if time.monotonic() >= course.deadline_at:
                course.deadline()
            self.record.say_progress()
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
            self.attendance.comes_back(node, peer, message)
        elif is_agent:
            self._agent_says(node, peer, message)
        else:
            self._gateway_says(node, peer, message)

    def _agent_says(self, node: Known, peer: bytes, message: Message) -> None:
        """A node's plan, its memory, its processes; "here" says no more than that it is."""
        match message["t"]:
            case "node":
                self.attendance.agent(node, peer, message)
                self.course.agent_is_back(node)
                self.course.try_to_plan()
            case "planned":
                self.course.is_planned(node, message["epoch"])
            case "work":
                node.queue = message["queue"]
                self.record.work(node.name, message)
            case "restart":
                self.record.restarted(node.name, message["what"])
            case "dropped":  # a node that drains
                node.ready, node.begun, node.model = False, 0, -1
                self.course.holding.discard(node.name)
            case "lost":
                self.attendance.lost(node.name, message["error"])
                self.attendance.begins_anew(self.members[node.name], peer)
            case "failed":
                code = message.get("code", "defect")
                raise error_of(code, message["error"], retry=False, node=node.name)

    def _gateway_says(self, node: Known, peer: bytes, message: Message) -> None:
        """Clients, updates, models; "here" says no more than that it is."""
        match message["t"]:
            case "gateway":
                self.attendance.gateway(node, peer, message)
            case "enrolled":
                node.enrolled = message["look"]
            case "client":
                self.attendance.client(node, message)
            case "gone":
                self.attendance.gone(node, message)
            case "ready":
                node.ready, node.model = True, message["model"]
                node.begun = max(node.begun, message["model"] + 1)
                node.in_model = clients_of(message["in_model"])
                self.course.telling.job(node)
                self.course.catch_up(node)
            case "accepted":
                self.course.accepted(node, message)
            case "crowd":
                self.course.crowds.comes(node, message)
            case "fenced":
                self.course.losses.fenced(node, message)
            case "closed":
                self.course.closed(node, message)
            case "published":
                self.course.published(message["round"])
            case "metrics":
                self.record.metrics(message["round"], message["metrics"])
                self.course.look_whether_to_stop()

    # -- while a model is moved --------------------------------------------------------------
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
                self.attendance.enrol(node, peer, message)
            if what == "lost" and node is other and peer == node.agent:
                raise Unreachable(message["error"])
        now = time.monotonic()
        self.attendance.ask_who_is_here(now)
        if other.name in self.attendance.silent(now):
            raise Unreachable(f"silent for {self.presence.grace_s:g} s")

    def _answer_at_the_door(self) -> None:
        if self.door.socket.poll(0):
            self.door.answer()

    # -- the end -----------------------------------------------------------------------------
    def _pause(self) -> None:
        """The newest model becomes a checkpoint; nodes and clients are left to whoever asked."""
        round_, number = self.course.round, self.checkpoints.last
        if round_ is not None and round_.phase == "published" and self.course.plan is not None:
            number = round_.number
            self.model.checkpoint_now(number, self.members[round_.top_node])
        emit("paused", round=number)
        self.enrolment.close()
        self.store.close()

    def _finish(self) -> None:
        """Everything is aggregated: write the files, let clients and nodes go."""
        course = self.course
        assert course.round is not None
        number = course.round.number
        model = self.model.last(number, course.holder_of)
        summary = self.record.finish(
            self.layout, model, len(self.members.nodes), checkpoints=self.checkpoints.counts,
            starts=self.config["start"],
        )  # fmt: skip
        fault("coordinator_files_written", "coordinator")
        self.store.save(Change(rows=self.record.take_unsaved(), complete=True))
        self.model.tidy()
        emit("done", **summary)
        for node in self.members:
            course.telling.end(node)
        self._wait_until_all("ended", {node.name for node in self.members if node.ready})
        for node in self.members:
            course.telling.drop(node)
        self._wait_until_all("dropped", course.holding)
        self.enrolment.close()
        self.router.close(linger=200)
        self.door.socket.close()
        self.context.term()
        self.store.close()

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
