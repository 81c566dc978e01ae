"""Entry points: which file is imported, and what is said when it cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl.api.load import entrypoint
from lifl.errors import InvalidJob


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def test_a_module_beside_the_job_and_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "neighbour_a.py").write_text("VALUE = 3\n")
    (tmp_path / "job_a.py").write_text(
        "def train(client):\n    from neighbour_a import VALUE\n    return VALUE + client\n"
    )
    assert entrypoint("job_a:train", tmp_path)(4) == 7
    assert sys.path[0] == str(tmp_path)


def test_a_module_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "pkg_b").mkdir()
    (tmp_path / "pkg_b" / "train.py").write_text("def run():\n    return 1\n")
    assert entrypoint("pkg_b.train:run", tmp_path)() == 1


def test_two_folders_with_one_name(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "job_c.py").write_text(f"def f():\n    return {folder!r}\n")
    for folder in ("one", "two", "two", "one"):
        assert entrypoint("job_c:f", tmp_path / folder)() == folder


def test_an_installed_module(tmp_path: Path) -> None:
    assert entrypoint("json:dumps", tmp_path)(1) == "1"


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (None, "nowhere_d:f", r"no module 'nowhere_d'; looked for {folder}/nowhere_d.py"),
        (None, "no.where_d:f", r"no module 'no.where_d'; looked for {folder}/no/where_d.py"),
        ("", "job_d:f", "{folder}/job_d.py has no 'f'; it has no function"),
        ("def train(c): ...", "job_d:trian", "job_d.py has no 'trian'; did you mean 'train'?"),
        ("def train(c): ...", "jbo_d:train", "installed packages; did you mean 'job_d'?"),
        ("def fit(c): ...\ndef _f(): ...\ndef evaluate(m): ...", "job_d:nofun",
         "job_d.py has no 'nofun'; its functions: fit, evaluate"),
        ("from json import dumps\ndef fit(c): ...", "job_d:nofun", "its functions: fit, dumps"),
        ("train = 3", "job_d:trian", "job_d.py has no 'trian'"),
        ("f = 3", "job_d:f", "'f' in {folder}/job_d.py is an int, not a function"),
        ("import nothing_like_it", "job_d:f", "needs 'nothing_like_it', which is not installed"),
        ("\n1/0", "job_d:f", "failed at {folder}/job_d.py:2: ZeroDivisionError"),
        ("\ndef", "job_d:f", "failed at {folder}/job_d.py:2: SyntaxError"),
        ("import json\njson.loads('')", "job_d:f", "{folder}/job_d.py:2: JSONDecodeError"),
        (None, "job_d", 'is not "module:function"'),
    ],
)
def test_what_cannot_be_imported(
    tmp_path: Path, text: str | None, name: str, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "job_d.py").write_text(text)
    with pytest.raises(InvalidJob) as caught:
        entrypoint(name, tmp_path)
    assert sentence.format(folder=tmp_path) in str(caught.value)


def test_the_name_of_a_module_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def f(): ...\n")
    with pytest.raises(InvalidJob, match="name of a module that is in use already"):
        entrypoint("json:f", tmp_path)
