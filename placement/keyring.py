"""The key directory of a run: who may take part in it, and who no longer may.

    RUN/keys/enrolled.json    public keys by name, with the time of enrolment and of revocation
    RUN/keys/<pid>.sock       of each job that goes by it: a connection says "look again"

Owns the file and asking running jobs to read it.  It holds no secret: those stay with whoever made
them (`lifl keys new`).  Called by the command line; a running job's side is in enrolment.py.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zmq.utils import z85

from lifl.errors import InvalidJob, Unreachable

ANSWER_S = 10.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OWN = re.compile(r"client-\d+")  # of clients whose keys a run makes itself


@dataclass(frozen=True)
class Entry:
    """One client; times are UTC, ISO 8601."""

    name: str
    public_key: str
    enrolled_at: str
    revoked_at: str | None = None

    @property
    def is_own(self) -> bool:
        """Its keys were made by the run whose directory this is."""
        return _OWN.fullmatch(self.name) is not None


class Keyring:
    """One key directory, mode 0700."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        """Make the directory, unless it is there.

        Raises:
            InvalidJob: a file has its place.
        """
        if (file := _in_the_way(self.directory)) is not None:
            raise _no_directory(self.directory, file)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def entries(self) -> list[Entry]:
        """In the order of enrolment, revoked ones included.

        Raises:
            InvalidJob: the file is none of ours.
        """
        path = self.directory / "enrolled.json"
        try:
            return [Entry(**row) for row in json.loads(path.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            raise InvalidJob(f"{path} cannot be read: {error}", code="bad-keys") from error

    def enroll(self, keys: dict[str, str], *, own: bool = False) -> None:
        """Add public keys by name.

        Args:
            own: the run's own clients, client-0 and so on, whose names nobody else may have.

        Raises:
            InvalidJob: a name or a key that is taken, or is none.
        """
        with self._locked() as entries:
            for name, public_key in keys.items():
                self._check(entries, name, public_key, own)
                entries.append(Entry(name, public_key, _now()))

    def _check(self, entries: list[Entry], name: str, public_key: str, own: bool) -> None:
        if not own:
            check_name(name)
        if not own and not is_key(public_key):
            raise InvalidJob(
                f"{public_key!r} is no public key: it has 40 characters, as printed by "
                "lifl keys new",
                code="bad-keys",
            )
        for entry in entries:
            if entry.public_key == public_key:
                state = "was revoked" if entry.revoked_at else "is enrolled already"
                raise InvalidJob(
                    f"the key {public_key} {state}, as {entry.name}: make another with "
                    "lifl keys new",
                    code="bad-keys",
                )
            if entry.name == name and entry.revoked_at is None:
                raise InvalidJob(
                    f"there is a client {name!r} already: revoke it first, or choose another name",
                    code="bad-keys",
                )

    def revoke(self, name_or_key: str) -> Entry:
        """Take the rights of one client away, for good.

        Raises:
            InvalidJob: nobody who is enrolled has this name or key.
        """
        with self._locked() as entries:
            for index, entry in enumerate(entries):
                if entry.revoked_at is None and name_or_key in (entry.name, entry.public_key):
                    entries[index] = replace(entry, revoked_at=_now())
                    return entries[index]
            known = ", ".join(e.name for e in entries if e.revoked_at is None) or "nobody"
            raise InvalidJob(
                f"no client {name_or_key!r} is enrolled in {self.directory}; enrolled: {known}",
                code="bad-keys",
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[Entry]]:
        """The entries, to be changed; written back whole, unless an error comes out."""
        path = self.directory / "enrolled.json"
        try:
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidJob(
                f"{self.directory} is no key directory ({error.strerror}): name a run's folder "
                "with --run, or a key directory with --keys",
                code="bad-keys",
            ) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            entries = self.entries
            yield entries
            write_private(path, json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
        finally:
            os.close(folder)

    def sweep(self) -> None:
        """Remove what jobs that were killed have left."""
        for path in self.directory.glob("*.sock"):
            with socket.socket(socket.AF_UNIX) as probe, short(path) as where:
                if probe.connect_ex(where) == errno.ECONNREFUSED:
                    path.unlink(missing_ok=True)

    def tell(self) -> list[dict[str, Any]]:
        """Have every running job that goes by this directory look again; what they answer."""
        answers = []
        for path in sorted(self.directory.glob("*.sock")):
            try:
                answers.append(_ask(path))
            except ConnectionRefusedError:  # of a run that was killed
                path.unlink(missing_ok=True)
            except (OSError, ValueError) as error:
                raise Unreachable(
                    f"the job at {path} did not answer ({error}): it looks when it is less busy"
                ) from error
        return answers


def check_name(name: str) -> None:
    """Of a client from outside; files are called by it.

    Raises:
        InvalidJob: it cannot have this one.
    """
    if not _NAME.fullmatch(name):
        raise InvalidJob(
            f"{name!r} is no name for a client: use up to 63 letters, digits, '.', '_', '-', the "
            "first of them a letter or a digit",
            code="bad-keys",
        )
    if _OWN.fullmatch(name):
        raise InvalidJob(
            f"{name!r} is what a run calls its own clients: choose another name", code="bad-keys"
        )


def check_is_there(directory: Path) -> None:
    """See that a key directory that was named can be gone by.

    Raises:
        InvalidJob: there is none, or a file has its place.
    """
    if (file := _in_the_way(directory)) is not None:
        raise _no_directory(directory, file)
    if not directory.is_dir():
        raise InvalidJob(
            f"--keys {directory}: there is no such key directory: lifl keys enroll KEY.pub "
            f"--name NAME --keys {directory} makes it",
            code="bad-keys",
        )


def _in_the_way(directory: Path) -> Path | None:
    """The file that has the directory's place, or that of one above it."""
    above = (directory, *directory.parents)
    return next((path for path in above if path.exists() and not path.is_dir()), None)


def _no_directory(directory: Path, file: Path) -> InvalidJob:
    return InvalidJob(
        f"--keys {directory}: {file} is a file, and keys are kept in a directory: name one, which "
        "lifl keys enroll makes where it is not there",
        code="bad-keys",
    )


def is_key(text: str) -> bool:
    """A CURVE key in Z85."""
    try:
        return len(text) == 40 and len(z85.decode(text)) == 32
    except (ValueError, KeyError):
        return False


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    temporary.rename(path)


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """Another path of the same socket: one may be 107 bytes long, a run's folder more."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _ask(path: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as asking, short(path) as where:
        asking.settimeout(ANSWER_S)
        asking.connect(where)
        data = b"".join(iter(lambda: asking.recv(1 << 16), b""))
    answer: dict[str, Any] = json.loads(data)
    return answer


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
