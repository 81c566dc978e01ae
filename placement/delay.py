"""The delay of links between network namespaces: frames are held for a while before they go on.

    node's eth0 ─ frames ─► held for the delay ─► its port of the switch, and the other way round

Owns the process that does it for all links of a run: one thread, which sleeps until a frame comes
or is due.  Both ends of a link are TAP devices that fabric.py makes; this process has them from the
engine, which starts it, and starts another where it died.  It ends when the engine is gone, however
that came about.  The kernel has a delay line of its own, netem, which many kernels are built
without.

    python -m lifl.placement.delay --seconds 0.02 --link 7:8 --link 9:10 < LIFELINE
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

import click

from lifl.errors import Unsupported

TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TAP_WITH_HEADER: Final = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
_OFFLOADS: Final = 1 | 2 | 4  # checksums, TCP over IPv4 and IPv6 in segments of 64 KiB
_LARGEST: Final = (1 << 16) + 64  # a frame, with what precedes it
_BATCH: Final = 32  # frames from one end in one go
HELD_BYTES: Final = 256 << 20  # of all links; what does not fit is lost, as in any queue
_LIFELINE: Final = 0


def open_tun() -> int:
    """What TAP devices are made with.

    Raises:
        Unsupported: the kernel has none, or this process may not.
    """
    try:
        return os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_had(error) from error


def make_tap(name: str) -> int:
    """A TAP device in this thread's network namespace, for as long as its descriptor is open.

    Frames come and go whole, as TCP made them, with a header (virtio_net_hdr) that says how they
    are to be cut: a frame of 64 KiB costs as much as one of 1,500 bytes.

    Raises:
        Unsupported: the kernel has none.
    """
    fd = open_tun()
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITH_HEADER))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    except OSError as error:
        os.close(fd)
        raise _not_had(error) from error
    return fd


def _not_had(error: OSError) -> Unsupported:
    return Unsupported(
        f"--link-delay needs TAP devices, which cannot be had here ({error.strerror}): load the "
        "module tun (modprobe tun), or leave --link-delay out"
    )


def forward(across: Mapping[int, int], delay_s: float) -> None:
    """Hold every frame for `delay_s`, until the lifeline is cut.

    Args:
        across: where frames go that come from a descriptor.
    """
    waiting: deque[tuple[float, int, bytes]] = deque()  # in the order in which they are due
    held = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, fd, frame = waiting.popleft()
            held -= len(frame)
            with contextlib.suppress(OSError):  # an end that is down loses what comes to it
                os.write(fd, frame)
        wait_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        # in microseconds, which poll(2) has not; a /24 of nodes has descriptors enough below 1024
        ready, _, _ = select.select([_LIFELINE, *across], [], [], wait_s)
        for fd in ready:
            if fd == _LIFELINE:
                return
            for _ in range(_BATCH):
                try:
                    frame = os.read(fd, _LARGEST)
                except OSError:  # no more now, or the end is down
                    break
                if held + len(frame) <= HELD_BYTES:
                    held += len(frame)
                    waiting.append((time.monotonic() + delay_s, across[fd], frame))


@click.command()
@click.option("--seconds", type=float, required=True)
@click.option("--link", "links", multiple=True, required=True, help="two descriptors, A:B")
def main(seconds: float, links: tuple[str, ...]) -> None:
    """Delay the frames of these links until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine's to decide
    across: dict[int, int] = {}
    for link in links:
        near, far = map(int, link.split(":"))
        across |= {near: far, far: near}
    forward(across, seconds)


if __name__ == "__main__":
    main()
