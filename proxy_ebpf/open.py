"""Chooses the router, once, and says why: the agent prints `name` and `reason`.

Owns the choice and the sentences about what is missing, the lack before the first colon and the
fix after it.  Called by the agent at its start and by
`lifl doctor`.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final, Literal

from lifl.errors import Unsupported
from lifl.proxy_ebpf.build import OBJECT
from lifl.proxy_ebpf.contract import CREDIT, Router
from lifl.proxy_ebpf.ebpf import EbpfRouter
from lifl.proxy_ebpf.unix import UnixRouter

Choice = Literal["auto", "ebpf", "unix"]

_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_BPF": 39}
_SYS_ADMIN: Final = 21  # stands for both
_BTF: Final = Path("/sys/kernel/btf/vmlinux")


def open_router(
    choice: Choice = "auto", pins: Path | None = None, *, credit: int = CREDIT, path: Path = OBJECT
) -> Router:
    """The router that `choice` names; `auto`: eBPF where it can be, and the reason where not.

    Raises:
        lifl.errors.Unsupported: `ebpf` was asked for and cannot be had; names what is missing and
            how to get it.
    """
    if choice == "unix":
        return UnixRouter(credit=credit)
    try:
        return _open_ebpf(pins, credit, path)
    except Unsupported as missing:
        if choice == "ebpf":
            raise
        return UnixRouter(reason=missing.sentence, credit=credit)


def _open_ebpf(pins: Path | None, credit: int, path: Path) -> EbpfRouter:
    lacking = missing_capabilities()
    if lacking:
        raise Unsupported(
            f"eBPF needs root: {' and '.join(lacking)} missing; run as root, or with CAP_BPF and "
            "CAP_NET_ADMIN, or over unix sockets (--proxy unix, or auto)"
        )
    if not path.exists():
        raise Unsupported(
            f"the kernel program {path.name} is missing: install clang and libbpf-dev, then "
            "build it with make setup, or python -m lifl.proxy_ebpf.build"
        )
    try:
        return EbpfRouter.open(pins, credit=credit, path=path)
    except OSError as error:
        raise Unsupported(_sentence(error)) from error


def _sentence(error: OSError) -> str:
    if error.errno is None:  # from dlopen
        return f"libbpf is missing: install it (Debian: apt install libbpf1); {error}"
    if error.errno == errno.EPERM:
        return f"the kernel or its seccomp profile forbids bpf(2): allow it to the agent; {error}"
    if not _BTF.exists():
        return f"this kernel has no BTF: it needs CONFIG_DEBUG_INFO_BTF; {error}"
    return f"the kernel refused the program: Linux 5.15 or later is needed; {error}"


def missing_capabilities() -> list[str]:
    """What this process lacks of what eBPF routing needs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            held = int(value, 16)
            return [
                capability
                for capability, bit in _CAPABILITIES.items()
                if not (held >> bit & 1 or held >> _SYS_ADMIN & 1)
            ]
    return list(_CAPABILITIES)
