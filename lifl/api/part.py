"""What the parts of a job are made of: their base, and kinds of text and amounts.

Owns what every field of its kind must look like, once for Python and once, as a pattern in Go's
syntax, for the schema that a cluster checks.  Called by `job`, `pods` and `status`, whose fields
they are; `crd` reads the patterns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel

from lifl.api.quantity import LENGTH_MAX, PATTERN, parse_bytes

TEXT_MAX: Final = 4096  # characters of a path or a URL
FAN_IN_MAX: Final = 1024
NAME_MAX: Final = 253  # of an entry point, a figure, a name in a cluster


class Part(BaseModel):
    """A part of a job: nothing unknown in it, nothing converted, and it does not change."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        strict=True,
    )


def _kind(most: int, pattern: str, is_one: Callable[[str], object], sentence: str) -> list[Any]:
    """Metadata of a kind of text: what Python checks, and what a schema says about the same."""

    def check(value: str) -> str:
        if not is_one(value) or (len(value) > most and str(most) in sentence):
            raise ValueError(sentence)
        if len(value) > most:
            raise ValueError(f"must have at most {most} characters, and has {len(value)}")
        return value

    extra: dict[str, Any] = {"maxLength": most, "pattern": f"^{pattern}$"}
    return [AfterValidator(check), Field(json_schema_extra=extra)]


def _text(most: int, pattern: str, sentence: str) -> list[Any]:
    """A kind whose pattern means the same in Python and in Go."""
    return _kind(most, pattern, re.compile(pattern, re.ASCII).fullmatch, sentence)


def _is_entry_point(value: str) -> bool:
    module, colon, function = value.partition(":")
    names = [function, *module.split(".")]
    return bool(colon) and all(map(str.isidentifier, names))


def _json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("must be JSON, which has neither NaN nor infinity") from None
    return value


def _rate(value: object) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else parse_bytes(value)


def _amount(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str) or not _AMOUNT_IS(str(value)):
        raise ValueError('must be an amount like "500m", 2 or "4Gi"')
    return value


def _fan_in(value: object) -> object:
    """"auto" is None in Python; an empty field is neither."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError('must be a whole number, or "auto"')
    if not 1 <= value <= FAN_IN_MAX:
        raise ValueError(f'must be at least 1 and at most {FAN_IN_MAX}, or "auto"')
    return value


def _auto(value: int | None) -> int | str:
    return "auto" if value is None else value


_LETTER: Final = r"\p{L}\p{Nl}_"  # what Python's identifiers begin with
_IDENTIFIER: Final = rf"[{_LETTER}][{_LETTER}\p{{Mn}}\p{{Mc}}\p{{Nd}}\p{{Pc}}]*"
_AMOUNT: Final = r"[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
_AMOUNT_IS: Final = re.compile(_AMOUNT).fullmatch
_STEP: Final = r"/([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+|\.)?"  # of a path, and not ".."
_PORT: Final = r"([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST: Final = rf"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:{_PORT})?"

DnsLabel = Annotated[
    str,
    *_text(
        63,
        "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        "must be a DNS label: 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends",
    ),
]
DnsName = Annotated[
    str,
    *_text(
        NAME_MAX,
        "[a-z0-9]([-a-z0-9.]*[a-z0-9])?",
        "must be a name as a cluster has them: a-z, 0-9, '-' and '.', with a letter or digit at "
        "both ends",
    ),
]
EntryPoint = Annotated[
    str,
    *_kind(
        NAME_MAX,
        rf"{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        _is_entry_point,
        'must be "module:function", for example "digits:train"',
    ),
]
OwnClient = Annotated[
    str,
    *_text(
        16,
        r"client-(0|[1-9]\d{0,5})",
        "must be the name of a client whose key the cluster made, for example client-16",
    ),
]
Safetensors = Annotated[
    str,
    *_kind(
        TEXT_MAX,
        r"(.*/)?[^/]+\.safetensors/?",
        lambda value: PurePath(value).suffix == ".safetensors",
        "must be the path of a .safetensors file",
    ),
]
HttpUrl = Annotated[
    str,
    *_text(
        TEXT_MAX,
        rf"https?://{_HOST}([/?][^\s#]*)?",
        'must be a URL of http or https, for example "http://sink.example/events"',
    ),
]
AbsolutePath = Annotated[
    str,
    *_text(TEXT_MAX, f"({_STEP})+", 'must be an absolute path without "..", for example "/job"'),
]
Args = Annotated[dict[str, JsonValue], AfterValidator(_json)]

_BYTES: Final[dict[str, Any]] = {
    "x-kubernetes-int-or-string": True, "maxLength": LENGTH_MAX, "pattern": f"^({PATTERN})$",
}  # fmt: skip
Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes, json_schema_input_type=int | str),
    Field(json_schema_extra=_BYTES | {"minimum": 1}),
]
BytesOrZero = Annotated[
    int,
    BeforeValidator(_rate, json_schema_input_type=int | str),
    Field(json_schema_extra=_BYTES | {"minimum": 0, "pattern": f"^(0|{PATTERN})$"}),
]
_AMOUNT_SCHEMA: Final[dict[str, Any]] = {
    "x-kubernetes-int-or-string": True, "maxLength": 24, "pattern": f"^{_AMOUNT}$",
}  # fmt: skip
Amount = Annotated[int | str, BeforeValidator(_amount), Field(json_schema_extra=_AMOUNT_SCHEMA)]

_FAN_IN_SCHEMA: Final[dict[str, Any]] = {
    "x-kubernetes-int-or-string": True, "minimum": 1, "maximum": FAN_IN_MAX, "maxLength": 4,
    "pattern": "^auto$",
}  # fmt: skip
FanIn = Annotated[
    int | None,
    BeforeValidator(_fan_in, json_schema_input_type=int | str),
    PlainSerializer(_auto),
    Field(json_schema_extra=_FAN_IN_SCHEMA),
]
