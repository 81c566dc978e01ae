"""Too few slots, too little time, memory, disk or ports: nothing hangs, and the reason is said."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PROXY, Runner, wait_until
from outsider import Field, Outsider

from lifl.functions.wire import UP_CHUNK, Keys

GATEWAY = "lifl.functions.gateway"
LIMIT = 800 << 20
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and make cgroups")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.SIZE", 600_000)


def test_eight_stalled_clients_on_eight_slots(runner: Runner, large: None) -> None:
    """They lose their slots to the one who waits, and may begin again."""
    field = Field(
        runner, rounds=100_000, trainers=9, memory={"inputSlots": 8, "stallS": 1.5},
        env={"TOY_SIZE": "600000"},
    )  # fmt: skip
    try:
        number = field.round()
        *stalled, last = field.clients
        for client in stalled:
            client.put(number)
            client.hear("go", number=number)
            client.chunk(number, 0, bytes(UP_CHUNK))
        last.put(number)
        last.hear("wait", number=number)
        last.hear("go", number=number)
        assert last.upload(number, last.update(number))["t"] == "ack"
        for client in stalled:
            message = client.hear("reject", number=number)
            assert (message["code"], message["retry"]) == ("too-slow", True)
            client.play(number)
        field.check(number, field.clients)
    finally:
        field.end()


@pytest.mark.parametrize("waiting", [1, 2])
def test_an_update_that_waits_for_a_pair_gives_its_slot_to_who_waits(
    runner: Runner, large: None, waiting: int
) -> None:
    """One slot holds it, a client that is silent has the other: nothing else wakes its leaf."""
    field = Field(
        runner, rounds=100_000, trainers=2 + waiting, memory={"inputSlots": 2, "stallS": 600},
        aggregation={"fanIn": 4, "mode": "eager"}, env={"TOY_SIZE": "600000"},
    )  # fmt: skip
    try:
        number = field.round()
        first, silent, *others = field.clients
        first.play(number)
        field.idle("lifl.functions.aggregator")  # the leaf has looked, and waits for a second
        silent.put(number)
        silent.hear("go", number=number)
        before: list[Outsider] = []
        for client in others:  # one after the other through the only slot
            client.put(number)
            for other in before[-1:]:
                assert other.upload(number, other.update(number))["t"] == "ack"
            client.hear("go", number=number)
            before.append(client)
        assert client.upload(number, client.update(number))["t"] == "ack"
        assert silent.upload(number, silent.update(number))["t"] == "ack"
        field.check(number, field.clients)
    finally:
        field.end()


def test_after_the_deadline(runner: Runner, large: None) -> None:
    field = Field(
        runner, rounds=100_000, trainers=3, deadlineS=4.0, memory={"inputSlots": 2},
        env={"TOY_SIZE": "600000"},
    )  # fmt: skip
    try:
        number = field.round()
        first, slow, missing = field.clients
        slow.put(number)
        slow.hear("go", number=number)
        slow.chunk(number, 0, bytes(UP_CHUNK))
        first.play(number)
        message = slow.hear("reject", number=number)
        assert (message["code"], message["retry"]) == ("late", False)
        field.check(number, [first])
        missing.put(number)
        message = missing.hear("reject", number=number)
        assert (message["code"], message["retry"]) == ("past-round", False)
        number = field.round()
        for client in field.clients:
            client.play(number)
        field.check(number, field.clients)
    finally:
        field.end()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    Keys.new().save(keys)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", GATEWAY, "--socket", str(tmp_path / "none"),
             "--node", "here", "--listen", where, "--keys", str(keys),
             "--coordinator", "tcp://127.0.0.1:1", "--coordinator-key", Keys.new().public],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"gateway of here: cannot listen at {where} (Address already in use): end what listens "
        "there, or choose another address"
    ]


def _takes(sock: socket.socket, address: tuple[str, int], field: Field) -> bool:
    """Kill the gateway and have its port before it is back; False when that was faster."""
    before = field.pid(GATEWAY)
    os.kill(before, 9)
    for _ in range(10_000):
        with contextlib.suppress(OSError):
            sock.bind(address)
            return True
    again = field.runner.processes
    wait_until(lambda: again(GATEWAY) not in ([], [before]), lambda: "no gateway comes back", 60)
    return False


def test_an_agent_whose_gateway_cannot_listen_ends_the_run(runner: Runner) -> None:
    """The gateway is killed, and somebody takes its port before it is back."""
    field = Field(runner, rounds=100_000, trainers=1, env={})
    try:
        host, _, port = field.clients[0].at[0].removeprefix("tcp://").rpartition(":")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            assert any(_takes(taken, (host, int(port)), field) for _ in range(5))
            taken.listen()
            status = field.process.wait(60)
        assert status == 1, field.say()
        assert field.of("failed")[0]["code"] == "port-in-use"
    finally:
        field.end()


def test_a_job_that_does_not_fit_its_own_limit(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=1, memory={"arenaBytes": "16Ki"})
    assert run.status == 1
    (failed,) = run.of("failed")
    assert failed["code"] == "no-memory"
    assert "lower spec.memory.inputSlots" in failed["error"]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup (v1) below this process's own, with room for processes but not for slots."""
    own = next((line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()
                if line.split(":")[1] == "memory"), None)  # fmt: skip
    parent = Path("/sys/fs/cgroup/memory") / (own or "").lstrip("/")
    folder = parent / f"lifl-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder
    folder.rmdir()


@ROOT
def test_the_memory_limit_of_the_cgroup(runner: Runner, cgroup: Path) -> None:
    """A job whose slots do not fit is refused before a page of them is touched."""
    path = runner.job_file(trainers=1, memory={"inputSlots": 64})
    run = runner.finish(runner.start(
        path, "--proxy", PROXY, env={"TOY_SIZE": "4000000"},
        within=["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs && exec "$@"', "sh"],
    ))  # fmt: skip
    assert run.status == 1, run.events
    (failed,) = run.of("failed")
    assert failed["code"] == "no-memory"
    assert f"the memory limit of {cgroup}, {LIMIT} bytes, leaves" in failed["error"]


@ROOT
@pytest.mark.parametrize("size", ["4k", "16k", "44k", "48k"])
def test_a_disk_that_is_full_from_the_start(runner: Runner, tmp_path: Path, size: str) -> None:
    """However far it comes, one sentence names the file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "lifl-test", disk], check=True)
    try:
        process = runner.start(runner.job_file(trainers=1), "--proxy", PROXY, "--out", str(disk))
        run = runner.finish(process)
        assert run.status == 1
        said = run.stderr + "".join(event["error"] for event in run.of("failed"))
        assert re.search(f"{disk}/toy-\\S+/\\S+ cannot be written", said)
        assert "make room " in said
        assert "Traceback" not in run.stderr + str(run.of("output"))
    finally:
        subprocess.run(["umount", disk], check=True)


@ROOT
def test_a_disk_that_is_full(runner: Runner, tmp_path: Path) -> None:
    """The rounds go well, and the last word says what could not be written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "lifl-test", disk], check=True)
    try:
        run = runner(
            "--proxy", PROXY, "--out", str(disk), trainers=1, rounds=2, env={"TOY_SIZE": "100000"}
        )
        assert run.status == 1
        (failed,) = run.of("failed")
        assert failed["code"] == "disk-full"
        assert "make room" in failed["error"]
        assert [e["round"] for e in run.of("published")] == [1, 2]
    finally:
        subprocess.run(["umount", disk], check=True)
