"""What the bulk port asks of TCP, between processes of one machine and beyond."""

from __future__ import annotations

import socket

import pytest

from lifl.functions import tcp


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_loopback_sends_at_once_and_without_a_pace(host: str) -> None:
    try:
        listener = tcp.listen(host, backlog=1)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    port = listener.getsockname()[1]
    with listener, tcp.connect(host, port, timeout_s=5) as near:
        listener.setblocking(True)
        far, _ = listener.accept()
        with far:
            for end in (near, far):
                control = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                assert control.rstrip(b"\0") == tcp.LOCAL_CONTROL
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_where_nobody_listens() -> None:
    with tcp.listen("127.0.0.1", backlog=1) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        tcp.connect("127.0.0.1", port, timeout_s=5)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False), ("fe80::1%eth0", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_machine(host: str, is_local: bool) -> None:
    assert tcp.is_loopback(host) is is_local
