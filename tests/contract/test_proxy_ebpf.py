"""What is true of the eBPF router alone: that it is eBPF, outlives its agent and leaves nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lifl.errors import Unreachable, Unsupported
from lifl.proxy_ebpf.build import OBJECT
from lifl.proxy_ebpf.contract import Counters, Router
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.proxy_ebpf.ebpf import EbpfRouter
from lifl.proxy_ebpf.open import open_router
from lifl.proxy_ebpf.port import Port, make_pair
from lifl.proxy_ebpf.unix import UnixRouter

if TYPE_CHECKING:
    from conftest import Peer, Rig

    MakeRig = Callable[[Router], Rig]

pytestmark = [pytest.mark.bpf, pytest.mark.timeout(60), pytest.mark.usefixtures("bpf")]
LEAF, MIDDLE, TOP = 1, 2, 3

AGENT = textwrap.dedent(
    """
    import signal, socket, sys
    from pathlib import Path
    from lifl.proxy_ebpf.open import open_router

    router = open_router("ebpf", Path(sys.argv[1]))
    control = socket.socket(fileno=int(sys.argv[2]))
    _, fds, _, _ = socket.recv_fds(control, 16, 4)
    ends = [socket.socket(fileno=fd) for fd in fds]
    router.register(1, 1, ends[0], ends[1])
    router.register(1, 3, ends[2], ends[3])
    router.route(1, 1, 3)
    for end in ends:
        end.close()
    control.send(b"registered")
    signal.pause()
    """
)


def objects_of(pid: str = "self") -> dict[str, set[int]]:
    """Kernel's ids of the maps and programs that a process holds."""
    held: dict[str, set[int]] = {"map": set(), "prog": set()}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(":")
            if name in ("map_id", "prog_id"):
                held[name[: -len("_id")]].add(int(value))
    return held


def listed(what: str) -> dict[int, str]:
    """What bpftool finds under LIFL's names."""
    shown = subprocess.run(
        ["bpftool", "--json", what, "show"], check=True, capture_output=True, text=True
    )
    return {
        each["id"]: each["name"]
        for each in json.loads(shown.stdout)
        if each.get("name", "").startswith("lifl_")
    }


def await_gone(ids: dict[str, set[int]]) -> None:
    """The kernel frees maps and programs a moment after the last reference."""
    deadline = time.monotonic() + 10
    for what, wanted in ids.items():
        while left := wanted & set(listed(what)):
            assert time.monotonic() < deadline, f"{what} left over: {left}"


@pytest.fixture
def bpftool() -> None:
    if shutil.which("bpftool") is None:
        pytest.skip("bpftool is not installed")


@pytest.fixture
def agent(bpffs: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[socket.socket], Path]]:
    """Another process with the router, pinned; this one keeps both ends as runtimes do."""
    ends = [*make_pair("ebpf"), *make_pair("ebpf")]
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pins = bpffs / "agent"
    with mine, its:
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(pins), str(its.fileno())], pass_fds=[its.fileno()]
        )
        try:
            mine.settimeout(20)
            socket.send_fds(mine, [b"pairs"], [end.fileno() for end in ends])
            assert mine.recv(16) == b"registered"
            yield process, ends, pins
        finally:
            process.kill()
            process.wait()
            for end in ends:
                end.close()


def read(port: Port, many: int) -> list[Descriptor]:
    """Without any agent: wait on the socket alone."""
    found: list[Descriptor] = []
    deadline = time.monotonic() + 10
    while len(found) < many:
        assert time.monotonic() < deadline, f"{len(found)} of {many}"
        found += port.receive()
    return found


def segments_sent(end: socket.socket) -> int:
    """tcpi_data_segs_out."""
    info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, 156)[0])


def test_with_the_program_detached_nothing_is_routed(make_rig: MakeRig) -> None:
    router = EbpfRouter.open()
    router._program.detach(router._sockets)
    rig = make_rig(router)
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=1)
    assert [d.slot for _, d in rig.at_agent()] == [1]
    assert top.port.receive() == []
    assert rig.counts(leaf) == Counters()


def again(rig: Rig, peer: Peer) -> Peer:
    """As a runtime does whose pair was severed: it hears of it, makes a new one, registers that."""
    with pytest.raises(Unreachable):
        rig.until(lambda: bool(peer.port.receive()))
    return rig.peer(peer.endpoint)


@pytest.mark.parametrize("taken", ["program", "socket", "credit"])
def test_what_was_taken_out_of_the_kernel_is_put_back(make_rig: MakeRig, taken: str) -> None:
    router = EbpfRouter.open()
    rig = make_rig(router)
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    leaf.send(slot=1)
    assert rig.slots(top) == [1]
    assert router.mend() == {}
    match taken:
        case "program":
            router._program.detach(router._sockets)
            expected = {"program": 1, "socket": 2}
        case "socket":
            router._sockets.delete(next(k for k in router._sockets if k[4] == TOP))
            expected = {"socket": 1}
        case "credit":
            router._credit.delete(next(k for k in router._credit if k[4] == LEAF))
            expected = {"credit": 1}
    if taken != "program":  # a socket in the map keeps the program
        leaf.send(slot=2)
        assert [d.slot for _, d in rig.at_agent()] == [2]
    assert router.mend() == expected
    if taken == "program":
        leaf = again(rig, leaf)
    if taken != "credit":
        top = again(rig, top)
    leaf.send(slot=3)
    assert rig.slots(top) == [3]
    assert router.mend() == {}


def test_who_is_gone_was_not_taken_out(make_rig: MakeRig) -> None:
    rig = make_rig(EbpfRouter.open())
    leaf = rig.peer(LEAF)
    leaf.die()
    assert rig.router.mend() == {}
    rig.until(lambda: rig.closed() == [LEAF])


def test_routed_descriptors_never_become_packets(make_rig: MakeRig) -> None:
    """Nor does the router run meanwhile: this thread is the sender and the receiver."""
    rig = make_rig(open_router("ebpf"))
    leaf, top = rig.peer(LEAF), rig.peer(TOP)
    rig.router.route(1, LEAF, TOP)
    for slot in range(200):
        leaf.send(slot=slot)
        assert [d.slot for d in read(top.port, 1)] == [slot]
    assert segments_sent(leaf.near) == 0
    leaf.send(Kind.EXPECT)
    rig.at_agent()
    assert segments_sent(leaf.near) == 1
    assert rig.counts(leaf) == Counters(sent=201, redirected=200, passed=1, bytes=201 * 16)


def test_descriptors_pass_while_the_agent_is_stopped(
    agent: tuple[subprocess.Popen[bytes], list[socket.socket], Path],
) -> None:
    process, (leaf, _, top, _), _ = agent
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    sender, receiver = Port(leaf), Port(top)
    for slot in range(100):
        sender.send(Descriptor(slot, 1, 1, LEAF, Kind.UPDATE))
        assert [d.slot for d in read(receiver, 1)] == [slot]


def test_a_successor_takes_over_from_the_pins_and_nothing_is_lost(
    agent: tuple[subprocess.Popen[bytes], list[socket.socket], Path], make_rig: MakeRig
) -> None:
    process, (leaf, leaf_far, top, top_far), pins = agent
    sender, receiver = Port(leaf), Port(top)

    def send(kind: Kind, slots: range) -> None:
        for slot in slots:
            sender.send(Descriptor(slot, 1, 1, LEAF, kind))

    send(Kind.UPDATE, range(50))
    process.send_signal(signal.SIGKILL)
    process.wait()
    send(Kind.UPDATE, range(50, 100))
    send(Kind.EXPECT, range(3))  # for an agent that is not there
    assert [d.slot for d in read(receiver, 100)] == list(range(100))

    rig = make_rig(open_router("ebpf", pins))
    send(Kind.UPDATE, range(100, 120))
    assert rig.router.routes(1) == {LEAF: TOP}
    assert rig.router.identity(leaf) == (1, LEAF)
    assert rig.router.identity(top) == (1, TOP)
    assert rig.router.identity(top_far) is None
    rig.router.register(1, LEAF, leaf, leaf_far)
    rig.router.register(1, TOP, top, top_far)
    send(Kind.UPDATE, range(120, 140))
    rig.router.poke(1, TOP, Descriptor(999, 0, 0, 0, Kind.EXPECT))
    assert sorted(d.slot for d in read(receiver, 41)) == [*range(100, 140), 999]
    assert [(s, d.slot) for s, d in rig.at_agent(3)] == [(LEAF, 0), (LEAF, 1), (LEAF, 2)]
    assert rig.router.counters(1)[LEAF] == Counters(
        sent=143, redirected=140, passed=3, bytes=143 * 16
    )


def test_keeping_the_pins_is_a_hand_over(bpffs: Path, make_rig: MakeRig) -> None:
    first = open_router("ebpf", bpffs / "agent")
    near, far = make_pair("ebpf")
    first.register(1, LEAF, near, far)
    first.route(1, LEAF, LEAF)
    first.close(keep_pins=True)
    port = Port(near)
    port.send(Descriptor(1, 1, 1, LEAF, Kind.SUM))
    assert len(read(port, 1)) == 1
    rig = make_rig(open_router("ebpf", bpffs / "agent"))
    assert rig.router.identity(near) == (1, LEAF)
    rig.close()
    assert not (bpffs / "agent").exists()
    port.close()
    far.close()


def test_pins_of_another_version_and_of_a_cut_short_start_are_removed(
    bpffs: Path, tmp_path: Path, bpftool: None
) -> None:
    pins = bpffs / "agent"
    other = tmp_path / "route.bpf.o"
    other.write_bytes(OBJECT.read_bytes() + b"\0")  # another file, the same program
    before = objects_of()
    old = EbpfRouter.open(pins, path=other)
    ids = {what: held - before[what] for what, held in objects_of().items()}
    near, far = make_pair("ebpf")
    old.register(1, LEAF, near, far)
    old.close(keep_pins=True)
    (pins / "0123456789abcdef-partial").mkdir()
    new = open_router("ebpf", pins)
    assert [len(list(each.iterdir())) for each in pins.iterdir()] == [6]
    assert new.identity(near) is None
    near.close()
    far.close()
    await_gone(ids)
    new.close()


@pytest.mark.parametrize("pinned", [False, True])
def test_close_leaves_nothing(request: pytest.FixtureRequest, bpftool: None, pinned: bool) -> None:
    pins = request.getfixturevalue("bpffs") / "agent" if pinned else None
    before = objects_of()
    router = open_router("ebpf", pins)
    ids = {what: held - before[what] for what, held in objects_of().items()}
    assert {name: len(held) for name, held in ids.items()} == {"map": 5, "prog": 1}
    assert set(listed("map")) >= ids["map"]
    assert set(listed("prog")) >= ids["prog"]
    near, far = make_pair("ebpf")
    router.register(1, LEAF, near, far)
    router.route(1, LEAF, TOP)
    open_files = len(os.listdir("/proc/self/fd"))
    router.close()
    assert open_files - len(os.listdir("/proc/self/fd")) == 8  # maps, program, epoll, far end
    assert objects_of() == before
    assert pins is None or not pins.exists()
    await_gone(ids)  # though the runtime still has its sockets
    near.close()
    far.close()


def test_an_agent_that_dies_without_pins_leaves_nothing(bpftool: None) -> None:
    code = "import sys; from lifl.proxy_ebpf.open import open_router; r = open_router('ebpf');" + (
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        ids = objects_of(str(process.pid))
        assert len(ids["map"]) == 5
        process.kill()
    await_gone(ids)


def test_the_same_messages_fare_alike_in_both_routers(make_rig: MakeRig) -> None:
    """Random messages, hostile ones among them, through kernel and policy.py side by side."""
    rigs = [make_rig(EbpfRouter.open(credit=8)), make_rig(UnixRouter(credit=8))]
    endpoints = [LEAF, MIDDLE, TOP, lane(LEAF), lane(MIDDLE)]
    peers = [{e: rig.peer(e) for e in endpoints} for rig in rigs]
    dice = random.Random(20)

    def message() -> bytes:
        whole = dice.choice([1, 1, 1, 1, 2, 3, 16, 17])
        kind, source = dice.choice([*Kind, Kind.RELEASE, Kind.UPDATE]), dice.choice(endpoints)
        pieces = []
        for _ in range(whole):
            if dice.random() < 0.05:
                kind = dice.choice(list(Kind))
            pieces.append(Descriptor(dice.randrange(99), 1, 1, source, kind).pack())
        data = bytearray(b"".join(pieces))
        if dice.random() < 0.05:
            data[dice.choice([14, 15])] = dice.randrange(256)
        return bytes(data)

    def both(do: Callable[[Rig], None]) -> None:
        for rig in rigs:
            do(rig)

    total = 0
    for _ in range(1500):
        roll, sender = dice.random(), dice.choice(endpoints)
        if roll < 0.1:
            to = dice.choice([*endpoints, 50, None])
            both(lambda rig, s=sender, t=to: rig.router.route(1, s, t))  # type: ignore[misc]
        elif roll < 0.12:
            both(lambda rig: rig.router.reset_credit(1))
        else:
            data = message()
            total += len(data) // 16
            for rig, mine in zip(rigs, peers, strict=True):
                mine[sender].write(data)
                rig.until(lambda rig=rig, total=total: _sent(rig) == total)  # type: ignore[misc]
        for mine in zip(*(each.values() for each in peers), strict=True):
            kernel, user = (peer.port.receive() for peer in mine)
            assert kernel == user
    assert rigs[0].router.counters(1) == rigs[1].router.counters(1)
    counters = rigs[0].router.counters(1).values()
    assert min(sum(getattr(c, f) for c in counters) for f in vars(Counters())) > 20


def _sent(rig: Rig) -> int:
    return sum(counters.sent for counters in rig.router.counters(1).values())


def test_two_capabilities_are_enough() -> None:
    code = "from lifl.proxy_ebpf.open import open_router; r = open_router('auto');" + (
        "print(r.name, r.reason); r.close()"
    )
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")

    def with_capabilities(these: str) -> str:
        return subprocess.run(
            [
                "setpriv",
                f"--bounding-set=-all{these}",
                "--inh-caps=-all",
                sys.executable,
                "-c",
                code,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert with_capabilities(",+bpf,+net_admin") == "ebpf \n"
    assert with_capabilities(",+net_admin").startswith("unix eBPF needs root: CAP_BPF missing")
    assert with_capabilities("").startswith("unix eBPF needs root: CAP_NET_ADMIN and CAP_BPF")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"not on a bpffs.*mount -t bpf"):
        open_router("ebpf", tmp_path / "pins")
    broken = tmp_path / "route.bpf.o"
    broken.write_bytes(b"no object file")
    with pytest.raises(Unsupported, match=r"(?s)open route\.bpf\.o.*ELF"):
        open_router("ebpf", path=broken)
