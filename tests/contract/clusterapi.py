"""An API server of one FLJob, in memory: what ClusterStore needs of a real one.

It merges as RFC 7396 says, holds to the CRD's rule that status.epoch never falls, and can be away.
That a real API server does the same is tests/cluster's to show.
"""

from __future__ import annotations

import copy
from typing import Any

from lifl.api.status import FENCED
from lifl.errors import PermanentError, Unreachable


class OneFLJob:
    """One object and its status."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {"metadata": {"name": "toy"}, "spec": {}}
        self.away = 0  # requests that find nobody
        self.writes = 0
        self.refuses = ""  # every write, in these words

    def get(self, path: str) -> dict[str, Any]:
        self._answer()
        return copy.deepcopy(self.body)

    def merge(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        self._answer()
        assert path.endswith("/status")
        if self.refuses:
            raise PermanentError(f"PATCH {path}: {self.refuses}", code="api-refused")
        merged = _merged(self.body, {"status": patch["status"]})
        before = self.body.get("status", {}).get("epoch", 0)
        if merged["status"].get("epoch", 0) < before:
            raise PermanentError(f'PATCH {path}: FLJob "toy" is invalid: status: {FENCED}')
        self.body = merged
        self.writes += 1
        return copy.deepcopy(merged)

    def _answer(self) -> None:
        if self.away:
            self.away -= 1
            raise Unreachable("connection refused")


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value)
    return found
