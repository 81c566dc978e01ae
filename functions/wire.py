"""Messages between clients, gateways, agents, the coordinator and a cluster's operator.

Owns framing: one msgpack map, then at most one frame of payload.  Does not own what a gateway
answers (clients.py) or how an update is cut into chunks (transfer.py).  Every ZeroMQ socket of
the platform is made here, so that all of them have CURVE, no silent drops and heartbeats.

    client ─► gateway           hello, ticket, put, chunk, get, report
    gateway ─► client           welcome, ticket, round, go, more, wait, ack, reject, model, gone,
                                redirect, elsewhere, here, done
    worker ─► gateway           hello, put, chunk, get, report
    gateway ─► worker           welcome, work, go, more, wait, ack, reject, model, gone, elsewhere,
                                here, done
    observer ─► gateway         hello, get, metrics
    gateway ─► observer         welcome, published, model, gone, reject, elsewhere, here, done
    node ─► gateway             ticket, put, chunk, get
    gateway ─► node             ticket, go, more, wait, ack, reject, model, gone
    gateway ─► coordinator      gateway, enrolled, ready, client, gone, accepted, crowd, closed,
                                published, metrics, fenced, here, ended
    coordinator ─► gateway      enrol, job, round, redirect, elsewhere, cut, close, fence, over,
                                ask, who, end
    agent ─► coordinator        node, planned, failed, restart, work, lost, dropped, here
    coordinator ─► agent        plan, report, drop, ask, who
    agent ─► operator           node, demand, evict
    operator ─► agent           jobs, drain, who, refused
    pod of a job ─► operator    initial
    operator ─► pod of a job    more, refused

A worker says in `as` for which of its virtual clients it speaks, and is answered with the same
`as`.  A coordinator that moves a whole model speaks to a gateway as a node does.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import zmq
from zmq.utils import z85

from lifl.errors import InvalidUpdate, TransientError

UP_CHUNK: Final = 1 << 20  # bytes of an update in one message
UP_WINDOW: Final = 4  # chunks under way per upload
DOWN_CHUNK: Final = 1 << 18
DOWN_WINDOW: Final = 3
INLINE: Final = 1 << 16  # an update up to this size travels with its put
LARGEST_MESSAGE: Final = 2 << 20  # of a frame from outside; a peer that sends more is cut off
LARGEST_HEADER: Final = 1 << 18
LARGEST_TRUSTED: Final = 1 << 30  # of a header from those above: their lists grow with clients
LEAST_WEIGHT: Final = 2.0**-40  # so that no product of weight and parameter leaves float32
MOST_WEIGHT: Final = 2.0**40
MOST_METRICS: Final = 64  # figures with one update
MOST_WAITING: Final = 4096  # handshakes that get no answer yet; each lasts 10 s at most
HEARTBEAT_MS: Final = 4000
SILENCE_MS: Final = 10_000  # and a connection is taken for ended
CONNECT_MS: Final = 2000  # a SYN to a Service may be lost with the pod behind it; try another

Message = dict[str, Any]


@dataclass(frozen=True)
class Keys:
    """A CURVE key pair, Z85 text."""

    public: str
    secret: str

    @classmethod
    def new(cls) -> Keys:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    @classmethod
    def named(cls, name: str) -> Keys:
        """Of an insecure job: no secret, and the name goes for the key."""
        return cls(name, "")

    @property
    def is_secure(self) -> bool:
        """Whether sockets with these keys have CURVE."""
        return bool(self.secret)

    @classmethod
    def load(cls, path: Path) -> Keys:
        public, secret = path.read_text().split("\n")[:2]
        return cls(public, secret)

    def save(self, path: Path) -> None:
        """Write both to a file that its owner alone may read.

        Raises:
            OSError: it exists, or cannot be written.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"{self.public}\n{self.secret}\n")


def virtual_key(worker: str, number: int) -> str:
    """Identity of a virtual client: its worker's key, so that nobody else can speak for it."""
    return f"{worker}~{number}"  # Z85 has no '~'


class Caller(bytes):
    """A worker's connection while it speaks for one of its virtual clients.

    Whoever has not the worker's key cannot speak for its clients (virtual_key).  Each answer
    says the number, so that the worker knows whom it is for.
    """

    number: int

    @classmethod
    def of(cls, peer: bytes, number: object) -> Caller:
        if not isinstance(number, int) or number < 0:
            raise InvalidUpdate(
                f"'as' is {number!r}: it must be the number of a virtual client", code="malformed"
            )
        caller = cls(peer)
        caller.number = number
        return caller


def worker_and_number(key: str) -> tuple[str, int] | None:
    """The other way round; None for a client that has a key of its own."""
    worker, _, number = key.partition("~")
    return (worker, int(number)) if number else None


def owner(key: str) -> str:
    """The key whose rights a client has: its own, or its worker's."""
    return key.partition("~")[0]


def encode(message: Message) -> bytes:
    data: bytes = msgpack.packb(message)
    return data


def bits(clients: int) -> bytes:
    """A set of clients, one bit each, as messages have it: little-endian, as short as can be."""
    return clients.to_bytes(-(-clients.bit_length() // 8), "little")


def clients_of(data: bytes) -> int:
    """The other way round."""
    return int.from_bytes(data, "little")


def weight_of(value: object) -> float:
    """The weight of an update in the mean, as a client gives it.

    Raises:
        InvalidUpdate: it is no number from 2^-40 to 2^40.
    """
    is_bool = isinstance(value, bool)  # which Python takes for an int
    if isinstance(value, int | float) and not is_bool and LEAST_WEIGHT <= value <= MOST_WEIGHT:
        return float(value)
    raise InvalidUpdate(
        f"weight is {value!r}: it must be a number from {LEAST_WEIGHT:.1e} to {MOST_WEIGHT:.1e}, "
        "usually that of the client's examples",
        code="bad-weight",
    )


def takes_bulk_port(lane: object, size: int) -> bool:
    """Whether a payload of so many bytes goes over the bulk port, and not with its messages."""
    return lane == "fast" and size > INLINE


def decode(data: bytes | memoryview, limit: int = LARGEST_HEADER) -> Message:
    """The map in `data`.

    Raises:
        InvalidUpdate: it is not a msgpack map with a type `t`, or larger than a header may be.
    """
    if len(data) > limit:
        raise InvalidUpdate(f"a header of {len(data)} bytes is over {limit}", code="malformed")
    try:
        message = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidUpdate(f"a header is not msgpack ({error})", code="malformed") from error
    if not isinstance(message, dict) or not isinstance(message.get("t"), str):
        raise InvalidUpdate("a header is not a map with a type 't'", code="malformed")
    return message


def server(
    context: zmq.Context[zmq.Socket[bytes]], keys: Keys, unread: int = 0
) -> zmq.Socket[bytes]:
    """A ROUTER that admits whom ZAP admits, and says so when it cannot deliver.

    Args:
        unread: messages that wait for one peer before further ones are dropped; 0: no limit.
    """
    sock = context.socket(zmq.ROUTER)
    _common(sock)
    sock.sndhwm = unread
    sock.heartbeat_ivl, sock.heartbeat_timeout = HEARTBEAT_MS, SILENCE_MS
    sock.heartbeat_ttl = SILENCE_MS  # a peer, which only answers, notices silence as well
    sock.router_mandatory = True
    sock.router_handover = True
    sock.maxmsgsize = LARGEST_MESSAGE
    sock.backlog = 4096  # all clients of a job may call at once
    if keys.is_secure:
        sock.curve_server = True
        sock.curve_secretkey = keys.secret.encode()
        sock.curve_publickey = keys.public.encode()
        sock.zap_domain = b"lifl"
    return sock


def bind(sock: zmq.Socket[bytes], endpoint: str) -> None:
    """Listen at `tcp://address:port`; `*` for a port that is free.

    Raises:
        TransientError: somebody else listens there, or there is no such address.
    """
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno or 0)
        raise TransientError(
            f"cannot listen at {endpoint} ({why}): end what listens there, or choose another "
            "address",
            code="port-in-use",
        ) from error


def sender(peer: zmq.Frame) -> str:
    """Whose connection a message came in on: the key that ZAP let in.

    Without CURVE it is what the other side calls itself, up to the last "/".
    """
    try:
        return str(peer.get("User-Id"))
    except zmq.ZMQError:
        if peer.bytes.startswith(b"\0"):  # which libzmq made up, with any bytes behind
            return ""
        return peer.bytes.rpartition(b"/")[0].decode(errors="replace")


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], keys: Keys, endpoint: str, server_key: str,
    *, events: int = 0,
) -> zmq.Socket[bytes]:  # fmt: skip
    """A DEALER to a gateway or coordinator; it reconnects by itself.

    Args:
        events: what its monitor socket is to report, from the first connection on.
    """
    sock = context.socket(zmq.DEALER)
    _common(sock)
    sock.reconnect_ivl = 20
    sock.reconnect_ivl_max = 1000
    sock.connect_timeout = CONNECT_MS
    if keys.is_secure:
        sock.curve_secretkey = keys.secret.encode()
        sock.curve_publickey = keys.public.encode()
        sock.curve_serverkey = server_key.encode()
    else:
        sock.routing_id = f"{keys.public}/{secrets.token_hex(4)}".encode()
    if events:
        sock.get_monitor_socket(events)
    sock.connect(endpoint)
    return sock


class Line:
    """A DEALER to the coordinator that says when there is a new one at its other end."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, endpoint: str, server_key: str
    ) -> None:
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED
        self.socket = dealer(context, keys, endpoint, server_key, events=events)
        self.monitor = self.socket.get_monitor_socket()
        self._handshakes = 0

    def came_back(self) -> bool:
        """A handshake succeeded since the last call, and it was not the first."""
        found = False
        while self.monitor.poll(0):
            self.monitor.recv_multipart()
            self._handshakes += 1
            found = self._handshakes > 1
        return found

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


def bound_endpoint(sock: zmq.Socket[bytes]) -> str:
    """Where a socket listens, with the port that it was given."""
    endpoint = sock.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.decode().rstrip("\0")


def host_of(endpoint: str) -> str:
    """The host of "tcp://host:port"; an IPv6 address comes without its brackets."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _common(sock: zmq.Socket[bytes]) -> None:
    sock.linger = 0
    sock.sndhwm = 0
    sock.rcvhwm = 0
    sock.handshake_ivl = 10_000


class Doorkeeper:
    """ZAP: refuses every key that is not enrolled, before anything that it sends is parsed.

    Attributes:
        keys: that are let in.
        is_open: to every key; whoever listens looks at what they say.
        refused: keys, since somebody last took the number.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.ROUTER)  # so that some questions may wait
        self.socket.linger = 0
        self.socket.bind("inproc://zeromq.zap.01")
        self.keys: Set[str] = frozenset()
        self.is_open = False
        self.refused = 0
        self._are_all = True
        self._waiting: deque[list[bytes]] = deque(maxlen=MOST_WAITING)

    def hear(self, keys: Set[str], *, are_all: bool) -> None:
        """These keys are let in from now on.

        Args:
            are_all: nobody is still to say whom else: other keys are refused.  Until then they get
                no answer, and their handshake waits, or times out and begins again.
        """
        self.keys, self._are_all = keys, are_all
        waiting = list(self._waiting)
        self._waiting.clear()
        for question in waiting:
            self._consider(question)

    def answer(self) -> None:
        """Answer the question that is waiting on `socket`; the key becomes the User-Id."""
        self._consider(self.socket.recv_multipart())

    def _consider(self, question: list[bytes]) -> None:
        who, empty, version, request, _domain, _address, _identity, mechanism, *credentials = (
            question
        )
        key = z85.encode(credentials[0]).decode() if credentials else ""
        known = mechanism == b"CURVE" and (self.is_open or key in self.keys)
        if not known and not self._are_all:
            self._waiting.append(question)
            return
        self.refused += not known
        status = [b"200", b"OK", key.encode()] if known else [b"400", b"unknown key", b""]
        self.socket.send_multipart([who, empty, version, request, *status, b""])
