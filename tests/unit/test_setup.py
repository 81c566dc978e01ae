"""Which Python `make setup` takes: scripts/python.sh with interpreters that are shell scripts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """#!/bin/sh
case $2 in
*">= (3, 11)"*) echo {fits} ;;
*"python%d.%d"*) echo python3.11 ;;
*Python.h*) exit {lacks} ;;
esac
"""


def make(path: Path, *, fits: bool = True, lacks: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(FAKE.format(fits=fits, lacks=int(lacks)))
    path.chmod(0o755)


def chosen(tmp_path: Path, **environment: str) -> str:
    """Where `own` is the distribution's, and `bin` comes first on the path."""
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "DISTRIBUTIONS": f"{tmp_path}/own/python3"}
    run = subprocess.run(
        ["sh", "-euc", ". scripts/python.sh; find_python"], cwd=ROOT, check=True, text=True,
        capture_output=True, env=os.environ | env | environment,
    )  # fmt: skip
    return run.stdout.strip().removeprefix(f"{tmp_path}/")


@pytest.fixture(autouse=True)
def another(tmp_path: Path) -> None:
    make(tmp_path / "bin/python3.11")


def test_the_distributions_own_comes_first(tmp_path: Path) -> None:
    make(tmp_path / "own/python3")
    assert chosen(tmp_path) == "own/python3"


@pytest.mark.parametrize("how", [{"fits": False}, {"lacks": True}], ids=["old", "no headers"])
def test_another_is_taken_where_that_is_old_or_lacks_something(
    tmp_path: Path, how: dict[str, bool]
) -> None:
    make(tmp_path / "own/python3", **how)
    assert chosen(tmp_path) == "bin/python3.11"


def test_where_all_lack_something_the_first_is_taken_for_which_it_can_be_installed(
    tmp_path: Path,
) -> None:
    make(tmp_path / "own/python3", lacks=True)
    for name in ("python3.11", "python3", "python3.12", "python3.13", "python3.14"):
        make(tmp_path / "bin" / name, lacks=True)
    assert chosen(tmp_path) == "own/python3"


@pytest.mark.parametrize(
    ("named", "found"), [("bin/python3.11", "bin/python3.11"), ("nowhere", ""), ("bin/true", "")]
)
def test_one_that_is_named_is_the_only_one(tmp_path: Path, named: str, found: str) -> None:
    make(tmp_path / "own/python3")
    (tmp_path / "bin/true").symlink_to("/bin/true")
    assert chosen(tmp_path, PYTHON=str(tmp_path / named)) == found
