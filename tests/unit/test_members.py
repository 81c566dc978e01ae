"""Who may join an agent, what a member may claim, and what is counted where it is refused."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.errors import LiflError, Refused
from lifl.metrics import Figures
from lifl.placement import liveness
from lifl.placement import members as module
from lifl.placement.cluster.tokens import Guest
from lifl.placement.hosted import NodeJob
from lifl.placement.members import Members
from lifl.placement.pool import Process
from lifl.proxy_ebpf.control import Control
from lifl.proxy_ebpf.port import make_pair
from tests.clock import Clock

JOB = 7


class Doorman:
    """Knows who somebody is when it is told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.known: list[tuple[Any, Guest | LiflError]] = []

    def ask(self, about: Any, token: str) -> None:
        self.asked.append(about)

    def answers(self) -> list[tuple[Any, Guest | LiflError]]:
        known, self.known = self.known, []
        return known


class Pool:
    """Processes that have joined."""

    gateway = zygote = None

    def __init__(self, folder: Path) -> None:
        self.socket_path = folder / "agent.sock"
        self.processes: dict[int, Process] = {}
        self.killed: list[int] = []

    def kill(self, process: Process) -> None:
        self.killed.append(process.pid)

    def idle(self, but: Process, tenant: str) -> Process | None:
        free = (each for each in self.processes.values() if each.is_free and each is not but)
        return next(free, None)

    def save(self) -> None:
        pass

    def came(self, process: Process, pidfd: int) -> None:
        process.pidfd = pidfd

    def started(self, process: Process) -> None:
        pass

    def lost(self) -> list[Process]:
        return []


class Rig:
    """Members of an agent that has one job, of tenant team-a."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool, self.doorman, self.figures = Pool(folder), Doorman(), Figures("agent")
        self.registered: list[tuple[int, int]] = []
        self.taken: Counter[str] = Counter()
        job = NodeJob(JOB, "team-a/digits", {"tenant": "team-a", "roles": []})
        router = SimpleNamespace(register=lambda number, end, *_: self.registered.append(
            (number, end)
        ), reset_credit=lambda _: None)  # fmt: skip
        node: Any = SimpleNamespace(
            pool=self.pool, jobs={JOB: job}, router=router, directory=folder, name="n1",
            staff=lambda _: None, send=lambda *_: None, poke_everybody=lambda _: None,
            announce=lambda _: None, take_back=lambda *_: None, mend=lambda: self.taken,
            assign=self.assign,
        )  # fmt: skip
        accounts: Any = SimpleNamespace(figures=self.figures, started=lambda *_: None)
        doorman: Any = self.doorman
        self.members = Members(
            node, accounts, liveness_s=10.0, listen_at="", doorman=doorman, keys=None
        )
        self.ends: list[socket.socket] = []

    def assign(self, job: NodeJob, endpoint: int, process: Process) -> None:
        process.role, process.joined = (job.number, endpoint), False
        process.awaited_since_s = liveness.time.monotonic()

    def runtime(self, pid: int, **what: Any) -> Process:
        """One that is connected, unless `what` says that it is not."""
        control: Any = SimpleNamespace(send=lambda *_: None)
        process = Process("runtime", pid, -1, **({"control": control} | what))
        self.pool.processes[pid] = process
        return process

    def call(self) -> Control:
        """Somebody connects."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(str(self.pool.socket_path))
        self.ends.append(end)
        self.members.accept()
        return Control(end)

    def hear(self) -> None:
        """Take what everybody has said."""
        for fd in list(self.members.connections):
            control, _ = self.members.connections[fd]
            control.socket.setblocking(False)
            self.members.receive(fd)

    def refused(self, code: str) -> int:
        return int(self.figures.get("lifl_joins_refused", code=code))

    def function(self, tenant: str, files: int = 3, **hello: Any) -> Control:
        """A function of this tenant is let in."""
        control = self.call()
        pair = make_pair("ebpf")
        memory = [os.memfd_create("arena") for _ in range(files)]
        control.send(
            {"t": "runtime", "token": "x", **hello}, [*(e.fileno() for e in pair), *memory]
        )
        for each in memory:
            os.close(each)
        self.ends += pair
        self.hear()
        guest = Guest("runtime", "fn-1", "functions", tenant)
        self.doorman.known = [(self.doorman.asked.pop(), guest)]
        self.members.admit()
        return control

    def close(self) -> None:
        for control, _ in self.members.connections.values():
            control.close()
        self.members.listener.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.mark.parametrize("said", [b"\xc1garbage", b"\x93\x01\x02\x03", b"\x81\xa1t\x05", b"\x80"])
def test_what_cannot_be_read_is_refused_and_counted(rig: Rig, said: bytes) -> None:
    control = rig.call()
    control.socket.send(said)
    rig.hear()
    answer = control.receive()
    assert answer is not None
    assert (answer[0]["t"], answer[0]["code"]) == ("refused", "malformed")
    assert rig.refused("malformed") == 1
    assert rig.members.connections == {}


def test_whom_the_doorman_does_not_know_is_refused_and_counted(rig: Rig) -> None:
    control = rig.call()
    control.send({"t": "keys", "token": "x"})
    rig.hear()
    stranger = Refused("the token is none for lifl-agent", code="bad-token")
    rig.doorman.known = [(rig.doorman.asked.pop(), stranger)]
    rig.members.admit()
    answer = control.receive()
    assert answer is not None
    assert answer[0]["code"] == "bad-token"
    assert rig.refused("bad-token") == 1


def test_who_says_nothing_makes_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRANGERS", 2)
    first, *others = (rig.call() for _ in range(3))
    assert first.receive() is None
    assert len(rig.members.connections) == 2
    assert rig.refused("silent") == 1
    for other in others:
        other.send({"t": "runtime", "token": "x"})
    rig.hear()
    late = rig.call()
    late.send({"t": "runtime", "token": "x"})
    rig.hear()
    assert late.receive() is None, "told to come again by being closed"
    assert rig.refused("busy") == 1
    assert len(rig.doorman.asked) == 2


def test_a_function_of_another_tenant_gets_no_role(rig: Rig) -> None:
    rig.function("team-b", job=JOB, endpoint=1)
    assert rig.registered == []
    assert rig.refused("other-tenant") == 1
    assert [process.role for process in rig.pool.processes.values()] == [None]


def test_a_function_that_shows_too_little_is_refused_and_nobody_else_is_hurt(rig: Rig) -> None:
    control = rig.function("team-a", files=0, job=JOB, endpoint=1)
    answer = control.receive()
    assert answer is not None
    assert answer[0]["code"] == "malformed"
    other = rig.function("team-a", job=JOB, endpoint=1)
    other.send({"t": "held-job", "job": JOB})
    rig.hear()
    assert rig.refused("malformed") == 2


def test_a_function_speaks_for_the_role_that_it_was_given(rig: Rig) -> None:
    control = rig.function("team-a", job=JOB, endpoint=1)
    assert rig.registered == [(JOB, 1)]
    pair = make_pair("ebpf")
    rig.ends += pair
    for said in (
        {"t": "join", "job": JOB, "endpoint": 2}, {"t": "left", "job": JOB + 1, "endpoint": 1},
        {"t": "failed", "job": JOB + 1, "error": "of another"},
    ):  # fmt: skip
        control.send(said, [each.fileno() for each in pair] if said["t"] == "join" else [])
        rig.hear()
    assert rig.registered == [(JOB, 1)]
    assert rig.refused("not-its-role") == 3


def test_what_was_taken_out_of_the_kernel_is_counted(rig: Rig) -> None:
    rig.taken = Counter(program=1, socket=4)
    rig.members.check()
    assert rig.figures.get("lifl_proxy_repairs", what="program") == 1
    assert rig.figures.get("lifl_proxy_repairs", what="socket") == 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Clock:
    """Of liveness; whoever is made gets its time, too."""
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    rig.members.liveness.checked_at = clock.now
    return clock


def wait(rig: Rig, clock: Clock, seconds: float) -> None:
    for _ in range(int(seconds)):
        clock.now += 1
        rig.members.check()


def test_who_is_stopped_before_it_has_joined_is_replaced_once(rig: Rig, clock: Clock) -> None:
    """It was given a role, and is stopped: another gets the role, once this one is fenced."""
    stuck = rig.runtime(1, role=(JOB, 3), awaited_since_s=clock.now)
    wait(rig, clock, liveness.START_S - 1)
    assert rig.pool.killed == []
    other = rig.runtime(2)
    wait(rig, clock, 3)
    assert rig.pool.killed == [1]
    assert (stuck.role, other.role) == (None, (JOB, 3))
    wait(rig, clock, 5)
    assert rig.pool.killed == [1], "once"
    assert not stuck.is_free, "it gets no role while it is being ended"


@pytest.mark.parametrize("role", [None, (JOB, 3)])
def test_who_never_connects_is_ended(rig: Rig, clock: Clock, role: Any) -> None:
    """Started and stopped, or there before an agent's restart and not back since."""
    rig.runtime(1, control=None, role=role, awaited_since_s=clock.now)
    wait(rig, clock, liveness.START_S + 3)
    assert rig.pool.killed == [1]


def test_on_a_machine_that_is_too_slow_one_arrives_in_the_end(rig: Rig, clock: Clock) -> None:
    """Each one that did not come in time leaves the next twice as long; one that does, not."""
    rig.runtime(1, control=None, awaited_since_s=clock.now)
    wait(rig, clock, liveness.START_S + 3)
    second = rig.runtime(2, role=(JOB, 3), awaited_since_s=clock.now)
    wait(rig, clock, 2 * liveness.START_S - 3)
    assert rig.pool.killed == [1]
    job = rig.members.node.jobs[JOB]
    rig.members._registered(second, job, 3)
    rig.runtime(3, control=None, awaited_since_s=clock.now)
    second.control = None
    second.awaited_since_s = clock.now + 1000
    wait(rig, clock, liveness.START_S + 3)
    assert rig.pool.killed == [1, 3]


def test_a_gateway_that_never_connects_is_ended_also_before_there_is_a_job(
    rig: Rig, clock: Clock
) -> None:
    rig.members.node.jobs.clear()
    assert rig.members.liveness.look_in_s is None
    gateway = rig.runtime(1, control=None, awaited_since_s=clock.now)
    gateway.kind = "gateway"
    assert rig.members.liveness.look_in_s == rig.members.liveness.ping_s
    wait(rig, clock, liveness.START_S + 3)
    assert rig.pool.killed == [1]
    assert rig.members.liveness.look_in_s is None, "its death is an event"


def test_a_gateway_that_never_came_leaves_others_no_longer(rig: Rig, clock: Clock) -> None:
    """It leaves the next gateway longer, until one comes."""
    first = rig.runtime(1, control=None, awaited_since_s=clock.now)
    first.kind = "gateway"
    wait(rig, clock, liveness.START_S + 3)
    rig.runtime(2, control=None, awaited_since_s=clock.now)
    second = rig.runtime(os.getpid(), control=None, awaited_since_s=clock.now)
    second.kind = "gateway"
    wait(rig, clock, liveness.START_S + 3)
    assert rig.pool.killed == [1, 2]
    rig.members.node.jobs.clear()
    rig.members.doorman = None
    rig.call().send({"t": "gateway", "endpoint": "tcp://127.0.0.1:9"}, [])
    rig.hear()
    assert second.control is not None
    second.control = None
    second.awaited_since_s = clock.now + 1000
    third = rig.runtime(3, control=None, awaited_since_s=clock.now)
    third.kind = "gateway"
    wait(rig, clock, liveness.START_S + 3)
    assert rig.pool.killed == [1, 2, 3]


def test_an_agent_that_did_not_look_blames_nobody(rig: Rig, clock: Clock) -> None:
    rig.runtime(1, role=(JOB, 3), awaited_since_s=clock.now)
    clock.now += 1000
    rig.members.check()
    wait(rig, clock, liveness.START_S - 3)
    assert rig.pool.killed == []


def test_a_number_that_is_used_again_in_a_turn_says_nothing(rig: Rig) -> None:
    """What was readable is closed, and what is opened then has its number: it lives, and waits."""
    ready = [os.eventfd(0), os.eventfd(0)]
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    own = os.pidfd_open(os.getpid())

    def take_forked() -> int:
        process = Process("runtime", os.getpid(), os.dup2(own, ready[0]))
        rig.pool.processes[process.pid] = process
        control = Control(socket.socket(fileno=os.dup2(near.fileno(), ready[1])))
        rig.members.connections[ready[1]] = (control, None)
        return 0

    pool: Any = rig.pool
    pool.zygote, pool.take_forked = SimpleNamespace(has_news=lambda _: True), take_forked
    died: list[Process] = []
    members: Any = rig.members
    members.died = died.append
    rig.members.turn({*ready})
    assert died == []
    pool.zygote = None
    rig.members.turn({ready[0]})
    assert died == [rig.pool.processes[os.getpid()]]
    rig.ends += [near, far]
    os.close(own)
    os.close(ready[0])
