"""What the contract tests need of the machine (eBPF, a bpffs, or a reason why not), and a rig."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from lifl.errors import Unsupported
from lifl.proxy_ebpf.build import OBJECT, SOURCE, build
from lifl.proxy_ebpf.contract import Counters, Returned, Router
from lifl.proxy_ebpf.descriptor import Descriptor, Kind
from lifl.proxy_ebpf.open import open_router
from lifl.proxy_ebpf.port import Port, make_pair

PATIENCE_S = 10.0


def lacking(reason: str) -> NoReturn:
    """Skip with the reason, or fail where eBPF is required."""
    if os.environ.get("LIFL_REQUIRE_BPF") == "1":
        pytest.fail(f"LIFL_REQUIRE_BPF=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def bpf() -> None:
    """eBPF works here; the object is built if it is missing or older than its source."""
    if os.geteuid() != 0:
        lacking("eBPF needs root here: run the tests as root")
    sources = (SOURCE, SOURCE.with_name("descriptor.h"))
    if not OBJECT.exists() or OBJECT.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        try:
            build()
        except RuntimeError as error:
            lacking(str(error))
    try:
        open_router("ebpf").close()
    except Unsupported as error:
        lacking(error.sentence)


@pytest.fixture
def bpffs(bpf: None, tmp_path: Path) -> Iterator[Path]:
    """A bpffs of this test alone."""
    where = tmp_path / "bpffs"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "bpf", "bpf", str(where)], capture_output=True, text=True
    )
    if mounted.returncode:
        lacking(f"no bpffs can be mounted: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@dataclass
class Peer:
    """A runtime with one endpoint; like a real one it keeps both ends of its pair."""

    job: int
    endpoint: int
    near: socket.socket
    far: socket.socket
    port: Port

    def send(self, kind: Kind = Kind.UPDATE, *, slot: int = 0, source: int | None = None) -> None:
        self.port.send(self.descriptor(kind, slot=slot, source=source))

    def descriptor(
        self, kind: Kind = Kind.UPDATE, *, slot: int = 0, source: int | None = None
    ) -> Descriptor:
        return Descriptor(slot, 1, 1, self.endpoint if source is None else source, kind)

    def write(self, data: bytes) -> None:
        """Whatever a hostile runtime may write."""
        assert self.near.send(data, socket.MSG_DONTWAIT) == len(data)

    def die(self) -> None:
        self.port.close()
        self.near.close()
        self.far.close()


class Rig:
    """A router, its peers, and an agent that does nothing but collect what is returned."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.returned: list[Returned] = []
        self.peers: list[Peer] = []

    def peer(self, endpoint: int, *, job: int = 1) -> Peer:
        near, far = make_pair(self.router.name)
        self.router.register(job, endpoint, near, far)
        peer = Peer(job, endpoint, near, far, Port(near, send_timeout_s=0.2))
        self.peers.append(peer)
        return peer

    def until(self, done: Callable[[], bool]) -> None:
        """Run the agent's loop until `done`; fail when that takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.returned += self.router.returned()
            if done():
                return
            assert time.monotonic() < deadline, f"still waiting; returned: {self.returned}"
            select.select([self.router.fileno()], [], [], 0.002)

    def receive(self, peer: Peer, many: int = 1) -> list[Descriptor]:
        """The next descriptors of `peer`, at least `many`."""
        found: list[Descriptor] = []

        def done() -> bool:
            found.extend(peer.port.receive())
            return len(found) >= many

        self.until(done)
        return found

    def slots(self, peer: Peer, many: int = 1) -> list[int]:
        return [descriptor.slot for descriptor in self.receive(peer, many)]

    def at_agent(self, many: int = 1) -> list[tuple[int, Descriptor]]:
        """(sender, descriptor) of what was not routed, and forget it."""
        self.until(lambda: sum(len(r.descriptors) for r in self.returned) >= many)
        found = [(r.sender, d) for r in self.returned for d in r.descriptors]
        self.returned = [r for r in self.returned if r.closed]
        return found

    def closed(self) -> list[int]:
        return [r.sender for r in self.returned if r.closed]

    def counts(self, peer: Peer) -> Counters:
        return self.router.counters(peer.job)[peer.endpoint]

    def close(self) -> None:
        self.router.close()
        for peer in self.peers:
            peer.die()


@pytest.fixture(params=[pytest.param("ebpf", marks=pytest.mark.bpf), "unix"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One router of each kind, with little credit so that tests reach its end."""
    if request.param == "ebpf":
        request.getfixturevalue("bpf")
    rig = Rig(open_router(request.param, credit=8))
    yield rig
    rig.close()


@pytest.fixture
def make_rig() -> Iterator[Callable[[Router], Rig]]:
    """For tests that open their router themselves."""
    made: list[Rig] = []

    def make(router: Router) -> Rig:
        made.append(Rig(router))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
