"""What the contract tests need of the machine: eBPF, a bpffs, or a reason why not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifl.errors import Unsupported
from lifl.proxy_ebpf.build import OBJECT, SOURCE, build
from lifl.proxy_ebpf.open import open_router


def lacking(reason: str) -> None:
    """Skip with the reason, or fail where eBPF is required."""
    if os.environ.get("LIFL_REQUIRE_BPF") == "1":
        pytest.fail(f"LIFL_REQUIRE_BPF=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def bpf() -> None:
    """eBPF works here; the object is built if it is missing or older than its source."""
    if os.geteuid() != 0:
        lacking("eBPF needs root here: run the tests as root")
    header = SOURCE.with_name("descriptor.h")
    if not OBJECT.exists() or OBJECT.stat().st_mtime < max(
        SOURCE.stat().st_mtime, header.stat().st_mtime
    ):
        try:
            build()
        except RuntimeError as error:
            lacking(str(error))
    try:
        open_router("ebpf").close()
    except Unsupported as error:
        lacking(error.sentence)


@pytest.fixture
def bpffs(bpf: None, tmp_path: Path) -> Iterator[Path]:
    """A bpffs of this test alone."""
    where = tmp_path / "bpffs"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "bpf", "bpf", str(where)], capture_output=True, text=True
    )
    if mounted.returncode:
        lacking(f"no bpffs can be mounted: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)

