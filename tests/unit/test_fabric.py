"""What `--network netns` takes and asks for, and what it makes."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl.errors import InvalidJob, Unsupported
from lifl.placement import delay, fabric, netns
from lifl.placement.delay import forward
from lifl.placement.fabric import (
    CLIENTS,
    CONTROL,
    Fabric,
    check_network,
    link_text,
    parse_delay,
    parse_rate,
    rate_text,
)
from tests.clock import Clock

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")


@pytest.mark.parametrize(
    ("text", "bit_s"), [("1Gbit", 10**9), ("200Mbit", 2 * 10**8), ("2.5Gbit", 2_500_000_000)]
)
def test_rates(text: str, bit_s: int) -> None:
    assert parse_rate(text) == bit_s
    assert rate_text(bit_s) == text


@pytest.mark.parametrize("text", ["1G", "1Gbit/s", "-1Gbit", "", "1gbit", "100kbit", "101Gbit"])
def test_what_is_no_rate_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_rate(text)


def test_it_needs_root_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric.os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidJob, match=r"--network netns .* root .* leave it out"):
        check_network()


def test_it_needs_its_tools_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric.os, "geteuid", lambda: 0)
    monkeypatch.setattr(fabric.shutil, "which", lambda tool: None if tool == "tc" else tool)
    with pytest.raises(InvalidJob, match="needs tc: apt-get install iproute2"):
        check_network()


def test_links_with_a_delay_need_tap_devices_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fabric.os, "geteuid", lambda: 0)
    monkeypatch.setattr(fabric.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(delay, "TUN", str(tmp_path / "tun"))
    check_network()
    with pytest.raises(Unsupported, match=r"--link-delay .*modprobe tun"):
        check_network(delays=True)
    (tmp_path / "tun").touch()
    check_network(delays=True)


class Frames:
    """Both ends of a link as sockets that keep frames apart, in the place of TAP devices."""

    def __init__(self, delay_s: float, held_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.lifeline = Clock(), os.eventfd(0)
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        for end, inner in self.pairs:
            end.setblocking(False)
            inner.setblocking(False)
        self.waits: list[float | None] = []
        self.turns: Iterator[None] = iter(())
        monkeypatch.setattr(delay, "time", self.clock)
        monkeypatch.setattr(delay, "HELD_BYTES", held_bytes)
        monkeypatch.setattr(delay, "_LIFELINE", self.lifeline)
        monkeypatch.setattr(delay.select, "select", self._select)
        self.delay_s = delay_s

    def _select(
        self, fds: list[int], _: object, __: object, wait_s: float | None
    ) -> tuple[list[int], list[int], list[int]]:
        """It would sleep now: the test goes on, and at its end the lifeline is cut."""
        self.waits.append(wait_s)
        return ([*fds[1:]] if next(self.turns, self) is None else [self.lifeline]), [], []

    def play(self, turns: Iterator[None]) -> None:
        self.turns = turns
        near, far = (inner.fileno() for _, inner in self.pairs)
        forward({near: far, far: near}, self.delay_s)

    def came(self, end: int) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.pairs[end][0].recv(1 << 17))
        return found

    def close(self) -> None:
        for pair in self.pairs:
            for each in pair:
                each.close()
        os.close(self.lifeline)


def test_a_frame_is_held_for_the_delay_and_goes_across(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = Frames(0.02, 1 << 20, monkeypatch)
    (near, _), (far, _) = frames.pairs

    def turns() -> Iterator[None]:
        near.send(b"first")
        yield
        frames.clock.now += 0.015
        near.send(b"second")
        far.send(b"back")
        yield
        assert frames.came(1) == []
        frames.clock.now += 0.005
        yield
        assert (frames.came(0), frames.came(1)) == ([], [b"first"])
        frames.clock.now += 0.015
        yield
        assert (frames.came(0), frames.came(1)) == ([b"back"], [b"second"])

    frames.play(turns())
    frames.close()
    assert frames.waits[0] is None, "it sleeps while nothing is held"
    assert frames.waits[1] == pytest.approx(0.02)
    assert frames.waits[2] == pytest.approx(0.005)


def test_what_is_held_has_a_limit_beyond_which_frames_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = Frames(0.02, 25, monkeypatch)
    (near, _), (far, _) = frames.pairs

    def turns() -> Iterator[None]:
        for end, frame in ((near, b"a" * 10), (far, b"b" * 10), (near, b"c" * 10), (near, b"d")):
            end.send(frame)
            yield
        frames.clock.now += 0.02
        yield
        assert (frames.came(0), frames.came(1)) == ([b"b" * 10], [b"a" * 10, b"d"])
        near.send(b"e" * 25)  # there is room again
        yield
        frames.clock.now += 0.02
        yield
        assert frames.came(1) == [b"e" * 25]

    frames.play(turns())
    frames.close()


@ROOT
def test_nodes_reach_one_another_over_links_with_a_rate_apart_from_everybody() -> None:
    made = Fabric(["node-0", "node-1"], parse_rate("200Mbit"))
    ends = {name: os.open(made.path(name), os.O_RDONLY) for name in ("node-0", CLIENTS, CONTROL)}
    listener = made.listen("node-1", backlog=8)
    where = listener.getsockname()
    try:
        for fd in ends.values():
            netns.within(fd, lambda: fabric.socket.create_connection(where, timeout=5).close())
        outside = {name for _, name in fabric.socket.if_nameindex()}
        assert not {"switch", "node-0", CLIENTS} & outside
        rates = {
            name: netns.within(fd, lambda: subprocess.check_output(["tc", "qdisc"], text=True))
            for name, fd in ends.items()
        }
    finally:
        listener.close()
        made.close()
        for fd in ends.values():
            os.close(fd)
    assert "qdisc tbf" in rates["node-0"]
    assert "rate 200Mbit" in rates["node-0"]
    assert "tbf" not in rates[CLIENTS] + rates[CONTROL]


@pytest.mark.parametrize(
    ("text", "delay_s"), [("20ms", 0.02), ("500us", 0.0005), ("0.2s", 0.2), ("0.1ms", 0.0001)]
)
def test_delays(text: str, delay_s: float) -> None:
    assert parse_delay(text) == pytest.approx(delay_s)
    assert link_text({"link_bit_s": 10**9, "delay_s": parse_delay(text)}).startswith("1Gbit and ")


@pytest.mark.parametrize("text", ["20", "20 ms", "-1ms", "", "0ms", "201ms", "99us", "1m"])
def test_what_is_no_delay_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_delay(text)


def test_links_in_words() -> None:
    assert link_text(None) == ""
    assert link_text({"link_bit_s": 10**9}) == "1Gbit"  # of a run from before there were delays
    assert link_text({"link_bit_s": 10**9, "delay_s": 0.02}) == "1Gbit and 20ms"


@ROOT
def test_a_link_with_a_delay_holds_every_frame_also_after_its_process_died() -> None:
    """Once to a node and once from it, between nodes twice: never less, whatever else happens."""
    made = Fabric(["node-0", "node-1"], parse_rate("1Gbit"), 0.01)
    ends = {name: os.open(made.path(name), os.O_RDONLY) for name in ("node-0", CLIENTS)}
    listener = made.listen("node-1", backlog=8)

    def exchange() -> float:
        """Seconds for a byte there and back."""
        with fabric.socket.create_connection(listener.getsockname(), timeout=30) as near:
            far, _ = listener.accept()
            with far:
                began = time.monotonic()
                near.sendall(b"?")
                far.sendall(far.recv(1))
                assert near.recv(1) == b"?"
                return time.monotonic() - began

    first = made.delay()
    assert first is not None
    try:
        assert netns.within(ends[CLIENTS], exchange) >= 0.02
        assert netns.within(ends["node-0"], exchange) >= 0.04
        first.kill()
        first.wait(30)
        second = made.delay()
        assert second is not None
        assert netns.within(ends["node-0"], exchange) >= 0.04
        assert second.stdin is not None
        second.stdin.close()  # as it is when the engine is gone
        assert second.wait(30) == 0
    finally:
        first.kill()
        listener.close()
        made.close()
        for fd in ends.values():
            os.close(fd)


@ROOT
def test_what_a_tool_says_is_in_the_error() -> None:
    fd = netns.new()
    try:
        with pytest.raises(Unsupported, match=r"ip failed .*nowhere"):
            netns.command(fd, "ip", "-batch", "-", lines="link set nowhere up")
    finally:
        os.close(fd)
