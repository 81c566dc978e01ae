"""How long an idle runtime stays: learned from how long runtimes were idle before.

Owns the histogram of idle times and the decision.  Pure; the caller keeps the histogram, measures
the gaps and acts.  Follows the hybrid histogram policy of Shahrad et al., "Serverless in the
Wild", USENIX ATC 2020, section 4:

    * every idle time goes into a histogram; those above its range are only counted
    * with a head h (5th percentile, rounded down to the bin's lower edge, less 10 %) and a tail t
      (99th percentile, rounded up to the bin's upper edge, plus 10 %) a runtime may be stopped at
      once, is wanted again h after it fell idle, and is kept until t
    * the histogram counts as representative when it has `ENOUGH` idle times (the paper asks for
      enough and gives no number) and the coefficient of variation (standard deviation / mean) of
      its bins' counts is at least 2; before, and when more than half of the idle times were above
      the range, runtimes are kept for the whole range

Two things are different here.  The paper's bins are one minute wide and reach to four hours, for
functions that people call; rounds follow one another within milliseconds to minutes, so bins are
geometric: the upper edge of bin i is 10 ms · 2^(i/2), and the last one is beyond an hour.  And
where the paper falls back on a time-series forecast for idle times above the range, this keeps
runtimes for the range and no longer.

Stopping at once pays only where h is long beside a start: below `worth_s` the head counts as 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

FIRST_S: Final = 0.010  # upper edge of the first bin
PER_DOUBLING: Final = 2
BINS: Final = 39  # the last upper edge is 5243 s
HEAD, TAIL, MARGIN = 0.05, 0.99, 0.10
VARIATION_LEAST: Final = 2.0
ENOUGH: Final = 5
BEYOND_MOST: Final = 0.5


def upper_s(at: int) -> float:
    """Upper edge of a bin."""
    return float(FIRST_S * 2 ** (at / PER_DOUBLING))


RANGE_S: Final = upper_s(BINS - 1)


@dataclass(frozen=True)
class Idle:
    """Idle times of one kind of runtime, say those of a tenant on a node.

    Attributes:
        counts: of each bin.
        beyond: idle times above the range.
    """

    counts: tuple[int, ...] = (0,) * BINS
    beyond: int = 0

    @property
    def total(self) -> int:
        return sum(self.counts) + self.beyond


@dataclass(frozen=True, kw_only=True)
class Window:
    """When a runtime that falls idle is to be there.

    Attributes:
        from_s: it may be stopped until then; 0: it stays.
        until_s: after that it is stopped.
        learned: False where the histogram does not say enough yet.
    """

    from_s: float
    until_s: float
    learned: bool


def seen(idle: Idle, gap_s: float) -> Idle:
    """One more idle time.

    Raises:
        ValueError: it is negative or no number.
    """
    if not gap_s >= 0:
        raise ValueError(f"an idle time of {gap_s} s")
    if gap_s > RANGE_S:
        return replace(idle, beyond=idle.beyond + 1)
    counts = list(idle.counts)
    counts[_bin(gap_s)] += 1
    return replace(idle, counts=tuple(counts))


def _bin(gap_s: float) -> int:
    """The first bin whose upper edge is not below the gap."""
    if gap_s <= FIRST_S:
        return 0
    at = math.ceil(PER_DOUBLING * math.log2(gap_s / FIRST_S) - 1e-9)
    return min(at, BINS - 1)


def window(idle: Idle, *, worth_s: float = 1.0) -> Window:
    """When runtimes are to be there, by what was seen so far."""
    within = sum(idle.counts)
    always = Window(from_s=0.0, until_s=RANGE_S, learned=False)
    unclear = within < ENOUGH or idle.beyond > BEYOND_MOST * idle.total
    if unclear or _variation(idle) < VARIATION_LEAST:
        return always
    head, tail = _percentile(idle.counts, HEAD), _percentile(idle.counts, TAIL)
    from_s = (1 - MARGIN) * (upper_s(head - 1) if head else 0.0)
    until_s = (1 + MARGIN) * upper_s(tail)
    return Window(from_s=from_s if from_s >= worth_s else 0.0, until_s=until_s, learned=True)


def _variation(idle: Idle) -> float:
    """Coefficient of variation of the bins' counts: high where idle times are alike."""
    mean = sum(idle.counts) / BINS
    variance = sum((count - mean) ** 2 for count in idle.counts) / BINS
    return math.sqrt(variance) / mean


def _percentile(counts: tuple[int, ...], share: float) -> int:
    """The first bin up to which so large a share lies."""
    wanted, so_far = share * sum(counts), 0
    for at, count in enumerate(counts):
        so_far += count
        if count and so_far >= wanted - 1e-9:
            return at
    return BINS - 1


def verdict(now: Window, idle_s: float) -> Literal["keep", "stop", "start"]:
    """What is to be done about a runtime that has been idle for so long.

    `start`: it was stopped at once, and from now on one is to be there again.
    """
    if idle_s >= now.until_s:
        return "stop"
    if now.from_s > 0:
        return "stop" if idle_s < now.from_s else "start"
    return "keep"


def is_warm(now: Window, idle_s: float) -> bool:
    """Whether a runtime is there after so long."""
    return verdict(now, idle_s) != "stop"
