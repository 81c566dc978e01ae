"""What a gateway counts of one job, for the node's metrics and the phases of a round.

Owns the numbers between two reports.  intake.py counts what passes the shared words, clients.py
who waits and who is refused; the agent asks with its pings (lanes.py), and what a round needs goes
with the gateway's "closed" (orders.py).  Nothing is sent for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from lifl.shm.slots import Payload

Span = tuple[float, float]  # from, to: seconds of this machine's monotonic clock

MOST_SPANS: Final = 64


@dataclass
class Tally:
    """Counts since the agent last asked, and when updates of the round came in.

    Attributes:
        round_began_at: when the coordinator began the round, on this machine's clock.
        ingest: times in which an update that was accepted came in, merged now and then.
        queue: since when the queue has been how long; None: nobody wants to know.
    """

    counts: dict[str, float] = field(default_factory=dict)
    round: int = 0
    round_began_at: float = 0.0
    ingest: list[Span] = field(default_factory=list)
    queue: tuple[float, int] | None = None

    def watch_queue(self) -> None:
        """From now on `queue_is` is called whenever the queue may have changed."""
        self.queue = self.queue or (time.monotonic(), 0)

    def queue_is(self, length: int) -> None:
        assert self.queue is not None
        now, (since, before) = time.monotonic(), self.queue
        if before:
            self._add("queue_seconds", before * (now - since))
        self.queue = now, length

    def start_round(self, round_: int, elapsed_s: float) -> None:
        """A round begins here, or begins again after a restart."""
        if round_ != self.round:
            self.ingest.clear()
        self.round, self.round_began_at = round_, time.monotonic() - elapsed_s

    def granted(self, asked_at: float, *, waited: bool) -> None:
        self._add("slot_wait_seconds", time.monotonic() - asked_at)
        if waited:
            self._add("slot_waits", 1)

    def accepted(self, payload: Payload, size_bytes: int, granted_at: float) -> None:
        if payload is Payload.UPDATE:
            self._add("updates", 1)
            self._add("update_bytes", size_bytes)
            self.ingest.append((granted_at, time.monotonic()))
            if len(self.ingest) > 4 * MOST_SPANS:
                self.ingest = merged(self.ingest)
        else:
            self._add("peer_sums", 1)
            self._add("peer_sum_bytes", size_bytes)

    def take(self) -> dict[str, float]:
        """The counts, which start again from nothing."""
        counts, self.counts = self.counts, {}
        return counts

    def of_round(self) -> dict[str, Any]:
        """What the coordinator needs to split the round's time."""
        return {"began_at": self.round_began_at, "ingest": merged(self.ingest)}

    def _add(self, name: str, amount: float) -> None:
        self.counts[name] = self.counts.get(name, 0.0) + amount


def merged(spans: list[Span], most: int = MOST_SPANS) -> list[Span]:
    """The union of spans in order; beyond `most` of them the smallest gaps are closed."""
    union: list[Span] = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1]:
            union[-1] = union[-1][0], max(end, union[-1][1])
        else:
            union.append((start, end))
    if len(union) > most:
        gaps = sorted(range(1, len(union)), key=lambda i: union[i][0] - union[i - 1][1])
        kept = [0, *sorted(gaps[len(union) - most :])]
        ends = [*kept[1:], len(union)]
        union = [(union[a][0], union[b - 1][1]) for a, b in zip(kept, ends, strict=True)]
    return union
