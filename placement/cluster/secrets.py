"""Secrets in the namespaces of jobs: made and deleted, and never read.

Owns keeping one as it is to be with these two rights alone.  A patch answers with the whole object
and a get is one: whoever has either in every namespace can read every Secret of the cluster.
Called by keeper.py; blocks while it asks.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from lifl.placement.cluster.api import Api, Conflict, Object, path_of

AGAIN_S: Final = 30.0  # to the next try to make one that should be there


class Secrets:
    """What one keeper has made."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._there: dict[str, tuple[Object, float]] = {}

    def keep(self, made: Object) -> None:
        """Have it as it is here; one that somebody else has deleted comes back.

        Raises:
            LiflError: the API server refuses, or is away.
        """
        metadata, now_s = made["metadata"], time.monotonic()
        folder = path_of("", "secrets", metadata["namespace"])
        path = f"{folder}/{metadata['name']}"
        before, made_at = self._there.get(path, (None, 0.0))
        if before == made and now_s - made_at < AGAIN_S:
            return
        if before == made:
            with contextlib.suppress(Conflict):
                self._api.create(folder, made)
        else:
            try:
                self._api.create(folder, made)
            except Conflict:  # of other content, or of an operator before this one
                self._api.delete(path)
                self._api.create(folder, made)
        self._there[path] = made, now_s
