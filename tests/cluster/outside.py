"""Programs outside the cluster: in the test cluster's namespace for them, or on this machine.

A cluster that `onemachine` made has its outside in the network namespace <name>-outside; of any
other this machine is outside.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NETNS = Path("/run/netns") / f"{os.environ.get('LIFL_CLUSTER_NAME') or 'lifl'}-outside"
INSIDE: list[str] = ["nsenter", f"--net={NETNS}"] if NETNS.exists() else []


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*INSIDE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def start_client(program: str, file: Path) -> subprocess.Popen[str]:
    """A program whose `lifl.Client.connect()` finds this client file."""
    return start(sys.executable, "-c", program, LIFL_CLIENT=str(file))


@contextmanager
def route(address: str, via: str) -> Iterator[None]:
    """An address that leads to a node, as a provider's load balancer has one."""
    words = [*INSIDE, "ip", "route"]
    subprocess.run([*words, "add", f"{address}/32", "via", via], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run([*words, "del", f"{address}/32"], check=True, timeout=30)
