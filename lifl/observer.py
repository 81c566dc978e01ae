"""An observer: sees every global model and may report on it, but trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import zmq

from lifl.connection import Address, Connection
from lifl.exchange import AGAIN_MS, State
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download
from lifl.functions.wire import Keys, Message


class Observer:
    """Somebody who sees every global model and may report on it, but trains nothing.

    Args:
        addresses: gateways of the job: any of them may be the one that publishes, and they say
            which others there are, also those of nodes that join later.
    """

    def __init__(self, addresses: list[Address], *, job: str, keys: Keys) -> None:
        self.job, self._keys = job, keys
        self._layout: Layout | None = None
        self._reported: Message = {}  # last
        self._poller = zmq.Poller()
        self._connections: list[Connection] = []
        self._known: set[Address] = set()
        self._call(addresses)
        self._source = self._connections[0]

    def _call(self, addresses: Iterable[Address]) -> None:
        """Those gateways of these that it has not called yet."""
        for address in addresses:
            if address not in self._known:
                self._known.add(address)
                connection = Connection(self._keys, address)
                self._connections.append(connection)
                self._poller.register(connection.socket, zmq.POLLIN)
                connection.send([({"t": "hello", "job": self.job}, None)])

    def models(self) -> Iterator[tuple[int, State]]:
        """(round, model) of the newest model there is, again and again, until the job is done.

        Models that were replaced while the caller was busy, or another one was on its way, are
        skipped; the last one never is.  Round 0 is the initial model.
        """
        last, newest, download, source = -1, -1, None, self._connections[0]
        newest_at, start = source, 0
        while True:
            ready = dict(self._poller.poll(AGAIN_MS))
            if not ready and download is not None:
                source.send(download.again())
            for connection in list(self._connections):
                if connection.reconnected():
                    connection.send([({"t": "hello", "job": self.job}, None)])
                    if connection is self._source and self._reported:  # may have been lost
                        connection.send([(self._reported, None)])
                while (received := connection.receive()) is not None:
                    message, payload = received
                    match message["t"]:
                        case "done":
                            return
                        case "welcome":
                            self._layout = Layout.from_wire(message["layout"])
                            self._call(Address(*at) for at in message.get("elsewhere", ()))
                            began = message.get("settings", {}).get("start", start)
                            if began > start:  # earlier rounds again
                                start, newest, last, download = began, -1, -1, None
                        case "elsewhere":
                            self._call(Address(*at) for at in message["gateways"])
                        case "published" if message["round"] > newest:
                            newest, newest_at = message["round"], connection
                            if not source.is_up:  # its node is lost, and an older model with it
                                download = None
                        case "model" if (
                            download is not None and payload is not None and connection is source
                        ):
                            source.send(download.take(message, payload))
                            if download.done and self._layout:
                                self._source = source
                                yield download.round, self._layout.views(download.buffer)
                                download = None
                        case "gone" if download and message["round"] == download.round:
                            if download.round == newest:  # it counts as news when it is back
                                newest = last = download.round - 1
                            download = None
            if download is None and newest > last and self._layout:
                last, source = newest, newest_at
                buffer = memoryview(bytearray(self._layout.update_bytes))
                download = Download(self.job, last, buffer)
                source.send(download.ask())

    def report(self, number: int, metrics: Mapping[str, float]) -> None:
        """Say what the model of a round is worth."""
        self._reported = {
            "t": "metrics", "job": self.job, "round": number,
            "metrics": {name: float(value) for name, value in metrics.items()},
        }  # fmt: skip
        self._source.send([(self._reported, None)])

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
