"""One copy of an update on a node, and memory that slots bound, not clients."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROXY, Runner
from test_nothing_stays import until_round
from test_runs import check

from lifl.shm.geometry import PAGE

NODE = ("lifl.placement.agent", "lifl.functions.gateway", "lifl.functions.aggregator")


def frames(pid: int, name: str) -> dict[int, int]:
    """Page of the memfd -> physical frame, for the pages that this process has touched."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = re.match(r"(\w+)-(\w+) \S+ (\w+) \S+ \d+\s+(.*)", line)
        if not match or f"memfd:lifl-toy-{name}" not in match[4]:
            continue
        start, end, offset = (int(match[i], 16) for i in (1, 2, 3))
        with open(f"/proc/{pid}/pagemap", "rb") as file:
            file.seek(start // PAGE * 8)
            words = file.read((end - start) // PAGE * 8)
        for index, (word,) in enumerate(struct.iter_unpack("<Q", words)):
            if word >> 63:
                found[offset // PAGE + index] = word & (1 << 55) - 1
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="physical frames are shown to root alone")
def test_an_update_is_read_where_it_was_written(runner: Runner) -> None:
    path = runner.job_file(
        rounds=100_000, trainers=2, aggregation={"fanIn": 1}, memory={"inputSlots": 2}
    )
    process = runner.start(path, "--proxy", PROXY, env={"TOY_SIZE": "300000"})
    until_round(process, 3)
    gateway = runner.processes("lifl.functions.gateway")[0]
    aggregators = runner.processes("lifl.functions.aggregator")
    for pid in [gateway, *aggregators]:
        os.kill(pid, signal.SIGSTOP)  # so that nothing is mapped meanwhile
    try:
        written = frames(gateway, "inputs")
        assert written
        assert 0 not in written.values()
        readers = []
        for pid in aggregators:
            read = frames(pid, "inputs")
            both = written.keys() & read.keys()
            assert all(written[page] == read[page] for page in both)
            readers.append(len(both))
        update_pages = 300000 * 4 // PAGE
        assert sum(pages >= update_pages for pages in readers) >= 2  # both leaves
        sums = [frames(pid, "sums") for pid in aggregators]
        shared = 0
        for one in sums:
            for other in sums:
                both = one.keys() & other.keys()
                assert all(one[page] == other[page] for page in both)
                shared += one is not other and len(both) >= update_pages
        assert shared >= 4  # each leaf with the middle, the middle with the top; both ways
    finally:
        for pid in [gateway, *aggregators]:
            os.kill(pid, signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return 0
    return 1024 * int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1])  # type: ignore[index]


@pytest.mark.timeout(400)
def test_64_clients_through_8_slots(runner: Runner) -> None:
    """64 updates of 44 MB; agent, gateway and aggregators stay under the arena + 150 MB."""
    path = runner.job_file(
        name="many", rounds=1, trainers=64, memory={"inputSlots": 8}, aggregation={"fanIn": 32}
    )
    process = runner.start(path, "--proxy", PROXY, env={"TOY_SIZE": "11000000"})
    assert process.stdout is not None
    most = arena = 0
    lines = []
    for line in process.stdout:
        lines.append(line)
        if json.loads(line)["event"] != "progress":
            continue
        pids = [pid for module in NODE for pid in runner.processes(module)]
        most = max(most, sum(pss_bytes(pid) for pid in pids))
        listed = subprocess.run(
            [sys.executable, "-m", "lifl", "shm", "ls", "--json"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout  # fmt: skip
        arena = max(arena, sum(
            row["resident_bytes"] for row in json.loads(listed) if row["job"] == "many"
        ))
    run = runner.finish(process)
    run.events[:] = [json.loads(line) for line in lines]
    check(run, rounds=1, clients=64)
    assert arena < 20 * 44_100_000, arena  # 9 inputs, 3 + 2 + 2 + 2 sums at most
    assert most < arena + 150 * 1024**2, (most, arena)
    print(f"arena {arena / 1e6:.0f} MB, PSS {most / 1e6:.0f} MB")
