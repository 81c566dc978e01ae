"""The router in the kernel: loads route.bpf.o, fills its maps and reads the far ends.

Owns the program, the maps and their pins.  The verdicts are route.bpf.c's; the agent sleeps while
descriptors pass.  Pins lie in a directory named after the object file: a successor built from the
same object takes them over with every live socket, any other removes them and starts afresh,
since its program would not reach sockets that are already in a map.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from lifl.errors import Busy, Refused, Unsupported
from lifl.proxy_ebpf import libbpf
from lifl.proxy_ebpf.build import OBJECT
from lifl.proxy_ebpf.contract import CREDIT, FLUSHES, Counters, Returned
from lifl.proxy_ebpf.descriptor import Descriptor
from lifl.proxy_ebpf.ends import Ends, split
from lifl.proxy_ebpf.policy import Key
from lifl.proxy_ebpf.unix import cookie_of

_T = TypeVar("_T")

PROGRAM: Final = "lifl_route"
BUFFER_BYTES: Final = 1 << 16  # of each end and direction; the kernel doubles it

_KEY: Final = struct.Struct("=IHH")  # struct lifl_endpoint
_HOP: Final = struct.Struct("=I")
_FD: Final = struct.Struct("=i")
_SOCKET: Final = struct.Struct("=Q")  # in: a descriptor; out: the socket's cookie
_COUNTS: Final = struct.Struct("=5Q")  # struct lifl_counts
_HELD: Final = struct.Struct("=4i")  # struct lifl_held


class EbpfRouter:
    """Keeps `contract.Router` with an SK_MSG program; made by `open`."""

    name: Final = "ebpf"
    reason: Final = ""

    @classmethod
    def open(
        cls, pins: Path | None = None, *, credit: int = CREDIT, path: Path = OBJECT
    ) -> EbpfRouter:
        """Load and attach, or take over what is pinned under `pins`.

        Args:
            pins: a directory on a bpffs, of this router alone; None: nothing outlives the agent.
            credit: unreleased descriptors of one sender.
            path: the object file.

        Raises:
            OSError: something is missing; `open.open_router` says what.
        """
        fresh = True
        if pins is None:
            program, maps = libbpf.load(path, PROGRAM, tuple(_sizes()))
            home = None
        else:
            home = pins / hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            _remove_others(pins, home)
            fresh = not home.exists()
            if fresh:
                program, maps = libbpf.load(path, PROGRAM, tuple(_sizes()))
            else:
                program = libbpf.pinned(home / PROGRAM)
                maps = {name: libbpf.pinned(home / name) for name in _sizes()}
        router = cls(program, maps, home, credit)
        if fresh:
            with ExitStack() as undo:
                undo.callback(router.close)
                router._start()
                undo.pop_all()
        return router

    def __init__(self, program: int, maps: dict[str, int], home: Path | None, credit: int) -> None:
        sizes = _sizes()
        opened = {name: libbpf.Map(name, fd, *sizes[name]) for name, fd in maps.items()}
        self._program = libbpf.Program(program)
        self._maps = opened.values()
        self._sockets = opened["lifl_sockets"]
        self._identity = opened["lifl_identity"]
        self._next_hop = opened["lifl_next_hop"]
        self._counters = opened["lifl_counters"]
        self._credit = opened["lifl_credit"]
        self._home = home
        self._limit = credit
        self._ends = Ends()
        self._tails: dict[Key, bytes] = {}
        self._cookies: dict[Key, int] = {}  # of the socket that is in force
        self._closed = False

    def _start(self) -> None:
        self._program.attach(self._sockets)
        if self._home is None:
            return
        # Under its name only when whole: a successor never finds half of the pins.
        partial = _partial(self._home)
        partial.mkdir(mode=0o700)
        self._program.pin(partial / PROGRAM)
        for each in self._maps:
            each.pin(partial / each.name)
        partial.rename(self._home)

    def register(self, job: int, endpoint: int, near: socket.socket, far: socket.socket) -> None:
        key = Key(job, endpoint)
        _check_pair(key, near, far)
        before = self._told(near)
        if before is not None and before != key:
            self.unregister(*before)
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        packed = _pack(key)
        try:
            self._admit(packed)
            if before != key:  # a handed-back socket stays where it is, with what it has not read
                self._identity.update(_FD.pack(near.fileno()), packed)
                self._sockets.update(packed, _SOCKET.pack(near.fileno()))
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.ENOMEM):
                raise Busy(
                    "the router has no room for another endpoint: end a job first",
                    job=job,
                    endpoint=endpoint,
                ) from error
            if error.errno in (errno.EBUSY, errno.EOPNOTSUPP):
                raise Refused(
                    "this socket belongs to another router or is not connected: make a new pair",
                    job=job,
                    endpoint=endpoint,
                ) from error
            raise
        self._ends.add(key, far)
        self._tails[key], self._cookies[key] = b"", cookie_of(near)

    def _admit(self, packed: bytes) -> None:
        """Its credit and counters, where it has none yet."""
        self._credit.insert(packed, _HELD.pack(0, 0, self._limit, FLUSHES))
        self._counters.insert(packed, bytes(_COUNTS.size * libbpf.possible_cpus()))

    def unregister(self, job: int, endpoint: int) -> None:
        key = Key(job, endpoint)
        self._sockets.delete(_pack(key))
        self._drop(key)

    def _drop(self, key: Key) -> None:
        self._ends.drop(key)
        self._tails.pop(key, None)
        self._cookies.pop(key, None)

    def route(self, job: int, sender: int, to: int | None) -> None:
        key = _pack(Key(job, sender))
        if to is None:
            self._next_hop.delete(key)
        else:
            self._next_hop.update(key, _HOP.pack(to))

    def routes(self, job: int) -> dict[int, int]:
        found = self._of(job, self._next_hop, lambda value: int(_HOP.unpack(value)[0]))
        return {key.endpoint: to for key, to in found.items()}

    def forget(self, job: int) -> None:
        for key in self._ends.of(job):
            self._drop(key)
        for each in (self._sockets, self._next_hop, self._counters, self._credit):
            for packed in each:
                if _unpack(packed).job == job:
                    each.delete(packed)

    def counters(self, job: int) -> dict[int, Counters]:
        found = self._of(job, self._counters, _sum)
        return {key.endpoint: counts for key, counts in found.items()}

    def poke(self, job: int, endpoint: int, descriptor: Descriptor) -> None:
        self._ends.write(Key(job, endpoint), descriptor.pack())

    def reset_credit(self, job: int) -> None:
        whole = _HELD.pack(0, 0, self._limit, FLUSHES)
        for packed in self._credit:
            if _unpack(packed).job == job:
                self._credit.update(packed, whole)

    def mend(self) -> Counter[str]:
        """A socket keeps the program that was attached when it entered the map, or none."""
        found: Counter[str] = Counter()
        attached = self._program.is_attached(self._sockets)
        if not attached:
            self._program.attach(self._sockets)
            found["program"] += 1
        for key, cookie in list(self._cookies.items()):
            packed = _pack(key)
            if self._credit.lookup(packed) is None or self._counters.lookup(packed) is None:
                self._admit(packed)
                found["credit"] += 1
            in_force = self._sockets.lookup(packed)
            if attached and in_force is not None and _SOCKET.unpack(in_force)[0] == cookie:
                continue
            if not self._ends.is_whole(key):
                continue
            found["socket"] += 1
            self._sockets.delete(packed)
            self._ends.sever(key)
            self._drop(key)
        return found

    def fileno(self) -> int:
        return self._ends.fileno()

    def returned(self) -> list[Returned]:
        found: list[Returned] = []
        for key, chunk in self._ends.read():
            if not chunk:
                del self._tails[key], self._cookies[key]
                self._sockets.delete(_pack(key))
                found.append(Returned(job=key.job, sender=key.endpoint, closed=True))
                continue
            descriptors, odd, self._tails[key] = split(self._tails[key], chunk)
            found.append(
                Returned(
                    job=key.job,
                    sender=key.endpoint,
                    descriptors=tuple(descriptors),
                    quarantined=odd,
                )
            )
        return found

    def identity(self, near: socket.socket) -> tuple[int, int] | None:
        return self._told(near)

    def close(self, *, keep_pins: bool = False) -> None:
        """Without `keep_pins` sockets leave the map, so that program and maps can go at once."""
        if self._closed:
            return
        self._closed = True
        self._ends.close()
        if not keep_pins or self._home is None:
            for packed in self._sockets:
                self._sockets.delete(packed)
            try:
                self._program.detach(self._sockets)
            except OSError as error:
                if error.errno != errno.ENOENT:  # somebody detached it
                    raise
            if self._home is not None:
                shutil.rmtree(self._home, ignore_errors=True)
                shutil.rmtree(_partial(self._home), ignore_errors=True)
                with suppress(OSError):  # of this router alone: who looks there finds nothing
                    self._home.parent.rmdir()
        for each in self._maps:
            each.close()
        self._program.close()

    def _told(self, near: socket.socket) -> Key | None:
        """What the kernel says: an identity that this socket, and no later one, stands for."""
        packed = self._identity.lookup(_FD.pack(near.fileno()))
        if packed is None:
            return None
        in_force = self._sockets.lookup(packed)
        if in_force is None or _SOCKET.unpack(in_force)[0] != cookie_of(near):
            return None
        return _unpack(packed)

    def _of(self, job: int, table: libbpf.Map, read: Callable[[bytes], _T]) -> dict[Key, _T]:
        found: dict[Key, _T] = {}
        for packed in table:
            value = table.lookup(packed) if _unpack(packed).job == job else None
            if value is not None:
                found[_unpack(packed)] = read(value)
        return found


def _sizes() -> dict[str, tuple[int, int]]:
    """Bytes of keys and values, as route.bpf.c declares them."""
    return {
        "lifl_sockets": (_KEY.size, _SOCKET.size),
        "lifl_identity": (_FD.size, _KEY.size),
        "lifl_next_hop": (_KEY.size, _HOP.size),
        "lifl_counters": (_KEY.size, _COUNTS.size * libbpf.possible_cpus()),
        "lifl_credit": (_KEY.size, _HELD.size),
    }


def _pack(key: Key) -> bytes:
    return _KEY.pack(key.job, key.endpoint, 0)


def _unpack(packed: bytes) -> Key:
    job, endpoint, _ = _KEY.unpack(packed)
    return Key(job, endpoint)


def _sum(value: bytes) -> Counters:
    """Over all CPUs."""
    per_cpu = list(_COUNTS.iter_unpack(value))
    redirected, passed, quarantined, credit_limited, size = map(sum, zip(*per_cpu, strict=True))
    return Counters(
        sent=redirected + passed,
        redirected=redirected,
        passed=passed,
        quarantined=quarantined,
        credit_limited=credit_limited,
        bytes=size,
    )


def _check_pair(key: Key, near: socket.socket, far: socket.socket) -> None:
    try:
        pair = (
            near.family == far.family == socket.AF_INET
            and near.type == far.type == socket.SOCK_STREAM
            and near.getsockname() == far.getpeername()
            and near.getpeername() == far.getsockname()
        )
    except OSError:
        pair = False
    if not pair:
        raise Refused(
            "the two sockets are not the ends of one TCP connection: make the pair with "
            "make_pair('ebpf')",
            job=key.job,
            endpoint=key.endpoint,
        )


def _remove_others(pins: Path, home: Path) -> None:
    """Pins of other versions, and of a start that was cut short."""
    try:
        pins.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unsupported(f"{pins} cannot be made ({error.strerror}): choose another") from error
    if not _is_bpffs(pins):
        raise Unsupported(
            f"{pins} is not on a bpffs, so nothing can be pinned there: "
            f"mount -t bpf bpf {pins}, or run without pins"
        )
    for other in pins.iterdir():
        if other != home and other.is_dir():
            shutil.rmtree(other)


def _partial(home: Path) -> Path:
    """Without a dot: bpffs takes none in a name."""
    return home.with_name(home.name + "-partial")


def _is_bpffs(path: Path) -> bool:
    device = path.stat().st_dev
    wanted = f"{device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] == "bpf"
    return False
