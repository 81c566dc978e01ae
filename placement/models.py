"""Moving a whole model between this process and a gateway, as any other peer does.

Owns one transfer from its start to its end; what is moved and when is the caller's:
global_model.py and, in a thread, checkpoint.py.  A model that no message can carry is fetched over
the gateway's bulk port, where it is sealed ten times faster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from lifl.errors import Unreachable
from lifl.functions.bulk_client import Broken, BulkConnection, connect
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import INLINE, Keys, Message, dealer, decode, encode
from lifl.placement.membership import Known

LIMIT_S = 60.0  # without a further byte
LOOK_MS = 200  # for what cannot wait
AGAIN_S = 1.0

Meanwhile = Callable[[], None]


class NotServed(Unreachable):
    """The gateway answers, and will not: asking it, or another, again is of no use."""


_one_at_a_time = threading.Lock()  # a gateway has one bulk connection for each key and job


def move(
    context: zmq.Context[zmq.Socket[bytes]], keys: Keys, node: Known, job: str,
    work: Upload | Download, *, meanwhile: Meanwhile = lambda: None,
) -> None:  # fmt: skip
    """Wait until `work` is through.

    Args:
        meanwhile: called again and again, for what cannot wait; may raise.

    Raises:
        Unreachable: the gateway does not answer, or has no such model.
        NotServed: it refuses.
    """
    if isinstance(work, Download) and len(work.buffer) > INLINE:
        while not _one_at_a_time.acquire(timeout=LOOK_MS / 1000):
            meanwhile()
        try:
            _Fetch(context, keys, node, job, work, meanwhile).run()
        finally:
            _one_at_a_time.release()
        return
    through: list[Message | None] = []
    peer = Peer(context, keys, node.endpoint, node.key)
    try:
        peer.start(job, Transfer(work, lambda: through.append(None), through.append))
        until, most = time.monotonic() + LIMIT_S, 0
        while not through:
            if isinstance(work, Upload) and work.sent > most:
                until, most = time.monotonic() + LIMIT_S, work.sent
            if time.monotonic() > until:
                raise Unreachable(f"the gateway of {node.name} did not answer")
            if peer.socket.poll(LOOK_MS):
                peer.receive()
            meanwhile()
            peer.tick()
    finally:
        peer.close()
    if through[0] is not None:
        if through[0]["t"] == "gone":
            raise Unreachable(f"the gateway of {node.name} has that model no more")
        raise NotServed(f"the gateway of {node.name} refused: {through[0].get('text')}")


class _Fetch:
    """One model over the bulk port, from the first ticket to its last byte."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, node: Known, job: str,
        work: Download, meanwhile: Meanwhile,
    ) -> None:  # fmt: skip
        self._keys, self._node, self._job, self._work = keys, node, job, work
        self._meanwhile = meanwhile
        self._control = dealer(context, keys, node.endpoint, node.key)
        self._until, self._most = time.monotonic() + LIMIT_S, 0
        self._tickets = self._transfers = 0

    def run(self) -> None:
        at = 0  # bytes that are there and verified
        try:
            while True:
                bulk = self._open()
                try:
                    if self._receive(bulk, at):
                        return
                except Broken:  # a gateway that was restarted
                    continue
                finally:
                    at = bulk.verified
                    bulk.close()
        finally:
            self._control.close()

    def _open(self) -> BulkConnection:
        while True:
            self._tickets += 1
            answer = self._ask({"t": "ticket", "job": self._job, "n": self._tickets})
            if answer["t"] != "ticket" or answer["n"] != self._tickets:
                continue
            where = self._node
            try:
                return connect(
                    answer, self._keys, endpoint=where.endpoint, gateway=where.key, job=self._job
                )
            except Broken:
                self._look(AGAIN_S)

    def _receive(self, bulk: BulkConnection, at: int) -> bool:
        """False: it is asked for again, over another connection."""
        work = self._work
        self._transfers += 1
        bulk.expect(work.buffer, number=work.round, transfer=self._transfers, at=at)
        self._send({
            "t": "get", "job": self._job, "round": work.round, "transfer": self._transfers,
            "at": at, "n": len(work.buffer) - at,
        })  # fmt: skip
        heard_at, come = time.monotonic(), bulk.come
        while True:
            bulk.wait(LOOK_MS / 1000)
            if bulk.receive():  # looks also at what was not worth a wake-up, on a slow link
                return True
            if bulk.come > come:
                heard_at, come = time.monotonic(), bulk.come
            if come > self._most:
                self._until, self._most = heard_at + LIMIT_S, come
            message = self._look(0)
            if message is not None and message["t"] == "gone":
                raise Unreachable(
                    f"the gateway of {self._node.name} has no model of round {work.round} any more"
                )
            if message is not None and message["t"] == "reject":
                return False
            if time.monotonic() - heard_at > AGAIN_S:
                return False

    def _ask(self, message: Message) -> Message:
        """The next answer, of whatever kind; the question is repeated while there is none."""
        while True:
            self._send(message)
            answer = self._look(AGAIN_S)
            if answer is not None:
                return answer

    def _look(self, wait_s: float) -> Message | None:
        """The next message within a time.

        Raises:
            Unreachable: nothing has come for too long.
            NotServed: this is refused for good.
        """
        until = time.monotonic() + wait_s
        while True:
            self._meanwhile()
            if time.monotonic() > self._until:
                raise Unreachable(f"the gateway of {self._node.name} did not answer")
            left_ms = max(0.0, until - time.monotonic()) * 1000
            if self._control.poll(int(min(left_ms, LOOK_MS))):
                message = decode(self._control.recv_multipart()[0])
                if message["t"] == "reject" and not message["retry"]:
                    raise NotServed(f"{self._node.name}'s gateway refused: {message['text']}")
                return message
            if time.monotonic() >= until:
                return None

    def _send(self, message: Message) -> None:
        self._control.send(encode(message))
