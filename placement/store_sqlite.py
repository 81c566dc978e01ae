"""The JobStore of one machine: SQLite in the run's directory.

Owns `job.sqlite`: two tables, WAL, and the lock that lets one process in at a time.  A commit is a
write to the log without fsync: it survives every death of a process.  After a power cut the newest
commits may be missing, never half there.  Called by the coordinator and by `lifl run --resume`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any, Final

import msgpack

from lifl.errors import Busy, InvalidJob, LiflError, NoSpace
from lifl.placement.store import (
    Change,
    Checkpoint,
    Clock,
    Row,
    Saved,
    round_from_wire,
    round_to_wire,
)

VERSION: Final = 1
_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS part (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY, value TEXT);
"""


class SqliteStore:
    """The store at `path`.

    Args:
        patience_s: how long to wait for a process that has it open.

    Raises:
        Busy: another process keeps it open.
        InvalidJob: the file is no store, or of another version.
        NoSpace: there is no room for it.
    """

    def __init__(self, path: Path, *, patience_s: float = 5.0) -> None:
        self.path = path
        try:
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, timeout=patience_s, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise InvalidJob(f"{path} cannot be opened: {error}") from error
        try:
            with self._plainly():
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("BEGIN IMMEDIATE")  # the lock, before anything is read
                for table in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(table)
                self._db.execute("COMMIT")
        except LiflError:
            self._db.close()
            raise

    @contextlib.contextmanager
    def _plainly(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            match error.sqlite_errorcode & 0xFF:
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    raise Busy(
                        f"{self.path.parent} is in use by a run that has not ended: wait for it, "
                        "or end it"
                    ) from error
                case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
                    raise NoSpace(
                        f"{self.path} cannot be written ({error}): make room on its disk and go "
                        f"on with lifl run --resume {self.path.parent}"
                    ) from error
            raise InvalidJob(f"{self.path} is not a job's store ({error})") from error

    # -- the contract ------------------------------------------------------------------------
    def load(self) -> Saved | None:
        with self._plainly():
            parts = {
                name: msgpack.unpackb(value)
                for name, value in self._db.execute("SELECT name, value FROM part")
            }
            if "job" not in parts:
                return None
            rows: dict[int, Row] = {
                number: json.loads(value)
                for number, value in self._db.execute("SELECT number, value FROM row")
            }
        if parts["version"] != VERSION:
            raise InvalidJob(
                f"{self.path} has version {parts['version']}; this is a LIFL for {VERSION}: go on "
                "with the LIFL that began the run"
            )
        checkpoint, round_ = parts.get("checkpoint"), parts.get("round")
        clock = parts.get("clock", [0.0, 0.0])
        return Saved(
            job=parts["job"],
            names=parts["names"],
            layout=parts["layout"],
            start=parts["start"],
            base=parts["base"],
            round=round_from_wire(round_) if round_ else None,
            rows=rows,
            model_at=parts.get("model_at"),
            checkpoint=Checkpoint(*checkpoint) if checkpoint else None,
            complete=parts.get("complete", False),
            clock=Clock(elapsed_s=clock[0], at_s=clock[1]),
        )

    def begin(self, saved: Saved) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM part")
            self._db.execute("DELETE FROM row")
            self._put("version", VERSION)
            self._put("job", saved.job)
            self._put("names", dict(saved.names))
            self._put("layout", saved.layout)
            self._put("start", saved.start)
            self._put("base", saved.base)
            self._keep(
                Change(
                    round=saved.round, rows=saved.rows, model_at=saved.model_at,
                    checkpoint=saved.checkpoint, complete=saved.complete, clock=saved.clock,
                )
            )  # fmt: skip

    def save(self, change: Change) -> None:
        with self._transaction():
            self._keep(change)

    def close(self) -> None:
        self._db.close()

    # -- parts -------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._plainly():
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")

    def _put(self, name: str, value: Any) -> None:
        self._db.execute("REPLACE INTO part VALUES (?, ?)", (name, msgpack.packb(value)))

    def _keep(self, change: Change) -> None:
        if change.round is not None:
            self._put("round", round_to_wire(change.round))
        if change.rows:
            self._db.executemany(
                "REPLACE INTO row VALUES (?, ?)",
                [(number, json.dumps(row)) for number, row in change.rows.items()],
            )
        if change.model_at is not None:
            self._put("model_at", change.model_at)
        if change.checkpoint is not None:
            self._put("checkpoint", astuple(change.checkpoint))
        if change.clock is not None:
            self._put("clock", [change.clock.elapsed_s, change.clock.at_s])
        if change.complete:
            self._put("complete", True)
