"""The view of a run of several jobs: lines of each, with its name before them.

Owns which view hears an event.  Of one job there is one view, which hears them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lifl.cli.view import View


class Views:
    """One view for each job."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = list(views)

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event: of the job that it names, or of all."""
        name = event.get("job")
        if name is None and event["event"] not in ("stopped", "failed"):
            first = self._views[0]  # of nodes, which all of them have
            prefix, first.prefix = first.prefix, ""
            first.handle(event)
            first.prefix = prefix
            return
        for view in self._views:
            if name in (None, view.story.job_name):
                view.handle(event)

    def close(self) -> None:
        for view in self._views:
            view.close()
