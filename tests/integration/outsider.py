"""A client that can misbehave: it speaks the protocol message by message.

Owns nothing of the client library but framing and layouts, so that it can send what the library
never would.  `Field` is a running job whose clients are all of this kind.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import toy
import zmq
from conftest import PROXY, Runner, wait_until
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lifl.functions.layout import Layout
from lifl.functions.transfer import Download
from lifl.functions.wire import UP_CHUNK, Keys, Message, dealer, decode, encode

PATIENCE_MS = 30_000


class Outsider:
    """One client, from its file."""

    def __init__(self, path: Path, keys: Keys | None = None) -> None:
        self.fields = json.loads(path.read_text())
        self.index = self.fields["index"]
        self.job = self.fields["job"]
        self.keys = keys or Keys(self.fields["public_key"], self.fields["secret_key"])
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.layout = Layout(())
        self.grant = 0
        self.rounds: list[Message] = []  # that came while something else was waited for
        self.connect(self.fields["endpoint"], self.fields["server_key"])

    def connect(self, endpoint: str, server_key: str) -> None:
        self.at = endpoint, server_key
        self.socket = dealer(self.context, self.keys, endpoint, server_key)

    def send(self, t: str, payload: bytes | memoryview | None = None, **fields: Any) -> None:
        head = encode({"job": self.job, **fields, "t": t})
        self.socket.send_multipart([head] if payload is None else [head, payload])

    def hear(self, *kinds: str, number: int | None = None) -> Message:
        """The next message of one of these kinds; the payload is under "payload"."""
        if "round" in kinds and self.rounds and number in (None, self.rounds[-1]["round"]):
            return self.rounds.pop()
        while True:
            assert self.socket.poll(PATIENCE_MS), f"client {self.index} heard none of {kinds}"
            head, *rest = self.socket.recv_multipart()
            message = decode(head)
            if message["t"] == "welcome":
                self.layout = Layout.from_wire(message["layout"])
            if message["t"] == "go":
                self.grant = message.get("grant", 0)  # of the fast lane there is none
            if message["t"] == "redirect":
                self.socket.close()
                self.connect(message["endpoint"], message["key"])
                self.send("hello")
            if message["t"] in kinds and number in (None, message.get("round")):
                return message | {"payload": rest[0] if rest else b""}
            if message["t"] == "round":
                self.rounds.append(message)

    def put(self, number: int, length: int | None = None, **fields: Any) -> None:
        """Ask for a slot."""
        self.send("put", **{
            **self.head(number), "digest": self.layout.digest,
            "weight": float(1 + self.index % 3), "metrics": {},
            "length": self.layout.update_bytes if length is None else length, **fields,
        })  # fmt: skip

    @staticmethod
    def head(number: int) -> Message:
        return {"kind": "update", "round": number}

    def chunk(self, number: int, at: int, data: bytes | memoryview) -> None:
        self.send("chunk", data, at=at, grant=self.grant, **self.head(number))

    def update(self, number: int) -> memoryview:
        """What toy.train would send."""
        buffer = memoryview(bytearray(self.layout.update_bytes))
        self.layout.pack_into(toy.update(self.index, number)[0], buffer)
        return buffer

    def upload(self, number: int, data: memoryview) -> Message:
        """The chunks of an update that has its slot; what the gateway says to them."""
        for at in range(0, len(data), UP_CHUNK):
            self.chunk(number, at, data[at : at + UP_CHUNK])
        return self.hear("ack", "reject", number=number)

    def play(self, number: int) -> None:
        """Take part in a round as one should."""
        self.put(number)
        self.hear("go", number=number)
        assert self.upload(number, self.update(number))["t"] == "ack"

    def fetch(self, number: int) -> dict[str, np.ndarray]:
        """The model of a round."""
        buffer = memoryview(bytearray(self.layout.update_bytes))
        download = Download(self.job, number, buffer)
        outgoing = download.ask()
        while not download.done:
            for message, _ in outgoing:
                self.socket.send(encode(message))
            chunk = self.hear("model", "gone", number=number)
            assert chunk["t"] == "model"
            outgoing = download.take(chunk, memoryview(chunk["payload"]))
        return self.layout.views(buffer)

    def ticket(self) -> Message:
        """The right to one bulk connection."""
        self.send("ticket", n=1)
        return self.hear("ticket")

    def close(self) -> None:
        self.context.destroy(linger=0)


class BulkLine:
    """One bulk connection of a client, as docs/protocol.md has it.

    Args:
        ticket: the answer of that name, maybe to somebody else.
        public_key: whom it says that the ticket is for.
    """

    def __init__(self, client: Outsider, ticket: Message, public_key: str = "") -> None:
        server_key, own = client.at[1], public_key or client.keys.public
        self._about = (server_key + own + client.job).encode()
        self._opening = b"LIFL" + bytes([1, 1, 0, 0]) + ticket["id"]
        self._secret = ticket["secret"]
        self._count = 0
        self.socket = socket.create_connection(("127.0.0.1", ticket["port"]), timeout=30)

    def _key(self, label: bytes) -> bytes:
        said = b"lifl bulk 1 " + label + b"\0" + self._opening + self._about
        return hmac.digest(self._secret, said, "sha256")

    def greet(self) -> bool:
        """Whether the gateway has let it in."""
        self.socket.sendall(self._opening + self._key(b"hello"))
        try:
            answer = self.socket.recv(32, socket.MSG_WAITALL)
        except ConnectionResetError:
            answer = b""
        return answer == self._key(b"welcome")

    def chunks(self, data: memoryview, number: int, transfer: int) -> Iterator[bytes]:
        """An update as it is on the wire."""
        sealing = AESGCM(self._key(b"up"))
        for at in range(0, len(data), 1 << 20):
            part = data[at : at + (1 << 20)]
            head = struct.pack("<B3xIIIQ", 1, len(part), number, transfer, at)
            nonce = b"\1\0\0\0" + self._count.to_bytes(8, "little")
            self._count += 1
            yield head + sealing.encrypt(nonce, bytes(part), head + self._about)

    def is_closed(self) -> bool:
        """The gateway ends it, within the socket's patience."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


class Field:
    """A job under way, with clients of this test and nobody else's."""

    def __init__(self, runner: Runner, *arguments: str, env: dict[str, str], **spec: Any) -> None:
        self.runner = runner
        path = runner.job_file(trainer=None, **spec)
        self.process = runner.start(path, "--proxy", PROXY, *arguments, env=env)
        self.events: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: self.of("endpoint"), self.say, 60)
        self.run_dir = Path(self.of("engine")[0]["run_dir"])
        self.folder = Path(self.of("endpoint")[0]["files"])
        files = self.folder.glob("client-*.json")
        files = sorted(files, key=lambda path: int(path.stem.rpartition("-")[2]))
        self.clients = [Outsider(path) for path in files]
        for client in self.clients:
            client.send("hello")
        self.number = 0

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def say(self) -> str:
        ended = self.process.poll()
        tail = self.process.stderr.read() if ended is not None and self.process.stderr else ""
        return f"status {ended}; {self.events[-5:]} {tail}"

    def round(self) -> int:
        """Wait until every client has heard of a new round; its number."""
        number = self.number + 1
        for client in self.clients:
            client.hear("round", number=number)
        self.number = number
        return number

    def finish(self, number: int, missing: Collection[Outsider] = ()) -> None:
        """Those who are `missing` send, and the round's model is the mean of everybody's updates.

        All of them get their slot before any sends a byte, so that a slot that leaked is seen.
        """
        for client in missing:
            client.put(number)
        for client in missing:
            client.hear("go", number=number)
        for client in missing:
            assert client.upload(number, client.update(number))["t"] == "ack"
        self.check(number, self.clients)

    def check(self, number: int, by: Collection[Outsider]) -> None:
        """The round ends, and its model is the mean of exactly these clients' updates."""
        wait_until(lambda: number in {e["round"] for e in self.of("published")}, self.say, 30)
        updates = [toy.update(client.index, number) for client in by]
        total = sum(weight for _, weight in updates)
        model = next(iter(by)).fetch(number)
        for name in ("weight", "double"):
            exact = sum(w * np.asarray(u[name], np.float64) for u, w in updates) / total
            np.testing.assert_allclose(np.asarray(model[name], np.float64), exact, rtol=2**-22)

    def __iter__(self) -> Iterator[Outsider]:
        return iter(self.clients)

    def pid(self, module: str) -> int:
        return min(self.runner.processes(module))

    def idle(self, module: str) -> None:
        """Wait until every process of a module sleeps in the kernel."""
        def asleep() -> bool:
            return all(
                Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
                for pid in self.runner.processes(module)
            )

        wait_until(asleep, lambda: f"{module} does not come to rest")

    def end(self) -> None:
        for client in self.clients:
            client.close()
        self.process.send_signal(2)
        self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()


def command(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`lifl ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "lifl", *arguments], capture_output=True, text=True, check=False,
        timeout=60, env=os.environ | (env or {}),
    )  # fmt: skip
