"""What the bulk port asks of TCP, between processes of one machine and beyond."""

from __future__ import annotations

import socket

import pytest

from lifl.functions import tcp


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_loopback_sends_at_once_and_without_a_pace(family: socket.AddressFamily, host: str) -> None:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with listener, socket.create_connection(listener.getsockname()[:2]) as near:
        far, _ = listener.accept()
        with far:
            for end in (near, far):
                tcp.prepare(end)
                control = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert control.rstrip(b"\0") == tcp.LOCAL_CONTROL
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_machine(host: str, is_local: bool) -> None:
    assert tcp.is_loopback(host) is is_local
