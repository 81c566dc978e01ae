"""What both ends of the bulk port ask of TCP.  Called by bulk.py and bulk_client.py.

A congestion control that paces (BBR) spreads segments by timers.  Over loopback there is no queue
to spare, so that the timers only keep both ends waiting: a round of 8 × 46.8 MB takes half as long
again.  Two processes of one machine therefore talk without a pace; connections that leave it keep
what its administrator chose.  A socket that was paced once stays so, whatever it is told later:
hence it is told before it connects, and listeners hand on what they were told.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Final

WAKE_AT: Final = 1 << 18  # bytes of something long that are worth a wake-up (SO_RCVLOWAT)
LOCAL_CONTROL: Final = b"reno"  # built into every kernel, and no right is needed for it


def listen(host: str, port: int = 0, *, backlog: int) -> socket.socket:
    """A listener; what it accepts does not block.

    Args:
        port: 0: one of the system's choice.

    Raises:
        OSError: this machine has no such address, or somebody else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=backlog)
    _unpace(listener, listener.getsockname()[0])
    listener.setblocking(False)
    return listener


def connect(host: str, port: int, *, timeout_s: float) -> socket.socket:
    """A connection that sends at once.

    Raises:
        OSError: nobody listens there.
    """
    error: OSError = OSError(f"{host} has no address")
    for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.settimeout(timeout_s)
            _unpace(sock, str(address[0]))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as last:
            sock.close()
            error = last
    raise error


def begin(host: str, port: int) -> socket.socket:
    """A connection that is being made and does not block: writable when it is there, or has failed.

    Raises:
        OSError: there is no way to that address.
    """
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        _unpace(sock, str(address[0]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _unpace(sock: socket.socket, host: str) -> None:
    if is_loopback(host):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, LOCAL_CONTROL)


def is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
