"""The view of a run, live on a terminal and plain elsewhere.

Owns the terminal while a run lasts.  `lifl run` makes a View, hands it every event and closes
it, whatever happens.  What the run's processes print goes above the live screen and stays.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from lifl.cli.live import screen, summary_lines
from lifl.cli.plain import Lines, going_on, outside
from lifl.cli.story import Story
from lifl.placement.resume import RUN, STORE

REFRESH_PER_S = 8
_STYLES: Final = {
    "warning": "yellow", "restart": "yellow", "keys": "yellow", "latest": "yellow",
    "draining": "yellow", "uncordoned": "yellow", "node_back": "yellow", "output": "",
}  # fmt: skip
_NO_RESULTS: Final = (
    "clients", "draining.json", "keys", "metrics.json", "trace.jsonl", RUN, STORE, f"{STORE}-wal",
    f"{STORE}-shm",
)  # of what is in a run directory


class _Screen(Live):
    """Drawn in a thread of its own, which stays silent when the terminal is gone."""

    def refresh(self) -> None:
        with contextlib.suppress(OSError):
            super().refresh()


class View:
    """Shows a run.

    Args:
        plain: lines even on a terminal.
        clients: that the job waits for before its first round.
        there: that it makes keys for, which may be more; as many unless given.
        evaluated: the job has an evaluator.
        goal: the figure that `spec.stop` watches.
        prefix: of every line, where there are several jobs.
        console: where to; standard output unless given.
    """

    def __init__(
        self, job_name: str, rounds: int, plain: bool, *, clients: int = 0,
        there: int = 0, evaluated: bool = False, goal: str = "", prefix: str = "",
        console: Console | None = None,
    ) -> None:  # fmt: skip
        self.prefix = prefix
        self.story = Story(job_name, rounds, clients, evaluated, goal, there)
        self._console = console or Console(highlight=False)
        self._began_at = time.monotonic()
        self._over_at: float | None = None
        self._closed = False
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._lines = Lines(self.story)
        self._live: Live | None = None
        able = self._console.is_terminal and not self._console.is_dumb_terminal
        if able and not plain and self._console.encoding.startswith("utf"):
            self._live = _Screen(
                console=self._console,
                get_renderable=self._screen,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        with self._lock:
            self.story.take(event)
            if self._over_at is None and event.get("event") in ("done", "failed", "stopped"):
                self._over_at = time.monotonic()
        if self._live is None:
            self._print(self._lines.of(event))
        elif event.get("event") in _STYLES and self.story.note:
            self._console.print(Text(self.story.note, _STYLES[event["event"]]), soft_wrap=True)
        elif event.get("event") == "starting":
            self._print(going_on(self.story))
        elif event.get("event") == "endpoint":
            self._print(outside(self.story))  # whole, to be copied

    def close(self) -> None:
        """Give the terminal back, and print how it ended; a second call does nothing more."""
        if self._closed:
            return
        self._closed = True
        live, self._live = self._live, None  # what comes after it is lines
        if live is not None:
            live.stop()
        else:
            self._print(self._lines.rest())
        story = self.story
        if story.summary is not None:
            for line in summary_lines(story):
                self._console.print(line, soft_wrap=True)
        elif story.stopped:
            who = "" if self.prefix else f"{story.job_name}: "
            self._print([
                f"{who}stopped by {story.stopped} after {story.done_rounds} of "
                f"{story.rounds} rounds; {left(story.run_dir)}"
            ])  # fmt: skip

    def _print(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._console.print(Text(self.prefix + line), soft_wrap=True)

    def _screen(self) -> RenderableType:
        with self._lock:
            return screen(
                self.story,
                elapsed_s=(self._over_at or time.monotonic()) - self._began_at,
                width=self._console.width,
                height=self._console.height,
            )


def way_on(run_dir: str) -> str:
    """How a run that failed or was stopped goes on; empty where it cannot."""
    can_go_on = run_dir and (Path(run_dir) / RUN).is_file()
    return f"lifl run --resume {run_dir} goes on" if can_go_on else ""


def left(run_dir: str) -> str:
    """What of a run's results there is."""
    path = Path(run_dir) if run_dir else None
    names = sorted(p.name for p in path.iterdir()) if path is not None and path.is_dir() else []
    names = [name for name in names if name not in _NO_RESULTS]
    way = way_on(run_dir)
    if not names:
        return f"no round is done; {way}" if way else "nothing was written"
    return f"{run_dir} has {', '.join(names)}" + (f"; {way}" if way else "")
