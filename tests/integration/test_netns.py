"""`lifl run --network netns`: what crosses links, what a cut link does, and that nothing stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner, wait_until
from gates import Gated, gated
from leftovers import ours
from test_runs import check

from lifl.placement import netns

UPDATE_BYTES = 2_000_000
CLIENTS, NODES = 12, 3
CUT_S = 3.0
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces")


@contextmanager
def linked(runner: Runner, *arguments: str, clients: int, **spec: Any) -> Iterator[Gated]:
    """Its nodes are in namespaces, and its updates are large enough to be seen on their links."""
    with gated(
        runner, "--network", "netns", *arguments, trainers=clients,
        checkpoint={"every": 1000}, placement={"policy": "worstfit"}, aggregation={"fanIn": 2},
        env={"TOY_SIZE": str(UPDATE_BYTES // 4)}, **spec,
    ) as run:  # fmt: skip
        yield run


def pid(run: Gated, what: str) -> int:
    """Of a process in the namespace of a node, of the coordinator or of the clients."""
    words = {"control": "-m lifl.placement.coordinator "}.get(
        what, f"-m lifl.placement.agent --node {what} "
    )
    if what == "clients":  # children of the process that forks them, which stays outside
        outside = os.readlink("/proc/self/ns/net")
        words = "-m lifl.trainer "
        return next(pid for pid, command in ours(run.runner.mark)
                    if words in command and _namespace(pid) != outside)  # fmt: skip
    return next(pid for pid, command in ours(run.runner.mark) if words in command)


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def counters(pid: int) -> tuple[int, int]:
    """Bytes that came and went over the link of a process's namespace."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "eth0":
            return int(figures.split()[0]), int(figures.split()[8])
    raise AssertionError(f"process {pid} is in no namespace of a run")


@contextmanager
def cut(pid: int) -> Iterator[None]:
    """The link of a process's namespace is down meanwhile."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        netns.command(fd, "ip", "-batch", "-", lines="link set eth0 down")
        yield
        netns.command(fd, "ip", "-batch", "-", lines="link set eth0 up")
    finally:
        os.close(fd)


def test_a_sum_crosses_once_and_its_inputs_never_do(runner: Runner) -> None:
    """Each node has 4 clients, 2 leaves and a middle; what a round moves, in updates.

    Into the top's node come its clients' updates and the others' sums, out of it goes the model, to
    clients and nodes; of the others it is the other way round: the model comes, and one sum goes.
    """
    nodes = [f"node-{at}" for at in range(NODES)]
    with linked(runner, "--nodes", str(NODES), clients=CLIENTS, rounds=3) as run:
        run.until_all_have(1)
        run.open()
        run.until_all_have(2)
        pids = {what: pid(run, what) for what in (*nodes, "clients", "control")}
        before = {what: counters(pid) for what, pid in pids.items()}
        run.open()
        run.until_all_have(3)
        after = {what: counters(pid) for what, pid in pids.items()}
        run.open()
        ended = runner.finish(run.process)
    check(ended, rounds=3, clients=CLIENTS)

    tree = ended.rows[1]["tree"]
    kinds = {name: sorted(role["role"] for role in roles) for name, roles in tree.items()}
    top = next(name for name in nodes if "top" in kinds[name])
    assert kinds == {
        name: ["leaf", "leaf", "middle", *["top"] * (name == top)] for name in nodes
    }
    moved = {what: [(now - then) / UPDATE_BYTES for now, then in zip(*pair, strict=True)]
             for what, pair in {w: (after[w], before[w]) for w in after}.items()}  # fmt: skip
    here = CLIENTS // NODES
    for name in nodes:  # what a full queue drops is sent again: less than a sum, all in all
        others = NODES - 1 if name == top else 1  # came: sums, or the model; went: the other
        assert moved[name] == pytest.approx([here + others] * 2, abs=0.5)
    assert moved["clients"][0] == pytest.approx(CLIENTS, abs=0.5)
    assert moved["clients"][1] >= CLIENTS
    assert max(moved["control"]) < 0.1


def test_a_node_that_is_cut_off_in_mid_round_and_comes_back(runner: Runner) -> None:
    """The link goes while updates cross it; whoever sent them goes on when it is there again."""
    with linked(runner, "--nodes", "2", "--link-rate", "50Mbit", clients=6, rounds=2) as run:
        run.until_all_have(1)
        node = pid(run, "node-1")
        came, _ = counters(node)
        run.open()
        wait_until(lambda: counters(node)[0] > came + UPDATE_BYTES, lambda: "nothing comes")
        with cut(node):
            while run.until("progress", round=1)["accepted"] < 3:
                pass
            time.sleep(CUT_S)  # the fault itself: what follows waits for no time
        run.until_all_have(2)
        run.open()
        ended = runner.finish(run.process)
    check(ended, rounds=2, clients=6)


def test_links_with_a_delay_give_the_right_model(runner: Runner) -> None:
    """Also where what delays them is killed: the network goes on when there is another."""
    with linked(runner, "--nodes", "2", "--link-delay", "5ms", clients=4, rounds=2) as run:
        run.until_all_have(1)
        os.kill(min(runner.processes("lifl.placement.delay")), signal.SIGKILL)
        run.until("restart", what="delay of links")
        run.open()
        run.until_all_have(2)
        run.open()
        ended = runner.finish(run.process)
    check(ended, rounds=2, clients=4)


@pytest.mark.parametrize(
    ("killed", "flags"),
    [("lifl", []), ("lifl.placement.engine", []), ("lifl.placement.engine", ["--link-delay=1ms"])],
)
def test_namespaces_go_with_the_run(runner: Runner, killed: str, flags: list[str]) -> None:
    with linked(runner, "--nodes", "2", *flags, clients=2, rounds=100) as run:
        run.until_all_have(1)
        where = json.loads((runner.folder / "runs/latest/metrics.json").read_text())
        for url in (where["coordinator"], *where["nodes"].values()):  # served outside
            assert b"lifl_" in urllib.request.urlopen(url, timeout=5).read()
        there = {_namespace(pid(run, what)) for what in ("node-0", "node-1", "clients", "control")}
        assert len(there | {_namespace(os.getpid())}) == 5
        os.kill(min(runner.processes(killed)), signal.SIGKILL)
        run.process.communicate(timeout=30)
    wait_until(
        lambda: not there & held(), lambda: f"somebody is still in {there & held()}", limit_s=30
    )


def held() -> set[str]:
    """Network namespaces that some process is in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                found.add(os.readlink(entry / "ns" / "net"))
    return found


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft (apt-get install nftables)")
def test_lost_packets_cost_no_update(runner: Runner, tmp_path: Path) -> None:
    """As docs/network.md has it: one of fifty that come into a node is dropped."""
    page = (Path(__file__).parents[2] / "docs" / "network.md").read_text()
    rules = tmp_path / "lossy.nft"
    rules.write_text(page.split("```\n")[3])
    with linked(runner, "--nodes", "2", clients=6, rounds=2) as run:
        run.until_all_have(1)
        fd = os.open(f"/proc/{pid(run, 'node-1')}/ns/net", os.O_RDONLY)
        try:
            netns.command(fd, "nft", "-f", str(rules), lines="")
        finally:
            os.close(fd)
        run.open()
        run.until_all_have(2)
        run.open()
        ended = runner.finish(run.process)
    check(ended, rounds=2, clients=6)


def test_clients_from_outside_are_refused(runner: Runner) -> None:
    run = runner("--network", "netns", clients={"min": 4, "max": 5})
    assert run.status == 2
    assert "clients from outside cannot reach its nodes: give the job a trainer" in run.stderr


@pytest.mark.parametrize(
    ("rate", "size", "lane"),
    [("1.5Mbit", 75_000, "fast"),  # less than is worth a wake-up comes in a second
     # a chunk of 1 MiB takes longer than who sends it waits for a word
     pytest.param("4Mbit", 1_200_000, "fast", marks=pytest.mark.losses),
     pytest.param("3Mbit", 1_200_000, "zmq", marks=pytest.mark.losses)],
)  # fmt: skip
def test_links_on_which_models_take_seconds(
    runner: Runner, rate: str, size: int, lane: str
) -> None:
    run = runner.finish(
        runner.start(
            runner.job_file(trainers=1, rounds=1, clients={"lane": lane}), "--network", "netns",
            "--link-rate", rate, env={"TOY_SIZE": str(size)},
        ),
        limit_s=170,
    )  # fmt: skip
    assert not run.of("node_lost")
    check(run, rounds=1, clients=1)
