"""What a run of LIFL holds on this machine, so that a test can say that nothing of it stays.

Owns telling the test's own runs from everybody else's: they carry a marker in their environment
and keep their directories in a folder of the test, so that two test runs do not meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lifl.errors import LiflError
from lifl.proxy_ebpf import libbpf, objects

MARKER = "LIFL_TEST_RUN"
_ID = re.compile(r"^(prog|map|link)_id:\s*(\d+)$", re.MULTILINE)


def ours(mark: str) -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process that carries the marker."""
    sign = f"{MARKER}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if sign in (entry / "environ").read_bytes().split(b"\0"):
                yield (
                    int(entry.name),
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(),
                )
        except OSError:
            continue


def processes(mark: str, module: str) -> list[int]:
    """Pids of the test's own processes that run a module of LIFL."""
    return [pid for pid, command in ours(mark) if f"-m {module} " in command]


def leftovers(mark: str, folder: Path) -> set[str]:
    """Processes, memfds, files and mounts of this test's runs, and BPF objects of no other's."""
    found, pids = set(), set()
    for pid, command in ours(mark):
        pids.add(pid)
        if re.search(r"-m lifl[ .]", command):
            found.add(f"process {pid}: {command}")
        try:
            fds = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found |= {f"memfd {fd} of {pid}" for fd in fds if fd.startswith("/memfd:lifl")}
    found |= {f"file {path}" for path in folder.iterdir()}
    found |= {f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines()
              if line.startswith("lifl ") and str(folder) in line}  # fmt: skip
    return found | _bpf_objects(pids, folder)


def _bpf_objects(pids: set[int], folder: Path) -> set[str]:
    """Programs, maps and links that neither others than `pids` hold nor another run has pinned.

    Listed before their holders, so that what another run makes meanwhile is not among them.
    """
    if os.geteuid() != 0:
        return set()
    names: dict[tuple[str, int], str] = {}
    for what in ("prog", "map", "link"):
        listing = subprocess.run(["bpftool", "-j", what, "list"], capture_output=True, check=False)
        for row in json.loads(listing.stdout or b"[]"):
            if "lifl_" in row.get("name", ""):
                names[what, row["id"]] = row["name"]
    others = {
        each
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) not in pids
        for each in bpf_ids(entry)
    }
    others |= _pinned_elsewhere(folder)
    return {f"bpf {what} {number} {names[what, number]}" for what, number in names.keys() - others}


def _pinned_elsewhere(folder: Path) -> set[tuple[str, int]]:
    """What another run keeps in a bpffs, maybe for an agent that is dead and never comes again."""
    found: set[tuple[str, int]] = set()
    for path in objects.pins():
        if str(folder) in str(path):
            continue
        with contextlib.suppress(OSError, LiflError):  # gone meanwhile
            fd = libbpf.pinned(path)
            try:
                for kind, number in _ID.findall(Path(f"/proc/self/fdinfo/{fd}").read_text()):
                    found.add((kind, int(number)))
            finally:
                os.close(fd)
    return found


def bpf_ids(process: Path) -> set[tuple[str, int]]:
    """(kind, id) of every BPF object that a process has open."""
    found: set[tuple[str, int]] = set()
    try:
        paths = list((process / "fdinfo").iterdir())
    except OSError:
        return found
    for path in paths:
        with contextlib.suppress(OSError):  # closed meanwhile
            for kind, number in _ID.findall(path.read_text()):
                found.add((kind, int(number)))
    return found
