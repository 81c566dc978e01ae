"""rounds.jsonl: its rows as they lie on disk, and what they come to.

Owns reading them, one after the other, so that a job of any number of rounds needs the memory of
one.  record.py appends to the file and asks here for the summary; resume.py cuts it.
"""

from __future__ import annotations

import json
import os
import statistics
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

BACKENDS: Final = ("ebpf", "unix")
_BLOCK: Final = 1 << 16


def cut_to_whole_lines(path: Path) -> None:
    """Remove half a line at the end, which somebody who was killed has left."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    whole = size
    with path.open("rb") as file:
        while whole:
            start = max(0, whole - _BLOCK)
            file.seek(start)
            end = file.read(whole - start).rfind(b"\n")
            if end >= 0:
                whole = start + end + 1
                break
            whole = start
    if whole < size:
        os.truncate(path, whole)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows in the order of rounds."""
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError:
        return


def summary_of(rows: Iterable[Mapping[str, Any]], *, evaluated: bool) -> dict[str, Any]:
    """Sums and medians over all rounds, and the last of what not every round has.

    Args:
        evaluated: the job has an evaluator, which may have skipped rounds.
    """
    seconds = array("d")
    accuracy: float | None = None
    measured = 0
    last: dict[str, Any] = {"metrics": {}, "evaluation": {}}
    starts = ("cold_starts", "zygote_starts", "warm_starts")
    sums = dict.fromkeys(("clients", "bytes", *starts), 0)
    start_s = {"cold": 0.0, "zygote": 0.0}
    handoffs = dict.fromkeys(BACKENDS, 0)
    for row in rows:
        seconds.append(row["seconds"])
        accuracy = accuracy if row["accuracy"] is None else row["accuracy"]
        measured += "evaluation" in row
        last |= {name: row[name] for name in last if row.get(name)}
        for name in sums:
            sums[name] += row.get(name, 0)  # a run that goes on may have begun before there were
        for kind, spent_s in row.get("start_seconds", {}).items():
            start_s[kind] += spent_s
        for name in BACKENDS:
            handoffs[name] += row["handoffs"].get(name, 0)
    return {
        "accuracy": accuracy, "rounds": len(seconds), **last,
        "evaluations": {
            "measured": measured, "skipped": len(seconds) - measured if evaluated else 0,
        },
        "round_s_median": statistics.median(seconds), "updates": sums.pop("clients"),
        "handoffs": handoffs, **sums, "start_seconds": start_s,
    }  # fmt: skip
