"""Programs and maps of LIFL in this kernel, whoever made them: who holds them, and ending those
that nobody does.

A program that is attached to its sockhash keeps it and is kept by it, so the two can outlive every
process.  Owns finding such pairs and taking them apart.  Called by `lifl doctor`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lifl.proxy_ebpf import libbpf

Kind = Literal["prog", "map"]

PREFIX: Final = "lifl_"
_NAME_AT: Final = {"prog": 64, "map": 24}  # struct bpf_prog_info, bpf_map_info
_ID_AT: Final = 4
_INFO_BYTES: Final = 256
_SOCKHASH: Final = 18
_HELD: Final = re.compile(r"^(prog|map)_id:\s*(\d+)$", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Object:
    """A program or a map."""

    kind: Kind
    id: int
    name: str
    type: int


def listed() -> list[Object]:
    """Every program and map whose name is one of LIFL's.

    Raises:
        OSError: no libbpf, or no right to look.
    """
    return sorted(_listed("prog")) + sorted(_listed("map"))


def unheld(proc: Path = Path("/proc")) -> list[Object]:
    """Those that no process has open and nothing pins.

    Objects are listed before holders, so that what is made meanwhile is not among them.
    """
    found = listed()
    held = _held(proc) | _pinned(proc)
    return [each for each in found if (each.kind, each.id) not in held]


def end(objects: list[Object]) -> None:
    """Take programs off the maps that keep them; the kernel frees what is left."""
    fds: dict[Object, int] = {}
    try:
        for each in objects:
            with contextlib.suppress(OSError):  # gone meanwhile
                fds[each] = _open(each.kind, each.id)
        for program in [each for each in fds if each.kind == "prog"]:
            for sockets in [each for each in fds if each.type == _SOCKHASH and each.kind == "map"]:
                libbpf.library().bpf_prog_detach2(
                    fds[program], fds[sockets], libbpf.SK_MSG_VERDICT
                )  # of another pair: refused, and nothing is changed
    finally:
        for fd in fds.values():
            os.close(fd)


def _listed(kind: Kind) -> Iterator[Object]:
    library = libbpf.library()
    step = library.bpf_prog_get_next_id if kind == "prog" else library.bpf_map_get_next_id
    number = ctypes.c_uint32(0)
    while step(number.value, ctypes.byref(number)) == 0:
        try:
            fd = _open(kind, number.value)
        except FileNotFoundError:
            continue
        try:
            each = _info(kind, fd)
        finally:
            os.close(fd)
        if each.name.startswith(PREFIX):
            yield each
    code = ctypes.get_errno()
    if code not in (0, 2):  # ENOENT: that was the last
        raise OSError(code, os.strerror(code))


def _open(kind: Kind, number: int) -> int:
    library = libbpf.library()
    call = library.bpf_prog_get_fd_by_id if kind == "prog" else library.bpf_map_get_fd_by_id
    fd: int = call(number)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def _info(kind: Kind, fd: int) -> Object:
    info, length = ctypes.create_string_buffer(_INFO_BYTES), ctypes.c_uint32(_INFO_BYTES)
    if libbpf.library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    at = _NAME_AT[kind]
    name = info.raw[at : at + 16].split(b"\0")[0].decode(errors="replace")
    number = int.from_bytes(info.raw[_ID_AT : _ID_AT + 4], "little")
    return Object(kind, number, name, int.from_bytes(info.raw[:4], "little"))


def _held(proc: Path) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # ended
            for fd in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    if "bpf" in os.readlink(fd.path):
                        text = (process / "fdinfo" / fd.name).read_text()
                        found |= {(kind, int(number)) for kind, number in _HELD.findall(text)}
    return found


def _pinned(proc: Path) -> set[tuple[str, int]]:
    """What a bpffs keeps, in any mount namespace that a process lives in."""
    found: set[tuple[str, int]] = set()
    for path in pins(proc):
        with contextlib.suppress(OSError):
            fd = libbpf.pinned(path)
            try:
                for kind, number in _HELD.findall(Path(f"/proc/self/fdinfo/{fd}").read_text()):
                    found.add((kind, int(number)))
            finally:
                os.close(fd)
    return found


def pins(proc: Path = Path("/proc")) -> Iterator[Path]:
    """Pins of LIFL's objects, as paths through a process that sees them."""
    seen: set[str] = set()
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            namespace = os.readlink(process / "ns" / "mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (process / "mountinfo").read_text().splitlines():
                fields = line.split()
                if fields[fields.index("-") + 1] != "bpf":
                    continue
                root = process / "root" / fields[4].lstrip("/")
                for folder, _, names in os.walk(root):
                    yield from (Path(folder) / name for name in names if name.startswith(PREFIX))
