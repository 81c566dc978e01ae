"""The facts of this machine that `lifl doctor` judges.

Owns looking: files of /proc and /sys, libraries, and two trials (loading the eBPF program, and
mounting a bpffs in a process that is gone afterwards).  Changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from lifl.cli.findings import Facts
from lifl.errors import LiflError
from lifl.functions.kernels import choose
from lifl.placement.local import short_lived
from lifl.proxy_ebpf.open import missing_capabilities, open_router


def gather() -> Facts:
    memory = _meminfo()
    version, limit, used = cgroup_memory(Path("/"))
    kernels = choose("auto")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Facts(
        kernel=platform.release(),
        machine=platform.machine(),
        lacking_capabilities=tuple(missing_capabilities()),
        btf=Path("/sys/kernel/btf/vmlinux").exists(),
        libbpf=_libbpf(),
        ebpf=_try_ebpf(),
        pins=_try_pins(),
        cgroup_version=version,
        cgroup_limit_bytes=limit if limit is not None and limit < memory["MemTotal"] else None,
        cgroup_used_bytes=used,
        memory_bytes=memory["MemTotal"],
        memory_available_bytes=memory["MemAvailable"],
        memlock_bytes=None if locked == resource.RLIM_INFINITY else locked,
        open_files=soft,
        open_files_most=hard,
        cpus=len(os.sched_getaffinity(0)),
        cpu_flags=_cpu_flags(),
        kernels=kernels.name,
        isa=kernels.isa,
        gpus=_gpus(),
        missing_packages=_missing_packages(),
        short_lived=short_lived() or "",
    )


def _meminfo() -> dict[str, int]:
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def cgroup_memory(root: Path) -> tuple[int, int | None, int]:
    """(version, smallest limit from this process's cgroup upwards, what is used under it)."""
    version, folder, top = 2, None, root
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            version, top = 1, root / "sys/fs/cgroup/memory"
            folder = top / path.lstrip("/")
            break
        if not controllers:
            top = root / "sys/fs/cgroup"
            folder = top / path.lstrip("/")
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
             2: ("memory.max", "memory.current")}[version]  # fmt: skip
    limit, used = None, 0
    while folder is not None and folder.is_relative_to(top):
        with contextlib.suppress(OSError, ValueError):  # "max", or not visible from in here
            found = int((folder / names[0]).read_text())
            if found < 1 << 60 and (limit is None or found < limit):
                limit = found
                used = int((folder / names[1]).read_text()) - _cache(folder / "memory.stat")
        folder = folder.parent
    return version, limit, used


def _cache(stat: Path) -> int:
    """Bytes of files that the kernel gives back when memory is wanted."""
    text = stat.read_text()
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0


def _libbpf() -> str | None:
    try:
        library = ctypes.CDLL("libbpf.so.1")
        library.libbpf_version_string.restype = ctypes.c_char_p
        said: bytes = library.libbpf_version_string()
        return said.decode().lstrip("v")
    except (OSError, AttributeError):
        return None


def _try_ebpf() -> str:
    try:
        open_router("ebpf").close()
    except LiflError as error:
        return error.sentence
    return ""


def _try_pins() -> str:
    """In a process of its own: its mounts go with it."""
    with tempfile.TemporaryDirectory(prefix="lifl-doctor-") as folder:
        program = (
            "import sys; from pathlib import Path; from lifl.placement.processes import "
            "private_bpffs; print(private_bpffs(Path(sys.argv[1]) / 'bpf'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, folder], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else "no mount namespace"


def _cpu_flags() -> frozenset[str]:
    text = Path("/proc/cpuinfo").read_text()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _gpus() -> tuple[str, ...]:
    """By the driver's own list, without its library."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            match = re.search(r"^Model:\s*(.*)$", path.read_text(), re.MULTILINE)
            names.append(match[1] if match else "NVIDIA GPU")
    if not names and list(Path("/dev").glob("nvidia[0-9]*")):
        names = ["NVIDIA GPU"]
    if Path("/dev/kfd").exists():
        names.append("AMD GPU")
    return tuple(names)


def _missing_packages() -> tuple[str, ...]:
    """Debian's, by what they would bring; the same as scripts/setup.sh."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    clang = shutil.which("clang") or next(Path("/usr/bin").glob("clang-[0-9]*"), None)
    tool = shutil.which("bpftool") or Path("/usr/sbin/bpftool").exists()
    there = {
        "clang": clang,
        "libbpf1": _libbpf(),
        "libbpf-dev": Path("/usr/include/bpf/bpf_helpers.h").exists(),
        "linux-libc-dev": Path("/usr/include/linux/bpf.h").exists(),
        "bpftool": tool,
        "gcc": shutil.which("gcc"),
        "python{}.{}-dev".format(*sys.version_info[:2]): headers.exists(),
    }
    return tuple(name for name, found in there.items() if not found)
