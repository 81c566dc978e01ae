"""One job on one node, as its agent knows it: plan, memory, lanes; and that on disk.

Owns what the agent remembers of a job and writing it down.  Does not act: node.py carries plans
out, and takeover.py believes what was written only where a process hands the memory back.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from lifl.errors import Busy
from lifl.functions.wire import Message, decode, encode
from lifl.placement.autoscaler import Settings
from lifl.placement.idling import Idling
from lifl.shm.arena import ArenaFiles


@dataclass
class NodeJob:
    """One job on this node."""

    number: int
    name: str
    plan: Message = field(default_factory=dict)
    files: ArenaFiles | None = None
    inodes: list[int] = field(default_factory=list)  # of the memory, after an agent's restart
    sum_slots: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by role, bare indices
    assigned: dict[int, str] = field(default_factory=dict)  # role -> kind that its holder plays
    lanes: set[int] = field(default_factory=set)
    announced: bool = False
    over: bool = False
    slots: int = 0  # input slots that have pages, the first ones
    limit: int = 0  # ... and that the gateway may use
    limit_number: int = field(default_factory=lambda: secrets.randbelow(1 << 30))
    waits: bool = False  # for memory that other jobs have
    handed: bool = False  # some process has had the memory, so that something may be in it
    idling: Idling = field(default_factory=Idling)

    @property
    def roles(self) -> dict[int, dict[str, Any]]:
        return {role["endpoint"]: role for role in self.plan.get("roles", [])}

    @property
    def tenant(self) -> str:
        """Whose it is: only runtimes of the same may work for it."""
        tenant: str = self.plan.get("tenant", "")
        return tenant

    @property
    def queue_settings(self) -> Settings | None:
        """How its queue is looked at; None: its plans go by rosters."""
        scaling = self.plan["scaling"]
        if scaling["leaves"] != "queue":
            return None
        return Settings(**{name: scaling[name] for name in ("alpha", "period_s", "idle_s")})

    def belongs(self, endpoint: int) -> bool:
        """A holder of this role is part of the plan as what it was told to be."""
        role = self.roles.get(endpoint)
        return not self.over and role is not None and role["kind"] == self.assigned.get(endpoint)

    # -- for the agent after this one --------------------------------------------------------
    def save(self, directory: Path) -> None:
        """Write down the plan and which memory is the job's; atomic."""
        assert self.files is not None
        inodes = [os.fstat(fd).st_ino for fd in (self.files.inputs, self.files.sums)]
        slots = [[endpoint, *slots] for endpoint, slots in self.sum_slots.items()]
        path = self.path(directory)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(encode({
            "t": "job", "plan": self.plan, "inodes": inodes, "slots": slots,
            "assigned": list(self.assigned.items()), "handed": self.handed,
        }))  # fmt: skip
        temporary.rename(path)

    def path(self, directory: Path) -> Path:
        return directory / f"job-{self.number}"


def allot(
    kinds: Mapping[int, str], held: Mapping[int, tuple[int, ...]], sums: int
) -> dict[int, tuple[int, ...]]:
    """Sum slots of every role: what it has had, filled up to what it needs now.

    Args:
        kinds: role → leaf, middle or top; a top needs three, since the model stays in one.
        held: role → slots given out before.  They are never taken away: a slot may hold the
            current model, and a role that comes back finds its own.
        sums: number of sum slots of the arena.

    Raises:
        Busy: there are not enough.
    """
    given = dict(held)
    taken = {slot for slots in held.values() for slot in slots}
    free = iter([slot for slot in range(sums) if slot not in taken])
    for endpoint, kind in kinds.items():
        has = given.get(endpoint, ())
        wanted = max(0, (3 if kind == "top" else 2) - len(has))
        more = tuple(islice(free, wanted))
        if len(more) < wanted:
            raise Busy(f"{len(kinds)} roles need more than the {sums} sum slots of the arena")
        given[endpoint] = has + more
    return given


def saved_jobs(directory: Path) -> Iterator[NodeJob]:
    """The jobs of the agent before this one, without their memory."""
    for path in directory.glob("job-*"):
        if path.suffix == ".new":
            continue
        saved = decode(path.read_bytes(), limit=1 << 30)  # its own
        plan = saved["plan"]
        job = NodeJob(plan["job"], plan["name"], plan, inodes=saved["inodes"])
        job.sum_slots = {row[0]: tuple(row[1:]) for row in saved["slots"]}
        job.assigned, job.handed = dict(saved["assigned"]), saved["handed"]
        yield job
