"""Making, sealing, handing over and mapping the memory of a job.

Owns the three files of a (node, job): inputs, sums, locks.  Only the agent makes them; other
processes map what they were handed.  Knows no slot: those are in slots.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import Final

from lifl.errors import Busy
from lifl.shm.geometry import Geometry, Region
from lifl.shm.slots import SUMS_BIT, Arena

_MADV_POPULATE_READ: Final = 22  # Linux 5.14; Python's mmap has no names for them
_MADV_POPULATE_WRITE: Final = 23
_PUNCH_HOLE: Final = 0x02 | 0x01  # and the size stays
_libc = ctypes.CDLL(None, use_errno=True)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class ArenaFiles:
    """File descriptors of one job's memory on one node; the agent and the gateway own them."""

    geometry: Geometry
    inputs: int
    sums: int
    locks: int

    @classmethod
    def make(cls, job: str, geometry: Geometry, slots: int | None = None) -> ArenaFiles:
        """Three memfds, mode 0600, sealed against resize.

        Args:
            slots: input slots that get pages now, the first ones; all unless given.
        """
        inputs = _memfd(f"lifl-{job}-inputs", geometry.for_inputs.size_bytes)
        sums = _memfd(f"lifl-{job}-sums", geometry.for_sums.size_bytes)
        locks = _memfd(f"lifl-{job}-locks", 1 << 16)
        files = cls(geometry, inputs, sums, locks)
        try:
            region = geometry.for_inputs
            _populate(inputs, 0, region.payloads)
            _populate(inputs, region.payload_at(geometry.model_slot), region.slot_bytes)
            files.reserve_inputs(geometry.model_slot if slots is None else slots)
            _populate(sums, 0, geometry.for_sums.payloads)
            for fd in (inputs, sums):
                os.pwrite(fd, geometry.label(), 0)
        except BaseException:
            files.close()
            raise
        return files

    def reserve_inputs(self, slots: int) -> None:
        """Allocate the pages of the first input slots, as far as they have none."""
        region = self.geometry.for_inputs
        if slots:
            _populate(self.inputs, region.payloads, slots * region.slot_bytes)

    def give_back_inputs(self, slots: int) -> None:
        """Free the pages of input slots from this one on, in which nobody has anything."""
        region, end = self.geometry.for_inputs, self.geometry.model_slot
        if slots < end:
            length = (end - slots) * region.slot_bytes
            _punch(self.inputs, region.payload_at(slots), length)

    def reserve_sums(self, slots: tuple[int, ...]) -> None:
        """Allocate the pages of these sum slots (bare indices), before a role needs them."""
        region = self.geometry.for_sums
        for slot in slots:
            _populate(self.sums, region.payload_at(slot), region.slot_bytes)

    def read_only_inputs(self) -> int:
        """A new descriptor through which inputs cannot be written; the caller closes it."""
        return os.open(f"/proc/self/fd/{self.inputs}", os.O_RDONLY | os.O_CLOEXEC)

    def resident_bytes(self) -> int:
        return sum(os.fstat(fd).st_blocks * 512 for fd in (self.inputs, self.sums))

    def close(self) -> None:
        for fd in (self.inputs, self.sums, self.locks):
            os.close(fd)


def arena_bytes(geometry: Geometry, sum_slots: int, *, inputs: int | None = None) -> int:
    """Pages that a job needs on a node: `inputs` input slots, or all, and `sum_slots` sums."""
    region, before = geometry.for_sums, geometry.for_inputs
    count = geometry.model_slot if inputs is None else inputs
    return (
        before.payloads + (count + 1) * before.slot_bytes  # and the model's
        + region.payloads + sum_slots * region.slot_bytes
    )  # fmt: skip


def map_arena(
    geometry: Geometry, inputs: int, sums: int, *, write_inputs: bool, slots: int | None = None
) -> Arena:  # fmt: skip
    """Map both memories; only the gateway writes inputs, only aggregators write sums.

    Args:
        slots: input slots that have pages, the first ones; all unless given.
    """
    region = geometry.for_inputs
    written = _map(inputs, region, write=write_inputs)
    count = geometry.model_slot if slots is None else slots
    _touch(written, 0, region.payload_at(count), write=write_inputs)
    _touch(
        written, region.payload_at(geometry.model_slot), region.slot_bytes, write=write_inputs
    )
    summed = _map(sums, geometry.for_sums, write=not write_inputs)
    return Arena(geometry, memoryview(written), memoryview(summed))


def touch_sums(arena: Arena, slots: tuple[int, ...]) -> None:
    """A role's own sum slots, which the agent has reserved, before it writes them."""
    region, memory = arena.geometry.for_sums, arena.sums.obj
    assert isinstance(memory, mmap.mmap)
    for slot in slots:
        _touch(memory, region.payload_at(slot & ~SUMS_BIT), region.slot_bytes, write=True)


def lock_role(locks: int, endpoint: int, *, wait: bool) -> bool:
    """Take the record lock of a role; True when this process holds it.

    A record lock belongs to the process, and closing *any* descriptor of the file drops it:
    never map that file, never duplicate this descriptor, keep exactly one open.
    """
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, endpoint)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock_role(locks: int, endpoint: int) -> None:
    fcntl.lockf(locks, fcntl.LOCK_UN, 1, endpoint)


def _memfd(name: str, size_bytes: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0o600)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _populate(fd: int, start: int, length: int) -> None:
    try:
        os.posix_fallocate(fd, start, length)
    except OSError as error:
        raise Busy(
            f"no memory for {length} bytes of shared memory ({error.strerror}): give the node "
            "more memory, or the job fewer spec.memory.inputSlots",
            code="no-memory",
        ) from error


def _punch(fd: int, start: int, length: int) -> None:
    """Make a hole: its pages are gone, also from every mapping, and reading it gives zeros."""
    if _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def _map(fd: int, region: Region, *, write: bool) -> mmap.mmap:
    access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    return mmap.mmap(fd, region.size_bytes, mmap.MAP_SHARED, access)


def _touch(memory: mmap.mmap, start: int, length: int, *, write: bool) -> None:
    """Enter pages that exist into this process's tables now, not in the midst of its first round.

    Only of memory that is allocated: a hole would get its pages from here.
    """
    with contextlib.suppress(OSError):  # a kernel before 5.14 does it when they are used
        memory.madvise(_MADV_POPULATE_WRITE if write else _MADV_POPULATE_READ, start, length)
