"""What the facts of a machine mean for LIFL: what each lack costs, and its fix.

A pure function; facts.py gathers, doctor.py shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from lifl.cli.figures import binary

Status = Literal["ok", "note", "lack"]
Version = tuple[int, int]

SK_MSG_KERNEL: Final[Version] = (5, 15)
PEER_PIDFD_KERNEL: Final[Version] = (6, 5)
NO_MEMLOCK_KERNEL: Final[Version] = (5, 11)  # BPF memory is charged to the cgroup from here on
MAP_BYTES: Final = 64 << 20
CLIENTS: Final = 4096
SPARE_FDS: Final = 100
SMALL_BYTES: Final = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One machine, as far as LIFL cares.

    Attributes:
        lacking_capabilities: of those that eBPF needs.
        ebpf: why the router in the kernel cannot be had, by trying; empty where it works.
        pins: why no private bpffs can be mounted, by trying; empty where it works.
        cgroup_limit_bytes: smallest memory limit above this process; None: no limit.
        missing_packages: of Debian, for what is not there.
        short_lived: the folder in which runs keep their sockets.
    """

    kernel: str
    machine: str
    lacking_capabilities: tuple[str, ...] = ()
    btf: bool = True
    libbpf: str | None = "1"
    ebpf: str = ""
    pins: str = ""
    cgroup_version: int = 2
    cgroup_limit_bytes: int | None = None
    cgroup_used_bytes: int = 0
    memory_bytes: int = 16 << 30
    memory_available_bytes: int = 16 << 30
    memlock_bytes: int | None = None  # None: unlimited
    open_files: int = 65536
    open_files_most: int = 65536
    cpus: int = 2
    cpu_flags: frozenset[str] = frozenset()
    kernels: str = "native"
    isa: str = "avx512f"
    gpus: tuple[str, ...] = ()
    missing_packages: tuple[str, ...] = ()
    short_lived: str = "/run"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; a lack says what it costs and how to mend it."""

    name: str
    status: Status
    what: str
    costs: str = ""
    fix: str = ""


def findings(facts: Facts) -> list[Finding]:
    """In the order in which they are shown."""
    return [
        *_kernel(facts),
        *_ebpf(facts),
        *_memory(facts),
        *_limits(facts),
        *_processor(facts),
        *_rest(facts),
    ]


UNIX_COST: Final = "descriptors go through the agent and unix sockets instead of the kernel"


def _kernel(facts: Facts) -> Iterator[Finding]:
    version = parse_version(facts.kernel)
    what = f"Linux {facts.kernel}, {facts.machine}"
    if version < SK_MSG_KERNEL:
        yield Finding("kernel", "lack", what, UNIX_COST,
                      "run Linux {}.{} or later".format(*SK_MSG_KERNEL))  # fmt: skip
    elif version < PEER_PIDFD_KERNEL:
        yield Finding(
            "kernel", "note", what,
            "without SO_PEERPIDFD the agent knows processes by pid: not across pid namespaces",
            "for pods run Linux {}.{} or later".format(*PEER_PIDFD_KERNEL),
        )  # fmt: skip
    else:
        yield Finding("kernel", "ok", what)


def _ebpf(facts: Facts) -> Iterator[Finding]:
    if facts.lacking_capabilities:
        names = " and ".join(facts.lacking_capabilities)
        yield Finding("capabilities", "lack", f"{names} missing", UNIX_COST,
                      "run as root, or give the agent CAP_BPF and CAP_NET_ADMIN")  # fmt: skip
    else:
        yield Finding("capabilities", "ok", "CAP_BPF and CAP_NET_ADMIN")
    if facts.btf:
        yield Finding("BTF", "ok", "the kernel describes its types")
    else:
        yield Finding("BTF", "lack", "no /sys/kernel/btf/vmlinux", UNIX_COST,
                      "run a kernel with CONFIG_DEBUG_INFO_BTF")  # fmt: skip
    if facts.libbpf is None:
        yield Finding("libbpf", "lack", "libbpf.so.1 is not installed", UNIX_COST,
                      "apt-get install libbpf1")  # fmt: skip
    else:
        yield Finding("libbpf", "ok", f"version {facts.libbpf}")
    if facts.ebpf:
        yield Finding("eBPF proxy", "lack", facts.ebpf, UNIX_COST)
    else:
        yield Finding("eBPF proxy", "ok", "loaded, attached and removed again")
    if facts.pins:
        yield Finding(
            "pins", "lack", facts.pins,
            "routing stops while a killed agent restarts; nothing is lost by it",
            "run as root; in a cluster mount a bpffs for the agent",
        )  # fmt: skip
    else:
        yield Finding("pins", "ok", "routing goes on while an agent restarts")


def _memory(facts: Facts) -> Iterator[Finding]:
    free = facts.memory_available_bytes
    what = f"{binary(free)} of {binary(facts.memory_bytes)} available"
    if facts.cgroup_limit_bytes is not None:
        left = max(0, facts.cgroup_limit_bytes - facts.cgroup_used_bytes)
        what += (f"; cgroup v{facts.cgroup_version} allows {binary(facts.cgroup_limit_bytes)}, "
                 f"{binary(left)} left")  # fmt: skip
        free = min(free, left)
    else:
        what += f"; no limit by cgroup v{facts.cgroup_version}"
    if free < SMALL_BYTES:
        yield Finding(
            "memory", "lack", what,
            "a job's arena may not fit; an arena takes (inputSlots + 2 to 3 a role) x the model",
            "raise the limit, or lower spec.memory.inputSlots and spec.memory.arenaBytes",
        )  # fmt: skip
    else:
        yield Finding("memory", "ok", what)


def _limits(facts: Facts) -> Iterator[Finding]:
    locked = "unlimited" if facts.memlock_bytes is None else binary(facts.memlock_bytes)
    counts = parse_version(facts.kernel) < NO_MEMLOCK_KERNEL
    if counts and facts.memlock_bytes is not None and facts.memlock_bytes < MAP_BYTES:
        yield Finding("locked memory", "lack", f"RLIMIT_MEMLOCK {locked}", UNIX_COST,
                      "ulimit -l unlimited: before Linux 5.11 eBPF maps count")  # fmt: skip
    else:
        yield Finding("locked memory", "ok", f"RLIMIT_MEMLOCK {locked}"
                      + ("" if counts else ", which eBPF does not count against"))  # fmt: skip
    what = f"RLIMIT_NOFILE {facts.open_files}"
    room = max(0, facts.open_files - SPARE_FDS)
    if room < CLIENTS:
        wanted = CLIENTS + SPARE_FDS
        how = "" if facts.open_files_most >= wanted else "as root, or in limits.conf: "
        yield Finding("open files", "note", what, f"a gateway holds about {room} clients",
                      f"{how}ulimit -n {wanted}")  # fmt: skip
    else:
        yield Finding("open files", "ok", what)


def _processor(facts: Facts) -> Iterator[Finding]:
    if facts.kernels != "native":
        yield Finding("kernels", "lack", f"{facts.kernels}: the native extension is not built",
                      "folding is several times slower", "make setup")  # fmt: skip
    else:
        yield Finding("kernels", "ok", f"native, {facts.isa}")
    what = f"{facts.cpus} CPUs" if facts.cpus != 1 else "1 CPU"
    if facts.machine not in ("x86_64", "amd64"):
        yield Finding("processor", "note", f"{what}, {facts.machine}",
                      "kernels are what the compiler makes of plain C")  # fmt: skip
        return
    wanted = {
        "avx2": ("AVX2", "folding is slower"),
        "avx512f": ("AVX-512", "the first fold of a round is somewhat slower"),
        "aes": ("AES-NI", "encrypting updates is many times slower"),
        "vaes": ("VAES", "encrypting updates is slower"),
        "sha_ni": ("SHA", "digests of models are slower"),
    }
    has = [name for flag, (name, _) in wanted.items() if flag in facts.cpu_flags]
    lacks = [pair for flag, pair in wanted.items() if flag not in facts.cpu_flags]
    what = ", ".join([what, *has])
    if lacks:
        costs = "; ".join(f"no {name}: {cost}" for name, cost in lacks)
        yield Finding("processor", "note", what, costs, "another machine, or a CPU model that "
                      "passes these on to this virtual machine")  # fmt: skip
    else:
        yield Finding("processor", "ok", what)


def _rest(facts: Facts) -> Iterator[Finding]:
    if facts.gpus:
        yield Finding("GPU", "ok", ", ".join(facts.gpus) + "; for trainers: no kernel of LIFL's")
    else:
        yield Finding("GPU", "ok", "none, and LIFL's own arithmetic does not use one")
    if facts.missing_packages:
        names = " ".join(facts.missing_packages)
        yield Finding("packages", "note", f"missing: {names}",
                      "set-up or `lifl doctor` cannot do all that they could",
                      f"apt-get install --no-install-recommends {names}")  # fmt: skip
    else:
        yield Finding("packages", "ok", "everything that set-up uses is installed")
    if not facts.short_lived:
        yield Finding("run folder", "note", "neither XDG_RUNTIME_DIR nor /run can be written",
                      "a crash leaves a folder in /tmp", "set XDG_RUNTIME_DIR")  # fmt: skip
    else:
        yield Finding("run folder", "ok", facts.short_lived)


def parse_version(kernel: str) -> Version:
    """6.18.44-generic is (6, 18); (0, 0) for what is no version."""
    numbers = kernel.split("-")[0].split(".")
    try:
        return int(numbers[0]), int(numbers[1])
    except (IndexError, ValueError):
        return 0, 0
