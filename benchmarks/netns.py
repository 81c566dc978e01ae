"""A job over network namespaces, and what its nodes and links did in it.

Owns one measurement: `lifl run --network netns` with clients that train nothing, seconds of its
warm rounds, and what the kernel counted meanwhile: bytes of interfaces, CPU time of processes.
What was measured is kept in STORE, so that a series of jobs can be measured in pieces; without that
file all is measured anew.  Called by case_netns.py and case_calibration.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import NotMeasured
from benchmarks.runs import AGENT, AGGREGATOR, GATEWAY, Job, started
from benchmarks.system import cpu_s
from lifl.placement.processes import descendants

COORDINATOR = "lifl.placement.coordinator"
LIMIT_S = 600.0
STORE = Path("build") / "netns.jsonl"


@dataclass(frozen=True)
class Asked:
    """A job; sizes in bytes, the link's rate in bits a second as `--link-rate` takes it."""

    clients: int
    size_bytes: int
    nodes: int
    link: str = "1Gbit"
    policy: str = "bestfit"
    fan_in: int = 8
    input_slots: int = 8

    def text(self) -> str:
        return (
            f"{self.clients} × {self.size_bytes / 1e6:g} MB, {self.nodes} nodes, {self.link}, "
            f"{self.policy}, fan-in {self.fan_in}"
        )


@dataclass(frozen=True)
class Measured:
    """What the warm rounds of a job came to; bytes and CPU seconds a round.

    Attributes:
        seconds: of each warm round.
        tree: of the last one, as rounds.jsonl has it.
        internode_bytes: that nodes sent and that no client and no coordinator got.
        cpu_s: of agent, gateway and aggregators, by node.
        machine_cpu_s: of all processes of the run, clients included.
    """

    seconds: list[float]
    tree: dict[str, list[dict[str, Any]]]
    internode_bytes: float
    cpu_s: dict[str, float]
    machine_cpu_s: float


def measured(asked: Asked, *, warm: int) -> Measured:
    """As it is in STORE, or else of a job that runs now."""
    for line in STORE.read_text().splitlines() if STORE.exists() else ():
        row = json.loads(line)
        if Asked(**row["asked"]) == asked:
            return Measured(**row["measured"])
    found = measure(asked, warm=warm)
    STORE.parent.mkdir(parents=True, exist_ok=True)
    with STORE.open("a") as file:
        file.write(json.dumps({"asked": asdict(asked), "measured": asdict(found)}) + "\n")
    return found


def measure(asked: Asked, *, warm: int) -> Measured:
    """A first round, `warm` ones that count, and a last one during which counters are read.

    Raises:
        NotMeasured: no root, or no iproute2.
    """
    if os.geteuid() != 0 or not shutil.which("tc"):
        raise NotMeasured("network namespaces want root and iproute2 (apt-get install iproute2)")
    flags = ["--nodes", str(asked.nodes), "--network", "netns", "--link-rate", asked.link]
    spec = {
        "placement": {"policy": asked.policy}, "aggregation": {"fanIn": asked.fan_in},
        "memory": {"inputSlots": asked.input_slots}, "checkpoint": {"every": 1000},
    }  # fmt: skip
    with started(
        clients=asked.clients, size_bytes=asked.size_bytes, rounds=warm + 2, train="lean",
        spec=spec, flags=flags, limit_s=LIMIT_S,
    ) as job:  # fmt: skip
        job.until("published", round=1)
        before = Counted.of(job, asked.nodes)
        job.until("published", round=warm + 1)
        after = Counted.of(job, asked.nodes)
        for _ in job.events():
            pass
        rows = job.rows()
    return Measured(
        [row["seconds"] for row in rows[1 : warm + 1]], rows[warm]["tree"],
        (after.internode_bytes - before.internode_bytes) / warm,
        {name: (after.cpu_s[name] - before.cpu_s[name]) / warm for name in after.cpu_s},
        (after.machine_cpu_s - before.machine_cpu_s) / warm,
    )  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """What was counted of a run until now."""

    internode_bytes: int
    cpu_s: Mapping[str, float]
    machine_cpu_s: float

    @classmethod
    def of(cls, job: Job, nodes: int) -> Counted:
        below = _commands(descendants(job.process.pid))
        of_node = {
            f"node-{at}": [pid for pid, words in below.items() if _is_of(words, f"node-{at}")]
            for at in range(nodes)
        }
        ends = {pid: os.readlink(f"/proc/{pid}/ns/net") for pid in below}
        known = {ends[pids[0]] for pids in of_node.values()} | {os.readlink("/proc/self/ns/net")}
        others = {end: pid for pid, end in ends.items() if end not in known}  # clients, coordinator
        sent = sum(_link(pids[0])[1] for pids in of_node.values())
        return cls(
            sent - sum(_link(pid)[0] for pid in others.values()),
            {name: sum(map(cpu_s, pids)) for name, pids in of_node.items()},
            sum(map(cpu_s, below)),
        )


def _commands(pids: set[int]) -> dict[int, Sequence[str]]:
    found: dict[int, Sequence[str]] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return found


def _is_of(words: Sequence[str], node: str) -> bool:
    """A process of the node: agent, gateway or aggregator."""
    return any(module in words for module in (AGENT, GATEWAY, AGGREGATOR)) and node in words


def _link(pid: int) -> tuple[int, int]:
    """Bytes that came and went over the link of a process's namespace."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "eth0":
            return int(figures.split()[0]), int(figures.split()[8])
    raise LookupError(f"process {pid} has no link")
