"""What ended runs have left on this machine, and its removal.

Owns telling what is left from what lives, carefully: a run lives while its `lifl run` holds the
lock of its directory or the other end of its engine's lifeline.  Processes that belong to no local
run, such as a cluster's, are never called left.  `judge` is a pure function of a snapshot.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from lifl.functions.waiting import readable
from lifl.placement.local import PREFIX
from lifl.proxy_ebpf import objects
from lifl.proxy_ebpf.objects import Object

ENGINE: Final = "lifl.placement.engine"
_MODULE: Final = re.compile(r" -m (lifl\.(?:placement|functions|trainer)[\w.]*)")
_NAME: Final = re.escape(PREFIX) + "[a-z0-9_]{8}"  # as tempfile.mkdtemp makes it
_DIRECTORY: Final = re.compile(rf" --(?:config|directory|socket) (/\S*/{_NAME})/")
_GRACE_S: Final = 5.0


@dataclass(frozen=True)
class Process:
    """A process of LIFL's.

    Attributes:
        started: clock ticks after boot; with the pid it says who it is.
        module: what it runs; empty for others, which are known as parents and children only.
        directory: of the local run that it belongs to; empty where it belongs to none.
        lifeline: of an engine, whether somebody else holds the other end.
    """

    pid: int
    parent: int
    started: int = 0
    module: str = ""
    directory: str = ""
    lifeline: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Processes of this pid namespace, and directories of runs: whether somebody locks them."""

    processes: Mapping[int, Process]
    directories: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftovers:
    """What can go."""

    processes: tuple[Process, ...] = ()
    directories: tuple[str, ...] = ()
    memfds: Mapping[str, int] = field(default_factory=dict)  # name -> bytes, with the processes
    objects: tuple[Object, ...] = ()
    unseen: str = ""  # what could not be looked at, and why

    def __bool__(self) -> bool:
        return bool(self.processes or self.directories or self.objects)


def judge(snapshot: Snapshot) -> tuple[tuple[Process, ...], tuple[str, ...]]:
    """Processes whose run is over, and directories that no run and no process needs."""
    processes = snapshot.processes
    left: list[Process] = []
    for process in processes.values():
        if not process.module:
            continue
        engine = _engine_above(process, processes)
        if engine is not None:
            over = not engine.lifeline
        else:  # its engine is dead: it is left if it was a local run's
            over = bool(process.directory) and not snapshot.directories.get(process.directory)
        if over:
            left.append(process)
    left += _below(left, processes)
    living = {p.directory for p in processes.values() if p.module and p not in left}
    return tuple(left), tuple(
        directory
        for directory, locked in snapshot.directories.items()
        if not locked and directory not in living
    )


def _below(left: list[Process], processes: Mapping[int, Process]) -> list[Process]:
    """What they have started, and is not LIFL's own."""
    pids, found = {process.pid for process in left}, []
    for _ in processes:
        new = [p for p in processes.values() if p.parent in pids and p.pid not in pids]
        if not new:
            break
        pids |= {process.pid for process in new}
        found += new
    return found


def _engine_above(process: Process, processes: Mapping[int, Process]) -> Process | None:
    """The engine of a process, itself included."""
    at: Process | None = process
    for _ in range(len(processes) + 1):
        if at is None or at.module == ENGINE:
            return at
        at = processes.get(at.parent)
    return None


def find(proc: Path = Path("/proc")) -> Leftovers:
    """Look at this machine.  Without root only at one's own."""
    processes, directories = judge(_snapshot(proc))
    memfds: dict[str, int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for fd in os.scandir(proc / str(process.pid) / "fd"):
                with contextlib.suppress(OSError):
                    name = os.readlink(fd.path)
                    if name.startswith("/memfd:lifl-"):
                        memfds[name.split()[0][len("/memfd:") :]] = os.stat(fd.path).st_blocks * 512
    found, unseen = _objects(proc)
    return Leftovers(processes, directories, memfds, found, unseen)


def _objects(proc: Path) -> tuple[tuple[Object, ...], str]:
    """eBPF objects of which it is certain that nobody has them."""
    if os.geteuid() != 0:
        return (), "eBPF objects: only root can see who holds them"
    if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
        return (), "eBPF objects: a pid namespace hides who holds them; look on the node itself"
    try:
        return tuple(objects.unheld(proc)), ""
    except OSError as error:
        return (), f"eBPF objects: {error}"


def _snapshot(proc: Path) -> Snapshot:
    found: dict[int, Process] = {}
    pipes: dict[int, str] = {}  # engine -> its lifeline
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # ended
            if os.geteuid() not in (0, entry.stat().st_uid):
                continue
            pid = int(entry.name)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            module, directory = _MODULE.search(command), _DIRECTORY.search(command)
            found[pid] = Process(
                pid, int(fields[1]), int(fields[19]), module[1] if module else "",
                directory[1] if module and directory else "",
            )  # fmt: skip
            if module and module[1] == ENGINE:
                found[pid] = replace(found[pid], lifeline=True)  # until it is seen that it is cut
                pipes[pid] = os.readlink(entry / "fd" / "0")
    for pid, pipe in pipes.items():
        found[pid] = replace(found[pid], lifeline=_is_held(proc, pid, pipe))
    folders = {Path(where) for where in ("/run", os.environ.get("XDG_RUNTIME_DIR", ""),
                                         tempfile.gettempdir()) if where}  # fmt: skip
    paths = {path for folder in folders for path in folder.glob(f"{PREFIX}*")}
    paths |= {Path(process.directory) for process in found.values() if process.directory}
    return Snapshot(found, {str(path): _is_locked(path) for path in sorted(paths) if _is_run(path)})


def _is_run(path: Path) -> bool:
    """A directory that `lifl run` made, and that is this user's to remove."""
    return (
        re.fullmatch(_NAME, path.name) is not None
        and (path / "engine.json").exists()
        and os.geteuid() in (0, path.stat().st_uid)
    )


def _is_held(proc: Path, engine: int, pipe: str) -> bool:
    """Whether another process has the writing end of an engine's lifeline."""
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == engine:
            continue
        try:
            fds = list(os.scandir(entry / "fd"))
        except PermissionError:
            if entry.stat().st_uid != os.geteuid():
                continue
            return True
        except OSError:
            continue
        for fd in fds:
            with contextlib.suppress(OSError):
                if os.readlink(fd.path) == pipe and _writes(entry / "fdinfo" / fd.name):
                    return True
    return False


def _writes(fdinfo: Path) -> bool:
    match = re.search(r"^flags:\s*(\d+)$", fdinfo.read_text(), re.MULTILINE)
    return bool(match) and int(match[1], 8) & os.O_ACCMODE != os.O_RDONLY  # type: ignore[index]


def _is_locked(directory: Path) -> bool:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError:  # whoever may not look, may not say that nobody has it
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# -- removal ---------------------------------------------------------------------------------
def remove(left: Leftovers) -> None:
    """End processes, then remove directories, then what was kept in the kernel.

    An engine is asked first: it ends its own, and undoes what is theirs.
    """
    engines = [process for process in left.processes if process.module == ENGINE]
    _end(engines, signal.SIGTERM)
    _end(list(left.processes), signal.SIGKILL)
    for directory in left.directories:
        if not _is_locked(Path(directory)):
            shutil.rmtree(directory, ignore_errors=True)
    again, _ = _objects(Path("/proc"))  # what the processes held is free by now
    objects.end(list(again))


def _end(processes: list[Process], sign: signal.Signals) -> None:
    """Signal each, unless its pid is somebody else's by now, and wait until it is gone."""
    for process in processes:
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(process.pid)
            try:
                stat = Path(f"/proc/{process.pid}/stat").read_text()
                if int(stat.rpartition(")")[2].split()[19]) == process.started:
                    if sign is signal.SIGTERM:  # a stopped one hears it when it goes on
                        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                    signal.pidfd_send_signal(pidfd, sign)
                    readable([pidfd], _GRACE_S)
            finally:
                os.close(pidfd)
