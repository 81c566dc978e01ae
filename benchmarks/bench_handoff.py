"""Hand-off of one descriptor: the eBPF router beside a bare unix pair, by ping-pong.

    sudo python benchmarks/bench_handoff.py [--rounds 7] [--hand-offs 20000]

Two processes send one 16-byte descriptor to and fro and block in recv in between; a hand-off is
half of a round trip.  `one CPU`: both pinned to the same; `two CPUs`: to different ones, so each
wake-up crosses.  Each figure is the median over rounds, which alternate between the ways.  The
unix pair is the floor of what a router in user space could reach: the router itself
(proxy_ebpf/unix.py) adds a process, and with it a second hand-off, to each.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lifl.proxy_ebpf.descriptor import SIZE, Descriptor, Kind
from lifl.proxy_ebpf.ebpf import EbpfRouter
from lifl.proxy_ebpf.port import make_pair

PING = Descriptor(1, 1, 1, 1, Kind.UPDATE).pack()
PONG = Descriptor(1, 1, 1, 1, Kind.RELEASE).pack()
WARM_UP = 1000
Ends = tuple[socket.socket, socket.socket]


@contextmanager
def ebpf() -> Iterator[Ends]:
    """Endpoint 1 sends an UPDATE up, endpoint 2 its RELEASE down."""
    router = EbpfRouter.open()
    one, two = make_pair("ebpf"), make_pair("ebpf")
    router.register(1, 1, *one)
    router.register(1, 2, *two)
    router.route(1, 1, 2)
    try:
        yield one[0], two[0]
        counters = router.counters(1)
        assert all(count.passed == 0 for count in counters.values()), counters
    finally:
        router.close()
        for end in (*one, *two):
            end.close()


@contextmanager
def unix() -> Iterator[Ends]:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        yield one, two


def one_round(ends: Ends, hand_offs: int, cpus: tuple[int, int]) -> tuple[float, float]:
    """(p50, p99) of a hand-off in µs."""
    here, there = ends
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {cpus[1]})
            while len(there.recv(SIZE)) == SIZE:
                there.send(PONG)
        finally:
            os._exit(0)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpus[0]})
        took = []
        for _ in range(WARM_UP + hand_offs // 2):
            start = time.perf_counter_ns()
            here.send(PING)
            here.recv(SIZE)
            took.append((time.perf_counter_ns() - start) / 2000)
    finally:
        os.sched_setaffinity(0, before)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    took = sorted(took[WARM_UP:])
    return took[len(took) // 2], took[len(took) * 99 // 100]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--hand-offs", type=int, default=20_000, help="per round")
    options = arguments.parse_args()

    allowed = sorted(os.sched_getaffinity(0))
    places = {"one CPU": (allowed[0], allowed[0])}
    if len(allowed) > 1:
        places["two CPUs"] = (allowed[0], allowed[1])
    ways: dict[str, Callable[[], AbstractContextManager[Ends]]] = {
        "eBPF router": ebpf,
        "unix seqpacket pair": unix,
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for place, cpus in places.items():
            for way, opened in ways.items():
                with opened() as ends:
                    figures = one_round(ends, options.hand_offs, cpus)
                found.setdefault((place, way), []).append(figures)

    print(f"Linux {platform.release()}, {len(allowed)} CPUs, load {os.getloadavg()[0]:.1f}")
    print(
        f"hand-off, µs, median of {options.rounds} rounds of {options.hand_offs} (range of p50)\n"
    )
    print(f"{'':10}{'':22}{'p50':>8}{'p99':>8}")
    for (place, way), rounds in found.items():
        p50, p99 = (statistics.median(column) for column in zip(*rounds, strict=True))
        low, high = min(r[0] for r in rounds), max(r[0] for r in rounds)
        print(f"{place:10}{way:22}{p50:8.1f}{p99:8.1f}   ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
