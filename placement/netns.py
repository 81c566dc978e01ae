"""Network namespaces: made, entered, and worked in.

Owns the system calls.  A namespace here has no name: it lives while somebody holds its descriptor
or is in it, so that the kernel removes it, with all interfaces and queues, however a run ends.
Which there are and how they are connected is fabric.py's.  Called by fabric.py and by processes
that move into one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from lifl.errors import Unsupported

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def new() -> int:
    """The descriptor of a namespace that nobody is in.

    Raises:
        Unsupported: the kernel does not give one.
    """

    def make() -> int:
        if _libc.unshare(_CLONE_NEWNET):
            raise _not_had("a network namespace", ctypes.get_errno())
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _apart(make)


def enter(path: str | Path) -> None:
    """Move this thread there, and with it what it starts from now on.

    Sockets stay in the namespace in which they were made.

    Args:
        path: of a namespace, for example /proc/PID/ns/net.

    Raises:
        Unsupported: it is gone, or this process may not.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _not_had(f"the network namespace {path}", error.errno or 0) from error
    try:
        _enter(fd)
    finally:
        os.close(fd)


def within(namespace: int, work: Callable[[], T]) -> T:
    """What `work` returns or raises in a thread that is in that namespace."""

    def there() -> T:
        _enter(namespace)
        return work()

    return _apart(there)


def command(namespace: int, *words: str, lines: str) -> None:
    """Run a command there that reads its work from standard input.

    Raises:
        Unsupported: it failed; the sentence has what it said.
    """
    done = within(
        namespace,
        lambda: subprocess.run(words, input=lines, text=True, capture_output=True, check=False),
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().replace("\n", "; ")
        raise Unsupported(f"{words[0]} failed while the network was made: {said}")


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise _not_had("entering a network namespace", ctypes.get_errno())


def _apart(work: Callable[[], T]) -> T:
    """In a thread of its own, since a thread is moved and not a process."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def _not_had(what: str, number: int) -> Unsupported:
    return Unsupported(f"{what} cannot be had ({os.strerror(number)}): --network netns needs root")
