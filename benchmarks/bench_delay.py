"""Links with a delay: what they carry, and what the process that delays their frames costs.

    sudo .venv/bin/python -m benchmarks.bench_delay [--seconds 5]

A node's link as `lifl run --network netns --link-delay` makes it, filled from the namespace of
clients to the node's by so many TCP connections.  `Gbit/s`: what the node has received.  `CPU`: of
placement/delay.py meanwhile, in cores; senders and receiver share the machine with it, and are not
in that.  docs/network.md has the figures of one machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from functools import partial

from benchmarks.system import cpu_s, machine
from lifl.placement import netns
from lifl.placement.fabric import CLIENTS, Fabric, check_network, parse_delay, parse_rate

NODE = "node-0"
PIECE = 1 << 20
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Link:
    """One row: rate and delay as the command takes them."""

    rate: str
    delay: str
    connections: int


LINKS = (Link("100Gbit", "0.5ms", 4), Link("1Gbit", "10ms", 4))


class Receiver:
    """Reads from connections, a thread each, until their other ends are closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener, self._counts = listener, list[int]()

    @property
    def received(self) -> int:
        """Bytes, of all."""
        return sum(self._counts)

    def take(self, connections: int) -> list[threading.Thread]:
        threads = []
        for at in range(connections):
            sock, _ = self._listener.accept()
            self._counts.append(0)
            threads.append(threading.Thread(target=self._read, args=(sock, at)))
            threads[-1].start()
        return threads

    def _read(self, sock: socket.socket, at: int) -> None:
        buffer = bytearray(PIECE)
        with sock:
            while size := sock.recv_into(buffer):
                self._counts[at] += size


def send(sock: socket.socket) -> int:
    """Fill a connection from a process of its own, which this returns."""
    pid = os.fork()
    if pid == 0:
        try:
            piece = bytes(PIECE)
            while True:  # until the reader is gone, if nobody ends this before
                sock.sendall(piece)
        finally:
            os._exit(0)
    sock.close()
    return pid


def measure(link: Link, seconds: float) -> tuple[float, float]:
    """(Gbit/s, cores) of a link that is full."""
    fabric = Fabric([NODE], parse_rate(link.rate), parse_delay(link.delay))
    delaying, senders, readers = fabric.delay(), list[int](), list[threading.Thread]()
    assert delaying is not None
    try:
        clients = os.open(fabric.path(CLIENTS), os.O_RDONLY)
        with fabric.listen(NODE, backlog=link.connections) as listener:
            connect = partial(socket.create_connection, listener.getsockname(), timeout=30)
            socks = [netns.within(clients, connect) for _ in range(link.connections)]
            receiver = Receiver(listener)
            senders = [send(sock) for sock in socks]
            readers = receiver.take(link.connections)
        os.close(clients)
        time.sleep(WARM_UP_S)  # until windows have grown
        began, received, used_s = time.monotonic(), receiver.received, cpu_s(delaying.pid)
        time.sleep(seconds)
        took_s = time.monotonic() - began
        gbit_s = (receiver.received - received) * 8 / took_s / 1e9
        return gbit_s, (cpu_s(delaying.pid) - used_s) / took_s
    finally:
        for pid in senders:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for reader in readers:
            reader.join(30)
        delaying.kill()
        delaying.wait()
        fabric.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    check_network(delays=True)
    about = machine()
    print(f"{about['cpu']}, {about['cpus']} CPUs, Linux {about['kernel']}")
    print(f"{'link':22}{'connections':>13}{'Gbit/s':>10}{'CPU':>8}")
    for link in LINKS:
        gbit_s, cores = measure(link, asked.seconds)
        where = f"{link.rate}, {link.delay}"
        print(f"{where:22}{link.connections:>13}{gbit_s:>10.2f}{cores:>8.2f}")


if __name__ == "__main__":
    main()
