"""What nodes are told when, and what is written down before: rounds without sockets."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from lifl.functions.layout import Layout
from lifl.placement import course
from lifl.placement.asking import Asking
from lifl.placement.course import Course
from lifl.placement.membership import Known, Membership
from lifl.placement.planning import Planning
from lifl.placement.rounds import Round
from lifl.placement.store import Change, Checkpoint, Saved, UnderWay
from tests.clock import Clock
from tests.unit.clusterjobs import job as fljob

MEASURED = {
    "fold_bytes_s": 1e9, "ingress_bytes_s": 1e9, "cores": 4.0, "budget_bytes": 0.0
}  # fmt: skip


class Rig:
    """A job of four clients on nodes that are all there, and say what they are asked."""

    def __init__(
        self, nodes: int = 3, *, policy: str = "bestfit", start: int = 1, **spec: Any
    ) -> None:
        self.job = fljob(
            rounds=50, clients={"min": 1} | spec.pop("clients", {}),
            placement={"policy": policy}, memory={"inputSlots": 16}, **spec,
        )  # fmt: skip
        names = {f"key {n}": f"client-{n}" for n in range(4)}
        self.members = Membership({f"node-{n}": f"node key {n}" for n in range(nodes)}, names, [])
        for node in self.members:
            node.agent = b"agent of " + node.name.encode()
            node.gateway = b"gateway of " + node.name.encode()
            node.endpoint, node.measured, node.ready = f"tcp://{node.name}", dict(MEASURED), True
        for key in names:
            self.members.comes(key, "node-0")
        layout = Layout.of({"x": np.zeros(4)})
        self.asking = Asking(is_shared=False)
        self.planning = Planning(self.job, layout, 4, start=start, cores=4, asking=self.asking)
        self.sent: list[tuple[bytes, dict[str, Any]]] = []
        self.saved: list[Change] = []
        self.put: list[tuple[str, int]] = []
        self.fails: set[str] = set()  # nodes that are lost when they are given a model
        record = MagicMock()
        record.published_by, record.unsaved, record.stopped = None, set(), None
        record.watch.verdict = lambda: None
        record.elapsed_s = lambda _: 0.0
        record.unreported_by = lambda _: []
        store: Any = MagicMock()
        store.save = self.saved.append
        self.record = record
        self.course = Course(
            self.job, self.members, self.planning, record, store, send=self.send,
            put_model=self.put_model, offer=lambda *_: None, must_be_kept=self.must_be_kept,
        )  # fmt: skip
        self.kept: list[int] = []

    def send(self, peer: bytes | None, message: dict[str, Any]) -> None:
        if peer is not None:
            self.sent.append((peer, message))

    def must_be_kept(self, number: int) -> None:
        self.kept.append(number)

    def put_model(self, node: Known, base: int) -> bool:
        self.put.append((node.name, base))
        if node.name in self.fails:
            self.course.losses.lose(node.name, "does not answer")
            return False
        return True

    def heard(self, peer: bytes) -> list[str]:
        return [message["t"] for to, message in self.sent if to == peer]

    def begin(self) -> None:
        """Plan, and have every node carry it out."""
        self.course.try_to_plan()
        self.carry_out()

    def carry_out(self) -> None:
        for node in self.members.here:
            self.course.is_planned(node, self.course.epoch)

    def publish(self) -> None:
        """The round is over: its top's node has the model."""
        assert self.course.round is not None
        top = self.members[self.course.round.top_node]
        top.model = self.course.round.number
        self.record.published_by = top.name
        self.course.published(self.course.round.number)
        self.carry_out()

    @property
    def round(self) -> Round:
        assert self.course.round is not None
        return self.course.round


# -- a start of the run ----------------------------------------------------------------------
def test_a_round_says_in_which_start_its_model_was_made() -> None:
    """That of the first round is the checkpoint's, which an earlier start has written."""
    rig = Rig(start=3)
    rig.course.go_on(Saved(
        job="{}", start=3, base=2, rows={2: {"round": 2}},
        checkpoint=Checkpoint(number=2, place="there", start=1),
    ))  # fmt: skip
    rig.begin()
    assert (last_round(rig)["round"], last_round(rig)["made"]) == (3, 1)
    rig.publish()
    assert (last_round(rig)["round"], last_round(rig)["made"]) == (4, 3)


@pytest.mark.parametrize("checkpoint", [None, Checkpoint(number=7, place="there", start=4)])
def test_a_coordinator_that_comes_back_made_what_came_after_the_beginning(
    checkpoint: Checkpoint | None,
) -> None:
    saved = Saved(job="{}", start=4, base=5, checkpoint=checkpoint)
    assert saved.base_start == 4


# -- who hears what --------------------------------------------------------------------------
def test_an_idle_node_hears_of_the_first_plan_and_of_no_round() -> None:
    rig = Rig()
    rig.begin()
    assert rig.course.plan is not None
    assert rig.course.plan.used == ("node-0",)
    for _ in range(5):
        rig.publish()
    assert rig.round.number == 6
    for idle in ("node-1", "node-2"):
        assert rig.heard(b"gateway of " + idle.encode()) == []
        assert rig.heard(b"agent of " + idle.encode()) == ["plan"]


def test_an_idle_node_hears_of_no_plan_of_others_but_of_its_own() -> None:
    """A client more, and the plan is another; node-1 is told when it gets a part itself."""
    rig = Rig()
    del rig.members.connected["key 3"]
    rig.begin()
    rig.members.comes("key 3", "node-0")
    rig.publish()
    assert rig.heard(b"agent of node-0").count("plan") == 2
    assert rig.heard(b"agent of node-1").count("plan") == 1
    rig.members["node-0"].is_draining = True
    rig.publish()
    assert rig.course.plan is not None
    assert rig.course.plan.used == ("node-1",)
    assert rig.heard(b"agent of node-1").count("plan") == 2
    rig.course.agent_is_back(rig.members["node-2"])
    assert rig.heard(b"agent of node-2").count("plan") == 2, "a new agent knows nothing"


@pytest.mark.parametrize(("fraction", "all_drawn"), [(1.0, True), (0.99, False)])
def test_clients_hear_whether_rounds_draw_everybody(fraction: float, *, all_drawn: bool) -> None:
    rig = Rig(clients={"fraction": fraction})
    assert rig.planning.job_to_gateway()["settings"]["all_drawn"] is all_drawn


def test_a_gateway_that_waits_for_memory_hears_of_the_job_with_the_plan() -> None:
    """Its clients prepare meanwhile; one that has the memory has heard it with that."""
    rig = Rig(3)
    rig.members["node-0"].ready = False
    rig.begin()
    assert rig.heard(b"gateway of node-0")[0] == "job"
    assert "job" not in rig.heard(b"gateway of node-1") + rig.heard(b"gateway of node-2")


# -- slots -----------------------------------------------------------------------------------
def test_slots_of_a_plan_that_changes_in_mid_round() -> None:
    """The job's share has nothing on node-1, which is all that is left: it has one slot there."""
    rig = Rig(2)
    rig.asking._parts = {"node-0": (99, 3)}
    rig.begin()
    assert rig.course.slots == rig.course.slots_now() == {"node-0": 3}
    rig.course.losses.lose("node-0", "silent")
    assert rig.course.slots == rig.course.slots_now() == {"node-1": 1}
    plans = [message for to, message in rig.sent if to == b"agent of node-1"]
    assert [(len(plan["roles"]) > 0, plan["slots"]) for plan in plans] == [(False, 0), (True, 1)]


# -- a flash crowd -----------------------------------------------------------------------------
def crowd() -> Rig:
    """One leaf was enough for the queue as it was; now all four clients wait at once."""
    rig = Rig(2, scaling={"leaves": "queue"}, aggregation={"fanIn": 1})
    rig.members["node-0"].queue = 0.5
    rig.begin()
    return rig


def leaves(rig: Rig) -> list[tuple[int, tuple[str, ...]]]:
    assert rig.course.plan is not None
    roles = rig.course.plan.nodes["node-0"].roles
    return [(role.endpoint, role.clients) for role in roles if role.kind == "leaf"]


def say_accepted(rig: Rig, name: str, clients: int, **more: Any) -> None:
    said = {
        "round": rig.round.number, "epoch": rig.course.epoch, "begun": True, "cut": False,
        "metrics": [], "clients": clients.to_bytes(1, "little"), "excused": b"",
    }  # fmt: skip
    rig.course.accepted(rig.members[name], said | more)


def last_round(rig: Rig) -> dict[str, Any]:
    rounds = [m for to, m in rig.sent if to == b"gateway of node-0" and m["t"] == "round"]
    return rounds[-1]


def test_leaves_are_added_for_a_queue_that_is_much_longer_than_planned_for() -> None:
    rig = crowd()
    node, (first,) = rig.members["node-0"], leaves(rig)
    assert last_round(rig)["crowd_at"] == 2, "as soon as two leaves had something to do"
    say_accepted(rig, "node-0", 0b0001)
    rig.course.crowds.comes(node, {"round": 1, "queue": 4})
    after = leaves(rig)
    assert len(after) == 4
    assert sorted(key for _, keys in after for key in keys) == [f"key {n}" for n in range(4)]
    assert "key 0" in dict(after)[first[0]], "whose update is accepted stays"
    sent = rig.heard(b"gateway of node-0").count("round")
    assert rig.saved[-1].round is not None
    assert rig.saved[-1].round.plan == rig.course.plan, "written down before anybody hears of it"
    rig.carry_out()
    assert rig.heard(b"gateway of node-0").count("round") == sent + 1, "once the leaves are there"
    lanes = last_round(rig)["lanes"]
    assert {*lanes.values()} == {endpoint for endpoint, _ in after}
    assert last_round(rig)["crowd_at"] is None, "with four cores there are at most four leaves"
    rig.carry_out()
    assert rig.heard(b"gateway of node-0").count("round") == sent + 1


def test_the_next_round_is_planned_by_the_queue_again_and_begins() -> None:
    rig = crowd()
    rig.course.crowds.comes(rig.members["node-0"], {"round": 1, "queue": 4})
    rig.carry_out()
    rig.publish()
    assert (rig.round.number, rig.round.phase) == (2, "open")
    assert len(leaves(rig)) == 1


@pytest.mark.parametrize("what", ["old", "closing", "lost", "short", "all in"])
def test_leaves_are_added_only_where_that_is_of_use(what: str) -> None:
    rig = crowd()
    message = {"round": 1, "queue": 4}
    match what:
        case "old":
            message["round"] = 0
        case "closing":
            say_accepted(rig, "node-0", 0b1111)
        case "lost":
            rig.course.losses.lose("node-1", "silent")
        case "short":
            message["queue"] = 1
        case "all in":
            rig.round.accepted["node-0"] = 0b1111
    rig.course.crowds.comes(rig.members["node-0"], message)
    assert len(leaves(rig)) == 1


def test_where_leaves_follow_the_roster_no_queue_is_too_long() -> None:
    rig = Rig(2)
    rig.begin()
    assert last_round(rig)["crowd_at"] is None


# -- a node is lost while it is given a model ------------------------------------------------
def test_another_node_is_given_the_model_that_a_lost_one_was_to_have() -> None:
    rig = Rig(2, policy="worstfit")
    rig.fails = {"node-0"}
    rig.begin()
    assert rig.members["node-0"].is_lost
    assert rig.round.phase == "planned"
    assert "round" not in rig.heard(b"gateway of node-1")
    rig.carry_out()
    assert rig.put == [("node-0", 0), ("node-1", 0)]
    assert (rig.round.number, rig.round.phase, rig.round.of_count) == (1, "open", 4)
    assert rig.heard(b"gateway of node-1").count("round") == 1


# -- what is written down of a round that was opened again ------------------------------------
def saved_in_mid_round() -> tuple[Rig, UnderWay]:
    """Three nodes close when node-2 is lost; its client has to send again."""
    rig = Rig(3, policy="worstfit", deadlineS=100.0)
    rig.begin()
    assert rig.course.plan is not None
    assert len(rig.course.plan.used) == 3
    for name, clients in rig.round.selected.items():
        say_accepted(rig, name, clients)
    assert rig.round.phase == "closing"
    other = next(name for name in rig.course.plan.used if name != rig.round.top_node)
    rig.course.losses.lose(other, "silent")
    top = rig.members[rig.round.top_node]
    rig.course.losses.fenced(top, {
        "epoch": rig.course.epoch, "round": 1,
        "clients": rig.round.accepted[top.name].to_bytes(1, "little"),
    })  # fmt: skip
    rig.carry_out()
    assert rig.course.losses.stage == ""
    under_way = rig.saved[-1].round
    assert under_way is not None
    return rig, under_way


def test_the_next_coordinator_knows_which_nodes_are_closed() -> None:
    before, under_way = saved_in_mid_round()
    third = next(n.name for n in before.members.here if n.name != before.round.top_node)
    assert third in under_way.shut
    rig = Rig(3, policy="worstfit", deadlineS=100.0)
    rig.course.go_on(Saved(job="{}", round=under_way))
    assert (rig.round.phase, rig.round.late) == ("open", before.round.late)
    for name in (third, rig.round.top_node):
        epoch = under_way.plan.epoch - (name != third)  # the top has not heard of it yet
        say_accepted(rig, name, before.round.accepted[name], cut=True, epoch=epoch)
    assert rig.round.phase == "open", "who has to send again is waited for"


def test_the_next_coordinator_knows_the_deadline_that_a_loss_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(course, "time", clock)
    before, under_way = saved_in_mid_round()
    assert under_way.deadline_at_s is not None
    clock.now += 7.0
    rig = Rig(3, policy="worstfit", deadlineS=100.0)
    later = under_way.__class__(**{**vars(under_way), "started_at_s": 0.0})
    rig.course.go_on(Saved(job="{}", round=later))
    assert rig.course.deadline_at == before.course.deadline_at == 1100.0
