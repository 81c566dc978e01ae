"""The time of a round, split into phases that add up to it.

Owns the split, as a pure function; what the phases mean is in lifl/metrics.py.  Every node says
when its gateway took updates in and when its aggregators computed, on its own clock, and when on
that clock the round began; so no two clocks are compared.  Called by record.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lifl.metrics import PHASES

Span = tuple[float, float]


@dataclass
class Timeline:
    """What nodes said of one round, in seconds since it began."""

    ingest: list[Span] = field(default_factory=list)
    fold: list[Span] = field(default_factory=list)
    model_at: float | None = None  # when the top had written the model
    began_at: dict[str, float] = field(default_factory=dict)  # by node, on the node's clock

    def ingested(self, node: str, began_at: float, spans: Iterable[Sequence[float]]) -> None:
        self.began_at[node] = began_at
        self.ingest += [(start - began_at, end - began_at) for start, end in spans]

    def folded(
        self, node: str, spans: Iterable[Sequence[float]], model_at: float | None
    ) -> None:  # fmt: skip
        began_at = self.began_at.get(node)
        if began_at is None:  # its gateway closed nothing: what it did is not in this round
            return
        self.fold += [(start - began_at, end - began_at) for start, end in spans]
        if model_at is not None:
            self.model_at = model_at - began_at


def split(timeline: Timeline, seconds: float) -> dict[str, float]:
    """Seconds of each phase; their sum is `seconds`."""
    published_from = seconds if timeline.model_at is None else timeline.model_at
    published_from = min(max(published_from, 0.0), seconds)
    last_sealed = max((end for _, end in timeline.ingest), default=0.0)
    ingest, fold = _within(timeline.ingest, seconds), _within(timeline.fold, seconds)
    cuts = {0.0, seconds, published_from, min(max(last_sealed, 0.0), seconds)}
    cuts |= {edge for span in (*ingest, *fold) for edge in span}
    edges = sorted(cuts)
    inside_ingest, inside_fold = _Inside(ingest), _Inside(fold)
    phases = dict.fromkeys(PHASES, 0.0)
    for start, end in pairwise(edges):
        if start >= published_from:
            phase = "publish"
        elif inside_ingest.at(start):
            phase = "ingest"
        elif inside_fold.at(start):
            phase = "fold"
        else:
            phase = "hand_off" if timeline.ingest and start >= last_sealed else "wait"
        phases[phase] += end - start
    return phases


def _within(spans: list[Span], seconds: float) -> list[Span]:
    """What of the spans lies in the round."""
    cut = [(max(start, 0.0), min(end, seconds)) for start, end in spans]
    return [(start, end) for start, end in cut if end > start]


class _Inside:
    """Whether a moment lies in one of some spans."""

    def __init__(self, spans: list[Span]) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []
        for start, end in sorted(spans):
            if self.ends and start <= self.ends[-1]:
                self.ends[-1] = max(end, self.ends[-1])
            else:
                self.starts.append(start)
                self.ends.append(end)

    def at(self, moment: float) -> bool:
        index = bisect_right(self.starts, moment) - 1
        return index >= 0 and moment < self.ends[index]
