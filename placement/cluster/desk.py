"""The operator's end of the agents' lines, and the door at which an initial model is brought.

    agent ─► node, demand, evict           member's pod ─► initial, in chunks
    agent ◄─ jobs, drain, who, refused     member's pod ◄─ more, refused

Owns who is connected and what they have said; an agent is whoever shows the token of a pod of the
agents' service account on the node that it speaks for.  Does not decide what follows: whoever made
the desk hears of news.  One asyncio task of the operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zmq
import zmq.asyncio

from lifl.errors import InvalidUpdate, LiflError, Refused
from lifl.functions.layout import Layout
from lifl.functions.wire import (
    LARGEST_MESSAGE,
    Doorkeeper,
    Keys,
    Message,
    bind,
    decode,
    encode,
    sender,
    server,
)
from lifl.placement.cluster.runs import MAKE_ROOM
from lifl.placement.limits import full_disk_says
from lifl.placement.record import save_model

log = logging.getLogger("lifl.operator")

AUDIENCE: Final = "lifl-operator"
LARGEST_MODEL: Final = 8 << 30
MOST_REFUSED: Final = 1024  # keys that are remembered; anybody can make up more


@dataclass
class NodeHere:
    """A node whose agent has a line here.

    Attributes:
        demand: by job, how many functions it wants here.
        busy, draining: pods with a role; those that are to go, have none and get none.
    """

    name: str
    key: str
    peer: bytes
    gateway: str = ""
    budget_bytes: int = 0
    capacity: Mapping[str, float] = field(default_factory=dict)
    demand: Mapping[str, int] = field(default_factory=dict)
    busy: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()


@dataclass(frozen=True)
class Posted:
    """What agents hear of a job, those of its nodes alone.

    Whom its coordinator does not know it refuses, and libzmq does not call again where it was.

    Attributes:
        endpoint, key: of its coordinator.
        nodes: names of the job's nodes, with their keys.
    """

    name: str
    number: int
    endpoint: str
    key: str
    nodes: Mapping[str, str]

    def wire(self) -> Message:
        return {
            "name": self.name, "number": self.number, "endpoint": self.endpoint, "key": self.key,
        }  # fmt: skip


@dataclass
class Bringing:
    """An initial model on its way."""

    layout: Layout
    data: bytearray
    got: int = 0


class Desk:
    """All lines.

    Args:
        who: checks an agent's token and node; raises LiflError where it is none.
        on_nodes: something about nodes is new.
        on_demand: a node wants another number of functions, or others have a role.
        on_evict: a pod of functions does not answer.
        on_initial: the initial model of a job lies at the path that `expect` was given.
    """

    def __init__(
        self, keys: Keys, endpoint: str, *, who: Callable[[str, str], None],
        on_nodes: Callable[[], None], on_demand: Callable[[NodeHere], None],
        on_evict: Callable[[str], None], on_initial: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._who, self._on_nodes, self._on_demand = who, on_nodes, on_demand
        self._on_evict, self._on_initial = on_evict, on_initial
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._door = Doorkeeper(self._context)
        self._door.is_open = True
        self._router = server(self._context, keys)
        bind(self._router, endpoint)
        self.nodes: dict[str, NodeHere] = {}
        self.cordoned: set[str] = set()  # nodes that take nobody new, as the API server says
        self.posted: dict[str, Posted] = {}
        self.unclaimed: set[str] = set()  # jobs that were there before this operator
        self._expected: dict[str, tuple[str, Path]] = {}  # member's key -> job, where it goes
        self._bringing: dict[str, Bringing] = {}
        self._refused: dict[str, None] = {}  # keys, the last one last

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        for sock in (self._door.socket, self._router):
            loop.add_reader(sock.getsockopt(zmq.FD), woken.set)  # type: ignore[arg-type]
        while True:
            woken.clear()  # edge-triggered: whatever is there is read before the next wait
            while self._door.socket.poll(0):
                self._door.answer()
            while self._router.poll(0):
                await self._take()
            if not (self._door.socket.poll(0) or self._router.poll(0)):
                await asyncio.wait([asyncio.ensure_future(woken.wait())], timeout=1.0)

    # -- jobs --------------------------------------------------------------------------------
    def post(self, job: Posted) -> None:
        """Agents of its nodes hear of a job, or where its coordinator is now."""
        self.unclaimed.discard(job.name)
        if self.posted.get(job.name) != job:
            self.posted[job.name] = job
            self.tell()

    def withdraw(self, name: str) -> None:
        """There is no such job any more: agents drop it."""
        had = name in self.posted or name in self.unclaimed
        self.unclaimed.discard(name)
        self.posted.pop(name, None)
        if had:
            self.tell()

    def tell(self) -> None:
        """Every agent, once every job of the operator before this one has been seen to."""
        if not self.unclaimed:
            for node in self.nodes.values():
                self._tell(node)

    def _tell(self, node: NodeHere) -> None:
        jobs = [
            job.wire() for job in self.posted.values() if job.nodes.get(node.name) == node.key
        ]  # fmt: skip
        self._send(node.peer, {"t": "jobs", "jobs": jobs})

    def gateway_of(self, node: str) -> str:
        """Where a node's gateway listens; empty: it is not there."""
        return self.nodes[node].gateway if node in self.nodes else ""

    def drain(self, node: str, pods: list[str]) -> None:
        """A node's agent is to give these pods no role, and all others."""
        if node in self.nodes:
            self._send(self.nodes[node].peer, {"t": "drain", "pods": pods})

    def expect(self, name: str, key: str, path: Path) -> None:
        """The bearer of this key may bring the initial model of a job."""
        self._expected[key] = (name, path)

    # -- messages ----------------------------------------------------------------------------
    def _send(self, peer: bytes, message: Message) -> bool:
        try:
            self._router.send_multipart([peer, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    async def _take(self) -> None:
        peer, *frames = self._router.recv_multipart(copy=False)
        key = sender(peer)
        try:
            message = decode(frames[0].buffer, limit=LARGEST_MESSAGE)
            if message["t"] == "initial":
                answer = self._initial(key, message, frames[1].buffer)
                self._send(peer.bytes, answer)
            else:
                await self._agent(peer.bytes, key, message)
        except LiflError as error:
            log.warning("%.8s…: %s", key, error)
            self._send(peer.bytes, {"t": "refused", "text": str(error)})
        except (KeyError, IndexError, TypeError, ValueError) as error:
            log.warning("%.8s… sent what cannot be read: %r", key, error)

    async def _agent(self, peer: bytes, key: str, message: Message) -> None:
        name = message["node"]
        here = self.nodes.get(name)
        if message["t"] == "node":
            if here is None or here.key != key:
                await self._admit(key, message["token"], name)
                here = self.nodes[name] = NodeHere(name, key, peer)
            here.peer, here.gateway = peer, message["gateway"]
            here.budget_bytes, here.capacity = message["budget_bytes"], message["capacity"]
            if not self.unclaimed:
                self._tell(here)
            self._on_nodes()
            return
        if here is None or here.key != key:
            if key not in self._refused:  # else it has its answer
                self._send(peer, {"t": "who"})  # said to the operator before this one
            return
        here.peer = peer
        match message["t"]:
            case "demand":
                here.demand = message["runtimes"]
                here.busy, here.draining = tuple(message["busy"]), tuple(message["draining"])
                self._on_demand(here)
            case "evict":
                self._on_evict(message["pod"])

    async def _admit(self, key: str, token: str, node: str) -> None:
        self._refused.pop(key, None)
        try:
            await asyncio.to_thread(self._who, token, node)
        except LiflError:
            self._refused[key] = None
            if len(self._refused) > MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            raise

    def _initial(self, key: str, message: Message, payload: memoryview) -> Message:
        name, path = self._expected.get(key, ("", Path()))
        if not name or message["job"] != name:
            raise Refused("nobody expects an initial model of this key", code="not-enrolled")
        at, size = int(message["at"]), int(message["of"])
        if at == 0:
            layout = Layout.from_wire(message["layout"])
            if not 0 < size <= LARGEST_MODEL or layout.update_bytes != size:
                raise InvalidUpdate(f"a model of {size} bytes; its layout has others")
            self._bringing[name] = Bringing(layout, bytearray(size))
        bringing = self._bringing[name]
        if at != bringing.got or at + len(payload) > len(bringing.data):
            raise InvalidUpdate(f"bytes {at} to {at + len(payload)}; expected from {bringing.got}")
        bringing.data[at : at + len(payload)] = payload
        bringing.got += len(payload)
        if bringing.got == len(bringing.data):
            del self._bringing[name]
            with full_disk_says(path, MAKE_ROOM):
                path.parent.mkdir(parents=True, exist_ok=True)
                save_model(bringing.layout, memoryview(bringing.data), path)
            self._on_initial(name)
        return {"t": "more"}


def agent_rule(review: Mapping[str, Any], pod: Mapping[str, Any] | None, *, namespace: str,
               account: str, node: str) -> None:  # fmt: skip
    """See that a token is of an agent's pod on that node.

    Raises:
        Refused: it is not.
    """
    status = review.get("status", {})
    if not status.get("authenticated") or AUDIENCE not in status.get("audiences", ()):
        raise Refused("the token is none for the operator", code="bad-token")
    if status["user"]["username"] != f"system:serviceaccount:{namespace}:{account}":
        raise Refused(f"{status['user']['username']} is no agent", code="not-allowed")
    if pod is None or pod["spec"].get("nodeName") != node:
        raise Refused(f"the pod of the token is not on node {node}", code="not-allowed")
