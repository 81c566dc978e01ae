"""Moving a whole model between this process and a gateway, as any other peer does.

Owns one transfer from its start to its end; what is moved and when is the caller's:
placement/coordinator.py and, in a thread, placement/checkpoint.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from lifl.errors import Unreachable
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload
from lifl.functions.wire import Keys, Message
from lifl.placement.membership import Known

LIMIT_S = 60.0


def move(
    context: zmq.Context[zmq.Socket[bytes]], keys: Keys, node: Known, job: str,
    work: Upload | Download, *, meanwhile: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Wait until `work` is through.

    Args:
        meanwhile: called again and again, for what cannot wait; may raise.

    Raises:
        Unreachable: the gateway does not answer, or refuses.
    """
    through: list[Message | None] = []
    peer = Peer(context, keys, node.endpoint, node.key)
    try:
        peer.start(job, Transfer(work, lambda: through.append(None), through.append))
        until = time.monotonic() + LIMIT_S
        while not through:
            if time.monotonic() > until:
                raise Unreachable(f"the gateway of {node.name} did not answer")
            if peer.socket.poll(200):
                peer.receive()
            meanwhile()
            peer.tick()
    finally:
        peer.close()
    if through[0] is not None:
        raise Unreachable(f"the gateway of {node.name} refused: {through[0].get('text')}")
