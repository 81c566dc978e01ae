"""A file's text as plain data, and the line of every field in it.

Owns reading, YAML and JSON.  Knows nothing of what is in it.  Called by `load`, and for scenarios.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Never

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from lifl.errors import InvalidJob

Path_ = tuple[str | int, ...]

SIZE_MAX: Final = 1 << 20  # bytes; an API server takes no larger object either
DEPTH_MAX: Final = 64
NODES_MAX: Final = 100_000  # aliases can make a small file mean a large tree, or an endless one


@dataclass
class Source:
    """What a file says, and where.

    Attributes:
        data: dict, list, str, int, float, bool and None only.
        lines: path of a field → its line, from 1.
    """

    name: str
    data: Any = None
    lines: dict[Path_, int] = field(default_factory=dict)

    def line(self, path: Path_) -> int:
        """The line of a field, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(path: Path, *, what: str = "a job, kind: FLJob") -> Source:
    """Parse a YAML or JSON file that holds one document.

    Args:
        what: it is to hold, for sentences.

    Raises:
        InvalidJob: it cannot be read, is not text, or is not one YAML or JSON document.
    """
    name = str(path)
    text = _text(path)
    if _brackets(text) > 4 * DEPTH_MAX:  # the parser would take minutes to find out
        raise InvalidJob(f"{name} is nested too deeply")
    source = Source(name)
    as_json = path.suffix == ".json"
    data = _json(name, text) if as_json else None
    try:
        # Outside of strings, where JSON has none, YAML does not take tabs.
        documents = list(YAML().load_all(text.replace("\t", " ") if as_json else text))
    except (YAMLError, ValueError) as error:
        raise InvalidJob(_syntax(name, error)) from None
    except RecursionError:
        raise InvalidJob(f"{name} is nested too deeply") from None
    documents = [document for document in documents if document is not None]
    if not documents:
        raise InvalidJob(f"{name} is empty: it must hold {what}")
    if len(documents) > 1:
        raise InvalidJob(f"{name} holds {len(documents)} documents: it must hold one, {what}")
    _Walk(source).top(documents[0])
    if as_json:
        source.data = data  # YAML reads the \u escapes of JSON differently
    return source


def _text(path: Path) -> str:
    if path.is_dir():
        raise InvalidJob(f"{path} is a folder: name the job file in it")
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        raise InvalidJob(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidJob(f"{path} cannot be read: {reason}") from None
    if len(raw) > SIZE_MAX:
        raise InvalidJob(f"{path} is no job file: it is larger than {SIZE_MAX >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidJob(f"{path} is no text: byte {error.start} is not UTF-8") from None
    if "\0" in text:
        raise InvalidJob(f"{path} is no text: byte {raw.index(0)} is zero")
    return text


def _brackets(text: str) -> int:
    """How many are open at once, at most; those in strings count too."""
    depth = deepest = 0
    for character in re.findall(r"[\[\]{}]", text):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _json(name: str, text: str) -> Any:
    def refuse(constant: str) -> Never:
        raise InvalidJob(f"{name}: {constant} is not JSON")

    if not text.strip():
        return None
    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InvalidJob(
            f"{name}, line {error.lineno}, column {error.colno}: no JSON: {error.msg}"
        ) from None
    except RecursionError:
        raise InvalidJob(f"{name} is nested too deeply") from None


def _syntax(name: str, error: Exception) -> str:
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "no YAML").split())
        problem = problem.partition(" To suppress")[0]
        where = name if mark is None else f"{name}, line {mark.line + 1}, column {mark.column + 1}"
        if twice := _TWICE.match(problem):
            return f"{where}: {twice[1]!r} is there twice: keep one of them"
        return f"{where}: no YAML: {problem}"
    if isinstance(error, ReaderError):
        return f"{name} is no text: character {error.character!r} at position {error.position}"
    return f"{name}: no YAML: {' '.join(str(error).split())}"


_TWICE: Final = re.compile(r'found duplicate key "(.*?)" with value')


class _Walk:
    """Turns what the YAML library made into plain data, and notes lines on the way."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0

    def top(self, document: Any) -> None:
        line = getattr(getattr(document, "lc", None), "line", None) or 0
        self._source.lines[()] = line + 1
        self._source.data = self._plain(document, ())

    def _plain(self, value: Any, path: Path_) -> Any:
        self._nodes += 1
        if self._nodes > NODES_MAX or len(path) > DEPTH_MAX:
            raise self._refused(path, "is nested too deeply, or its aliases expand to too much")
        if isinstance(value, CommentedMap):
            return {key: self._entry(value, key, path) for key in self._keys(value, path)}
        if isinstance(value, CommentedSeq):
            return [self._item(value, index, path) for index in range(len(value))]
        if value is None or isinstance(value, bool):
            return value
        for plain in (int, float, str):
            if isinstance(value, plain):
                return plain(value)
        if type(value).__name__ == "ScalarBoolean":
            return bool(value)
        kind = type(value).__name__.lower()
        raise self._refused(path, f"is a {kind}, which JSON does not have: quote it")

    def _keys(self, mapping: CommentedMap, path: Path_) -> list[str]:
        for key in mapping:
            if not isinstance(key, str):
                raise self._refused((*path, str(key)), "has a name that is not text: quote it")
        return list(mapping)

    def _entry(self, mapping: CommentedMap, key: str, path: Path_) -> Any:
        place = (mapping.lc.data or {}).get(key)
        if place is not None:
            self._source.lines[(*path, key)] = place[0] + 1
        return self._plain(mapping[key], (*path, str(key)))

    def _item(self, items: CommentedSeq, index: int, path: Path_) -> Any:
        place = (items.lc.data or {}).get(index)
        if place is not None:
            self._source.lines[(*path, index)] = place[0] + 1
        return self._plain(items[index], (*path, index))

    def _refused(self, path: Path_, what: str) -> InvalidJob:
        shown = ".".join(map(str, path[:6])) or "the document"
        return InvalidJob(f"{self._source.name}, line {self._source.line(path)}: {shown} {what}")
