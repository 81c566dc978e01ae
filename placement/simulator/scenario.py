"""What `lifl simulate` is asked: every field of a scenario, with default and limits.

Owns the types and reading the file.  In files names are camelCase, as in jobs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from lifl.api.load import checked
from lifl.api.part import Bytes, FanIn
from lifl.api.source import read
from lifl.errors import InvalidJob

Policy = Literal["bestfit", "firstfit", "worstfit", "least-connections", "random"]

CLIENTS_MAX = 2_000_000
NODES_MAX = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, allow_inf_nan=False, extra="forbid", frozen=True,
        populate_by_name=True, strict=True,
    )  # fmt: skip


class Arrivals(_Part):
    """When the clients of a round have their updates ready, after the round's start."""

    kind: Literal["poisson", "diurnal", "flash", "trace"] = Field(
        default="poisson",
        description="poisson: at a constant rate.  diurnal: at a rate that goes up and down as a "
        "sine.  flash: poisson, and a share of all at once.  trace: as in a run.",
    )
    rate_per_s: float = Field(default=10.0, gt=0, description="Mean rate; not of a trace.")
    amplitude: float = Field(
        default=0.8, ge=0, lt=1, description="diurnal: how far the rate goes from its mean."
    )
    period_s: float = Field(default=86_400.0, gt=0, description="diurnal: of the sine.")
    flash_at_s: float = Field(default=0.0, ge=0, description="flash: when the crowd comes.")
    flash_share: float = Field(default=0.5, ge=0, le=1, description="flash: how many are in it.")
    flash_width_s: float = Field(default=0.1, ge=0, description="flash: within which they come.")
    file: str | None = Field(
        default=None,
        description="trace: trace.jsonl of a run, relative to the scenario's folder.  A round of "
        "other size draws from the times of that round, with replacement.",
    )

    @model_validator(mode="after")
    def _trace_has_a_file(self) -> Self:
        if (self.kind == "trace") != (self.file is not None):
            raise ValueError(f"kind is {self.kind}: file goes with trace, and only with it")
        return self


class Nodes(_Part):
    """Some equal nodes."""

    count: int = Field(ge=1, le=NODES_MAX, description="How many.")
    cores: int = Field(default=8, ge=1, le=1024, description="For aggregators, of each.")
    link_bytes_s: Bytes = Field(
        default=125_000_000, description='Of its link, each way; "125M" is 1 Gbit/s.'
    )
    fold_bytes_s: Bytes = Field(
        default=8_000_000_000,
        description="Updates that one core folds, four in a pass, as an agent measures it.",
    )
    input_slots: int = Field(default=8, ge=1, le=4096, description="Updates held at once.")
    capacity: int | None = Field(
        default=None, ge=1, description="MC; by the formula of capacity.py unless given."
    )


class Costs(_Part):
    """What things take; the defaults are figures of docs/benchmarks.md and the design."""

    cold_start_s: float = Field(default=0.4, ge=0, description="Until a new process has a role.")
    cold_start_cpu_s: float = Field(default=0.4, ge=0, description="CPU that it takes.")
    handoff_s: float = Field(default=20e-6, ge=0, description="From one process to the next.")
    ingest_bytes_s: Bytes = Field(
        default=1_500_000_000, description="That a core takes in or sends out, encrypted."
    )
    link_share: float = Field(
        default=1.0, gt=0, le=1,
        description="Of a link's rate, for payload: headers and what is sent again take the rest.",
    )
    sum_bytes_s: Bytes | None = Field(
        default=None,
        description="That gateways exchange among themselves, sums and models, where a link is not "
        "slower.  No bound unless given.",
    )
    model_spread: float = Field(
        default=0.0, ge=0, le=1,
        description="How far the clients of a node are apart in getting their models.  0: all have "
        "them when the last one has; 1: one after the other.",
    )
    update_cpu_s: float = Field(
        default=0.0, ge=0,
        description="CPU that an update takes beside its bytes, and a model on its way to a "
        "client; counts with sharedCores.",
    )
    round_s: float = Field(
        default=0.0, ge=0, description="Of a round, beside all else: telling everybody."
    )


class Scenario(_Part):
    """One job on some nodes, once for each policy."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="Of every random choice.")
    rounds: int = Field(default=10, ge=1, le=100_000, description="Number of rounds.")
    clients: int = Field(ge=1, le=CLIENTS_MAX, description="That are there.")
    fraction: float = Field(default=1.0, gt=0, le=1, description="Share that a round draws.")
    update_bytes: Bytes = Field(default=46_800_000, description="Of an update, and of a sum.")
    arrivals: Arrivals = Field(default_factory=Arrivals, description="When updates are ready.")
    pause_s: float = Field(default=0.0, ge=0, description="From a model to the next round.")
    nodes: Annotated[tuple[Nodes, ...], Field(min_length=1)] = Field(
        strict=False, description="Groups of equal nodes."
    )
    policies: Annotated[tuple[Policy, ...], Field(min_length=1)] = Field(
        default=("bestfit", "firstfit", "worstfit", "least-connections", "random"),
        strict=False, description="That are compared.",
    )  # fmt: skip
    service_s: float | None = Field(
        default=None,
        gt=0,
        description="T of capacity.py.  Unless given the time in which the round's updates "
        "become ready: a node takes as many as it can serve meanwhile.",
    )
    headroom: float = Field(
        default=1.0, gt=0, le=1, description="Share of MC that is given away."
    )
    fan_in: FanIn = Field(default=8, description='Most clients of one leaf, or "auto".')
    mode: Literal["eager", "lazy"] = Field(default="eager", description="As in a job.")
    planned: bool = Field(
        default=True,
        description="true: processes start when the round is planned, and leaves are no more than "
        "cores and slots can use.  false: each starts when its first input is there.",
    )
    leaves: Literal["roster", "queue"] = Field(
        default="roster",
        description="What leaves are planned for.  roster: the clients that a node was given.  "
        "queue: the autoscaler's estimate of its queue, once there is one.",
    )
    alpha: float = Field(default=0.7, ge=0, lt=1, description="Of the autoscaler's EWMA.")
    reuse: bool = Field(
        default=True,
        description="A process whose leaf is done becomes middle or top, and stays for rounds.",
    )
    keep_alive: Literal["learned", "fixed"] = Field(
        default="learned", description="How long idle runtimes stay, with reuse."
    )
    keep_s: float = Field(default=600.0, ge=0, description="fixed: how long.")
    models: bool = Field(
        default=False,
        description="Count the model on its way, before updates are made: over the link of the "
        "top's node to its clients and the other nodes, then over theirs to their clients.",
    )
    shared_cores: int | None = Field(
        default=None, ge=1, le=1024,
        description="All nodes and all clients have so many cores together, as with lifl run "
        "--network netns.  Unless given nodes have their own, and clients are elsewhere.",
    )
    costs: Costs = Field(default_factory=Costs, description="What things take.")

    @model_validator(mode="after")
    def _not_too_large(self) -> Self:
        if (count := sum(group.count for group in self.nodes)) > NODES_MAX:
            raise ValueError(f"nodes has {count} nodes, and {NODES_MAX} are the most")
        if len(set(self.policies)) < len(self.policies):
            raise ValueError("policies names one twice")
        return self


def load_scenario(path: str | os.PathLike[str]) -> Scenario:
    """The scenario of a YAML or JSON file.

    Raises:
        InvalidJob: it is none; the sentence lists every error with its line.
    """
    source = read(Path(path), what="a scenario: clients, nodes and when updates come")
    if not isinstance(source.data, dict):
        raise InvalidJob(f"{source.name} is no scenario: it must have at least clients and nodes")
    if "kind" in source.data or "spec" in source.data:
        raise InvalidJob(
            f"{source.name} is a job, which lifl run runs.  lifl simulate plays a scenario: how "
            "many clients, nodes of which capacity, when updates come, which policies to compare; "
            "examples/06-simulate/flash.yaml is one, docs/scenario.md has every field"
        )
    return checked(source, Scenario, what="the scenario")
