"""What the operator has made up for a job and must know again: keys, nodes, number, start.

Owns that record, which is a Secret of LIFL's own namespace, since a coordinator's key is nobody
else's business.  Pure; keeper.py reads and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from lifl.api.job import FLJob
from lifl.functions.wire import Keys, virtual_key

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One job, as the operator began it.

    Attributes:
        number: of the job in descriptors and routing maps: no other job has it.
        coordinator, observer, initial: key pairs; the last is of the pod that brings the initial
            model.
        clients: pairs of clients that are processes; workers: of those that run virtual ones.
        nodes: public key of each node that the job may use, by name; none before it is placed.
        start: how often rounds began at a checkpoint, and 1.
        came: names of all nodes that it ever could use, in the order in which they came: a node's
            place is the number of its ports for clients from outside, and no other node's ever.
    """

    number: int
    coordinator: Pair
    observer: Pair
    initial: Pair
    clients: tuple[Pair, ...]
    workers: tuple[Pair, ...]
    nodes: Mapping[str, str]
    start: int = 1
    came: tuple[str, ...] = ()

    @classmethod
    def new(cls, job: FLJob, uid: str) -> Self:
        """Keys for a job that nobody has begun; the number is that of its uid's first 32 bits."""
        trainer, count = job.spec.trainer, job.spec.client_count
        workers = trainer.workers or 0 if trainer else 0
        virtual = trainer.clients if trainer and workers else 0
        return cls(
            number=int(uid.replace("-", "")[:8], 16) or 1,
            coordinator=_pair(), observer=_pair(), initial=_pair(),
            clients=tuple(_pair() for _ in range(count - virtual)),
            workers=tuple(_pair() for _ in range(workers)), nodes={},
        )  # fmt: skip

    def names(self, job: FLJob) -> dict[str, str]:
        """Name of each client by its key: client-0 and so on, virtual ones first."""
        own = [
            virtual_key(self.workers[index % len(self.workers)][0], index)
            for index in range(self.virtual(job))
        ] + [public for public, _ in self.clients]
        return {key: f"client-{index}" for index, key in enumerate(own)}

    def virtual(self, job: FLJob) -> int:
        """Clients without keys, for whom workers speak; they have the first numbers."""
        trainer = job.spec.trainer
        return trainer.clients if trainer and self.workers else 0

    def started(self, job: FLJob) -> int:
        """Of `clients`, how many the trainer starts: the first ones.  The rest is from outside."""
        trainer = job.spec.trainer
        return trainer.clients - self.virtual(job) if trainer else 0

    def outside(self, job: FLJob) -> list[str]:
        """Public keys of clients from outside."""
        return [public for public, _ in self.clients[self.started(job) :]]

    def on(self, nodes: Mapping[str, str]) -> Self:
        new = sorted(nodes.keys() - set(self.came))
        return replace(self, nodes=dict(nodes), came=(*self.came, *new))

    def again(self) -> Self:
        """Rounds begin at the last checkpoint."""
        return replace(self, start=self.start + 1)

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        fields: dict[str, Any] = json.loads(text)
        for name in ("coordinator", "observer", "initial"):
            fields[name] = tuple(fields[name])
        for name in ("clients", "workers"):
            fields[name] = tuple(map(tuple, fields[name]))
        # a record of before had none, and its ports were numbered by name
        fields["came"] = tuple(fields.get("came", sorted(fields["nodes"])))
        return cls(**fields)


def _pair() -> Pair:
    keys = Keys.new()
    return keys.public, keys.secret
