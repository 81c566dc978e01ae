"""Lines to coordinators: one for everything in a local run, one a job in a cluster.

Owns the connections and which job's words go over which.  Does not know what is said.  Called by
the gateway and by the agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import zmq

from lifl.functions.wire import LARGEST_TRUSTED, Keys, Line, Message, decode, encode

EVERYTHING: Final = ""  # name of the line of a local run, whose coordinator has every job


class Lines:
    """Connections to coordinators, by the name of their job.

    Args:
        node: whose words they carry; said with each.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, node: str) -> None:
        self._context, self._keys, self._node = context, keys, node
        self._lines: dict[str, Line] = {}
        self._where: dict[str, tuple[str, str]] = {}

    def lead_to(self, where: Mapping[str, tuple[str, str]]) -> list[str]:
        """Have these lines and no others.

        Args:
            where: endpoint and key of the coordinator, by job.

        Returns:
            Those that are new, or lead elsewhere now.
        """
        for name in [name for name, at in self._where.items() if where.get(name) != at]:
            del self._where[name]
            self._lines.pop(name).close()
        new = [name for name in where if name not in self._where]
        for name in new:
            self._where[name] = where[name]
            self._lines[name] = Line(self._context, self._keys, *where[name])
        return new

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lines))

    def key(self, name: str) -> str:
        """Of the coordinator at the other end."""
        return self._where[name][1]

    @property
    def sockets(self) -> list[Any]:
        """To be polled."""
        return [each for line in self._lines.values() for each in (line.socket, line.monitor)]

    def came_back(self, ready: set[Any]) -> list[str]:
        """Lines with a new coordinator at the other end."""
        return [
            name for name, line in self._lines.items()
            if line.monitor in ready and line.came_back()
        ]  # fmt: skip

    def received(self, ready: set[Any]) -> Iterator[tuple[str, Message]]:
        """What coordinators said, and over which line."""
        for name, line in list(self._lines.items()):
            if line.socket in ready:
                while self._lines.get(name) is line and line.socket.poll(0):
                    yield name, decode(line.socket.recv(), limit=LARGEST_TRUSTED)

    def send(self, message: Message, only: str | None = None) -> None:
        """Tell the coordinator of the job that a message is about; all, if it is about none.

        Args:
            only: the line to use, whatever the message is about.
        """
        if only is None and EVERYTHING not in self._lines:
            only = message.get("job")
        for name in [only] if only is not None else self._lines:
            if name in self._lines:
                self._lines[name].socket.send(encode(message | {"node": self._node}))
