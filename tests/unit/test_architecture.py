"""docs/architecture.md has every module of the data path in a table, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = ("lifl", "shm", "proxy_ebpf", "functions", "placement")
INSIDE = {"functions": ("kernels",), "placement": ("simulator",), "lifl": ("cli/report",)}
"""Folders that a row names as a whole, or with the files that matter."""


def section(folder: str) -> str:
    """What the page says of a folder."""
    found = re.search(rf"^### {folder}/ .*?(?=^### |^## |\Z)", PAGE, re.S | re.M)
    assert found is not None
    return found[0]


def modules(folder: str) -> list[Path]:
    inside = INSIDE.get(folder, ())
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        below = path.relative_to(ROOT / folder)
        links = any(parent.is_symlink() for parent in path.parents)
        if path.name not in ("__init__.py", "__main__.py") and not links and not any(
            below.is_relative_to(part) for part in inside
        ):
            found.append(below)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_in_its_table(folder: str) -> None:
    text = section(folder)
    missing = [
        str(path) for path in modules(folder)
        if f"`{path}`" not in text and f"`{path.name}`" not in text
    ]  # fmt: skip
    assert not missing


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_table_has_a_module_that_is_not_there(folder: str) -> None:
    names = {path.name for path in (ROOT / folder).rglob("*") if path.is_file()}
    named = re.findall(r"`([\w/]+\.(?:py|c|h))`", section(folder))
    assert not [name for name in named if Path(name).name not in names]
