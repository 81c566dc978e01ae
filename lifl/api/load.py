"""From a job file to an `FLJob`, or to sentences that say what is wrong with it.

Owns the wording: file, line, field, the value found, what is allowed, the nearest name; also for
other files with a pydantic model, such as scenarios (`checked`).  Does not parse (`source`) and
does not define what is valid (`job`).  Called by the command line and by whoever runs jobs from
Python; `entrypoint` goes with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lifl.api.entrypoints import entrypoint
from lifl.api.job import FLJob
from lifl.api.near import did_you_mean, nearest
from lifl.api.source import Path_, Source, read
from lifl.errors import InvalidJob

__all__ = ["checked", "entrypoint", "load_job"]

Model = TypeVar("Model", bound=BaseModel)


def load_job(path: str | os.PathLike[str]) -> FLJob:
    """The job of a YAML or JSON file.

    Names in it are relative to the file's folder; nothing of them is opened or imported here.

    Raises:
        InvalidJob: the file is no valid job; the sentence lists every error with its line.
    """
    source = read(Path(path))
    if not isinstance(source.data, dict):
        raise InvalidJob(
            f"{source.name} holds {_kind(source.data)}, not a job: it must begin with "
            "apiVersion, kind, metadata and spec"
        )
    missing = [name for name in ("apiVersion", "kind") if name not in source.data]
    if missing:
        is_scenario = isinstance(source.data.get("nodes"), list) and "clients" in source.data
        hint = "; this may be a scenario, which lifl simulate plays" if is_scenario else ""
        raise InvalidJob(
            f"{source.name}, line 1: {' and '.join(missing)} missing: a job has "
            f"apiVersion: fl.lifl.dev/v1alpha1 and kind: FLJob{hint}"
        )
    return checked(source, FLJob, what="the job")


def checked(source: Source, model: type[Model], *, what: str) -> Model:
    """What a file says, as an instance of its model; `what` names it in sentences.

    Raises:
        InvalidJob: it is none; the sentence lists every error with its line.
    """
    try:
        return model.model_validate(source.data, by_alias=True, by_name=False)
    except ValidationError as error:
        report = _report(source, model, what, error.errors(include_url=False))
        raise InvalidJob(report) from None


def _report(
    source: Source, root: type[BaseModel], what: str, details: Iterable[ErrorDetails]
) -> str:
    placed = [(_place(source.data, detail), detail) for detail in details]
    found = sorted(
        (source.line(path + _first_named(detail)), _sentence(root, what, path, detail))
        for path, detail in placed
    )
    if len(found) == 1:
        line, sentence = found[0]
        return f"{source.name}, line {line}: {sentence}"
    listed = "".join(f"\n  line {line}: {sentence}" for line, sentence in found)
    return f"{source.name} has {len(found)} errors:{listed}"


def _place(data: Any, detail: ErrorDetails) -> Path_:
    """Where it is in the file: without the names of types that were tried on a value there."""
    found: list[str | int] = []
    for step in detail["loc"]:
        is_key = isinstance(data, dict) and step in data
        is_index = isinstance(data, list) and isinstance(step, int) and step < len(data)
        if is_key or is_index:
            found.append(step)
            data = data[step]
    if detail["type"] == "missing":
        found.append(detail["loc"][-1])
    return tuple(found)


def _first_named(detail: ErrorDetails) -> Path_:
    """Where below its place the field is with which a sentence about several fields begins."""
    if detail["type"] != "value_error" or not isinstance(detail["input"], dict):
        return ()
    return tuple(str(detail["ctx"]["error"]).partition(" ")[0].rstrip(":").split("."))


def _sentence(root: type[BaseModel], what: str, path: Path_, detail: ErrorDetails) -> str:
    shown = _dotted(path) or what
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return f"{shown}: {_unknown(root, path)}"
        case "missing":
            return f"{shown} is missing{_meaning(root, path)}"
        case "literal_error":
            return f"{shown} is {_show(given)}: {_choice(root, path, given)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{shown} is {_kind(given)}: it must be a mapping of fields"
        case "value_error":
            reason = str(detail["ctx"]["error"])
            if isinstance(given, dict):  # of several fields, which the sentence names
                return f"{shown}: {reason}" if path else reason
            return f"{shown} is {_show(given)}: it {reason}"
        case _:
            return f"{shown} is {_show(given)}: it must be {_wanted(root, path, detail)}"


def _unknown(root: type[BaseModel], path: Path_) -> str:
    owner, _ = _find(root, path[:-1])
    names = [_alias(owner, name) for name in owner.model_fields] if owner else []
    near = nearest(str(path[-1]), names)
    hint = f"did you mean {near!r}? " if near else ""
    return f"there is no such field; {hint}Known here: {', '.join(names)}"


def _choice(root: type[BaseModel], path: Path_, given: object) -> str:
    _, annotation = _find(root, path)
    if get_args(annotation)[-1:] == (...,):  # of one of a list
        annotation = get_args(annotation)[0]
    allowed = [str(choice) for choice in get_args(annotation)]
    if len(allowed) == 1:
        return f"it must be {allowed[0]}"
    return f"it must be one of {', '.join(allowed)}{did_you_mean(str(given), allowed)}"


def _wanted(root: type[BaseModel], path: Path_, detail: ErrorDetails) -> str:
    owner, _ = _find(root, path[:-1])
    types = {
        "int_type": "a whole number", "float_type": "a number", "finite_number": "a finite number",
        "string_type": "text", "bool_type": "true or false", "list_type": "a list",
        "tuple_type": "a list",
    }  # fmt: skip
    bounds = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits: list[str] = []
    if owner is not None:
        for name, field in owner.model_fields.items():
            if _alias(owner, name) == path[-1]:
                limits = [
                    f"{words} {getattr(limit, sign)}"
                    for limit in field.metadata
                    for sign, words in bounds.items()
                    if getattr(limit, sign, None) is not None
                ]
    wanted = [types[detail["type"]]] if detail["type"] in types else []
    return ", ".join(wanted + limits) or detail["msg"].lower()


def _meaning(root: type[BaseModel], path: Path_) -> str:
    owner, _ = _find(root, path[:-1])
    if owner is not None:
        for name, field in owner.model_fields.items():
            if _alias(owner, name) == path[-1] and field.description:
                return ": " + field.description.split("  ")[0].rstrip(".")
    return ""


def _find(root: type[BaseModel], path: Path_) -> tuple[type[BaseModel] | None, Any]:
    """The model at a path, or None, and the type that was declared for it."""
    model: type[BaseModel] | None = root
    annotation: Any = root
    for step in path:
        if isinstance(step, int):  # of a list, whose type has led to that of its members
            continue
        if model is None:
            return None, None
        names = {_alias(model, name): field for name, field in model.model_fields.items()}
        if step not in names:
            return None, None
        annotation = names[str(step)].annotation
        options = [annotation, *get_args(annotation)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return model, annotation


def _alias(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].alias or name


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def _show(value: object) -> str:
    if value is None:
        return "empty"
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"the text {shown}" if isinstance(value, str) and _numeric(value) else shown


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a list"
    return "empty" if value is None else f"the single value {_show(value)}"
