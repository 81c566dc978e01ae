"""The directory of a run, and `runs/latest`, a link to the run that is meant where none is named.

The link names the run that was started last, from its start on, so that `lifl top` can watch it
begin; one that fails before its first round gives it back to the run before, and notes in its
folder which one that is, since the link may be given back to it later.  Called by local.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final

from lifl.errors import InvalidJob

NAME: Final = "latest"
BEFORE: Final = "before"  # in the folder of a run that did not begin: the name of the one before


class Latest:
    """The link beside a run's directory, as far as this run changes it.

    Args:
        run: its directory.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.link = run, run.parent / NAME
        self._before = os.readlink(self.link) if self.link.is_symlink() else ""

    def take(self) -> None:
        """From now on it names this run.

        Raises:
            InvalidJob: the folder cannot be written.
        """
        try:
            (self.run / BEFORE).unlink(missing_ok=True)
            self._point(self.run.name)
        except OSError as error:
            raise _unwritable(self.link.parent, error) from error

    def give_back(self) -> Path | None:
        """No round of this run began: the link names the last run before that did not say so.

        Returns:
            The run that it names again; None where it stays: it is another's by now, there is no
            such run, or the folder cannot be written.
        """
        try:
            (self.run / BEFORE).write_text(self._before)
            if not self.link.is_symlink() or os.readlink(self.link) != self.run.name:
                return None
            if (run := self._last_before()) is not None:
                self._point(run.name)
            return run
        except OSError:  # the run failed already, and that is what is said
            return None

    def _last_before(self) -> Path | None:
        name, failed = self._before, {self.run.name}
        while name and name not in failed:
            run = self.link.parent / name
            if not (run / BEFORE).is_file():
                return run if run.is_dir() else None
            failed.add(name)
            name = (run / BEFORE).read_text()
        return None

    def _point(self, name: str) -> None:
        new = self.link.with_name(f".{NAME}-{os.getpid()}")
        new.symlink_to(name)
        try:
            new.replace(self.link)
        except OSError:
            new.unlink()
            raise


def latest_beside(run_dir: Path) -> Latest | None:
    """Of a run that goes on, or of one job's folder of it; None where it lies elsewhere by now."""
    for run in (run_dir, run_dir.parent):
        if (run.parent / NAME).is_symlink():
            return Latest(run)
    return None


def folder_of(job: str) -> str:
    """Of a job that does not run alone, by its full name; "." is in no name."""
    return job.replace("/", ".")


def make_run_dir(parent: Path, name: str) -> Latest:
    """`<parent>/<name>-<time>`, and the link beside it, which does not name it yet.

    Raises:
        InvalidJob: the folder cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
            run_dir = parent / f"{name}-{stamp}{suffix}"
            with contextlib.suppress(FileExistsError):
                run_dir.mkdir()
                break
    except OSError as error:
        raise _unwritable(parent, error) from error
    return Latest(run_dir.resolve())


def _unwritable(parent: Path, error: OSError) -> InvalidJob:
    return InvalidJob(f"--out {parent}: {error.strerror}; name a folder that can be written")
