"""The gateway: the only process that parses bytes from outside.

    client ──ROUTER──► check ─► input slot ─► descriptor ─► leaf
    client ◄─ chunks of the model ◄─ slot ◄─ descriptor ◄─ top

Owns the ZeroMQ endpoint that faces clients and other gateways, and a socket towards each role of
its node.  Does not own the steps on shared words (intake.py), the checks (jobs.py) or the tree
(the coordinator's).  Started by the agent:

    python -m lifl.functions.gateway --socket PATH --node NAME --listen tcp://... --keys FILE
        --coordinator ENDPOINT --coordinator-key KEY
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import click
import zmq

from lifl.errors import InvalidUpdate, Late, LiflError, PermanentError, Refused, Unreachable
from lifl.faults import at_node, fault
from lifl.functions.intake import Intake
from lifl.functions.jobs import Asking, Job, Uploading, rejection
from lifl.functions.layout import Layout
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import (
    DOWN_CHUNK,
    INLINE,
    UP_WINDOW,
    Doorkeeper,
    Keys,
    Message,
    bound_endpoint,
    dealer,
    decode,
    encode,
    server,
)
from lifl.proxy_ebpf.control import Control, close_all
from lifl.proxy_ebpf.descriptor import lane
from lifl.proxy_ebpf.port import Port, make_pair
from lifl.shm.arena import lock_role, map_arena
from lifl.shm.geometry import Geometry
from lifl.shm.slots import GATEWAY, Header, Payload

log = logging.getLogger("lifl.gateway")

STALL_S = 15.0
RECONNECT_MS = 20
BATCH = 64


class Lane:
    """The gateway's socket towards one role."""

    def __init__(self, job: str, role: int, proxy: str) -> None:
        self.job, self.role, self.proxy = job, role, proxy
        self.near, self.far = make_pair(proxy)
        self.port = Port(self.near)

    def fileno(self) -> int:
        return self.port.fileno()

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Gateway:
    """The process: its sockets, its jobs, one loop."""

    def __init__(
        self, socket_path: Path, node: str, listen: str, keys: Keys, coordinator: tuple[str, str]
    ) -> None:
        self.socket_path, self.node, self.keys = socket_path, node, keys
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.context.max_sockets = 4096
        self.door = Doorkeeper(self.context)
        self.router = server(self.context, keys)
        self.router.bind(listen)
        self.endpoint = bound_endpoint(self.router)
        self.coordinator = dealer(self.context, keys, *coordinator)
        self.coordinator_key = coordinator[1]
        self.rights: dict[str, str] = {}
        self.jobs: dict[str, Job] = {}
        self.lanes: dict[tuple[str, int], Lane] = {}
        self.peers: dict[str, Peer] = {}
        self.control: Control | None = None
        self.proxy = ""
        self.unknown: dict[str, dict[str, bytes]] = {}  # hello before the job is here
        self.early: dict[str, list[Message]] = {}  # coordinator's words before the arena is here

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        self._connect()
        self._report({"t": "gateway", "endpoint": self.endpoint, "key": self.keys.public})
        while True:
            ready = self._poll()
            if self.control and self.control.fileno() in ready:
                self._from_agent()
            if self.door.socket in ready:
                self.door.answer()
            if self.coordinator in ready:
                self._from_coordinator()
            for key in [key for key, at in self.lanes.items() if at.fileno() in ready]:
                self._drain(key)
                self._serve(self.jobs[key[0]])
            for peer in list(self.peers.values()):
                if peer.socket in ready:
                    peer.receive()
                peer.tick()
            if self.router in ready:
                self._from_outside()
            self._expire()
            for job in self.jobs.values():
                self._progress(job)
            if self.control is None:
                self._connect()

    def _drain(self, key: tuple[str, int]) -> None:
        """Take hints, which only say that _serve() should read the words."""
        try:
            self.lanes[key].port.receive()
        except Unreachable:  # the pair is broken; the memory is not
            self.lanes.pop(key).close()
            self._open_lanes(key[0], [key[1]], self.proxy)

    def _poll(self) -> set[Any]:
        poller = zmq.Poller()
        for sock in (self.coordinator, self.router):
            poller.register(sock, zmq.POLLIN)
        if self.rights:  # who calls before the keys are here waits, and is not turned away
            poller.register(self.door.socket, zmq.POLLIN)
        for peer in self.peers.values():
            poller.register(peer.socket, zmq.POLLIN)
        for at in self.lanes.values():
            poller.register(at.fileno(), zmq.POLLIN)
        timeout_ms: int | None = None
        if any(job.uploads for job in self.jobs.values()) or any(
            peer.is_busy for peer in self.peers.values()
        ):
            timeout_ms = 1000
        if self.control:
            poller.register(self.control.fileno(), zmq.POLLIN)
        else:
            timeout_ms = RECONNECT_MS
        return {sock for sock, _ in poller.poll(timeout_ms)}

    # -- agent -------------------------------------------------------------------------------
    def _connect(self) -> None:
        """Join the agent, or join again after its restart and hand back all that is held."""
        try:
            control = Control.connect(self.socket_path)
            holds = [job.number for job in self.jobs.values()]
            control.send(
                {"t": "gateway", "pid": os.getpid(), "endpoint": self.endpoint, "holds": holds}
            )
            for job in self.jobs.values():
                control.send({"t": "held-job", "job": job.number, "name": job.name}, job.fds)
                for at in self.lanes.values():
                    if at.job == job.name:
                        control.send(
                            {"t": "held-lane", "job": job.number, "endpoint": lane(at.role)},
                            [at.near.fileno(), at.far.fileno()],
                        )
            self.control = control
        except Unreachable:
            if not self.socket_path.parent.exists():
                raise SystemExit(0) from None

    def _tell_agent(self, message: Message, fds: list[int]) -> None:
        if self.control:
            with contextlib.suppress(Unreachable):
                self.control.send(message, fds)

    def _from_agent(self) -> None:
        assert self.control is not None
        received = self.control.receive()
        if received is None:
            self.control.close()
            self.control = None
            return
        message, fds = received
        match message["t"]:
            case "arena":
                self._open_job(message, fds)
            case "lanes":
                close_all(fds)
                if message["job"] in self.jobs:
                    self._open_lanes(message["job"], message["roles"], message["proxy"])
            case "joined":
                self._lane_joined(message)
            case "new-pair":
                at = self.lanes.pop((message["name"], message["endpoint"] & 0x7FFF), None)
                if at:
                    at.close()
                    self._open_lanes(at.job, [at.role], at.proxy)
            case "close-job":
                self._forget(message["job"])
            case "ping":
                self._tell_agent({"t": "pong", "n": message["n"]}, [])
            case _:
                close_all(fds)

    def _open_job(self, message: Message, fds: list[int]) -> None:
        """Take over a job's memory; lock it before anything is read."""
        name = message["name"]
        if name in self.jobs:
            close_all(fds)
        else:
            inputs, sums, locks = fds
            lock_role(locks, GATEWAY, wait=True)
            arena = map_arena(Geometry(**message["geometry"]), inputs, sums, write_inputs=True)
            job = Job(name, message["job"], Intake(arena, {}), (inputs, sums, locks))
            self.jobs[name] = job
            job.intake.rebuild()
            for key, peer in self.unknown.pop(name, {}).items():
                self._belongs(job, key)[key] = peer
        self.proxy = message["proxy"]
        self._open_lanes(name, message["roles"], self.proxy)

    def _open_lanes(self, name: str, roles: list[int], proxy: str) -> None:
        job = self.jobs[name]
        for role in roles:
            if (name, role) not in self.lanes:
                at = self.lanes[name, role] = Lane(name, role, proxy)
                self._tell_agent(
                    {"t": "join", "job": job.number, "endpoint": lane(role)},
                    [at.near.fileno(), at.far.fileno()],
                )
        self._lane_joined({"name": name})

    def _lane_joined(self, message: Message) -> None:
        """A lane may be used from now on; with the last one, the job is ready here."""
        job = self.jobs[message["name"]]
        role = message.get("endpoint", 0) & 0x7FFF
        if role and (job.name, role) in self.lanes:
            job.intake.ports[role] = self.lanes[job.name, role].port
        if all(r in job.intake.ports for n, r in self.lanes if n == job.name):
            round_, _ = job.intake.arena.model()
            self._report(
                {"t": "ready", "job": job.name, "model": round_ if job.intake.model() else -1}
            )
            for early in self.early.pop(job.name, []):
                self._obey(early)
            self._serve(job)

    def _forget(self, name: str) -> None:
        job = self.jobs.pop(name, None)
        if job is None:
            return
        for key in [key for key in self.lanes if key[0] == name]:
            self.lanes.pop(key).close()
        close_all(job.fds)

    # -- coordinator -------------------------------------------------------------------------
    def _report(self, message: Message) -> None:
        self.coordinator.send(encode(message | {"node": self.node}))

    def _from_coordinator(self) -> None:
        while self.coordinator.poll(0):
            self._obey(decode(self.coordinator.recv()))

    def _obey(self, message: Message) -> None:
        if message["t"] == "enrol":
            self.rights.update(message["keys"])
            self.rights[self.coordinator_key] = "coordinator"
            self.door.keys = set(self.rights)
            return
        if message["t"] == "hello":  # a coordinator that does not know this gateway
            self._report({"t": "gateway", "endpoint": self.endpoint, "key": self.keys.public})
            return
        job = self.jobs.get(message["job"])
        if message["t"] == "redirect":
            here = job.clients if job else self.unknown.get(message["job"], {})
            for key, endpoint, server_key in message["clients"]:
                if key in here:
                    where = {"endpoint": endpoint, "key": server_key}
                    self._send(here.pop(key), {"t": "redirect", "job": message["job"], **where})
            return
        if job is None or not job.intake.ports:
            self.early.setdefault(message["job"], []).append(message)
            return
        match message["t"]:
            case "job":
                job.layout = Layout.from_wire(message["layout"])
                job.settings = message["settings"]
                for key, peer in [*job.clients.items(), *job.observers.items()]:
                    self._welcome(job, key, peer)
            case "round":
                job.start_round(message)
                self._start_round(job)
            case "cut" if message["round"] == job.round:
                job.cut = True
            case "close" if message["round"] == job.round:
                self._close_round(job)
            case "end":
                job.ended = True
                for peer in [*job.clients.values(), *job.observers.values()]:
                    self._send(peer, {"t": "done", "job": job.name, "round": message["round"]})

    def _start_round(self, job: Job) -> None:
        if not job.has_model:
            self._fetch_model(job)
            return
        for key, peer in job.clients.items():
            self._announce(job, key, peer)
        self._serve(job)

    def _close_round(self, job: Job) -> None:
        job.cut = True
        if not job.has_model:
            return
        if not job.intake.arena.is_closed(job.round):
            job.intake.close(job.round)
        accepted = job.intake.arena.accepted(job.round)
        self._report({
            "t": "closed", "job": job.name, "round": job.round, "clients": _bits(accepted),
        })  # fmt: skip
        for upload in list(job.uploads.values()):
            if upload.asking.payload is Payload.UPDATE:
                self._abandon(job, upload, Late(f"round {job.round} closed", job=job.name))
        self._serve(job)

    def _fetch_model(self, job: Job) -> None:
        """Bring the model of the last round here, from the gateway where the top was."""
        if job.model_from is None or job.fetching or job.layout is None:
            return
        length = job.settings["model_bytes"]
        wanted = job.round - 1
        job.fetching = True

        def done() -> None:
            job.intake.finish_model(wanted, length)
            job.fetching = False
            self._start_round(job)
            if job.cut:  # the round was closed meanwhile
                self._close_round(job)

        def refused(_: Message) -> None:
            job.fetching = False  # the coordinator says the round again with another source

        work = Download(job.name, wanted, job.intake.begin_model(length))
        self._peer(*job.model_from).start(job.name, Transfer(work, done, refused))

    def _peer(self, endpoint: str, server_key: str) -> Peer:
        if endpoint not in self.peers:
            self.peers[endpoint] = Peer(self.context, self.keys, endpoint, server_key)
        return self.peers[endpoint]

    # -- shared memory -----------------------------------------------------------------------
    def _serve(self, job: Job) -> None:
        """A role has sealed or released something: publish, forward, hand out free slots."""
        if not job.intake.ports:
            return
        for slot, header in job.intake.sealed():
            if header.payload is Payload.MODEL:
                job.intake.publish(slot, header)
                self._report({"t": "published", "job": job.name, "round": header.round})
                for peer in job.observers.values():
                    self._send(peer, {"t": "published", "job": job.name, "round": header.round})
            elif job.forward:
                self._forward(job, slot, header)
        while job.waiting:
            if not self._admit(job, job.waiting[0]):
                break
            job.waiting.popleft()

    def _forward(self, job: Job, slot: int, header: Header) -> None:
        """Send this node's sum to the node of the top; it stays here until that has it."""
        assert job.forward is not None
        generation = job.intake.arena.state(slot).generation
        if (slot, generation) in job.forwarding:
            return
        job.forwarding.add((slot, generation))

        def done() -> None:
            fault("gateway_forwarded", "gateway")
            job.intake.release(slot, header)

        def refused(message: Message) -> None:
            log.warning("the sum of round %d was refused: %s", header.round, message.get("text"))
            job.intake.release(slot, header)

        put = {
            "t": "put", "kind": "sum", "job": job.name, "round": header.round,
            "epoch": job.epoch, "weight": header.weight, "clients": _bits(header.clients),
        }  # fmt: skip
        work = Upload(put, job.intake.arena.payload(slot, header.length))
        self._peer(*job.forward).start(job.name, Transfer(work, done, refused))

    # -- clients and other gateways ----------------------------------------------------------
    def _send(self, peer: bytes, message: Message, payload: memoryview | None = None) -> None:
        frames: list[Any] = [peer, encode(message)]
        if payload is not None:
            frames.append(payload)
        with contextlib.suppress(zmq.ZMQError):  # it went away; it will ask again
            self.router.send_multipart(frames, zmq.NOBLOCK)

    def _from_outside(self) -> None:
        for _ in range(BATCH):
            if not self.router.poll(0):
                return
            peer, *frames = self.router.recv_multipart(copy=False)
            key = str(peer.get("User-Id"))
            message: Message = {}
            try:
                message = decode(frames[0].buffer) if frames else {"t": ""}
                payload = frames[1].buffer if len(frames) == 2 else None
                self._handle(peer.bytes, key, message, payload)
            except LiflError as error:
                self._send(peer.bytes, rejection(str(message.get("job", "")), message, error))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                wrong = InvalidUpdate(f"a {message.get('t')!r} that cannot be read ({error!r})")
                self._send(peer.bytes, rejection(str(message.get("job", "")), message, wrong))

    def _handle(self, peer: bytes, key: str, message: Message, payload: memoryview | None) -> None:
        right, name = self.rights.get(key, ""), message.get("job", "")
        job = self.jobs.get(name)
        if message["t"] == "hello":
            self._hello(peer, key, right, name, message)
            return
        if job is None:
            raise PermanentError(f"no job {name!r} at this gateway: say hello first")
        match message["t"]:
            case "put" if message.get("kind") == "model":
                self._put_model(job, peer, right, message)
            case "put":
                self._put(job, job.check(peer, key, right, message), payload)
            case "chunk" if message.get("kind") == "model" and right == "coordinator":
                self._model_chunk(job, peer, message, _payload(payload))
            case "chunk":
                self._chunk(job, key, message, _payload(payload))
            case "get":
                self._get(job, peer, message)
            case "metrics" if right == "observer":
                self._report({"t": "metrics", "job": name, "round": message["round"],
                              "metrics": message["metrics"]})  # fmt: skip
            case other:
                raise InvalidUpdate(f"no message {other!r} is known for a {right}")

    def _hello(self, peer: bytes, key: str, right: str, name: str, message: Message) -> None:
        if right not in ("client", "observer"):
            raise Refused(f"a {right} does not take part in rounds")
        job = self.jobs.get(name)
        if job is None:
            self.unknown.setdefault(name, {})[key] = peer
        else:
            self._belongs(job, key)[key] = peer
        self._report({"t": "client", "job": name, "key": key, "observer": right == "observer"})
        if job is not None and job.layout is not None:
            self._welcome(job, key, peer)

    def _belongs(self, job: Job, key: str) -> dict[str, bytes]:
        return job.observers if self.rights.get(key) == "observer" else job.clients

    def _welcome(self, job: Job, key: str, peer: bytes) -> None:
        assert job.layout is not None
        self._send(peer, {"t": "welcome", "job": job.name, "node": self.node,
                          "layout": job.layout.to_wire(), "settings": job.settings})  # fmt: skip
        if job.ended:
            self._send(peer, {"t": "done", "job": job.name, "round": job.round})
        elif key in job.clients:
            self._announce(job, key, peer)
        elif (model := job.intake.model()) is not None:
            self._send(peer, {"t": "published", "job": job.name, "round": model[1].round})

    def _announce(self, job: Job, key: str, peer: bytes) -> None:
        """Tell a client about the round, if it is part of it."""
        bit = job.bit(key)
        if bit is None or not job.has_model:
            return
        self._send(peer, {
            "t": "round", "job": job.name, "round": job.round,
            "need": not job.intake.arena.accepted(job.round) >> bit & 1,
        })  # fmt: skip

    def _get(self, job: Job, peer: bytes, message: Message) -> None:
        found = job.intake.model()
        at, size = message["at"], message["n"]
        if found is None or found[1].round != message["round"]:
            self._send(peer, {"t": "gone", "job": job.name, "round": message["round"]})
            return
        slot, header = found
        if not 0 <= at < header.length or not 0 < size <= DOWN_CHUNK:
            raise InvalidUpdate(f"bytes {at} to {at + size} of a model of {header.length}")
        chunk = job.intake.arena.payload(slot, header.length)[at : at + size]
        self._send(peer, {"t": "model", "job": job.name, "round": header.round, "at": at}, chunk)

    def _put(self, job: Job, asking: Asking, payload: memoryview | None) -> None:
        before = job.uploads.pop(asking.key, None)
        if before:
            job.intake.drop(before.grant)
        if self._known(job, asking):
            return
        if payload is not None and len(payload) == asking.length <= INLINE:
            grant = job.intake.begin(asking.clients, asking.consumer, asking.length)
            if grant is not None:
                job.intake.write(grant, 0, payload)
                self._finish(job, Uploading(asking, grant, 0.0))
                return
        if job.waiting or not self._admit(job, asking):
            job.waiting = type(job.waiting)(a for a in job.waiting if a.key != asking.key)
            job.waiting.append(asking)

    def _known(self, job: Job, asking: Asking) -> bool:
        """Answer at once what needs no slot: a duplicate, or too late."""
        verdict = job.intake.look(asking.clients)
        if verdict is None and job.cut and asking.payload is Payload.UPDATE:
            verdict = "late"
        if verdict is not None:
            self._answer(job, asking, verdict)
        return verdict is not None

    def _admit(self, job: Job, asking: Asking) -> bool:
        """Give a slot to one that asked; False when there is none."""
        if asking.message["round"] != job.intake.round or self._known(job, asking):
            return True
        grant = job.intake.begin(asking.clients, asking.consumer, asking.length)
        if grant is None:
            return False
        job.uploads[asking.key] = Uploading(asking, grant, time.monotonic())
        self._send(asking.peer, {"t": "go", "job": job.name, "round": job.round, "n": UP_WINDOW})
        return True

    def _chunk(self, job: Job, key: str, message: Message, payload: memoryview) -> None:
        upload = job.uploads.get(key)
        if upload is None or message["round"] != upload.grant.round:
            return  # of an upload that was given up; its sender was told
        grant = upload.grant
        if message["at"] != grant.written or grant.written + len(payload) > len(grant.view):
            self._abandon(job, upload, InvalidUpdate(
                f"{len(payload)} bytes at {message['at']} where byte {grant.written} of "
                f"{len(grant.view)} is next"
            ))  # fmt: skip
            return
        job.intake.write(grant, grant.written, payload)
        upload.moved_at = time.monotonic()
        if grant.written == len(grant.view):
            del job.uploads[key]
            self._finish(job, upload)
        else:
            self._send(upload.asking.peer,
                       {"t": "more", "job": job.name, "round": grant.round, "n": 1})  # fmt: skip

    def _finish(self, job: Job, upload: Uploading) -> None:
        asking = upload.asking
        verdict = job.intake.finish(
            upload.grant, payload=asking.payload, weight=asking.weight, epoch=asking.epoch
        )
        job.bytes_in += asking.length
        metrics = asking.message.get("metrics")
        if verdict == "accepted" and isinstance(metrics, dict):
            job.metrics.append((asking.weight, metrics))
        self._answer(job, asking, verdict)

    def _answer(self, job: Job, asking: Asking, verdict: str) -> None:
        round_ = asking.message["round"]
        if verdict == "accepted":
            job.dirty = True
            self._send(asking.peer, {"t": "ack", "job": job.name, "round": round_})
            fault("gateway_acked", "gateway")
        elif verdict == "late":
            error: LiflError = Late(f"round {round_} is closed", job=job.name)
            self._send(asking.peer, rejection(job.name, asking.message, error))
        else:
            error = InvalidUpdate("some clients of this sum are accepted already")
            self._send(asking.peer, rejection(job.name, asking.message, error))

    def _abandon(self, job: Job, upload: Uploading, error: LiflError) -> None:
        job.uploads.pop(upload.asking.key, None)
        job.intake.drop(upload.grant)
        self._send(upload.asking.peer, rejection(job.name, upload.asking.message, error))
        self._serve(job)

    def _expire(self) -> None:
        """An upload that stands still gives its slot to those who wait."""
        now = time.monotonic()
        for job in self.jobs.values():
            for upload in list(job.uploads.values()):
                if now - upload.moved_at > STALL_S:
                    self._abandon(job, upload, Unreachable(f"no byte came for {STALL_S:g} s"))

    def _progress(self, job: Job) -> None:
        """Tell the coordinator what is in, once per turn of the loop."""
        if not job.dirty:
            return
        job.dirty = False
        self._report({
            "t": "accepted", "job": job.name, "round": job.round,
            "clients": _bits(job.intake.arena.accepted(job.round)), "bytes": job.bytes_in,
            "metrics": job.metrics,
        })  # fmt: skip
        job.bytes_in, job.metrics = 0, []

    # -- the initial model, from the coordinator ---------------------------------------------
    def _put_model(self, job: Job, peer: bytes, right: str, message: Message) -> None:
        if right != "coordinator":
            raise Refused(f"a {right} may not set the model")
        found = job.intake.model()
        if found is not None and found[1].round >= message["round"]:
            self._send(peer, {"t": "ack", "job": job.name, "round": message["round"]})
            return
        self._model = job.intake.begin_model(message["length"])
        self._send(peer, {"t": "go", "job": job.name, "round": message["round"], "n": UP_WINDOW})

    def _model_chunk(self, job: Job, peer: bytes, message: Message, payload: memoryview) -> None:
        at = message["at"]
        self._model[at : at + len(payload)] = payload
        answer = {"job": job.name, "round": message["round"]}
        if at + len(payload) < len(self._model):
            self._send(peer, answer | {"t": "more", "n": 1})
            return
        job.intake.finish_model(message["round"], len(self._model))
        self._send(peer, answer | {"t": "ack"})
        for observer in job.observers.values():
            self._send(observer, answer | {"t": "published"})


def _bits(clients: int) -> bytes:
    return clients.to_bytes(-(-clients.bit_length() // 8), "little")


def _payload(payload: memoryview | None) -> memoryview:
    if payload is None:
        raise InvalidUpdate("a chunk without its bytes")
    return payload


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
@click.option("--listen", required=True)
@click.option("--keys", type=click.Path(path_type=Path), required=True)
@click.option("--coordinator", required=True)
@click.option("--coordinator-key", required=True)
def main(
    socket_path: Path, node: str, listen: str, keys: Path, coordinator: str, coordinator_key: str
) -> None:
    """Run the gateway of one node until its agent's directory is gone."""
    logging.basicConfig(format="%(name)s: %(message)s")
    at_node(node)
    Gateway(socket_path, node, listen, Keys.load(keys), (coordinator, coordinator_key)).run()


if __name__ == "__main__":
    main()
