"""The CustomResourceDefinition of FLJob, from the types.

Owns the way from pydantic's JSON schema to the structural OpenAPI v3 schema that an API server
takes: nothing by reference, no alternatives, every default where it belongs.  Rules between fields
come from `rules`.  Called by scripts/crd.py, which writes it into the chart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from lifl.api import rules
from lifl.api.job import FLJob, Spec
from lifl.api.status import Status

GROUP: Final = "fl.lifl.dev"
VERSION: Final = "v1alpha1"

COLUMNS: Final = (
    ("Phase", "string", ".status.phase", "How the job stands."),
    ("Round", "string", ".status.progress", "Rounds published, of all."),
    ("Clients", "integer", ".status.clients.connected", "Clients that are connected."),
    ("Accuracy", "number", ".status.figures.accuracy", "Figure of that name, newest."),
    ("Age", "date", ".metadata.creationTimestamp", "Since the job was made."),
)
WIDE: Final = (
    ("Top", "string", ".status.tree.topNode", "Node that the top is on."),
    ("Endpoint", "string", ".status.endpoint.inside", "Where clients in the cluster connect."),
    ("Message", "string", ".status.message", "The last news."),
)

_TAKEN_OVER: Final = (  # keywords that mean the same in both
    "type", "enum", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "minimum", "maximum", "x-kubernetes-int-or-string",
)  # fmt: skip

Schema = dict[str, Any]


def definition() -> Schema:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"fljobs.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "FLJob",
                "listKind": "FLJobList",
                "plural": "fljobs",
                "singular": "fljob",
                "shortNames": ["flj"],
                "categories": ["all", "lifl"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        *(_column(*column) for column in COLUMNS),
                        *(_column(*column) | {"priority": 1} for column in WIDE),
                    ],
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, what: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": what}


def schema() -> Schema:
    """The schema of one FLJob."""
    fields = {name: field.description for name, field in FLJob.model_fields.items()}
    label = FLJob.model_json_schema()["$defs"]["Metadata"]["properties"]["name"]
    return {
        "description": _text(FLJob.__doc__),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": _text(fields["api_version"])},
            "kind": {"type": "string", "description": _text(fields["kind"])},
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "pattern": label["pattern"]}},
            },
            "spec": _of(Spec, with_defaults=True),
            "status": _of(Status, with_defaults=False),
        },
        "x-kubernetes-validations": rules.of("FLJob"),
    }


def _of(model: type[Spec | Status], *, with_defaults: bool) -> Schema:
    whole = model.model_json_schema(by_alias=True, mode="validation")
    whole["x-lifl-type"] = model.__name__
    return _Structural(whole.get("$defs", {}), with_defaults).convert(whole, required=True)


class _Structural:
    """Conversion with the definitions of one model at hand."""

    def __init__(self, definitions: Mapping[str, Schema], with_defaults: bool) -> None:
        self.definitions, self.with_defaults = definitions, with_defaults

    def convert(self, given: Schema, *, required: bool) -> Schema:
        """The schema of a field.

        Args:
            required: it has no default, so an object's cannot be filled in either.
        """
        given, is_optional = self._resolved(given)
        found: Schema = {"description": _text(given.get("description", ""))}
        found |= {key: given[key] for key in _TAKEN_OVER if key in given}
        if "const" in given:
            found["enum"] = [given["const"]]
        if "x-kubernetes-int-or-string" in given:
            found.pop("type", None)
        found |= _limits(given)
        if found.get("type") in ("integer", "number"):
            found["format"] = {"integer": "int64", "number": "double"}[found["type"]]
        if self.with_defaults and given.get("default") not in (None, [], {}):
            found["default"] = given["default"]
        if given.get("type") == "array":
            found |= self._list(given["items"])
        if given.get("type") == "object":
            found |= self._object(given)
            is_filled = not (required or is_optional or given.get("required"))
            if self.with_defaults and "properties" in given and is_filled:
                inner = found["properties"]  # written out, since rules are tried on it as it is
                found["default"] = {k: v["default"] for k, v in inner.items() if "default" in v}
        named = rules.of(given.get("x-lifl-type", ""))
        return found | ({"x-kubernetes-validations": named} if named else {})

    def _resolved(self, given: Schema) -> tuple[Schema, bool]:
        """What a reference or a choice with null stands for, and whether null is a choice."""
        is_optional = False
        while True:
            choices = [one for one in given.get("anyOf", ()) if one != {"type": "null"}]
            if "$ref" in given:
                target = self.definitions[given["$ref"].rpartition("/")[2]]
                inner = {key: value for key, value in given.items() if key != "$ref"}
                given = target | inner | {"x-lifl-type": given["$ref"].rpartition("/")[2]}
            elif len(choices) == 1:
                is_optional = True
                inner = {k: v for k, v in given.items() if k not in ("anyOf", "default")}
                given = choices[0] | inner
            else:
                return given, is_optional

    def _list(self, items: Schema) -> Schema:
        member = self.convert(items, required=True)
        key = rules.LISTS.get(self._resolved(items)[0].get("x-lifl-type", ""))
        how = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
        return {"items": member, **(how if key else {"x-kubernetes-list-type": "atomic"})}

    def _object(self, given: Schema) -> Schema:
        if "properties" in given:
            names = given.get("required", [])
            inner = {
                name: self.convert(field, required=name in names)
                for name, field in given["properties"].items()
            }
            for name in inner.keys() & rules.DERIVED.get(given.get("x-lifl-type", ""), ()):
                inner[name].pop("default")
            return {"properties": inner, **({"required": names} if names else {})}
        values = given.get("additionalProperties")
        if not isinstance(values, dict) or values.get("$ref", "").endswith("/JsonValue"):
            return {"x-kubernetes-preserve-unknown-fields": True}
        value = self.convert(values, required=True)
        value.pop("description")
        return {"additionalProperties": value}


def _limits(given: Schema) -> Schema:
    """Bounds that are not reached themselves are flags in OpenAPI 3.0."""
    found: Schema = {}
    for sign, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if sign in given and abs(given[sign]) < 2**63:  # an int64 is below that anyway
            found |= {bound: given[sign], sign: True}
    least = given.get("minimum", 0)
    if least != int(least):  # of 0.001 an API server makes 0 where what is given is an integer
        rule = {"rule": f"self >= {least}", "message": f"must be at least {least}"}
        found["x-kubernetes-validations"] = [rule]
    return found


def _text(description: str | None) -> str:
    return re.sub(r"\s+", " ", description or "").strip()
