"""A runtime's start, from the zygote and cold, as the agent measures it.

Owns two nodes without a job, one with a zygote and one without: a start lasts from being asked for
until the runtime has joined, which is what rounds.jsonl, the summary and the metrics say.  Starts
of both kinds take turns; each runtime is ended, and gone, before the next is asked for.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rows import Case, Figure, Found, Goal, Line
from lifl.functions.polling import Sources
from lifl.placement.accounts import Accounts
from lifl.placement.members import Members
from lifl.placement.node import Node
from lifl.placement.pool import Pool, StartKind
from lifl.proxy_ebpf.unix import UnixRouter

TURNS = 25
AT_ONCE = 7
"""Roles of one node in `make demo`: 4 leaves, 2 middles, the top."""
LIMIT_S = 60.0


class Starts:
    """A node that starts runtimes and gives them nothing to do.

    Args:
        directory: for its socket.
        kind: how it starts them.
    """

    def __init__(self, directory: Path, kind: StartKind) -> None:
        self.kind: StartKind = kind
        self.pool = Pool("bench", directory, [])
        self.sources = Sources()
        self.node = Node(
            name="bench", directory=directory, router=UnixRouter(), pool=self.pool,
            kernels="auto", budget_bytes=0, report=lambda _: None,
        )  # fmt: skip
        self.members = Members(
            self.node, Accounts(self.node, ""), liveness_s=LIMIT_S, listen_at=""
        )
        if kind == "zygote":
            self.pool.start_zygote()

    def seconds(self, count: int = 1) -> float:
        """Of each of `count` starts at once, their mean.

        Raises:
            RuntimeError: one took more than LIMIT_S, or was of another kind.
        """
        for _ in range(count):
            self.pool.start_runtime()
        while self.pool.starts.total() < count:
            self._turn()
        starts, seconds = self.pool.take_starts()
        if starts[self.kind] != count:
            raise RuntimeError(f"{count} starts of kind {self.kind} were to be, not {starts}")
        for process in list(self.pool.processes.values()):
            self.pool.retire(process)
        while self.pool.processes:
            self._turn()
        return seconds[self.kind] / count

    def _turn(self) -> None:
        """Once round the agent's loop, as far as runtimes are concerned."""
        pool = self.pool
        wanted = [
            self.members.listener.fileno(), *self.members.connections,
            *(pool.zygote.fds if pool.zygote else ()),
            *(process.pidfd for process in pool.processes.values()),
        ]  # fmt: skip
        ready = self.sources.ready(wanted, int(LIMIT_S * 1000))
        if not ready:
            raise RuntimeError(f"no runtime has started within {LIMIT_S:g} s")
        self.members.turn(ready)

    def close(self) -> None:
        self.pool.end()
        self.members.listener.close()
        self.node.router.close()


@contextmanager
def starting(kind: StartKind) -> Iterator[Starts]:
    """A node, with whatever it started gone when the block is left."""
    directory = Path(tempfile.mkdtemp(prefix="lifl-bench-", dir="/tmp"))  # short: socket paths are
    try:
        starts = Starts(directory, kind)
        try:
            starts.seconds()  # imports of the zygote, and pages of files
            yield starts
        finally:
            starts.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def measure(*, turns: int = TURNS) -> Found:
    forked: list[float] = []
    cold: list[float] = []
    at_once: list[float] = []
    with starting("zygote") as warm, starting("cold") as without:
        for _ in range(turns):
            forked.append(warm.seconds())
            cold.append(without.seconds())
            at_once.append(warm.seconds(AT_ONCE))
    note = f"median of {turns} starts of each, turn about; from being asked for to having joined"
    return {
        "zygote": Figure.of_pairs(forked, cold, scale=1e3, note=note),
        "at-once": Figure.of_pairs(
            at_once, forked, scale=1e3, note=f"mean of {AT_ONCE} each time, median of {turns} times"
        ),
        "cold": Figure.of_pairs(cold, forked, scale=1e3, note=note),
    }


CASE = Case(
    name="starts",
    lines={
        "zygote": Line(
            case="start of a runtime, from the zygote", unit="ms", reference="cold",
            goal=Goal("value", "<", 20),
        ),
        "at-once": Line(
            case=f"{AT_ONCE} starts at once, from the zygote, each", unit="ms",
            reference="one alone", goal=Goal("value", "<", 20),
        ),
        "cold": Line(
            case="start of a runtime, cold", unit="ms", reference="from the zygote",
            goal=Goal("value", "<", 400),
        ),
    },
    measure=measure,
)  # fmt: skip
