"""The job: `kind: FLJob` of `fl.lifl.dev/v1alpha1`, every field with its default and limits.

Owns the types, the only definition of a job that there is; its parts are in `learning`,
`aggregation` and `pods`.  Does not read files (`load`) and does not import what a job names
(`entrypoints`).  Everything that runs jobs takes an `FLJob`.

In files names are camelCase, in Python snake_case: `spec.deadlineS` is `job.spec.deadline_s`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from lifl.api.aggregation import Aggregation, Checkpoint, Memory, Placement, Scaling
from lifl.api.learning import Change, Clients, Evaluator, Model, Stop, Trainer
from lifl.api.part import DnsLabel, HttpUrl, Part
from lifl.api.pods import Expose, Functions, Template

__all__ = [
    "Aggregation", "Change", "Checkpoint", "Clients", "Evaluator", "FLJob", "Memory", "Metadata",
    "Model", "Placement", "Scaling", "Spec", "Stop", "Trainer",
]  # fmt: skip

# What an API server adds to the objects that it hands out, of no meaning to a job.
_SERVER_FIELDS = frozenset({
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
    "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
})  # fmt: skip


class Metadata(Part):
    """Who the job is."""

    name: DnsLabel = Field(description="Name of the job, unique in its namespace; a DNS label.")
    namespace: DnsLabel = Field(default="default", description="Whose job it is; a DNS label.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="For selecting jobs; LIFL attaches no meaning to them."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Notes for people and tools; ignored by LIFL."
    )

    @property
    def full_name(self) -> str:
        """Unique on every node: "/" is in no name."""
        return self.name if self.namespace == "default" else f"{self.namespace}/{self.name}"

    @model_validator(mode="before")
    @classmethod
    def _without_server_fields(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if key not in _SERVER_FIELDS}
        return given


class Spec(Part):
    """What is to be done."""

    rounds: int = Field(default=10, ge=1, description="Number of rounds.")
    clients: Clients = Field(default_factory=Clients, description="Clients of a round.")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Of every random choice that the job makes."
    )
    deadline_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a round closes with the updates that it has; without it "
        "a round waits for all clients that it drew and that are still there.",
    )
    insecure: bool = Field(
        default=False,
        description="No encryption and no proof of who somebody is: a client is whatever name it "
        "gives itself.  For trying things out; warned about at each start.",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Nodes that `lifl run` starts; its --nodes goes before it.  In a cluster the "
        "nodes are there, and the planner takes as few of them as will do.",
    )
    model: Model = Field(description="The first global model.")
    trainer: Trainer | None = Field(
        default=None, description="Client processes to start; without it clients come from outside."
    )
    evaluator: Evaluator | None = Field(
        default=None, description="What measures the global model after each round; optional."
    )
    stop: Stop | None = Field(
        default=None,
        description="When to end before the last round; a round under way is finished first.",
    )
    aggregation: Aggregation = Field(default_factory=Aggregation, description="Algorithm and tree.")
    scaling: Scaling = Field(
        default_factory=Scaling, description="How many aggregators there are, and for how long."
    )
    memory: Memory = Field(default_factory=Memory, description="Shared memory per node.")
    placement: Placement = Field(default_factory=Placement, description="Clients to nodes.")
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="Models on disk while the job runs."
    )
    suspend: bool = Field(
        default=False,
        description="In a cluster: begin no further round.  The round under way is finished, its "
        "model is kept, trainers and aggregators end; false goes on from there.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        description="In a cluster: seconds after which a job that is complete or has failed is "
        "deleted.  It stays unless given.",
    )
    template: Template | None = Field(
        default=None,
        description="In a cluster: pods in which the job's own code runs: initial model and "
        "evaluator, and trainers that have no template of their own.  Unless given trainer."
        "template.",
    )
    functions: Functions = Field(
        default_factory=Functions, description="In a cluster: how aggregators run."
    )
    expose: Expose = Field(
        default_factory=Expose,
        description="In a cluster: the way in for clients from outside.",
    )
    event_sink: HttpUrl | None = Field(
        default=None,
        description="URL to which CloudEvents about the job, its rounds and its models are "
        "posted, for example \"http://sink.example/events\".  A sink that is away delays no round.",
    )

    @model_validator(mode="after")
    def _clients_add_up(self) -> Self:
        clients, trainer = self.clients, self.trainer
        if trainer is not None and "min" not in clients.model_fields_set:
            clients = clients.model_copy(update={"min": trainer.clients})
            object.__setattr__(self, "clients", clients)  # once, before anybody has the object
        if trainer is not None and clients.min > trainer.clients:
            raise ValueError(
                f"clients.min is {clients.min}, but trainer.clients starts only "
                f"{trainer.clients}: no round would begin"
            )
        if clients.max is not None and clients.max < clients.min:
            raise ValueError(
                f"clients.max is {clients.max}, below clients.min, {clients.min}: no round "
                "would begin"
            )
        if clients.max is not None and trainer is not None and clients.max < trainer.clients:
            raise ValueError(
                f"clients.max is {clients.max}, below trainer.clients, {trainer.clients}"
            )
        if clients.min_per_round > clients.min:
            raise ValueError(
                f"clients.minPerRound is {clients.min_per_round}, above clients.min, "
                f"{clients.min}: a round starts with fewer than it has to draw"
            )
        drawn = max(clients.min_per_round, math.ceil(clients.fraction * clients.min - 1e-9))
        if clients.min_updates > drawn:
            raise ValueError(
                f"clients.minUpdates is {clients.min_updates}, but a round of {clients.min} "
                f"clients draws only {drawn} of them"
            )
        return self

    @property
    def client_count(self) -> int:
        """Clients that the run makes keys for, those of its trainer first."""
        started = self.trainer.clients if self.trainer else 0
        return max(self.clients.min, started, self.clients.max or 0)

    @property
    def outside(self) -> int:
        """Of those, how many the trainer does not start."""
        return self.client_count - (self.trainer.clients if self.trainer else 0)


class FLJob(Part):
    """A federated-learning job."""

    api_version: Literal["fl.lifl.dev/v1alpha1"] = Field(
        default="fl.lifl.dev/v1alpha1", description="Version of this format."
    )
    kind: Literal["FLJob"] = Field(default="FLJob", description="Kind of object.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: Spec = Field(description="What is to be done.")
    status: dict[str, Any] | None = Field(
        default=None, description="Written by a cluster; ignored where a job is read."
    )
