"""A node is lost: the round goes on without it, every update exactly once.

    lost ─► saved ─► the top's gateway is asked what it has (`fence`) ─► `fenced`
         ─► plan without the node ─► saved ─► agents ─► planned ─► saved ─► gateways hear the round

Owns what follows from a loss, step by step as in docs/crash-protocol.md, and what a coordinator
that comes back in the middle of it does again.  Who is silent for too long is presence.py's, rounds
are course.py's, which this is a part of.

What counts is decided at one place, the gateway of the top's node: clients of the lost node that
are in its accepted set are done, and all others send again, elsewhere.  Where the top itself is
lost, another node that took part has it from then on.  Its own sum and those of the others are
still there, since a sum is kept until its round is over; what only the lost node had is sent again.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from lifl.events import emit
from lifl.faults import fault
from lifl.functions.wire import Message, clients_of
from lifl.placement.membership import Known
from lifl.placement.planning import selected, settled
from lifl.placement.tree import place_top

if TYPE_CHECKING:
    from lifl.placement.course import Course

CALL_S: Final = 30.0  # that clients of a lost node have to call elsewhere, beside their grace


Stage = Literal["", "gather", "fence", "move"]


class Losses:
    """Nodes that are lost in the course of a job.

    Attributes:
        stage: of a round under way: "gather": until the gateways of the nodes that are left are
            heard; "fence": until the top's has answered; "move": until everybody carries out the
            new plan; "": nothing is to be settled.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.stage: Stage = ""
        self._again = 0  # clients that have to send again
        self._is_resumed = False  # ... as far as this coordinator knows
        self._left: dict[str, bytes] = {}  # lost node -> its gateway, which may still have clients

    # -- what happens ------------------------------------------------------------------------
    def lose(self, name: str, why: str) -> None:
        """A node is silent for too long, or has lost its memory."""
        course, members = self.course, self.course.members
        course.epoch += 1
        course.crowds.forget()
        gone_at = time.monotonic() + course.job.spec.clients.grace_s + CALL_S
        if (gateway := members[name].gateway) is not None:
            self._left[name] = gateway
        members.lose(name, course.epoch, gone_at)
        course.holding.discard(name)
        number = course.round.number if course.round else 0
        emit("node_lost", node=name, epoch=course.epoch, round=number, why=why)
        emit("warning", text=f"{name} is lost ({why}): the job goes on without it")
        course.record.lost(name)
        for node in members.here:
            course.telling.elsewhere(node)
        self._go_on_without(name)

    def _go_on_without(self, name: str) -> None:
        course, round_ = self.course, self.course.round
        if round_ is None or course.plan is None:
            course.try_to_plan()
        elif course.done_at is not None:
            course.needs_model_of(round_.number)
        elif round_.phase in ("planned", "published"):
            course.needs_model_of(round_.number - (round_.phase == "planned"))
            if round_.phase == "planned":
                course.plan_again()
            else:
                course.try_to_plan()
        elif name not in course.plan.used or (round_.may_go_on and name != round_.top_node):
            course.save()
            if self.stage == "fence":  # with an older epoch
                self._ask()
            elif self.stage == "move":
                self._tell_plan()
            course.published_if_so()
        else:
            round_.on_lost(name)
            self.stage = "gather"
            course.save()
            fault("coordinator_loss_saved", "coordinator")
            self.advance()

    def go_on(self) -> None:
        """A coordinator came back in the middle of a loss: it begins again where the last did."""
        assert self.course.round is not None
        assert self.course.plan is not None
        self.course.round.is_held = True
        self._is_resumed = True
        is_lost = any(self.course.members[name].is_lost for name in self.course.plan.used)
        self.stage = "gather" if is_lost else "move"

    def advance(self) -> None:
        """Somebody was heard: go on if that is all that was waited for."""
        if self.stage == "gather":
            self._begin()
        elif self.stage == "move":
            self._go_on()

    # -- what the top's node has -------------------------------------------------------------
    def _begin(self) -> None:
        course, round_ = self.course, self.course.round
        assert round_ is not None
        assert course.plan is not None
        left = [course.members[name] for name in course.plan.used]
        if any(not node.ready for node in left if not node.is_lost):
            return
        if not course.members.is_whole:
            return
        top = course.members[round_.top_node]
        if not top.is_lost and top.model >= round_.number:  # while no coordinator was there
            self.stage, round_.is_held = "", False
            course.published_if_so()
            return
        if top.is_lost:
            round_.top_node = self._new_top()
        if self._has_begun(course.members[round_.top_node]):
            self.stage = "fence"
            self._ask()
        else:
            self._plan(0)

    def _has_begun(self, node: Known) -> bool:
        round_ = self.course.round
        assert round_ is not None
        return not node.is_lost and node.begun >= round_.number

    def _new_top(self) -> str:
        """Of the nodes that took part the one with most clients; else any."""
        course = self.course
        assert course.plan is not None
        parts = {
            node.name: course.plan.nodes[node.name].clients
            for node in course.members.here
            if node.name in course.plan.used and self._has_begun(node)
        }
        return place_top(parts, stay=None) or course.members.here[0].name

    def _ask(self) -> None:
        """What has the top's node, and no more of those that are lost."""
        course, round_ = self.course, self.course.round
        assert round_ is not None
        assert course.plan is not None
        course.telling.fence(course.members[round_.top_node])

    def is_back(self, node: Known) -> None:
        """A gateway that was started again may have missed the question."""
        if self.stage == "fence" and self.course.round and node.name == self.course.round.top_node:
            self._ask()
        self.advance()

    def fenced(self, node: Known, message: Message) -> None:
        """The top's gateway has answered; it may say it twice."""
        course, round_ = self.course, self.course.round
        if round_ is None or self.stage != "fence" or node.name != round_.top_node:
            return
        if message["epoch"] == course.epoch and message["round"] == round_.number:
            fault("coordinator_fenced", "coordinator")
            have = clients_of(message["clients"])
            round_.accepted[node.name] = round_.accepted.get(node.name, 0) | have
            self._plan(have)

    # -- the round without them --------------------------------------------------------------
    def _plan(self, have: int) -> None:
        """Whoever can stay stays; `have` are the clients whose updates the top's node has."""
        course, round_ = self.course, self.course.round
        assert round_ is not None
        assert course.plan is not None
        members, before = course.members, course.plan
        homes = before.homes()
        bit = {key: 1 << at for at, key in enumerate(course.roster)}
        lost = [key for key, home in homes.items() if members[home].is_lost]
        done = [key for key in lost if bit[key] & have]
        self._again |= sum(bit[key] for key in lost if not bit[key] & have)
        takers = round_.takers(node.name for node in members.here)
        course.epoch += 1
        plan = course.planning.plan(
            members, [key for key in course.roster if key not in set(done)],
            previous=replace(before, top_node=round_.top_node), epoch=course.epoch, takers=takers,
        )  # fmt: skip
        course.plan = settled(plan, done)
        homes = course.plan.homes()
        members.homes |= {k: homes[k] for k in homes if members.connected.get(k) != ""}
        course.holding |= set(course.plan.used)
        course.slots = course.slots_now()  # also of a node that other jobs had to themselves
        self.stage = "move"
        course.save()
        fault("coordinator_moved", "coordinator")
        self._tell_plan()
        self._go_on()

    def _tell_plan(self) -> None:
        for node in self.course.members.here:
            self.course.telling.plan(node)

    def _go_on(self) -> None:
        """Once every node of the plan carries it out the round goes on."""
        course, round_ = self.course, self.course.round
        assert round_ is not None
        assert course.plan is not None
        used = [course.members[name] for name in course.plan.used]
        if any(not node.ready or node.planned != course.epoch for node in used):
            return
        top, is_gone = course.members[round_.top_node], not any(
            map(self._has_begun, course.members.here)
        )
        if is_gone and not course.bring_model(top, round_.number - 1):
            return
        self.stage = ""
        again, was_overdue = self._again, round_.overdue
        moved = selected(course.plan, course.roster)
        maybe = again or -1 if self._is_resumed else again
        orders = round_.on_moved(moved, round_.top_node, again=maybe)
        self._again, self._is_resumed = 0, False
        if was_overdue and not round_.overdue:
            course.new_deadline()
        course.save()
        fault("coordinator_settled", "coordinator")
        here = round_.excused | round_.accepted.get(round_.top_node, 0)
        course.record.moved(
            round_, course.plan, course.epoch, again=again.bit_count(),
            answered={key for bit, key in enumerate(course.roster) if here >> bit & 1},
        )  # fmt: skip
        for node in used:
            course.telling.round(node)
        course.telling.order(orders)
        for node in course.members:
            course.telling.redirect(node)
        self._send_away()

    def _send_away(self) -> None:
        """A node that is lost may have a gateway that still works: its clients belong elsewhere."""
        course = self.course
        for name, gateway in self._left.items():
            if course.members[name].is_lost:
                course.telling.send_away(name, gateway)
        self._left.clear()
