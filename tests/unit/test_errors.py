"""The table of codes: complete, nothing in it unused, and the page that is made of it."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import lifl.errors
from lifl.api.codes import CODES, error_of
from lifl.errors import Busy, InvalidUpdate, Late, LiflError, PermanentError, TransientError

ROOT = Path(__file__).parents[2]
FOLDERS = ("lifl", "shm", "proxy_ebpf", "functions", "placement")
TYPES = {
    name: kind
    for name, kind in vars(lifl.errors).items()
    if isinstance(kind, type) and issubclass(kind, LiflError)
}


def raised() -> Iterator[tuple[str, str, str]]:
    """(where, type, code) of every error that the sources make."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(part.is_symlink() for part in path.parents):
                continue
            for call in ast.walk(ast.parse(path.read_text())):
                if isinstance(call, ast.Dict):  # of a process that ends, for the coordinator
                    for key, value in zip(call.keys, call.values, strict=True):
                        code = value.value if isinstance(value, ast.Constant) else None
                        if getattr(key, "value", "") == "code" and isinstance(code, str):
                            where = f"{path.relative_to(ROOT)}:{call.lineno}"
                            yield where, CODES[code].kind.__name__, code
                if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                    continue
                if call.func.id == "Over":  # the end of a run, as the engine says it
                    for word in call.keywords:
                        assert isinstance(word.value, ast.Constant)
                        code = word.value.value
                        yield f"{path.name}:{call.lineno}", CODES[code].kind.__name__, code
                if (kind := TYPES.get(call.func.id)) is None:
                    continue
                codes = [word.value for word in call.keywords if word.arg == "code"]
                where = f"{path.relative_to(ROOT)}:{call.lineno}"
                for code in codes or [ast.Constant(kind.code)]:
                    assert isinstance(code, ast.Constant), f"{where}: a code is written out"
                    yield where, call.func.id, str(code.value)


def test_every_code_is_in_the_table_with_its_type() -> None:
    for where, kind, code in raised():
        assert code in CODES, f"{where}: {code!r} is not in lifl/api/codes.py"
        assert CODES[code].kind is TYPES[kind], f"{where}: {code!r} is a {CODES[code].kind}"


def test_every_code_is_raised_somewhere() -> None:
    # these two stand for what a newer gateway may say
    assert set(CODES) - {code for _, _, code in raised()} == {"permanent", "transient"}


def test_the_page_is_made_of_the_table() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "docs_errors.py"))["page"]
    assert (ROOT / "docs" / "errors.md").read_text() == page(), (
        "run: .venv/bin/python scripts/docs_errors.py > docs/errors.md"
    )


@pytest.mark.parametrize(
    ("code", "retry", "kind"),
    [
        ("wrong-shape", False, InvalidUpdate),
        ("late", False, Late),
        ("not-started", True, Busy),
        ("of-tomorrow", False, PermanentError),
        ("of-tomorrow", True, TransientError),
    ],
)
def test_a_rejection_becomes_an_exception(code: str, retry: bool, kind: type[LiflError]) -> None:
    error = error_of(code, "a sentence", retry=retry, job="toy")
    assert type(error) is kind
    assert (error.code, error.retryable, str(error)) == (code, retry, "a sentence [job toy]")
