"""The floor of a round: raw TCP moving the same bytes both ways, and nothing else.

As many client processes as there are clients, eight at most, each with its share of connections;
one process that sends every client the bytes of a model from one buffer and takes the bytes of an
update into another.  No message, no check, no sum: what is left is what the kernel costs.  Clients
give way (SCHED_BATCH), as trainers of `lifl run` do, so that both are scheduled alike.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from dataclasses import dataclass

from lifl.placement.processes import give_way

PROCESSES = 8
CHUNK = 1 << 20


@dataclass(frozen=True)
class Floor:
    """Seconds of each round but the first, and CPU seconds of the receiving process in one."""

    seconds: list[float]
    cpu_s: float


def floor(clients: int, size: int, rounds: int, *, control: bytes | None = None) -> Floor:
    """`rounds` warm rounds of `clients` × `size` bytes down and up again.

    Args:
        control: TCP's congestion control, the system's unless given.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    _set(listener, control)  # handed on to what it accepts
    here = min(clients, PROCESSES)
    shares = [clients // here + (index < clients % here) for index in range(here)]
    pids = []
    for share in shares:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _clients(listener.getsockname(), share, size, rounds + 1, control)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    socks = [listener.accept()[0] for _ in range(clients)]
    for sock in socks:
        sock.setblocking(False)
    scratch, source = memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))
    took: list[float] = []
    before = 0.0
    try:
        for number in range(rounds + 1):
            if number == 1:
                before = time.process_time()
            began = time.perf_counter()
            _round(socks, size, scratch, source)
            took.append(time.perf_counter() - began)
        return Floor(took[1:], (time.process_time() - before) / rounds)
    finally:
        for sock in (*socks, listener):
            sock.close()
        for pid in pids:
            os.waitpid(pid, 0)


def _round(socks: list[socket.socket], size: int, scratch: memoryview, source: memoryview) -> None:
    with selectors.EpollSelector() as poll:
        for sock in socks:
            poll.register(sock, selectors.EVENT_WRITE, [size, size])
        left = len(socks)
        while left:
            for key, _ in poll.select():
                sock, todo = key.fileobj, key.data
                assert isinstance(sock, socket.socket)
                if todo[0]:  # down first, as in a round
                    todo[0] -= sock.send(source[: min(todo[0], CHUNK)])
                    if not todo[0]:
                        poll.modify(sock, selectors.EVENT_READ, todo)
                    continue
                count = sock.recv_into(scratch, min(todo[1], CHUNK))
                if not count:
                    raise ConnectionError("a client of the floor is gone")
                todo[1] -= count
                if not todo[1]:
                    poll.unregister(sock)
                    left -= 1


def _set(sock: socket.socket, control: bytes | None) -> None:
    if control is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, control)


def _clients(
    address: tuple[str, int], count: int, size: int, rounds: int, control: bytes | None
) -> None:
    give_way()  # as trainers of `lifl run`
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        _set(sock, control)  # before it connects: a socket that was paced once stays so
        sock.connect(address)
    scratch, source = memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))
    for _ in range(rounds):
        for sock in socks:
            left = size
            while left:
                count = sock.recv_into(scratch, min(left, CHUNK))
                if not count:
                    return
                left -= count
            left = size
            while left:
                left -= sock.send(source[: min(left, CHUNK)])
