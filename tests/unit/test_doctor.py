"""What `lifl doctor` makes of facts, and what it takes for left: both without a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifl.cli.facts import cgroup_memory
from lifl.cli.findings import Facts, findings, parse_version
from lifl.cli.leftovers import ENGINE, Process, Snapshot, judge

WELL = Facts(
    kernel="6.18.44-generic",
    machine="x86_64",
    cpu_flags=frozenset({"avx2", "avx512f", "aes", "vaes", "sha_ni"}),
)


def test_nothing_is_lacking_where_everything_is() -> None:
    assert {finding.status for finding in findings(WELL)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "name", "status", "said"),
    [
        ({"kernel": "5.10.0-28-amd64"}, "kernel", "lack", "5.15"),
        ({"kernel": "6.1.0-18-amd64"}, "kernel", "note", "6.5"),
        ({"lacking_capabilities": ("CAP_BPF",)}, "capabilities", "lack", "CAP_BPF"),
        ({"btf": False}, "BTF", "lack", "CONFIG_DEBUG_INFO_BTF"),
        ({"libbpf": None}, "libbpf", "lack", "libbpf1"),
        ({"ebpf": "seccomp forbids it"}, "eBPF proxy", "lack", "seccomp"),
        ({"pins": "no mount namespace"}, "pins", "lack", "mount"),
        ({"cgroup_limit_bytes": 512 << 20}, "memory", "lack", "512 MiB"),
        ({"memory_available_bytes": 100 << 20}, "memory", "lack", "100 MiB"),
        ({"open_files": 1024}, "open files", "note", "ulimit -n"),
        ({"kernels": "reference"}, "kernels", "lack", "make setup"),
        ({"cpu_flags": frozenset({"avx2"})}, "processor", "note", "AES-NI"),
        ({"machine": "aarch64"}, "processor", "note", "aarch64"),
        ({"missing_packages": ("clang", "gcc")}, "packages", "note", "clang gcc"),
        ({"short_lived": ""}, "run folder", "note", "XDG_RUNTIME_DIR"),
    ],
)
def test_a_lack_says_what_it_costs(
    change: dict[str, Any], name: str, status: str, said: str
) -> None:
    found = {finding.name: finding for finding in findings(replace(WELL, **change))}
    finding = found.pop(name)
    assert finding.status == status
    assert finding.costs
    assert said in f"{finding.what} {finding.costs} {finding.fix}"
    assert {other.status for other in found.values()} == {"ok"}


def test_locked_memory_counts_before_5_11_alone() -> None:
    small = replace(WELL, memlock_bytes=64 << 10)
    assert {f.name: f.status for f in findings(small)}["locked memory"] == "ok"
    old = replace(small, kernel="5.4.0")
    assert {f.name: f.status for f in findings(old)}["locked memory"] == "lack"


def test_a_kernel_without_a_version_is_none() -> None:
    assert parse_version("custom") == (0, 0)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_tightest_memory_limit_upwards_counts(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/cgroup": "0::/pods/one\n",
        "sys/fs/cgroup/pods/one/memory.max": "max\n",
        "sys/fs/cgroup/pods/memory.max": "1000000\n",
        "sys/fs/cgroup/pods/memory.current": "300000\n",
        "sys/fs/cgroup/pods/memory.stat": "anon 1\ninactive_file 100000\n",
    })  # fmt: skip
    assert cgroup_memory(tmp_path) == (2, 1000000, 200000)


def test_the_first_version_of_cgroups_is_read(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/a/"
    write(tmp_path, {
        "proc/self/cgroup": "4:memory:/a\n0::/\n",
        base + "memory.limit_in_bytes": "500\n",
        base + "memory.usage_in_bytes": "90\n",
        base + "memory.stat": "total_inactive_file 40\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
    })  # fmt: skip
    assert cgroup_memory(tmp_path) == (1, 500, 50)


# -- leftovers -------------------------------------------------------------------------------
RUN, OTHER = "/run/lifl-abcdefgh", "/run/lifl-ijklmnop"
AGENT, GATEWAY = "lifl.placement.agent", "lifl.functions.gateway"


def judged(*processes: Process, **locked: bool) -> tuple[set[int], set[str]]:
    directories = {{"run": RUN, "other": OTHER}[name]: is_ for name, is_ in locked.items()}
    left, empty = judge(Snapshot({process.pid: process for process in processes}, directories))
    return {process.pid for process in left}, set(empty)


def run(first: int, directory: str, *, lifeline: bool, parent: int = 1) -> list[Process]:
    return [
        Process(first, parent, 0, ENGINE, directory, lifeline),
        Process(first + 1, first, 0, AGENT, directory),
        Process(first + 2, first + 1, 0, GATEWAY, directory),
    ]


def test_a_living_run_is_not_left() -> None:
    assert judged(*run(10, RUN, lifeline=True), run=True) == (set(), set())
    assert judged(*run(10, RUN, lifeline=True), run=False) == (set(), set())  # of an older version


def test_a_run_whose_command_is_gone_is_left_and_another_is_not() -> None:
    processes = [*run(10, RUN, lifeline=False), *run(20, OTHER, lifeline=True)]
    assert judged(*processes, run=False, other=True) == ({10, 11, 12}, {RUN})


def test_processes_whose_engine_is_dead_are_left_unless_their_run_lives() -> None:
    orphans = [
        Process(11, 1, 0, AGENT, RUN),
        Process(12, 11, 0, GATEWAY, RUN),
        Process(13, 12),  # what it started
    ]
    assert judged(*orphans, run=False) == ({11, 12, 13}, {RUN})
    assert judged(*orphans, run=True) == (set(), set())


def test_an_agent_of_no_local_run_is_nobodys_to_end() -> None:
    processes = [Process(11, 1, 0, AGENT), Process(12, 11, 0, GATEWAY)]
    assert judged(*processes) == (set(), set())


def test_a_directory_is_left_when_neither_lock_nor_process_says_otherwise() -> None:
    assert judged(run=False, other=True) == (set(), {RUN})
