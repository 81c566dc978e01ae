"""What a job learns, with whom and until when: clients, model, trainer, evaluator, goal.

Owns those parts of `job.Spec`.  Called by `job`, where whoever wants one of them finds it, and by
`rules`, which has the same limits.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from lifl.api.part import NAME_MAX, Args, EntryPoint, OwnClient, Part, Safetensors
from lifl.api.pods import Template

PROCESSES_MAX: Final = 4096  # client processes of one run
CHANGES_MAX: Final = 256  # of a schedule
REVOKED_MAX: Final = 256


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
