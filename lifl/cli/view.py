"""The view of a run, live on a terminal and plain elsewhere.

Owns the terminal while a run lasts.  `lifl run` makes a View, hands it every event and closes
it, whatever happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from lifl.cli.live import screen, summary_lines
from lifl.cli.plain import lines
from lifl.cli.story import Story

REFRESH_PER_S = 8


class View:
    """Shows a run.

    Args:
        plain: lines even on a terminal.
        console: where to; standard output unless given.
    """

    def __init__(
        self, job_name: str, rounds: int, plain: bool, *, console: Console | None = None
    ) -> None:
        self.story = Story(job_name, rounds)
        self._console = console or Console(highlight=False)
        self._began_at = time.monotonic()
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._live: Live | None = None
        able = self._console.is_terminal and not self._console.is_dumb_terminal
        if able and not plain and self._console.encoding.startswith("utf"):
            self._live = Live(
                console=self._console,
                get_renderable=self._screen,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        with self._lock:
            before = self.story.tree
            self.story.take(event)
        if self._live is None:
            for line in lines(self.story, before, event):
                self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back, and print how it ended; a second call does nothing more."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        story, self.story = self.story, Story(self.story.job_name, self.story.rounds)
        if story.summary is not None:
            if live is not None:
                for note in story.notes:
                    self._console.print(Text(note, "yellow"), soft_wrap=True)
            for line in summary_lines(story):
                self._console.print(line, soft_wrap=True)
        elif live is not None and story.round:
            self._console.print(
                f"{story.job_name}: stopped after {story.done_rounds} of {story.rounds} rounds; "
                f"what there is lies in {story.run_dir}",
                soft_wrap=True, markup=False,
            )  # fmt: skip

    def _screen(self) -> RenderableType:
        with self._lock:
            return screen(
                self.story,
                elapsed_s=time.monotonic() - self._began_at,
                width=self._console.width,
                height=self._console.height,
            )
