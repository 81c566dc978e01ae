"""The gateway: the only process that parses bytes from outside.

    client ──ROUTER──► check ─► input slot ─► descriptor ─► leaf
    client ◄─ chunks of the model ◄─ slot ◄─ descriptor ◄─ top

Owns the loop and what the coordinator orders: rounds begin, close, are forwarded and published.
What clients ask is in clients.py, what the agent gives in lanes.py, the steps on shared words in
intake.py, the checks in jobs.py; the tree is the coordinator's.  Started by the agent:

    python -m lifl.functions.gateway --socket PATH --node NAME --listen tcp://... --keys FILE
        --coordinator ENDPOINT --coordinator-key KEY

or as a container of its own, which has its keys and its jobs' coordinators from the agent:

    LIFL_TOKEN=FILE python -m lifl.functions.gateway --socket PATH --node NAME --listen tcp://...
"""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import click
import zmq

from lifl.errors import Late, LiflError
from lifl.faults import at_node, fault
from lifl.functions.clients import Clients
from lifl.functions.ending import HOPELESS, end_on_sigterm
from lifl.functions.jobs import Job
from lifl.functions.lanes import Lanes, keys_of_node
from lifl.functions.layout import Layout
from lifl.functions.lines import EVERYTHING, Lines
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import (
    Doorkeeper,
    Keys,
    Message,
    bind,
    bits,
    bound_endpoint,
    host_of,
    server,
)
from lifl.shm.slots import Header, Payload

log = logging.getLogger("lifl.gateway")

RECONNECT_S = 0.02
TELL_S = 0.01  # from one report of who is in to the next, while more are expected
UNREAD = 128  # messages for one client that does not read


class Gateway:
    """The process: its sockets, its jobs, one loop."""

    def __init__(
        self, socket_path: Path, node: str, listen: str, keys: Keys,
        coordinator: tuple[str, str] | None, bulk_port: int = 0,
    ) -> None:  # fmt: skip
        self.node, self.keys = node, keys
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.context.max_sockets = 4096
        self.door = Doorkeeper(self.context)
        self.router = server(self.context, keys, unread=UNREAD)
        bind(self.router, listen)
        self.endpoint = bound_endpoint(self.router)
        self.lines = Lines(self.context, keys, node)
        if coordinator is not None:
            self.lines.lead_to({EVERYTHING: coordinator})
        self.enrolled: dict[str, Message] = {}  # by line: who has which rights
        self.rights: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.clients = Clients(
            self.router, node, self.rights, self.jobs, host=host_of(self.endpoint),
            bulk_port=bulk_port, keys=keys, report=self.lines.send, serve=self._serve,
        )  # fmt: skip
        self.agent = Lanes(
            socket_path, self.endpoint, keys.public, self.jobs, self._ready,
            self._forgotten,
        )  # fmt: skip
        self.agent.figures = self._figures
        self.agent.coordinators = self._coordinators
        self._poller, self._polled = zmq.Poller(), list[Any]()
        self.peers: dict[tuple[str, str], Peer] = {}
        self.early: dict[str, list[Message]] = {}  # coordinator's words before the arena is here

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        self.agent.connect()
        self._hello()
        while True:
            self._turn()

    def _turn(self) -> None:
        """Once round the loop; what it names goes with it, so that a job's memory can go, too."""
        ready = self._poll()
        if self.agent.control and self.agent.control.fileno() in ready:
            self.agent.receive()
        if self.door.socket in ready:
            self.door.answer()
        for name in self.lines.came_back(ready):
            self._report_all(name)
        for name, message in self.lines.received(ready):
            self._obey(name, message)
        for key in [k for k, at in self.agent.lanes.items() if at.fileno() in ready]:
            self.agent.drain(key)
            self._serve(self.jobs[key[0]])
        for peer in list(self.peers.values()):
            if peer.socket in ready:
                peer.receive()
            if peer.outlets.fileno() in ready:
                peer.outlets.turn()
            peer.tick()
        if self.clients.bulk.fileno() in ready:
            self.clients.bulk.turn()
        if self.router in ready:
            self.clients.receive()
        if self.clients.monitor in ready:
            self.clients.disconnected()
        self.clients.expire()
        for job in self.jobs.values():
            self._progress(job)
            self.agent.withhold(job)
            job.note_queue()
            if (length := job.crowd()) is not None:
                self.lines.send({
                    "t": "crowd", "job": job.name, "round": job.round, "queue": length,
                })  # fmt: skip
        if self.agent.control is None:
            self.agent.connect()

    def _poll(self) -> set[Any]:
        clients = self.clients
        wanted: list[Any] = [*self.lines.sockets, clients.monitor, clients.bulk.fileno()]
        if self.rights:  # who calls before the keys are here waits, and is not turned away
            wanted += [self.door.socket, self.router]
        for peer in self.peers.values():
            wanted += [peer.socket, peer.outlets.fileno()]
        wanted += [at.fileno() for at in self.agent.lanes.values()]
        wait_s = clients.wait_s()
        if any(peer.is_busy for peer in self.peers.values()):
            wait_s = min(wait_s, 1.0)
        if any(job.dirty for job in self.jobs.values()):
            wait_s = min(wait_s, TELL_S)
        if self.agent.control:
            wanted.append(self.agent.control.fileno())
        else:
            wait_s = min(wait_s, RECONNECT_S)
        if wanted != self._polled:
            self._poller, self._polled = zmq.Poller(), wanted
            for sock in wanted:
                self._poller.register(sock, zmq.POLLIN)
        timeout_ms = None if wait_s == math.inf else math.ceil(wait_s * 1000)
        return {sock for sock, _ in self._poller.poll(timeout_ms)}

    def _ready(self, job: Job) -> None:
        """Memory and lanes of a job are here; say so, and do what was asked for meanwhile."""
        self.clients.adopt(job)
        self._report_ready(job)
        for early in self.early.pop(job.name, []):
            self._obey(job.name, early)
        self._serve(job)

    def _figures(self) -> Message:
        """For the node's metrics; keys that the door refused never reach `clients`."""
        figures = self.clients.figures()
        if self.door.refused:
            figures["rejected"]["unknown-key"], self.door.refused = self.door.refused, 0
        return figures

    # -- coordinator -------------------------------------------------------------------------
    def _hello(self, only: str | None = None) -> None:
        hello = {"t": "gateway", "endpoint": self.endpoint, "key": self.keys.public}
        self.lines.send(hello, only)

    def _coordinators(self, where: dict[str, tuple[str, str]]) -> None:
        """The agent says which jobs there are; one that is gone takes its clients' rights along."""
        for name in self.lines.lead_to(where):
            self.clients.over.discard(name)  # of a job before it, of the same name
            self._report_all(name)
        gone = self.enrolled.keys() - where.keys()
        for name in gone:
            del self.enrolled[name]
        if gone:
            self._enrol()
        for name in self.early.keys() - where.keys():
            del self.early[name]
        self.clients.keep_only(where.keys())

    def _enrol(self) -> None:
        """Rights of all jobs together, and whose they are."""
        rights: dict[str, str] = {}
        jobs: dict[str, set[str]] = {}
        ports: dict[str, int] = {}
        for line, told in self.enrolled.items():
            rights |= told["keys"] | {self.lines.key(line): "coordinator"}
            ports |= told["ports"]
            for key in [*told["keys"], self.lines.key(line)]:
                jobs.setdefault(key, set()).update(told["jobs"])
        self.clients.enrol(rights, sorted(set().union(*jobs.values())))
        self.clients.may_join, self.clients.ports = jobs, ports
        self.door.keys = set(self.rights)

    def _report_ready(self, job: Job) -> None:
        """This gateway has the job's memory, and what is in it."""
        round_, _ = job.intake.arena.model()
        self.lines.send({
            "t": "ready", "job": job.name, "model": round_ if job.intake.model() else -1,
            "in_model": bits(job.intake.arena.accepted(round_)) if round_ > 0 else b"",
        })  # fmt: skip

    def _report_all(self, line: str) -> None:
        """A coordinator is a new one: it hears from here all that the last one knew."""
        self._hello(line)
        self.clients.report_all(line)
        for job in self.jobs.values():
            if line not in (EVERYTHING, job.name):
                continue
            if job.round:
                job.told = (0, 0)
                self._progress(job, again=True)
            if job.evaluation:
                self.lines.send(job.evaluation)
            if job.intake.ports and self.agent.is_ready(job):
                self._report_ready(job)

    def _obey(self, line: str, message: Message) -> None:
        if message["t"] == "enrol":
            self.enrolled[line] = message
            self._enrol()
            self.lines.send({"t": "enrolled", "look": message["look"]}, line)
            return
        if message["t"] == "ask":
            self.lines.send({"t": "here"}, line)
            return
        if message["t"] == "who":  # this node was lost for a while
            self._hello(line)
            return
        job = self.jobs.get(message["job"])
        if message["t"] == "elsewhere":
            self.clients.tell_elsewhere(message["job"], message["gateways"], message["outside"])
            return
        if message["t"] == "redirect":
            for key, endpoint, server_key in message["clients"]:
                self.clients.redirect(message["job"], key, endpoint, server_key)
            return
        if job is None or not job.intake.ports:
            early = self.early.setdefault(message["job"], [])
            early[:] = [m for m in early if m["t"] != message["t"]]  # the newest of each kind
            early.append(message)
            return
        match message["t"]:
            case "job":
                job.layout = Layout.from_wire(message["layout"])
                job.settings = message["settings"]
                for key, peer in [
                    *job.clients.items(), *job.workers.items(), *job.observers.items()
                ]:  # fmt: skip
                    self.clients.welcome(job, key, peer)
            case "round":
                before = job.forward
                job.start_round(message)
                if before != job.forward and before in self.peers:
                    self.peers[before].forget(job.name)  # the top is elsewhere
                self._close_peers()
                self._start_round(job)
            case "fence" if message["round"] == job.intake.round:
                self._fence(job, message)
            case "over":
                for slot, header in job.intake.sealed():
                    if header.round <= message["round"] and header.payload is Payload.SUM:
                        job.intake.release(slot, job.intake.arena.state(slot), header)
            case "cut" if message["round"] == job.round:
                job.cut = True
            case "close" if message["round"] == job.round:
                self._close_round(job)
            case "end":
                job.ended = True
                self.clients.over.add(job.name)
                self.clients.ends(job)
                done = {"t": "done", "job": job.name, "round": message["round"]}
                for peer in [
                    *job.clients.values(), *job.workers.values(), *job.observers.values()
                ]:  # fmt: skip
                    self.clients.send(peer, done)

    def _start_round(self, job: Job) -> None:
        if job.intake.round > job.round:
            return  # published while the order was on its way, and reported
        if not job.has_model:
            self._fetch_model(job)
            return
        job.dirty = True  # what a gateway before this one accepted is told, too
        for key, peer in job.clients.items():
            if key not in job.announced:
                self.clients.announce(job, key, peer)
        for key, peer in job.workers.items():
            self.clients.hand_out(job, key, peer)
        self._serve(job)

    def _fence(self, job: Job, message: Message) -> None:
        """Nodes are lost: no sum of theirs is taken any more, and what was taken is told.

        Where the top's node is among them, the top comes here, and this node takes updates again.
        """
        job.nodes |= message["nodes"]
        for key in message["nodes"]:
            job.waiting.pop(key, None)
            if (upload := job.uploads.get(key)) is not None:
                self.clients.uploads.drop(job, upload)
        round_ = message["round"]
        if message["open"]:
            job.intake.reopen(round_)
        self.lines.send({
            "t": "fenced", "job": job.name, "round": round_, "epoch": message["epoch"],
            "clients": bits(job.intake.arena.accepted(round_)),
        })  # fmt: skip
        self._serve(job)

    def _close_round(self, job: Job) -> None:
        job.cut = True
        if not job.has_model:
            return
        if not job.intake.arena.is_closed(job.round):
            job.intake.close(job.round)
        accepted = job.intake.arena.accepted(job.round)
        self.lines.send({
            "t": "closed", "job": job.name, "round": job.round, "clients": bits(accepted),
            **job.intake.tally.of_round(),
        })  # fmt: skip
        for upload in list(job.uploads.values()):
            if upload.asking.payload is Payload.UPDATE:
                late = Late(f"round {job.round} closed", job=job.name)
                self.clients.uploads.abandon(job, upload, late)
        self._serve(job)

    def _fetch_model(self, job: Job) -> None:
        """Bring the model of the last round here, from the gateway where the top was."""
        if job.model_from is None or job.fetching == job.model_from or job.layout is None:
            return
        if job.fetching in self.peers:  # which is lost
            self.peers[job.fetching].forget(job.name)
        length = job.settings["model_bytes"]
        wanted = job.round - 1
        job.fetching = job.model_from

        def done() -> None:
            job.intake.finish_model(wanted, length)
            job.fetching = None
            self._start_round(job)
            if job.cut:  # the round was closed meanwhile
                self._close_round(job)

        def refused(_: Message) -> None:
            job.fetching = None  # asked for again when the coordinator says the round again

        work = Download(job.name, wanted, job.intake.begin_model(length))
        self._peer(*job.model_from).start(job.name, Transfer(work, done, refused))

    def _forgotten(self, job: Job) -> None:
        """A job's memory goes, and with it what is under way to other gateways."""
        self.clients.forget(job)
        for peer in self.peers.values():
            peer.forget(job.name)
        self._close_peers(but=job)

    def _close_peers(self, but: Job | None = None) -> None:
        """Let go of gateways that no job, `but` this one, has to do with."""
        jobs = [job for job in self.jobs.values() if job is not but]
        wanted = {at for job in jobs for at in (job.forward, job.model_from, job.fetching)}
        for where in self.peers.keys() - wanted:
            self.peers.pop(where).close()

    def _peer(self, endpoint: str, server_key: str) -> Peer:
        where = endpoint, server_key
        if where not in self.peers:
            self.peers[where] = Peer(self.context, self.keys, *where)
        return self.peers[where]

    # -- shared memory -----------------------------------------------------------------------
    def _serve(self, job: Job) -> None:
        """A role has sealed or released something: publish, forward, hand out free slots."""
        if not job.intake.ports:
            return
        for slot, header in job.intake.sealed():
            if header.payload is Payload.MODEL:
                job.intake.publish(slot, header)
                news = {"t": "published", "job": job.name, "round": header.round}
                self.lines.send(news)
                for peer in job.observers.values():
                    self.clients.send(peer, news)
            elif job.forward:
                self._forward(job, slot, header)
            elif job.top and job.round == header.round:
                job.intake.hand_over(slot, header, job.top)
        waited = len(job.waiting)
        while job.waiting:
            key, asking = next(iter(job.waiting.items()))
            if not self.clients.uploads.admit(job, asking):
                break
            job.waiting.pop(key, None)
        if 0 < len(job.waiting) < waited:  # the slots are taken again
            job.intake.nudge()

    def _forward(self, job: Job, slot: int, header: Header) -> None:
        """Send this node's sum to the node of the top.

        It stays here until the round is over: the top's node may be lost, and then another needs
        it.
        """
        assert job.forward is not None
        state = job.intake.arena.state(slot)
        if (slot, state.generation) in job.forwarding:
            return
        job.forwarding.add((slot, state.generation))

        def done() -> None:
            fault("gateway_forwarded", "gateway")

        def refused(message: Message) -> None:
            log.warning("the sum of round %d was refused: %s", header.round, message.get("text"))

        put = {
            "t": "put", "kind": "sum", "job": job.name, "round": header.round,
            "epoch": job.epoch, "weight": header.weight, "clients": bits(header.clients),
            "lane": job.settings["lane"],
        }  # fmt: skip
        work = Upload(put, job.intake.arena.payload(slot, header.length))
        self._peer(*job.forward).start(job.name, Transfer(work, done, refused))

    def _progress(self, job: Job, *, again: bool = False) -> None:
        """Tell the coordinator what is in, once per turn of the loop; `again`: the whole round."""
        if not again and not (job.dirty and self._is_news(job)):
            return
        job.dirty, job.told_at = False, time.monotonic()
        bytes_told, metrics_told = job.told
        job.told = job.bytes_in, len(job.metrics)
        self.lines.send({
            "t": "accepted", "job": job.name, "round": job.round, "epoch": job.epoch,
            "clients": bits(job.intake.arena.accepted(job.round)),
            "bytes": job.bytes_in - bytes_told, "metrics": job.metrics[metrics_told:],
            "again": again, "begun": job.has_model,
            "excused": bits(job.excused),
            "cut": job.cut or job.intake.arena.is_closed(job.round),
        })  # fmt: skip

    def _is_news(self, job: Job) -> bool:
        """Worth a message now: the node's last client, or the first for a while."""
        everybody = job.answered.bit_count() >= len(job.lanes)
        return everybody or time.monotonic() - job.told_at >= TELL_S


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
@click.option("--listen", required=True)
@click.option("--bulk-port", default=0, help="for models and updates; 0: any")
@click.option("--keys", type=click.Path(path_type=Path), help="the agent's, unless given")
@click.option("--coordinator", default="")
@click.option("--coordinator-key", default="")
def main(
    socket_path: Path, node: str, listen: str, bulk_port: int, keys: Path | None,
    coordinator: str, coordinator_key: str,
) -> None:  # fmt: skip
    """Run the gateway of one node until its agent's directory, or its run, is gone."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_on_sigterm()
    at_node(node)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two descriptors a client
    try:
        where = (coordinator, coordinator_key) if coordinator else None
        own = Keys.load(keys) if keys else keys_of_node(socket_path)
        gateway = Gateway(socket_path, node, listen, own, where, bulk_port)
    except LiflError as error:
        print(f"gateway of {node}: {error}", file=sys.stderr)
        sys.exit(HOPELESS)
    gateway.run()


if __name__ == "__main__":
    main()
