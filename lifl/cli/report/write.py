"""Writing a run's report, and what is said where that fails.

A report never decides whether a run counts: a full disk gives a warning that names path and fix.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lifl.cli.report.page import page
from lifl.cli.report.read import read
from lifl.errors import LiflError

PLOT_LIMIT_S = 120.0


class NotWritten(LiflError):
    """A file of the report is not there; the run's results are."""

    code = "not-written"


def write_page(directory: Path) -> Path:
    """Write report.html, whole or not at all.

    Raises:
        InvalidJob: no run's directory.
        NotWritten: the disk is full, or the directory cannot be written.
    """
    text = page(read(directory))
    path = directory / "report.html"
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(text)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise NotWritten(
            f"{path} was not written ({error.strerror}); the run's results are complete without "
            f"it: free some space, then lifl report {directory}"
        ) from error
    return path


def can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def write_plots(directory: Path) -> Iterator[Path]:
    """Write the PNGs, in a process of its own, since matplotlib is slow to import.

    Raises:
        NotWritten: it failed; its last words are in the sentence.
    """
    done = subprocess.run(
        [sys.executable, "-m", "lifl.cli.report.plots", str(directory)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=PLOT_LIMIT_S,
    )  # fmt: skip
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no reason given"]
        raise NotWritten(
            f"PNGs in {directory} were not written ({words[-1]}); the run's results are complete "
            f"without them: mend that, then lifl report {directory}"
        )
    yield from map(Path, done.stdout.split("\n")[:-1])


def after_run(
    directory: Path, handle: Callable[[Mapping[str, Any]], None], *, plots: bool
) -> None:  # fmt: skip
    """What `lifl run` does when its job is done; nothing here undoes that."""
    missing = f"no report; lifl report {directory} writes it"
    try:
        handle({"event": "report", "path": str(write_page(directory))})
        missing = f"no more plots; lifl report {directory} draws them"
        if plots and can_plot():
            for _ in write_plots(directory):
                pass
    except (LiflError, OSError, subprocess.TimeoutExpired) as error:
        handle({"event": "warning", "text": str(error)})
    except KeyboardInterrupt:
        handle({"event": "warning", "text": missing})
