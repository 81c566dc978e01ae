"""What a process may still take, as cgroups of both versions say it; and disks that are full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lifl.errors import Busy
from lifl.placement.limits import check_memory, oom_kills, room, unwritten

MEMINFO = "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n"


def machine(tmp_path: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    """(/sys/fs/cgroup, /proc) of a machine with these files."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(MEMINFO)
    (proc / "self" / "cgroup").write_text(f"3:cpu:/else\n{line}\n")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root, proc


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    found = room(*machine(tmp_path, "0::/", {"memory.max": "max\n", "memory.current": "5\n"}))
    assert (found.left_bytes, found.bound) == (8_000_000 * 1024, "this machine")


def test_the_least_of_a_cgroup_and_those_above_it(tmp_path: Path) -> None:
    where = machine(tmp_path, "0::/pods/lifl", {
        "pods/memory.max": "1000", "pods/memory.current": "900",
        "pods/memory.stat": "anon 5\ninactive_file 50\n",
        "pods/lifl/memory.max": "5000", "pods/lifl/memory.current": "100",
        "pods/lifl/memory.events": "low 0\noom 4\noom_kill 3\n",
    })  # fmt: skip
    found = room(*where)
    assert found.left_bytes == 150  # what is cached of files is given back
    assert str(where[0] / "pods") in found.bound
    assert oom_kills(*where) == 3


def test_version_1(tmp_path: Path) -> None:
    where = machine(tmp_path, "4:memory:/lifl", {
        "memory/lifl/memory.limit_in_bytes": "1000", "memory/lifl/memory.usage_in_bytes": "400",
        "memory/lifl/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
        "memory/lifl/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    })  # fmt: skip
    assert room(*where).left_bytes == 700
    assert oom_kills(*where) == 2


def test_a_job_fits_or_not() -> None:
    check_memory(1000, node="a", budget_bytes=1000, taken_bytes=0)
    check_memory(1000, node="a", budget_bytes=1000, taken_bytes=1000)
    with pytest.raises(Busy, match=r"needs 1001 bytes .* on a, .* leaves 1000: lower") as caught:
        check_memory(1001, node="a", budget_bytes=1000, taken_bytes=500)
    assert (caught.value.code, caught.value.retryable) == ("no-memory", True)
    assert "(lifl run --arena-memory; in a cluster agent.arenaMemory)" in str(caught.value)
    with pytest.raises(Busy, match=r"spec\.memory\.arenaBytes leaves 900"):
        check_memory(1000, node="a", budget_bytes=2000, taken_bytes=0, limit_bytes=900)


def test_what_cannot_be_written() -> None:
    error = unwritten(OSError(errno.ENOSPC, "No space left on device", "/runs/model"))
    assert error is not None
    assert error.code == "disk-full"
    assert "/runs/model (No space left on device): make room" in str(error)
    assert unwritten(OSError(errno.ENOENT, "No such file")) is None
