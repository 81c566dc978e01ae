"""`lifl run --network netns`: many nodes on one machine, each behind a link of its own.

    node-0 ═╗                                       eth0 of each to a port of the switch;
    node-1 ═╬═ switch ─ clients (trainers)          ═ has the rate, each way,
      …    ═╝     └──── control (coordinator)       ─ has none

Owns which namespaces there are, their addresses, and the rates of links: a token bucket at both
ends of a node's, so that all that enters or leaves a node, from clients and from other nodes,
shares its link.  With a delay its ends are TAP devices, and a process holds what passes (delay.py).
Nothing is connected with the rest of the machine, and nothing has a name outside (netns.py), so
that runs do not meet and nothing is left.  Called by engine.py, which holds the fabric, and by
local.py, before anything is started.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from lifl.errors import InvalidJob
from lifl.placement import netns
from lifl.placement.delay import make_tap, open_tun

CLIENTS: Final = "clients"
CONTROL: Final = "control"
_SUBNET: Final = "198.18.0"  # for networks that are tested (RFC 2544), reached from nowhere else
_ADDRESSES: Final = {CONTROL: 1, CLIENTS: 2}
_FIRST_NODE: Final = 10
_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")  # of whoever's namespace
_DELAY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)")
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(k|M|G)bit")
_UNITS: Final = {"k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
LEAST_BIT_S: Final = 1_000_000
MOST_BIT_S: Final = 100_000_000_000
LEAST_DELAY_S: Final = 0.0001
MOST_DELAY_S: Final = 0.2  # two nodes are 0.8 s apart then; what is asked is asked again after 1 s
BURST_S: Final = 0.001  # that a bucket holds; the kernel fills it by timers of high resolution
BURST_LEAST: Final = 1 << 17  # bytes: two of the largest segments, which would be cut otherwise
QUEUE_S: Final = 0.02  # that a link's queue holds; what does not fit is lost
CONTROL_OF_TCP: Final = "reno"  # BBR, with round trips of microseconds, gets a twentieth of a link


def parse_rate(text: str) -> int:
    """Bits per second of "200Mbit" or "2.5Gbit", as tc has them.

    Raises:
        ValueError: no rate, or below 1 Mbit or above 100 Gbit.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is no rate: write it as "200Mbit" or "1Gbit"')
    bit_s = round(float(match[1]) * _UNITS[match[2]])
    if not LEAST_BIT_S <= bit_s <= MOST_BIT_S:
        raise ValueError(f"{text!r} is not from 1Mbit to 100Gbit")
    return bit_s


def parse_delay(text: str) -> float:
    """Seconds of "20ms" or "500us".

    Raises:
        ValueError: no time, or below 0.1 ms or above 200 ms.
    """
    match = _DELAY.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is no time: write it as "20ms" or "500us"')
    delay_s = float(match[1]) * _SECONDS[match[2]]
    if not LEAST_DELAY_S <= delay_s <= MOST_DELAY_S:
        raise ValueError(f"{text!r} is not from 0.1ms to 200ms; leave it out for none")
    return delay_s


def link_text(network: Mapping[str, Any] | None) -> str:
    """What links are like, in words; empty where there are none."""
    if network is None:
        return ""
    delay_s = network.get("delay_s", 0.0)
    rate = rate_text(network["link_bit_s"])
    return f"{rate} and {delay_s * 1e3:g}ms" if delay_s else rate


def rate_text(bit_s: int) -> str:
    """The other way round."""
    unit = next(unit for unit in ("G", "M", "k") if bit_s >= _UNITS[unit])
    return f"{bit_s / _UNITS[unit]:g}{unit}bit"


def check_network(*, delays: bool = False) -> None:
    """A fabric can be made here.

    Args:
        delays: whether its links have any.

    Raises:
        InvalidJob: no root, or a tool is missing; the sentence has the fix.
        Unsupported: links are to have a delay, and this kernel has no TAP devices.
    """
    if os.geteuid() != 0:
        raise InvalidJob(
            "--network netns makes network namespaces, which root alone may: run it as root, or "
            "leave it out for nodes that talk over the loopback interface"
        )
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        raise InvalidJob(
            f"--network netns needs {' and '.join(missing)}: apt-get install iproute2"
        )
    if delays:
        os.close(open_tun())


class Fabric:
    """The namespaces of a run, until `close` or the end of this process.

    Args:
        nodes: their names.
        link_bit_s: of each node's link, each way.
        delay_s: that a node's link takes, each way.

    Raises:
        Unsupported: the kernel lacks something; the sentence says what.
    """

    def __init__(self, nodes: Sequence[str], link_bit_s: int, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._links: list[tuple[int, int]] = []  # TAPs: a node's end, and its port of the switch
        self._addresses = dict(_ADDRESSES)
        self._addresses |= {name: _FIRST_NODE + at for at, name in enumerate(nodes)}
        self._switch = netns.new()
        self._ends = {name: netns.new() for name in self._addresses}
        links = ["link set lo up", "link add switch type bridge", "link set switch up"]
        for name, fd in self._ends.items():
            if delay_s and name in nodes:
                self._links.append((
                    netns.within(fd, partial(make_tap, "eth0")),
                    netns.within(self._switch, partial(make_tap, name)),
                ))  # fmt: skip
            else:
                links.append(
                    f"link add {name} type veth peer name eth0 netns /proc/{os.getpid()}/fd/{fd}"
                )
            links.append(f"link set {name} master switch addrgenmode none up")
        netns.command(self._switch, "ip", "-batch", "-", lines="\n".join(links))
        for name, fd in self._ends.items():
            netns.command(fd, "ip", "-batch", "-", lines="\n".join([
                "link set lo up", "link set eth0 addrgenmode none up",
                f"address add {self.address(name)}/24 dev eth0",
            ]))  # fmt: skip
            netns.within(fd, lambda: _CONGESTION.write_text(CONTROL_OF_TCP))
        for name in nodes:
            netns.command(
                self._ends[name], "tc", "-batch", "-", lines=_bucket("eth0", link_bit_s)
            )
        ports = "\n".join(_bucket(name, link_bit_s) for name in nodes)
        netns.command(self._switch, "tc", "-batch", "-", lines=ports)

    def address(self, name: str) -> str:
        """Of a node, of CLIENTS or of CONTROL."""
        return f"{_SUBNET}.{self._addresses[name]}"

    def path(self, name: str) -> str:
        """With which a process enters, for as long as this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._ends[name]}"

    def listen(self, name: str, *, port: int = 0, backlog: int = 1) -> socket.socket:
        """A socket that listens there, whoever has it.

        Raises:
            OSError: the port is taken.
        """
        where = self.address(name), port
        return netns.within(
            self._ends[name], lambda: socket.create_server(where, backlog=backlog)
        )

    def delay(self) -> subprocess.Popen[bytes] | None:
        """Start the process that delays frames (delay.py), or another one; None: there is no delay.

        It ends when its standard input is closed, and so with the process that called this.
        """
        if not self._links:
            return None
        links = [f"--link={near}:{far}" for near, far in self._links]
        return subprocess.Popen(
            [sys.executable, "-m", "lifl.placement.delay", f"--seconds={self._delay_s}", *links],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            pass_fds=list(chain.from_iterable(self._links)),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the namespaces; those who are in one still have it."""
        for fd in (*self._ends.values(), self._switch, *chain.from_iterable(self._links)):
            os.close(fd)
        self._ends, self._links = {}, []


def _bucket(device: str, bit_s: int) -> str:
    burst = max(BURST_LEAST, round(bit_s / 8 * BURST_S))
    limit = burst + round(bit_s / 8 * QUEUE_S)
    return f"qdisc add dev {device} root tbf rate {bit_s}bit burst {burst} limit {limit}"
