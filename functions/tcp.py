"""What both ends of the bulk port ask of TCP.  Called by bulk.py and bulk_client.py."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Final

LOCAL_CONTROL: Final = b"reno"  # built into every kernel, and no right is needed for it


def prepare(sock: socket.socket) -> None:
    """Send at once; and between two processes of one machine, send without a pace.

    A congestion control that paces (BBR) spreads segments by timers.  Over loopback there is no
    queue to spare, so that the timers only keep both ends waiting: a round of 8 × 46.8 MB takes
    half as long again.  Connections that leave the machine keep what its administrator chose.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if is_loopback(sock.getpeername()[0]):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONTROL)


def is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
