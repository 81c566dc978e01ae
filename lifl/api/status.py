"""What a cluster says of a job: `status` of an FLJob.

Owns the types, from which the CRD's schema is made, and how large a status may be: with `spec` and
`metadata` it is one object of the API server, which etcd takes up to 1.5 MiB.  Does not own when
something is written, which is the operator's matter.  A status that is read back compares by value.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, field_serializer

from lifl.api.part import NAME_MAX, TEXT_MAX, DnsName, Part

STORE_MAX: Final = 384 << 10  # characters of `store.data`
NODES_MAX: Final = 256  # of a tree; the rest is counted
FIGURES_MAX: Final = 64
FENCED: Final = "epoch would fall: a coordinator with a later lease has written"  # the CRD's words
DIGITS: Final = 4  # of a figure: it is read by people, and each write costs the API server a write

Phase = Literal["Pending", "Placed", "Running", "Suspended", "Complete", "Failed"]
ConditionType = Literal["Accepted", "Placed", "Running", "Suspended", "Complete", "Failed"]

Count = Annotated[int, Field(ge=0)]
Time = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$",
        max_length=64,
        json_schema_extra={"format": "date-time"},
    ),
]
_Figure = Annotated[float, Field(allow_inf_nan=True)]  # of a client's; JSON has no such numbers


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures that JSON has, to a few digits; the first by name where there are too many."""
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {name: float(f"{finite[name]:.{DIGITS}g}") for name in sorted(finite)[:FIGURES_MAX]}


class Condition(Part):
    """One of the conditions that `kubectl wait --for=condition=...` waits for."""

    type: ConditionType = Field(description="What it is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    observed_generation: Count = Field(
        default=0, description="metadata.generation of the spec that this was found for."
    )
    last_transition_time: Time = Field(description="When status changed last.")
    reason: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=128)] = Field(
        description="Why, as one word for programs."
    )
    message: str = Field(
        default="", max_length=TEXT_MAX, description="Why, as a sentence with its numbers."
    )


class ClientCounts(Part):
    """How many clients there are."""

    enrolled: Count = Field(default=0, description="Clients that have a key.")
    connected: Count = Field(default=0, description="Clients that some gateway knows.")
    drawn: Count = Field(default=0, description="Clients drawn for the round under way.")
    accepted: Count = Field(default=0, description="Of those, whose update has been accepted.")


class TreeNode(Part):
    """One node's part of the tree."""

    name: str = Field(max_length=NAME_MAX, description="Name of the Node.")
    clients: Count = Field(default=0, description="Clients of the round that it serves.")
    leaves: Count = Field(default=0, description="Leaves on it.")
    middle: bool = Field(default=False, description="Whether a middle is on it.")
    top: bool = Field(default=False, description="Whether the top is on it.")
    forward_to: str | None = Field(
        default=None, max_length=NAME_MAX, description="Node to which its sum goes."
    )


class Tree(Part):
    """The tree of aggregators of the plan in force."""

    epoch: Count = Field(default=0, description="Number of the plan.")
    top_node: str | None = Field(
        default=None, max_length=NAME_MAX, description="Node that the top is on."
    )
    unplaced: Count = Field(default=0, description="Clients of the round that no node can take.")
    nodes: tuple[TreeNode, ...] = Field(
        default=(), strict=False, max_length=NODES_MAX, description="Nodes with a role, by name."
    )


class Endpoint(Part):
    """Where clients find the job."""

    inside: str | None = Field(
        default=None, max_length=TEXT_MAX, description="Address for clients in the cluster."
    )
    outside: tuple[Annotated[str, Field(max_length=TEXT_MAX)], ...] = Field(
        default=(), strict=False, max_length=NODES_MAX,
        description="Addresses for clients elsewhere, as spec.expose asks for them.",
    )  # fmt: skip
    secret: DnsName | None = Field(
        default=None, description="Secret of the job's namespace with the files of its clients."
    )


class Stored(Part):
    """A model that lies somewhere."""

    round: Count = Field(description="Round that it is of; 0 is the initial one.")
    place: str = Field(max_length=TEXT_MAX, description="Path or URL.")
    time: Time | None = Field(default=None, description="When it was written.")


class Store(Part):
    """What the next coordinator needs to go on; nothing for people."""

    version: int = Field(ge=1, description="Version of data's format.")
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")] = Field(
        default="", max_length=STORE_MAX, description="State of the job, packed, in base64."
    )


class Status(Part):
    """How the job stands, as the coordinator wrote it last."""

    observed_generation: Count = Field(
        default=0, description="metadata.generation of the spec that is in force."
    )
    phase: Phase = Field(
        default="Pending",
        description="Pending: no node yet.  Placed: nodes are found, clients are waited for.  "
        "Running: rounds.  Suspended: by spec.suspend.  Complete and Failed: the end.",
    )
    message: str = Field(default="", max_length=TEXT_MAX, description="The last news, a sentence.")
    epoch: Count = Field(
        default=0,
        description="Of the lease of the coordinator that wrote this.  It never falls: what a "
        "coordinator writes whose lease is over is refused.",
    )
    coordinator: str | None = Field(
        default=None, max_length=NAME_MAX, description="Who wrote this: the operator's pod."
    )
    round: Count = Field(default=0, description="Round under way, or the last one.")
    rounds: Count = Field(default=0, description="spec.rounds in force.")
    progress: str = Field(
        default="", max_length=64, description='Rounds published of all, for example "12/30".'
    )
    clients: ClientCounts = Field(default_factory=ClientCounts, description="How many there are.")
    figures: Annotated[dict[str, _Figure], AfterValidator(_rounded)] = Field(
        default_factory=dict,
        json_schema_extra={"maxProperties": FIGURES_MAX},
        description="Newest figures by name, to four digits: the evaluator's, or where there is "
        "none those of clients by weight.",
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), strict=False, max_length=16, description="For kubectl wait."
    )
    tree: Tree | None = Field(default=None, description="The tree of the plan in force.")
    endpoint: Endpoint | None = Field(default=None, description="Where clients find the job.")
    last_checkpoint: Stored | None = Field(
        default=None, description="Newest model from which the job could go on."
    )
    model: Stored | None = Field(default=None, description="The final model of a complete job.")
    started_at: Time | None = Field(default=None, description="When the first round started.")
    finished_at: Time | None = Field(default=None, description="When it was complete or failed.")
    store: Store | None = Field(default=None, description="What the next coordinator needs.")

    @field_serializer("figures")
    def _few_digits(self, figures: dict[str, float]) -> dict[str, float]:
        return _rounded(figures)  # also of a copy, whose fields nobody has looked at

    def wire(self) -> dict[str, Any]:
        """As JSON has it, without what is not known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def with_condition(
        self, kind: ConditionType, so: bool | None, reason: str, message: str = "", *,
        now: str, generation: int = 0,
    ) -> Status:  # fmt: skip
        """With a condition in place of the one of its type; its time stays unless `so` changes."""
        status: Literal["True", "False", "Unknown"] = (
            "Unknown" if so is None else "True" if so else "False"
        )
        old = self.condition(kind)
        new = Condition(
            type=kind, status=status, reason=reason, message=message[:TEXT_MAX],
            observed_generation=generation,
            last_transition_time=old.last_transition_time if old and old.status == status else now,
        )  # fmt: skip
        by_type = {one.type: one for one in self.conditions} | {kind: new}
        return self.model_copy(update={"conditions": tuple(by_type.values())})

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type, if anything was said of it."""
        return next((one for one in self.conditions if one.type == kind), None)
