"""The name that was probably meant, where there is none of the name that was given.

Called by whatever says "did you mean": fields and choices of a file (`load`), modules and
functions that a job names (`entrypoints`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The most similar of the known names, or None; capitals, and "_" and "-" of `given`, aside."""
    by_lower = {name.lower(): name for name in known}
    plain = given.lower().replace("_", "").replace("-", "")
    near = difflib.get_close_matches(plain, by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing."""
    near = nearest(given, known)
    return f"; did you mean {near!r}?" if near else ""
