"""`lifl run --host`: the address at which a run's gateways listen and that client files name.

Owns what may be given.  Coordinator, agents and metrics stay at the loopback address, whatever it
is.  Called by local.py, before anything is started.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Final

from lifl.errors import InvalidJob

LOOPBACK: Final = "127.0.0.1"


def check_host(host: str) -> None:
    """Gateways can listen there, and clients can be told so.

    Raises:
        InvalidJob: it is no IPv4 address of this machine, or means all of its addresses.
    """
    fix = "name an IPv4 address of this machine that clients can reach, such as `hostname -I` shows"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise InvalidJob(f"--host {host}: this is no address: {fix}") from None
    if address.is_unspecified:
        raise InvalidJob(
            f"--host {host}: client files name the address that clients call, and nobody can call "
            f"this one: {fix}"
        )
    if address.version != 4 or address.is_multicast:
        raise InvalidJob(f"--host {host}: gateways cannot listen there: {fix}")
    try:
        socket.create_server((host, 0)).close()
    except OSError as error:
        raise InvalidJob(f"--host {host}: {os.strerror(error.errno or 0)}: {fix}") from error


def warning_of(host: str, *, is_insecure: bool) -> str | None:
    """What a run at this address says at its start."""
    if not is_insecure or ipaddress.ip_address(host).is_loopback:
        return None
    return (
        f"insecure: true with --host {host}: whoever reaches that address can read and change "
        "every update and the model, and take part as any client: leave insecure out of the "
        "job unless that network is yours alone"
    )
