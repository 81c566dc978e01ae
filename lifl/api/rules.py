"""Rules between the fields of a job, in CEL, for a cluster's API server to check.

Owns the expressions and the sentences of those who break them.  They refuse what the types refuse
in Python (`job`, `pods`, `cluster`, `change`), in the same words as far as CEL has them; a test
puts the same wrong jobs to both.  Called by `crd`, which writes them beside the schema.

Rules run after defaults were filled in, so a field with a default is always there.  The others are
asked for with `has`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lifl.api import cluster
from lifl.api.change import AFTER_END, CHANGEABLE, MIXED
from lifl.api.job import Clients, Placement, Spec
from lifl.api.learning import PROCESSES_MAX
from lifl.api.part import Part
from lifl.api.status import FENCED


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of one type.

    Attributes:
        expression: CEL; true: as it should be.
        message: what to change; where `found` cannot be said, instead of it.
        found: the sentence with values; %d stands for each number, %s for each text.
        values: CEL of those.
    """

    expression: str
    message: str
    found: str = ""
    values: tuple[str, ...] = ()

    def wire(self) -> dict[str, str]:
        """As a schema has it in x-kubernetes-validations."""
        wire = {"rule": self.expression, "message": self.message}
        if self.found:
            wire["messageExpression"] = f"{self.found!r}.format([{', '.join(self.values)}])"
        return wire


def _one_of(*names: str) -> list[Rule]:
    """Exactly one of some fields is there."""
    there = ", ".join(f"has(self.{name})" for name in names)
    quoted = ", ".join(f'"{name}"' for name in names)
    listed = " and ".join(quoted.rsplit(", ", 1))
    return [
        Rule(
            expression=f"[{there}].filter(there, there).size() == 1",
            message=f"must have one of {listed}",
        )
    ]


DERIVED: Final[Mapping[str, frozenset[str]]] = {"Clients": frozenset({"min"})}
"""Fields whose default depends on other fields, so that the API server cannot fill it in."""

_LEAST: Final = (  # clients that a round waits for, as Spec fills them in
    "(has(self.clients.min) ? self.clients.min : has(self.trainer) ? self.trainer.clients : 1)"
)
_COUNT: Final = (  # clients that have keys; max is above all others where it is given
    "(has(self.clients.max) ? self.clients.max : has(self.trainer) ? self.trainer.clients : "
    f"{_LEAST})"
)
_SPREAD: Final = "(has(self.workers) ? self.workers : self.clients)"

_SPEC: Final = [
    Rule(
        expression=f"!has(self.trainer) || {_LEAST} <= self.trainer.clients",
        message="clients.min is above trainer.clients: no round would begin",
        found="clients.min is %d, but trainer.clients starts only %d: no round would begin",
        values=(_LEAST, "self.trainer.clients"),
    ),
    Rule(
        expression=f"!has(self.clients.max) || self.clients.max >= {_LEAST}",
        message="clients.max is below clients.min: no round would begin",
        found="clients.max is %d, below clients.min, %d: no round would begin",
        values=("self.clients.max", _LEAST),
    ),
    Rule(
        expression="!has(self.clients.max) || !has(self.trainer) || "
        "self.clients.max >= self.trainer.clients",
        message="clients.max is below trainer.clients",
        found="clients.max is %d, below trainer.clients, %d",
        values=("self.clients.max", "self.trainer.clients"),
    ),
    Rule(
        expression=f"self.clients.minPerRound <= {_LEAST}",
        message="clients.minPerRound is above clients.min: a round starts with fewer than it has "
        "to draw",
        found="clients.minPerRound is %d, above clients.min, %d: a round starts with fewer than "
        "it has to draw",
        values=("self.clients.minPerRound", _LEAST),
    ),
    Rule(  # n ≤ ⌈x⌉ is n − 1 < x for a whole n
        expression="self.clients.minUpdates <= self.clients.minPerRound || "
        f"double(self.clients.minUpdates - 1) < self.clients.fraction * double({_LEAST}) - 1e-9",
        message="clients.minUpdates is above what a round draws: lower it, or raise "
        "clients.fraction",
        found="clients.minUpdates is %d, but a round of %d clients draws fewer: lower it, or "
        "raise clients.fraction",
        values=("self.clients.minUpdates", _LEAST),
    ),
    Rule(
        expression="!self.insecure",
        message="insecure: true is for lifl run: a cluster's network is shared; leave it out",
    ),
    Rule(
        expression="has(self.template) || (has(self.trainer) && has(self.trainer.template))",
        message="template is missing: in a cluster the job's own code (initial model, evaluator, "
        "trainers) runs in pods; give template.image",
    ),
    Rule(
        expression="self.expose.type == 'none' || !has(self.trainer) || "
        "(has(self.clients.max) && self.clients.max > self.trainer.clients)",
        message=f"expose.type: {cluster.NOBODY_OUTSIDE}",
        found=f"expose.type is %s: {cluster.NOBODY_OUTSIDE}", values=("self.expose.type",),
    ),
    Rule(
        expression="!has(self.clients.revoked) || self.clients.revoked.all(one, "
        f"int(one.substring(7)) < {_COUNT})",
        message=cluster.NOT_A_CLIENT,
        found=f"{cluster.NOT_A_CLIENT}: they are client-0 to client-%d", values=(f"{_COUNT} - 1",),
    ),
]

_TRAINER: Final = [
    Rule(
        expression=f"has(self.workers) || self.clients <= {PROCESSES_MAX}",
        message=f"a client is a process unless workers is given: at most {PROCESSES_MAX}; "
        "with workers: 2, say, two processes run them all",
    ),
    Rule(
        expression="!has(self.workers) || self.workers <= self.clients",
        message="workers is above clients: some would have nobody",
        found="workers is %d, above clients, %d: some would have nobody",
        values=("self.workers", "self.clients"),
    ),
    Rule(
        expression=f"!has(self.replicas) || self.replicas <= {_SPREAD}",
        message="replicas is above workers, or without workers above clients: some would have "
        "nobody",
    ),
    Rule(
        expression="!has(self.schedule) || self.schedule.map(one, one.fromRound).isSorted()",
        message="schedule: each fromRound must be above the one before",
    ),
]

_AGGREGATION: Final = [
    Rule(
        expression="self.algorithm != 'fedavg' || self.serverLearningRate == 1.0",
        message="serverLearningRate needs algorithm: fedavgm, with serverMomentum: 0 if momentum "
        "is not wanted; fedavg goes all the way to the mean",
    ),
    Rule(
        expression="self.algorithm != 'fedavg' || !has(self.serverMomentum) || "
        "self.serverMomentum == 0.0",
        message="serverMomentum needs algorithm: fedavgm; fedavg has no momentum",
    ),
]

_VARIABLE: Final = [
    Rule(
        expression="!self.name.startsWith('LIFL_')",
        message="names that begin with LIFL_ are LIFL's own: choose another",
    ),
    *_one_of("value", "valueFrom"),
]

_TOLERATION: Final = [
    Rule(
        expression="has(self.key) || self.operator != 'Equal'",
        message="without key it must have operator: Exists",
    ),
    Rule(
        expression="self.operator != 'Exists' || !has(self.value) || self.value == ''",
        message="operator: Exists takes no value: leave it out, or write Equal",
    ),
]

_EXPOSE: Final = [
    Rule(
        expression="self.type != 'none' || !has(self.annotations) || self.annotations.size() == 0",
        message="annotations need type: NodePort or LoadBalancer; none has no Service",
    )
]

_STATUS: Final = [
    Rule(
        expression="!has(oldSelf.epoch) || (has(self.epoch) && self.epoch >= oldSelf.epoch)",
        message=FENCED,
    )
]


def _immutable(model: type[Part], prefix: str = "") -> Iterator[Rule]:
    """Every field stays as it is, save those that may change."""
    for name, field in model.model_fields.items():
        alias = field.alias or name
        if prefix + alias in CHANGEABLE or (not prefix and alias in MIXED):
            continue
        yield Rule(
            expression=_same(model, alias, f"self.{alias}", f"oldSelf.{alias}"),
            message=f"{prefix}{alias} cannot change: delete the job and make a new one",
        )


def _same(model: type[Part], alias: str, here: str, before: str) -> str:
    """A field is what it was, or still not there."""
    name = next(key for key, field in model.model_fields.items() if field.alias == alias)
    if model.model_fields[name].is_required() or _has_default(model, name):
        return f"{here} == {before}"
    return f"has({here}) == has({before}) && (!has({here}) || {here} == {before})"


def _has_default(model: type[Part], name: str) -> bool:
    """The API server fills it in."""
    if (model.model_fields[name].alias or name) in DERIVED.get(model.__name__, ()):
        return False
    default = model.model_fields[name].get_default(call_default_factory=True)
    return default is not None and default not in ({}, ())


_GROWS: Final = Rule(
    expression="self.rounds >= oldSelf.rounds",
    message="rounds cannot fall: use stop, or suspend",
)


_REVOKED: Final = Rule(
    expression="!has(oldSelf.revoked) || "
    "(has(self.revoked) && oldSelf.revoked.all(one, one in self.revoked))",
    message="who was revoked stays so: clients.revoked can only grow",
)


_PARTS: Final[Mapping[str, type[Part]]] = {
    "": Spec, "clients": Clients, "placement": Placement,
}  # fmt: skip


def _ended() -> Rule:
    """Of the whole object: once the job has ended nothing of its spec changes but a few fields."""
    parts = []
    for path in sorted(CHANGEABLE.keys() - AFTER_END):
        part, _, name = path.rpartition(".")
        model = _PARTS[part]
        parts.append(_same(model, name, f"self.spec.{path}", f"oldSelf.spec.{path}"))
    same = " && ".join(f"({part})" for part in parts)
    phase = "oldSelf.status.phase in ['Complete', 'Failed']"
    return Rule(
        expression=f"!has(oldSelf.status) || !has(oldSelf.status.phase) || !({phase}) || ({same})",
        message=f"the job has ended: only {', '.join(sorted(AFTER_END))} may change; make a new "
        "job",
    )


_ROOT: Final = [
    Rule(
        expression=f"self.metadata.name.size() <= {cluster.NAME_MAX}",
        message=f"metadata.name may have at most {cluster.NAME_MAX} characters, since the names "
        "of its pods begin with it",
    ),
    _ended(),
]

RULES: Final[Mapping[str, Iterable[Rule]]] = {
    "FLJob": _ROOT,
    "Spec": [*_SPEC, _GROWS, *_immutable(Spec)],
    "Clients": [_REVOKED, *_immutable(Clients, "clients.")],
    "Placement": [*_immutable(Placement, "placement.")],
    "Model": _one_of("initial", "file"),
    "Trainer": _TRAINER,
    "Aggregation": _AGGREGATION,
    "Stop": _one_of("atLeast", "atMost"),
    "Expose": _EXPOSE,
    "Variable": _VARIABLE,
    "ValueFrom": _one_of("secretKeyRef", "configMapKeyRef"),
    "Volume": _one_of("configMap", "secret", "persistentVolumeClaim", "emptyDir"),
    "Toleration": _TOLERATION,
    "Status": _STATUS,
}
"""Rules by the name of the type that they are of."""

LISTS: Final[Mapping[str, str]] = {
    "Change": "fromRound",
    "Variable": "name",
    "Volume": "name",
    "Condition": "type",
    "TreeNode": "name",
}
"""Lists whose members have a field that tells them apart, by the name of a member's type."""


def of(name: str) -> list[dict[str, Any]]:
    """Rules of a type, as its schema has them."""
    return [rule.wire() for rule in RULES.get(name, ())]
