"""Without the program in the kernel, or its routes, no update gets through: and then they do again.

The agents are stopped, so that nothing but the kernel moves a descriptor.  Rounds go on.  Then what
moves them is taken away, by a process with the agents' own two capabilities, and no round ends any
more.  The agents find it when they run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.installation import Installation, Run, digits, until
from tests.cluster.kubectl import Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ROUNDS = 60
HAND_OFFS = 16 + 2 * 2 + 2  # of a round: updates to leaves, leaves to middles, middles to the top
STILL_S = 5.0

LOOK = """
import sys
sys.path.insert(0, "/opt/lifl/lib/python3.11/site-packages")
from pathlib import Path
from lifl.proxy_ebpf import ebpf, libbpf

[home] = Path("/sys/fs/bpf").glob(sys.argv[1] + "-*/*")
maps = {
    name: libbpf.Map(name, libbpf.pinned(home / name), *sizes)
    for name, sizes in ebpf._sizes().items()
}
match sys.argv[2]:
    case "program":
        libbpf.Program(libbpf.pinned(home / ebpf.PROGRAM)).detach(maps["lifl_sockets"])
        for key in maps["lifl_sockets"]:  # those that are in it keep the program
            maps["lifl_sockets"].delete(key)
    case "route":
        for key in maps["lifl_next_hop"]:
            maps["lifl_next_hop"].delete(key)
print(sum(ebpf._sum(maps["lifl_counters"].lookup(key)).redirected for key in maps["lifl_counters"]))
"""

SIGNAL = """
import os, signal, sys
from pathlib import Path

wanted = f"/sys/fs/bpf/{sys.argv[1]}-".encode()
for folder in Path("/proc").iterdir():
    if folder.name.isdigit() and int(folder.name) != os.getpid():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\\0")
        except OSError:
            continue
        if b"lifl.placement.agent" in words and any(wanted in word for word in words):
            os.kill(int(folder.name), getattr(signal, sys.argv[2]))
            print(folder.name)
"""


class Agents:
    """The agents of a release, as root of the node and as themselves."""

    def __init__(self, lifl: Installation, pods: Pods, nodes: list[str]) -> None:
        self.lifl, self.pods, self.nodes = lifl, pods, nodes
        self.names = [pod["metadata"]["name"] for pod in lifl.pods("agent")]
        self.count = 0

    def _signal(self, name: str) -> None:
        self.count += 1
        for node in self.nodes:
            ended = self.pods.run(
                f"signal-{self.count}-{node}", ["python", "-c", SIGNAL, self.lifl.name, name],
                node=node, security={"runAsUser": 0, "runAsNonRoot": False}, hostPID=True,
            )  # fmt: skip
            assert (ended.status, len(ended.log.split())) == (0, 1), ended

    @contextmanager
    def stopped(self) -> Iterator[None]:
        try:
            self._signal("SIGSTOP")
            yield
        finally:
            self._signal("SIGCONT")

    def handed_off(self, take: str = "") -> int:
        """What the kernel has counted on all nodes, after `take` was taken away."""
        words = ["--", "python", "-c", LOOK, self.lifl.name, take]
        return sum(int(self.lifl.system("exec", name, *words)) for name in self.names)


@pytest.mark.parametrize("taken", ["program", "route"])
def test_without_it_no_update_gets_through(
    lifl: Installation, run: Run, pods: Pods, nodes: list[str], taken: str
) -> None:
    agents = Agents(lifl, pods, nodes)
    before = sum(lifl.figures("lifl_proxy_repairs_total").values())
    job = run(digits(ROUNDS, placement={"nodeGraceS": 600}))  # so that stopped agents are not lost

    def round_() -> int:
        return int(job.status.get("round", 0))

    until(lambda: round_() >= 2, "two rounds")
    with agents.stopped():
        counted, seen = agents.handed_off(), round_()
        until(lambda: round_() >= seen + 2, "two rounds without agents")
        assert agents.handed_off() - counted >= HAND_OFFS, "the kernel alone"

        agents.handed_off(taken)
        seen, counted = round_(), agents.handed_off()
        time.sleep(STILL_S)
        assert round_() <= seen + 1, "a round that was being published"
        assert agents.handed_off() == counted, "the count of hand-offs stands still"
        assert job.status["phase"] == "Running"
    status = job.complete()
    assert status["progress"] == f"{ROUNDS}/{ROUNDS}"
    repaired = lifl.figures("lifl_proxy_repairs_total")
    assert sum(repaired.values()) > before
    assert any(f'what="{taken}"' in labels for labels in repaired), repaired
    rows = job.rows()
    assert [row["round"] for row in rows] == list(range(1, ROUNDS + 1))
    assert {row["clients"] for row in rows} == {16}
    assert rows[-1]["handoffs"]["ebpf"] >= HAND_OFFS, "and by the program again"
