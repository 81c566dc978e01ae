"""What who takes part in a job hears before its rounds: its layout, its settings, other gateways.

    job ─► welcome ─► a client prepares      the job's memory is here ─► welcome, round

Owns what a coordinator has said of a job whose memory is not here yet, so that clients prepare
while their node does, and where clients go when this gateway is gone.  Called by clients.py.
"""

from __future__ import annotations

from collections.abc import Callable, Set

from lifl.functions.layout import Layout
from lifl.functions.rights import Rights
from lifl.functions.wire import Message


class Welcomes:
    """Of one gateway.

    Args:
        send: a message to a control connection.

    Attributes:
        coming: by job whose memory is not here yet: its layout and settings.
        elsewhere: by job: other nodes' gateways, and the same as those from outside find them.
    """

    def __init__(self, node: str, rights: Rights, send: Callable[[bytes, Message], bool]) -> None:
        self._node, self._rights, self._send = node, rights, send
        self.coming: dict[str, tuple[Layout, Message]] = {}
        self.elsewhere: dict[str, tuple[list[list[str]], list[list[str]]]] = {}

    def keep_only(self, names: Set[str]) -> None:
        """Of other jobs nothing stays."""
        for rows in (self.coming, self.elsewhere):
            for name in rows.keys() - names:
                del rows[name]

    def gateways(self, name: str, key: str) -> list[list[str]]:
        """Where this client of a job goes when this gateway is gone."""
        near, far = self.elsewhere.get(name, ([], []))
        return near if self._rights.port(name, key) is None else far

    def early(self, name: str, key: str, peer: bytes) -> None:
        """Welcome who has come before the job's memory, as far as anything is known of the job."""
        if name in self.coming:
            self.say(name, key, peer, *self.coming[name])

    def say(self, name: str, key: str, peer: bytes, layout: Layout, settings: Message) -> None:
        """Welcome a client, worker or observer."""
        self._send(peer, {
            "t": "welcome", "job": name, "node": self._node, "layout": layout.to_wire(),
            "digest": layout.digest, "settings": settings, "elsewhere": self.gateways(name, key),
        })  # fmt: skip
