"""The line between agents and operator: an agent that is refused, and one that is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq

from lifl.errors import Refused
from lifl.functions.layout import Layout
from lifl.functions.wire import Keys, bound_endpoint, dealer, decode, encode
from lifl.placement.agent import Agent
from lifl.placement.cluster import desk as desk_module
from lifl.placement.cluster import steward as steward_module
from lifl.placement.cluster.desk import MOST_REFUSED, Desk, NodeHere, Posted
from lifl.placement.cluster.steward import LONGEST_S, SILENT_S, Steward, demand
from lifl.placement.guests import Guests
from lifl.placement.hosted import NodeJob
from lifl.placement.pool import Pool, Process

pytestmark = pytest.mark.timeout(30)
NODE = {
    "t": "node", "node": "n1", "token": "of nobody", "gateway": "", "budget_bytes": 0,
    "capacity": {}, "proxy": "unix",
}  # fmt: skip
DEMAND = {"t": "demand", "node": "n1", "runtimes": {}, "busy": [], "draining": []}
STRANGER = {"t": "initial", "job": "toy", "at": 0, "of": 1, "layout": []}  # always refused


# -- the operator's end ------------------------------------------------------------------------
class Doors:
    """A desk with its loop, and dealers to it."""

    def __init__(self) -> None:
        self.keys = Keys.new()
        self.asked: list[str] = []
        self.good: set[str] = set()
        self.brought: list[str] = []
        self.desk = Desk(
            self.keys, "tcp://127.0.0.1:*", who=self._who, on_nodes=lambda: None,
            on_demand=lambda _: None, on_evict=lambda _: None, on_initial=self.brought.append,
        )  # fmt: skip
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def _who(self, token: str, node: str) -> None:
        self.asked.append(token)
        if token not in self.good:
            raise Refused("the token is none for the operator", code="bad-token")

    def dealer(self, keys: Keys) -> zmq.Socket[bytes]:
        return dealer(self.context, keys, bound_endpoint(self.desk._router), self.keys.public)

    def run(self, talk: Callable[[], object]) -> None:
        """The desk's loop for as long as a thread talks to it."""

        async def main() -> None:
            loop = asyncio.create_task(self.desk.run())
            talking = asyncio.create_task(asyncio.to_thread(talk))
            await asyncio.wait({loop, talking}, return_when=asyncio.FIRST_COMPLETED)
            assert not loop.done(), loop.exception()
            loop.cancel()
            await talking

        asyncio.run(main())


@pytest.fixture
def doors() -> Iterator[Doors]:
    made = Doors()
    yield made
    made.context.destroy(linger=0)
    made.desk._context.destroy(linger=0)


def said(line: zmq.Socket[bytes], count: int) -> list[str]:
    found = []
    for _ in range(count):
        assert line.poll(20_000)
        message = decode(line.recv())
        found.append(f"{message['t']} {message.get('text', '')}"[:17].strip())
    return found


def test_who_is_refused_is_not_asked_who_he_is(doors: Doors) -> None:
    """That would make him say again at once what is looked up at the API server."""
    line = doors.dealer(Keys.new())

    def talk() -> None:
        for message in (NODE, DEMAND, DEMAND):
            line.send(encode(message))
        line.send_multipart([encode(STRANGER), b"x"])
        assert said(line, 2) == ["refused the token", "refused nobody ex"]

    doors.run(talk)
    assert doors.asked == ["of nobody"]


def test_whom_another_operator_knew_is_asked(doors: Doors) -> None:
    line = doors.dealer(Keys.new())

    def talk() -> None:
        line.send(encode(DEMAND))
        assert said(line, 1) == ["who"]

    doors.run(talk)


def test_who_is_refused_once_may_be_right_the_next_time(doors: Doors) -> None:
    doors.good.add("of n1")
    line = doors.dealer(Keys.new())

    def talk() -> None:
        line.send(encode(NODE))
        line.send(encode(NODE | {"token": "of n1"}))
        line.send(encode(DEMAND))
        line.send_multipart([encode(STRANGER), b"x"])
        assert said(line, 3) == ["refused the token", "jobs", "refused nobody ex"]

    doors.run(talk)
    assert list(doors.desk.nodes) == ["n1"]


def test_an_agent_hears_which_pods_are_to_go(doors: Doors) -> None:
    doors.good.add("of n1")
    line = doors.dealer(Keys.new())

    def drain(_: NodeHere) -> None:
        doors.desk.drain("n1", ["p1", "p2"])
        doors.desk.drain("n2", ["p3"])  # which has no line here

    doors.desk._on_demand = drain

    def talk() -> None:
        line.send(encode(NODE | {"token": "of n1", "gateway": "tcp://10.0.0.1:7710"}))
        line.send(encode(DEMAND | {"busy": ["p0"], "draining": ["p1"]}))
        assert said(line, 1) == ["jobs"]
        assert line.poll(20_000)
        assert decode(line.recv()) == {"t": "drain", "pods": ["p1", "p2"]}

    doors.run(talk)
    here = doors.desk.nodes["n1"]
    assert (here.busy, here.draining) == (("p0",), ("p1",))
    assert doors.desk.gateway_of("n1") == "tcp://10.0.0.1:7710"
    assert doors.desk.gateway_of("n2") == ""


def test_a_node_hears_of_its_own_jobs_and_of_one_that_takes_it_in(doors: Doors) -> None:
    """Not before: the coordinator would refuse it, after which its line is of no use any more."""
    keys = {name: Keys.new() for name in ("n1", "n2")}
    lines = {name: doors.dealer(each) for name, each in keys.items()}
    own = {name: each.public for name, each in keys.items()}
    nodes = iter([{"n1": own["n1"]}, {"n1": own["n1"], "n2": "its key of before"}, own])

    def post(_: NodeHere) -> None:
        doors.desk.post(Posted("toy", 1, "tcp://10.0.0.1:7700", "key", next(nodes)))

    def heard(name: str) -> list[str]:
        assert lines[name].poll(20_000)
        return [job["name"] for job in decode(lines[name].recv())["jobs"]]

    def talk() -> None:
        for name, line in lines.items():
            line.send(encode(NODE | {"node": name, "token": f"of {name}"}))
            assert heard(name) == []
        for expected in ([], [], ["toy"]):
            lines["n1"].send(encode(DEMAND))
            assert heard("n1") == ["toy"]
            assert heard("n2") == expected

    doors.good |= {"of n1", "of n2"}
    doors.desk._on_demand = post
    doors.run(talk)


def test_keys_of_the_refused_are_remembered_up_to_a_number(doors: Doors) -> None:
    async def main() -> None:
        for number in range(MOST_REFUSED + 5):
            with pytest.raises(Refused):
                await doors.desk._admit(f"key {number}", "of nobody", "n1")

    asyncio.run(main())
    assert len(doors.desk._refused) == MOST_REFUSED
    assert "key 0" not in doors.desk._refused


def test_a_model_that_no_disk_has_room_for_is_refused_and_may_come_again(
    doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.of({"w": np.zeros(3, dtype=np.float32)})
    keys, path = Keys.new(), tmp_path / "toy" / "initial.safetensors"
    doors.desk.expect("toy", keys.public, path)
    line = doors.dealer(keys)
    header = {
        "t": "initial", "job": "toy", "at": 0, "of": layout.update_bytes,
        "layout": layout.to_wire(),
    }  # fmt: skip
    real = desk_module.save_model

    def full(*_: Any) -> None:
        monkeypatch.setattr(desk_module, "save_model", real)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(desk_module, "save_model", full)

    def talk() -> None:
        line.send_multipart([encode(header), bytes(layout.update_bytes)])
        assert line.poll(20_000)
        text = decode(line.recv())["text"]
        assert "No space left on device" in text
        assert "operator.storage" in text
        line.send_multipart([encode(header), bytes(layout.update_bytes)])
        assert said(line, 1) == ["more"]

    doors.run(talk)
    assert doors.brought == ["toy"]
    assert path.exists()


# -- the agent's end ---------------------------------------------------------------------------
class Answers:
    """A line on which answers wait; what is sent is kept."""

    def __init__(self, *_: Any) -> None:
        self.socket, self.monitor = self, object()
        self.waiting: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.is_new = False

    def came_back(self) -> bool:
        return self.is_new

    def poll(self, _: int) -> bool:
        return bool(self.waiting)

    def recv(self) -> bytes:
        return encode(self.waiting.pop(0))

    def send(self, data: bytes) -> None:
        self.sent.append(decode(data))


class Side:
    """A steward with a clock, and its end of the line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pool: Pool) -> None:
        monkeypatch.setattr(steward_module, "Line", Answers)
        self.now_s = 100.0
        self.drained: list[list[str]] = []
        node: Any = SimpleNamespace(name="n1", jobs={}, pool=pool, drain=self.drained.append)
        members: Any = SimpleNamespace(coordinators=[])
        lines: Any = SimpleNamespace(lead_to=lambda _: [])
        context: Any = None
        self.steward = Steward(
            context, Keys.new(), ("tcp://operator:7700", "key"), node, members, lines,
            clock=lambda: self.now_s,
        )  # fmt: skip
        self.line: Any = self.steward._line

    def turn(self, *answers: dict[str, Any], about: int = 1) -> list[str]:
        """What is said in a turn in which these answers are there."""
        self.line.waiting, self.line.sent = list(answers), []
        self.steward.turn({self.line, self.line.monitor}, {"t": "node", "capacity": about})
        return [message["t"] for message in self.line.sent]


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Side:
    return Side(monkeypatch, Guests("n1", tmp_path, tmp_path / "agent.sock"))


REFUSED = {"t": "refused", "text": "n1 is no node of yours"}


def test_who_is_refused_says_why_and_waits(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    assert side.turn() == ["node", "demand"]
    assert side.turn(REFUSED) == []
    assert REFUSED["text"] in caplog.text
    assert side.steward.silent_for_s() == SILENT_S
    assert side.turn({"t": "who"}, about=2) == []  # also when there is news, or he is asked
    side.now_s += SILENT_S
    assert side.turn(about=2) == ["node", "demand"]
    assert side.turn(about=2) == []


def test_he_waits_longer_each_time_up_to_a_limit(side: Side) -> None:
    waited = []
    for _ in range(9):
        assert side.turn() == ["node", "demand"]
        side.turn(REFUSED)
        waited.append(side.steward.silent_for_s())
        side.now_s += waited[-1]
    assert waited[:3] == [SILENT_S, 2 * SILENT_S, 4 * SILENT_S]
    assert waited[-1] == LONGEST_S


def test_a_new_operator_and_one_that_takes_him_know_of_nothing(side: Side) -> None:
    side.turn()
    side.turn(REFUSED)
    side.line.is_new = True
    assert side.turn() == ["node", "demand"]
    side.line.is_new = False
    side.turn(REFUSED)
    side.now_s += SILENT_S
    assert side.turn({"t": "jobs", "jobs": []}) == ["node", "demand"]
    side.turn(REFUSED)
    assert side.steward.silent_for_s() == SILENT_S


@pytest.mark.parametrize(
    ("silent_s", "look_s", "waits_ms"), [(1.5, None, 1501), (0.0, None, None), (5.0, 2.0, 2001)]
)
def test_the_agents_loop_wakes_when_the_silence_is_over(
    silent_s: float, look_s: float | None, waits_ms: int | None
) -> None:
    waited: list[int | None] = []
    nothing = SimpleNamespace(fileno=lambda: 0)
    agent: Any = SimpleNamespace(
        members=SimpleNamespace(
            listener=nothing, doorman=None, connections={},
            liveness=SimpleNamespace(look_in_s=look_s),
        ),
        router=nothing, endpoint=SimpleNamespace(fds=[]), idle_in_s=None,
        pool=SimpleNamespace(processes={}, zygote=None),
        lines=SimpleNamespace(sockets=[]),
        accounts=SimpleNamespace(overdue=lambda: None),
        sources=SimpleNamespace(ready=lambda _, timeout_ms: waited.append(timeout_ms)),
        steward=SimpleNamespace(sockets=[], silent_for_s=lambda: silent_s), notice=None,
    )  # fmt: skip
    Agent._poll(agent)
    assert waited == [waits_ms]


def test_pods_that_do_not_answer_are_named_once(side: Side) -> None:
    side.turn()
    side.steward._node.pool.kill(Process("runtime", -1, -1, pod="fn-1"))
    side.turn()
    assert [(each["t"], each["pod"]) for each in side.line.sent] == [("evict", "fn-1")]
    assert side.turn() == []


def test_pods_that_are_to_go_are_the_nodes_to_see_to(side: Side) -> None:
    side.turn({"t": "drain", "pods": ["fn-1"]})
    assert side.drained == [["fn-1"]]


def test_a_pool_of_own_processes_has_none(tmp_path: Path) -> None:
    assert Pool("n1", tmp_path, []).take_stuck() == []




def test_a_job_that_is_quiet_for_long_wants_nobody_but_who_still_has_a_role() -> None:
    job = NodeJob(1, "team/a", {"roles": [{"endpoint": 1}, {"endpoint": 2}]})
    node: Any = SimpleNamespace(
        jobs={1: job}, pool=SimpleNamespace(processes={}, draining=frozenset())
    )
    assert demand(node)["runtimes"] == {"team/a": 2}
    job.assigned = {1: "leaf"}
    job.idling.asleep = True
    assert demand(node)["runtimes"] == {"team/a": 1}
    job.assigned = {}
    assert demand(node)["runtimes"] == {"team/a": 0}
