"""ctypes over libbpf.so.1: open, load, attach, pin, and typed access to one map.

Owns every foreign call and turns each failure into an OSError that carries errno, the call and
libbpf's last words.  Knows nothing of descriptors or of what the maps mean.  Called by ebpf.py
alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

SK_MSG_VERDICT: Final = 7  # enum bpf_attach_type
_NOEXIST: Final = 1  # BPF_NOEXIST
_INFO_BYTES: Final = 256
_ID_AT: Final = 4  # struct bpf_prog_info

_LOG_LINES: Final = 40
_log: list[str] = []
_Print = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)

_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "libbpf_set_print": (c_void_p, (_Print,)),
    "libbpf_num_possible_cpus": (c_int, ()),
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__find_map_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_object__find_program_by_name": (c_void_p, (c_void_p, c_char_p)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_prog_attach": (c_int, (c_int, c_int, c_int, c_uint32)),
    "bpf_prog_detach2": (c_int, (c_int, c_int, c_int)),
    "bpf_prog_query": (c_int, (c_int, c_int, c_uint32, c_void_p, c_void_p, c_void_p)),
    "bpf_obj_pin": (c_int, (c_int, c_char_p)),
    "bpf_obj_get": (c_int, (c_char_p,)),
    "bpf_prog_get_next_id": (c_int, (c_uint32, c_void_p)),
    "bpf_map_get_next_id": (c_int, (c_uint32, c_void_p)),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_map_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, c_uint64)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p)),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p)),
}

_library: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """libbpf, loaded once.

    Raises:
        OSError: it is not installed.
    """
    global _library
    if _library is None:
        loaded = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        loaded.libbpf_set_print(_print)
        _library = loaded
    return _library


_vsnprintf = ctypes.CDLL(None).vsnprintf
_vsnprintf.restype, _vsnprintf.argtypes = c_int, (c_char_p, c_size_t, c_char_p, c_void_p)


def _remember(level: int, form: bytes, arguments: int) -> int:
    """Keep warnings for the error to come.  A va_list is passed by reference on x86-64, arm64."""
    if level == 0:
        buffer = ctypes.create_string_buffer(4096)
        _vsnprintf(buffer, len(buffer), form, arguments)
        _log.extend(buffer.value.decode(errors="replace").rstrip().splitlines())
        del _log[:-_LOG_LINES]
    return 0


_print = _Print(_remember)  # libbpf keeps the pointer, so this stays


def _failed(call: str) -> OSError:
    """The error of the call that just failed; libbpf 1.x sets errno in every one of them."""
    code = ctypes.get_errno() or errno.EINVAL
    said = "".join(f"\n  {line}" for line in _log)
    _log.clear()
    return OSError(code, f"{call}: {os.strerror(code)}{said}")


def _checked(result: int, call: str) -> int:
    if result < 0:
        raise _failed(call)
    return result


def possible_cpus() -> int:
    return _checked(library().libbpf_num_possible_cpus(), "libbpf_num_possible_cpus")


class Program:
    """A loaded program, by its descriptor, which this owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def attach(self, to: Map) -> None:
        call = library().bpf_prog_attach(self._fd, to.fd, SK_MSG_VERDICT, 0)
        _checked(call, f"attach to {to.name}")

    def detach(self, frm: Map) -> None:
        call = library().bpf_prog_detach2(self._fd, frm.fd, SK_MSG_VERDICT)
        _checked(call, f"detach from {frm.name}")

    def is_attached(self, to: Map) -> bool:
        """This program, and no other, decides for sockets that enter the map from now on.

        Linux before 5.18 does not say, and is believed.
        """
        ids, count = (c_uint32 * 1)(), c_uint32(1)
        query = library().bpf_prog_query
        if query(to.fd, SK_MSG_VERDICT, 0, None, ids, ctypes.byref(count)) < 0:
            if ctypes.get_errno() != errno.EINVAL:
                raise _failed(f"query {to.name}")
            return True
        return count.value == 1 and ids[0] == self._id()

    def _id(self) -> int:
        info, size = ctypes.create_string_buffer(_INFO_BYTES), c_uint32(_INFO_BYTES)
        call = library().bpf_obj_get_info_by_fd(self._fd, info, ctypes.byref(size))
        _checked(call, "look at the program")
        return int.from_bytes(info.raw[_ID_AT : _ID_AT + 4], sys.byteorder)

    def pin(self, path: Path) -> None:
        _checked(library().bpf_obj_pin(self._fd, bytes(path)), f"pin {path}")

    def close(self) -> None:
        os.close(self._fd)


class Map:
    """One map, by its descriptor, which this owns; keys and values are bytes."""

    def __init__(self, name: str, fd: int, key_bytes: int, value_bytes: int) -> None:
        self.name = name
        self.fd = fd
        self._key_bytes = key_bytes
        self._value_bytes = value_bytes  # of all CPUs, where it has one value per CPU

    def update(self, key: bytes, value: bytes) -> None:
        assert len(key) == self._key_bytes, (self.name, key)
        assert len(value) == self._value_bytes, (self.name, value)
        call = library().bpf_map_update_elem(self.fd, key, value, 0)
        _checked(call, f"update {self.name}")

    def insert(self, key: bytes, value: bytes) -> None:
        """Update, unless the key is there."""
        assert len(value) == self._value_bytes, (self.name, value)
        if library().bpf_map_update_elem(self.fd, key, value, _NOEXIST) < 0:
            if ctypes.get_errno() != errno.EEXIST:
                raise _failed(f"insert into {self.name}")
            _log.clear()

    def lookup(self, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_bytes)
        if library().bpf_map_lookup_elem(self.fd, key, value) < 0:
            if ctypes.get_errno() != errno.ENOENT:
                raise _failed(f"look up in {self.name}")
            return None
        return value.raw

    def delete(self, key: bytes) -> bool:
        """False: it was not there."""
        if library().bpf_map_delete_elem(self.fd, key) < 0:
            if ctypes.get_errno() not in (errno.ENOENT, errno.EINVAL):  # SOCKHASH says EINVAL
                raise _failed(f"delete from {self.name}")
            return False
        return True

    def __iter__(self) -> Iterator[bytes]:
        """Every key; collected first, so that the caller may delete on the way."""
        found: list[bytes] = []
        key = ctypes.create_string_buffer(self._key_bytes)
        before: bytes | None = None
        while library().bpf_map_get_next_key(self.fd, before, key) == 0:
            before = key.raw
            found.append(before)
        if ctypes.get_errno() != errno.ENOENT:
            raise _failed(f"walk {self.name}")
        return iter(found)

    def pin(self, path: Path) -> None:
        _checked(library().bpf_obj_pin(self.fd, bytes(path)), f"pin {path}")

    def close(self) -> None:
        os.close(self.fd)


def load(path: Path, program: str, maps: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """Load an object file; descriptors of its program and maps, owned by the caller."""
    lib = library()
    _log.clear()
    opened = lib.bpf_object__open_file(bytes(path), None)
    if not opened:
        raise _failed(f"open {path.name}")
    try:
        _checked(lib.bpf_object__load(opened), f"load {path.name}")
        found = {name: lib.bpf_object__find_map_by_name(opened, name.encode()) for name in maps}
        fds = {name: _checked(lib.bpf_map__fd(m), f"map {name}") for name, m in found.items()}
        code = lib.bpf_object__find_program_by_name(opened, program.encode())
        loaded = _checked(lib.bpf_program__fd(code), f"program {program}")
        return os.dup(loaded), {name: os.dup(fd) for name, fd in fds.items()}
    finally:
        lib.bpf_object__close(opened)


def pinned(path: Path) -> int:
    """A descriptor of what is pinned at `path`."""
    return _checked(library().bpf_obj_get(bytes(path)), f"open pin {path}")
