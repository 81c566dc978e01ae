"""The CustomResourceDefinition: that of the types, structural, and of one mind with them."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lifl.api import crd
from lifl.api.change import AFTER_END, CHANGEABLE, MIXED
from lifl.api.cluster import refused_by_run, refused_in_cluster, unused_by_run
from lifl.api.job import FLJob, Spec
from lifl.api.status import FIGURES_MAX, STORE_MAX, Condition, Status, Store
from tests.unit import verdicts

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = crd.schema()
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below a schema, with its dotted path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from fields(inner, f"{path}.{name}".lstrip("."))
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from fields(schema[key], f"{path}[]")


def filled(schema: dict[str, Any], given: Any) -> Any:
    """What an API server makes of an object: defaults where nothing was said."""
    if "items" in schema and isinstance(given, list):
        return [filled(schema["items"], one) for one in given]
    if "properties" not in schema or not isinstance(given, dict):
        return given
    found = dict(given)
    for name, inner in schema["properties"].items():
        if name not in found and "default" in inner:
            found[name] = inner["default"]
        if name in found:
            found[name] = filled(inner, found[name])
    return found


def read(job: dict[str, Any]) -> FLJob:
    return FLJob.model_validate(job, by_alias=True, by_name=False)


def complaints(job: dict[str, Any]) -> list[str]:
    """Why Python would not take a job in a cluster."""
    try:
        return refused_in_cluster(read(job))
    except ValidationError as error:
        return [str(detail.get("ctx", {}).get("error", detail["msg"])) for detail in error.errors()]


# ---------------------------------------------------------------- the definition


def test_the_charts_file_is_that_of_the_types() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "crd.py"))
    assert (ROOT / "charts" / "lifl" / "files" / "fljobs.yaml").read_text() == script["text"]()


def test_every_field_of_the_types_is_there_and_described() -> None:
    for path, schema in fields(SCHEMA):
        if path and not path.startswith("metadata") and not path.endswith("[]"):
            assert schema["description"].endswith("."), path
    assert {name.alias for name in Spec.model_fields.values()} == (
        SCHEMA["properties"]["spec"]["properties"].keys()
    )
    assert {name.alias for name in Status.model_fields.values()} == (
        SCHEMA["properties"]["status"]["properties"].keys()
    )


def test_it_is_structural() -> None:
    for path, schema in fields(SCHEMA):
        if schema.get("x-kubernetes-int-or-string"):
            assert "type" not in schema, path
        else:
            assert schema["type"] in (
                "object", "array", "string", "integer", "number", "boolean",
            ), path
        if schema.get("type") == "object":
            said = [
                key
                for key in ("properties", "additionalProperties",
                            "x-kubernetes-preserve-unknown-fields")
                if key in schema
            ]  # fmt: skip
            assert len(said) == 1, path
        assert not schema.keys() & {
            "$ref", "anyOf", "allOf", "oneOf", "const", "title", "x-lifl-rule", "definitions",
        }, path


def test_what_is_open_is_json_of_the_users_alone() -> None:
    open_ = [path for path, s in fields(SCHEMA) if s.get("x-kubernetes-preserve-unknown-fields")]
    assert open_ == ["spec.trainer.args", "spec.trainer.schedule[].args"]


def test_rules_say_what_to_do_in_a_sentence() -> None:
    count = 0
    for path, schema in fields(SCHEMA):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert len(rule["message"]) > 15, path
            assert "\n" not in rule["message"], path
            count += 1
    assert count > 40


@pytest.mark.parametrize("name", verdicts.RIGHT)
def test_defaults_are_those_of_the_types(name: str) -> None:
    job = verdicts.edited(verdicts.RIGHT[name])
    assert read(filled(SCHEMA, job)) == read(job)


def test_columns_show_fields_that_there_are() -> None:
    known = dict(fields(SCHEMA))
    for name, kind, path, what in (*crd.COLUMNS, *crd.WIDE):
        assert what.endswith(".")
        path = path.lstrip(".")
        if path.startswith("metadata"):
            continue
        parent, _, last = path.rpartition(".")
        schema = known.get(path) or known[parent]["additionalProperties"]
        assert schema["type"] == kind, f"{name}: {last}"


# ---------------------------------------------------------------- what is right and wrong


def refused_changes(old: FLJob, new: FLJob, *, ended: bool = False) -> bool:
    """What the list of fields that may change says of a change."""
    before, after = (_fields(job) for job in (old, new))
    changed = {name for name in before if before[name] != after[name]}
    if ended:
        return bool(changed - AFTER_END)
    return bool(changed - CHANGEABLE.keys()) or new.spec.rounds < old.spec.rounds


def _fields(job: FLJob) -> dict[str, Any]:
    spec = job.spec.model_dump(mode="json", by_alias=True)
    return {name: value for name, value in spec.items() if name not in MIXED} | {
        f"{part}.{name}": value for part in sorted(MIXED) for name, value in spec[part].items()
    }


@pytest.mark.parametrize("name", verdicts.RIGHT)
def test_a_right_job(name: str) -> None:
    assert complaints(verdicts.edited(verdicts.RIGHT[name])) == []


@pytest.mark.parametrize("name", verdicts.WRONG)
def test_a_wrong_job(name: str) -> None:
    edits, words = verdicts.WRONG[name]
    said = complaints(verdicts.edited(edits))
    assert said
    assert any(words in sentence for sentence in said), said


@pytest.mark.parametrize("name", verdicts.CHANGES)
def test_a_change(name: str) -> None:
    edits, may = verdicts.CHANGES[name]
    old, new = read(verdicts.JOB), read(verdicts.edited(edits))
    assert refused_changes(old, new) is not may


@pytest.mark.parametrize("name", verdicts.ENDED)
def test_a_change_after_the_end(name: str) -> None:
    edits, may = verdicts.ENDED[name]
    old, new = read(verdicts.JOB), read(verdicts.edited(edits))
    assert refused_changes(old, new, ended=True) is not may


def test_what_may_change_exists() -> None:
    known = dict(fields(SCHEMA["properties"]["spec"]))
    assert CHANGEABLE.keys() <= known.keys()


def test_the_guide_says_what_may_change() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    rows = [f"| `{path}` | {what} |" for path, what in CHANGEABLE.items()]
    assert "\n".join(rows) in page


def test_every_field_may_change_or_has_a_rule() -> None:
    """A new field of spec cannot be forgotten: a rule is made of it unless it is listed."""
    spec = SCHEMA["properties"]["spec"]
    ruled = {
        rule["message"].split(" cannot change")[0]
        for schema in (spec, *(spec["properties"][part] for part in MIXED))
        for rule in schema["x-kubernetes-validations"]
        if "cannot change" in rule["message"]
    }
    inner = {
        f"{part}.{name}" for part in MIXED for name in spec["properties"][part]["properties"]
    }
    assert ruled | CHANGEABLE.keys() == spec["properties"].keys() - MIXED | inner
    assert not ruled & CHANGEABLE.keys()


# ---------------------------------------------------------------- lifl run


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"spec.suspend": True}, "spec.suspend is true: lifl run would run the job at once"),
        ({"spec.expose": {"type": "NodePort"}}, "spec.expose.type is NodePort"),
        ({"spec.clients": {"revoked": ["client-1"]}}, "spec.clients.revoked is for a cluster"),
    ],
)
def test_what_lifl_run_cannot_do_it_refuses(edits: verdicts.Edits, words: str) -> None:
    (sentence,) = refused_by_run(read(verdicts.edited(edits)))
    assert words in sentence


def test_every_field_of_a_cluster_is_refused_or_named_by_lifl_run() -> None:
    """Those whose description says so are on one of the two lists."""
    of_cluster = [
        path
        for path, schema in fields(SCHEMA["properties"]["spec"])
        if schema.get("description", "").startswith("In a cluster: ")
    ]
    job = read(
        verdicts.edited({
            "spec.suspend": True,
            "spec.ttlSecondsAfterFinished": 1,
            "spec.functions": {"runtime": "knative"},
            "spec.expose": {"type": "NodePort"},
            "spec.clients": {"revoked": ["client-1"]},
            "spec.trainer.replicas": 1,
            "spec.trainer.template": {"image": "a"},
        })
    )
    said = " ".join(refused_by_run(job) + unused_by_run(job))
    assert len(of_cluster) == 8
    for path in of_cluster:
        assert f"spec.{path}" in said, path
    assert refused_by_run(read(verdicts.JOB)) == []


# ---------------------------------------------------------------- status


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    status = Status().with_condition("Placed", False, "NoRoom", "needs 3 of 2 GiB", now=NOW)
    again = status.with_condition("Placed", False, "NoRoom", "needs 3 of 1 GiB", now=LATER)
    assert [c.last_transition_time for c in again.conditions] == [NOW]
    assert again.conditions[0].message == "needs 3 of 1 GiB"
    placed = again.with_condition("Placed", True, "Placed", now=LATER)
    found = placed.condition("Placed")
    assert found is not None
    assert (found.status, found.last_transition_time) == ("True", LATER)
    assert placed.condition("Complete") is None


def test_a_status_comes_back_as_it_was() -> None:
    status = Status(
        phase="Running", epoch=3, round=2, rounds=30, progress="1/30",
        figures={"accuracy": 0.96222, "loss": 1.23456e-7},
        store=Store(version=1, data="AAAA"),
    ).with_condition("Running", True, "RoundStarted", now=NOW)  # fmt: skip
    wire = status.wire()
    assert wire["figures"] == {"accuracy": 0.9622, "loss": 1.235e-7}
    assert "tree" not in wire
    assert Status.model_validate(wire, by_alias=True, by_name=False) == status


def test_figures_of_a_copy_are_rounded_when_they_are_written() -> None:
    status = Status().model_copy(update={"figures": {"accuracy": 0.9777158774373259}})
    assert status.wire()["figures"] == {"accuracy": 0.9777}


def test_figures_are_finite_and_few() -> None:
    given = {f"f{n:03}": float(n) for n in range(FIGURES_MAX + 9)} | {"a": float("nan")}
    status = Status(figures=given)
    assert list(status.figures) == sorted(given.keys() - {"a"})[:FIGURES_MAX]
    assert Status.model_validate(status.wire(), by_alias=True, by_name=False) == status


def test_a_status_has_an_end() -> None:
    with pytest.raises(ValidationError):
        Store(version=1, data="A" * (STORE_MAX + 4))
    with pytest.raises(ValidationError):
        Condition(type="Placed", status="True", reason="no word", last_transition_time=NOW)
