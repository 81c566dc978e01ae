"""How a job's updates are aggregated: algorithm, tree, processes, memory, checkpoints, nodes.

Owns those parts of `job.Spec`.  Called by `job` alone; whoever wants one of them finds it there.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lifl.api.part import TEXT_MAX, Bytes, BytesOrZero, FanIn, Part


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
