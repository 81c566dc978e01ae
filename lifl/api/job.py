"""The job: `kind: FLJob` of `fl.lifl.dev/v1alpha1`, every field with its default and limits.

Owns the types, the only definition of a job that there is.  Does not read files (`load`) and
does not import what a job names (`entrypoints`).  Everything that runs jobs takes an `FLJob`.

In files names are camelCase, in Python snake_case: `spec.deadlineS` is `job.spec.deadline_s`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from lifl.api.part import (
    NAME_MAX,
    TEXT_MAX,
    Args,
    Bytes,
    BytesOrZero,
    DnsLabel,
    EntryPoint,
    FanIn,
    HttpUrl,
    OwnClient,
    Part,
    Safetensors,
)
from lifl.api.pods import Expose, Functions, Template

PROCESSES_MAX: Final = 4096  # client processes of one run
CHANGES_MAX: Final = 256  # of a schedule
REVOKED_MAX: Final = 256

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


class Clients(Part):
    """How many clients a round needs and takes."""

    min: int = Field(
        default=1,
        ge=1,
        description="Connected clients that a round waits for before it starts.  Where the job "
        "has a trainer the default is the number of the trainer's clients.",
    )
    max: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Clients that the run makes keys for, clients.min unless given.  Those beyond "
        "the trainer's come from outside, each with one file of the run's folder `clients`.",
    )
    fraction: float = Field(
        default=1.0, gt=0, le=1, description="Share of the connected clients that a round draws."
    )
    min_per_round: int = Field(
        default=1,
        ge=1,
        description="Fewest clients that a round draws, however small the fraction.",
    )
    selection: Literal["random", "power-of-choice", "oort"] = Field(
        default="random",
        description="Which of the connected clients a round draws.  random: each as likely.  "
        "power-of-choice: of twice as many drawn by weight, those with the highest loss.  oort: "
        "those with high loss that are fast, and a share that was never drawn.  The last two go "
        "by the metric `loss` that trainers report, and draw nobody to advantage while fraction "
        "is 1.",
    )
    over_provision: float = Field(
        default=1.0,
        ge=1,
        le=10,
        description="Draw so many times the clients that a round needs, 1.3 say, and close it as "
        "soon as those it needs have sent; the others are told that they are late.",
    )
    grace_s: float = Field(
        default=5.0,
        ge=0,
        description="Seconds that a client whose connection ended has to come back.  After that, "
        "or after the deadline of its round, its round does not wait for it, and later rounds do "
        "not draw it until it is back.",
    )
    min_updates: int = Field(
        default=1,
        ge=1,
        description="Fewest updates with which a round counts when its deadline has passed.",
    )
    revoked: tuple[OwnClient, ...] = Field(
        default=(),
        strict=False,
        max_length=REVOKED_MAX,
        description="In a cluster: clients that may no longer take part, for example [client-16].  "
        "Their connections end, and their keys are worth nothing from then on.",
    )
    lane: Literal["fast", "zmq"] = Field(
        default="fast",
        description="How models and updates travel.  fast: over one TCP connection per client to "
        "the gateway's bulk port.  zmq: over the control channel, for clients that reach one port "
        "only; slower.",
    )

    @property
    def least_drawn(self) -> int:
        """Fewest clients that a round draws, as `selection.select` takes it."""
        return max(self.min, self.min_per_round) if self.fraction == 1 else self.min_per_round


class Model(Part):
    """Where the first global model comes from: exactly one of the two."""

    initial: EntryPoint | None = Field(
        default=None,
        description='Entry point "module:function" that returns the model, a dict of NumPy '
        "arrays by name.  The module is looked for in the folder of the job file first.",
    )
    file: Safetensors | None = Field(
        default=None,
        description="A .safetensors file; a relative path starts at the job file's folder.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.initial is None) == (self.file is None):
            has = "neither" if self.initial is None else "both"
            raise ValueError(f'must have one of "initial" and "file", and has {has}')
        return self


class Change(Part):
    """Settings that hold from some round on."""

    from_round: int = Field(ge=1, description="First round for which they hold.")
    args: Args = Field(
        description="Settings by name, over those of trainer.args and of earlier changes."
    )


class Trainer(Part):
    """Clients that the run starts itself."""

    entrypoint: EntryPoint = Field(
        description='Entry point "module:function".  A function of one parameter is called once '
        "in every client process, with a lifl.Client, and loops over its rounds.  A function of "
        "two is called with (client, round) for every round of every client, and is what "
        "workers need.  The module is looked for in the folder of the job file first."
    )
    clients: int = Field(
        default=1,
        ge=1,
        le=100_000,
        description="Number of clients: processes, at most 4096, unless workers is given.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Run the clients as virtual ones in so many processes: client i always in "
        "process i modulo workers, one after the other, and only when a round has drawn it.",
    )
    args: Args = Field(
        default_factory=dict, description="Any JSON; what the trainer finds in client.settings."
    )
    schedule: tuple[Change, ...] = Field(
        default=(),
        strict=False,
        max_length=CHANGES_MAX,
        description="Changes of args by round; the trainer finds those in force in round.settings.",
    )
    replicas: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="In a cluster: pods over which clients or workers are spread, the first in "
        "the first pod, and so on in turn.  Unless given one for each worker, or without workers "
        "one for each client.",
    )
    template: Template | None = Field(
        default=None, description="In a cluster: pods of the trainer; spec.template unless given."
    )

    def settings(self, round_: int) -> dict[str, JsonValue]:
        """args with every change that holds in a round."""
        found = dict(self.args)
        for change in self.schedule:
            if change.from_round <= round_:
                found |= change.args
        return found

    @model_validator(mode="after")
    def _processes(self) -> Self:
        if self.workers is None and self.clients > PROCESSES_MAX:
            raise ValueError(
                f"clients is {self.clients}, and a client is a process unless workers is given: "
                f"at most {PROCESSES_MAX}; with workers: 2, say, two processes run them all"
            )
        if self.workers is not None and self.workers > self.clients:
            raise ValueError(
                f"workers is {self.workers}, above clients, {self.clients}: some would have nobody"
            )
        if self.replicas is not None and self.replicas > (self.workers or self.clients):
            of = f"clients, {self.clients}" if self.workers is None else f"workers, {self.workers}"
            raise ValueError(f"replicas is {self.replicas}, above {of}: some would have nobody")
        first = [change.from_round for change in self.schedule]
        if sorted(set(first)) != first:
            raise ValueError(f"schedule has fromRound {first}: each must be above the one before")
        return self


class Evaluator(Part):
    """What is measured of each round's global model."""

    entrypoint: EntryPoint = Field(
        description='Entry point "module:function" that takes the model, a dict of NumPy arrays, '
        'and returns figures by name, for example {"accuracy": 0.96}.'
    )


class Aggregation(Part):
    """How updates become the next global model."""

    algorithm: Literal["fedavg", "fedavgm"] = Field(
        default="fedavg",
        description="fedavg: mean of the updates by weight.  fedavgm: the same with momentum "
        "on the server.",
    )
    server_learning_rate: float = Field(
        default=1.0,
        gt=0,
        description="Step from the old global model towards the mean; 1 is all the way.",
    )
    server_momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Momentum of fedavgm, 0.9 unless given; fedavg has none.",
    )
    mode: Literal["eager", "lazy"] = Field(
        default="eager",
        description="eager: an aggregator folds updates in pairs as they arrive.  lazy: it waits "
        "for all that it expects.",
    )
    fan_in: FanIn = Field(
        default=4,
        description='Most clients of one leaf of the tree.  "auto", None in Python: what is '
        "cheapest on each node by its cores, its link and the size of an update.",
    )
    non_finite: Literal["reject", "accept"] = Field(
        default="reject",
        description="An update with NaN or infinity in it.  reject: its client is told so, and "
        "the model stays clean.  accept: it is averaged like any other.",
    )
    kernels: Literal["auto", "native", "reference"] = Field(
        default="auto",
        description="native: C.  reference: NumPy.  auto: native where it was built.",
    )
    proxy: Literal["auto", "ebpf", "unix"] = Field(
        default="auto",
        description="What moves descriptors.  ebpf: in the kernel.  unix: sockets in user "
        "space.  auto: ebpf where the rights for it exist.  What was chosen is said at the start.",
    )

    @property
    def momentum(self) -> float:
        """Momentum in force: 0 for fedavg."""
        if self.algorithm == "fedavg":
            return 0.0
        return 0.9 if self.server_momentum is None else self.server_momentum

    @model_validator(mode="after")
    def _optimiser_is_used(self) -> Self:
        if self.algorithm == "fedavg" and self.server_learning_rate != 1:
            raise ValueError(
                "serverLearningRate needs algorithm: fedavgm, with serverMomentum: 0 if momentum "
                "is not wanted; fedavg goes all the way to the mean"
            )
        if self.algorithm == "fedavg" and self.server_momentum:
            raise ValueError("serverMomentum needs algorithm: fedavgm; fedavg has no momentum")
        return self


class Scaling(Part):
    """How many aggregators there are, and how long they stay."""

    leaves: Literal["roster", "queue"] = Field(
        default="roster",
        description="What the number of leaves follows.  roster: the clients that a round has "
        "drawn.  queue: updates that wait or are in service on a node, averaged over each period "
        "and smoothed from one to the next, once there is such a figure; never more leaves than "
        "by the roster.",
    )
    alpha: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="With leaves: queue, the weight of what was in the moving average of queues; "
        "0: only the last period counts.",
    )
    period_s: float = Field(
        default=120.0,
        gt=0,
        description="With leaves: queue, seconds over which a queue is averaged; plans follow it "
        "no more often.",
    )
    idle_s: float = Field(
        default=300.0,
        gt=0,
        description="With leaves: queue, seconds after a round without an update from when a node "
        "has no aggregators; the next update starts them.",
    )
    keep_alive_s: float = Field(
        default=60.0,
        gt=0,
        description="Fewest seconds that an aggregator stays after a round.  After that it is "
        "stopped when none of the times between rounds so far, but for a hundredth, was so long, "
        "or at once where all were longer than this; the next update starts it, or the time at "
        "which one is to be expected.",
    )


class Memory(Part):
    """Shared memory of the job on each node."""

    input_slots: int = Field(
        default=8,
        ge=1,
        le=4096,
        description="Updates that a node holds at once.  Further clients wait; memory does not "
        "grow with their number.",
    )
    arena_bytes: Bytes | None = Field(
        default=None,
        description='Most shared memory of the job per node, for example "2Gi"; a job that does '
        "not fit is refused.  No limit of its own unless given.",
    )
    stall_s: float = Field(
        default=15.0,
        gt=0,
        description="An upload of which nothing has come for so many seconds loses its slot; its "
        "client may send again.",
    )
    min_upload_rate: BytesOrZero = Field(
        default=16 << 10,
        description='Bytes a second, for example "64Ki".  An upload that was slower on average, '
        "stallS aside, loses its slot when others wait for one; 0: never.",
    )


class Checkpoint(Part):
    """The global model on disk, so that a run can go on after everything was killed."""

    path: Annotated[str, Field(min_length=1, max_length=TEXT_MAX)] | None = Field(
        default=None,
        description="Folder, in which each run gets one of its own: a path, relative to the job "
        'file\'s folder, or a URL for fsspec, for example "s3://bucket/folder".  Without it '
        "checkpoints lie in the run's directory, until the run is complete.",
    )
    every: int | None = Field(
        default=None,
        ge=1,
        description="Rounds from one checkpoint to the next.  Unless given every round, but not "
        "more than one a second or, where that takes longer, a twentieth of the time, and for "
        "models above 64 MiB one round more for each further "
        "64 MiB.",
    )
    keep: int = Field(default=2, ge=1, description="How many of the newest stay.")


class Placement(Part):
    """Which node serves which client."""

    policy: Literal["bestfit", "firstfit", "worstfit", "least-connections", "random"] = Field(
        default="bestfit",
        description="bestfit: fewest nodes, so that most hand-offs stay in shared memory.  "
        "firstfit: the first node with room.  worstfit: the emptiest node.  least-connections: "
        "the node that serves fewest updates.  random: any node with room, by spec.seed.",
    )
    priority: int = Field(
        default=0,
        ge=-1_000_000,
        le=1_000_000,
        description="Where several jobs share nodes: those of a higher priority take what they "
        "want first, from the next round on.  A job for which nothing is left waits.",
    )
    weight: float = Field(
        default=1.0,
        ge=0.001,
        le=1000,
        description="Where several jobs of one priority share nodes: a job of weight 3 gets three "
        "times what one of weight 1 gets, as far as it wants that.",
    )
    node_grace_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that a node may be silent while other nodes are there.  After that it "
        "is lost: its clients send again to other nodes, and the round goes on without it.",
    )


class Stop(Part):
    """When a job has reached its goal, or goes no further, before its last round."""

    metric: str = Field(
        min_length=1,
        max_length=NAME_MAX,
        description="Name of the figure: one of the evaluator's, where it reports that name, else "
        "the mean by weight of what clients report.",
    )
    at_least: float | None = Field(
        default=None, description="Goal: done when the figure is so high; higher is better."
    )
    at_most: float | None = Field(
        default=None, description="Goal: done when the figure is so low; lower is better."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Done, too, when so many measured rounds in a row brought no better figure.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            has = "neither" if self.at_least is None else "both"
            raise ValueError(f'must have one of "atLeast" and "atMost", and has {has}')
        return self


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
