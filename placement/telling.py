"""What nodes are told of a job: their part of the plan, the round, where clients belong, the end.

    agent ◄─ plan, report, drop        gateway ◄─ job, round, redirect, elsewhere, cut, close,
                                                  fence, over, end

Owns what each node has been told of plans, so that one which has no part hears so once.  Decides
nothing: what is in a plan or a round is planning.py's, when somebody hears it course.py's, of which
this is a part, loss.py's, crowd.py's and attendance.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lifl.faults import fault
from lifl.functions.wire import Message
from lifl.placement.membership import Known
from lifl.placement.rounds import Order

if TYPE_CHECKING:
    from lifl.placement.course import Course

Send = Callable[[bytes | None, Message], None]


class Telling:
    """To the nodes of one job.

    Args:
        course: where the job is.
        send: a message to a connection of a node, if there is one.

    Attributes:
        told_epoch: of the plan that nodes have.
    """

    def __init__(self, course: Course, send: Send) -> None:
        self.course, self.send = course, send
        self.members, self.planning = course.members, course.planning
        self.told_epoch = 0
        self._idle: set[str] = set()  # nodes that have nothing of the job, and know of nothing

    # -- agents ------------------------------------------------------------------------------
    def plan(self, node: Known) -> None:
        """A node's part of the plan; one that has no part and knows it hears nothing."""
        course = self.course
        assert course.plan is not None
        self.told_epoch = course.epoch
        if node.name not in course.holding:
            if node.name in self._idle:
                return
            self._idle.add(node.name)
        else:
            self._idle.discard(node.name)
        number = course.round.number if course.round else 1
        slots = course.slots.get(node.name, course.slots_of(node.name))
        self.send(
            node.agent,
            self.planning.to_agent(
                course.plan, node.name, epoch=course.epoch, number=number, slots=slots
            ),
        )
        if node.name in course.holding and not node.ready:
            self.job(node)  # its clients prepare while it does

    def plan_again(self, node: Known) -> None:
        """An agent that came back knows of no plan, and of no round that it has not reported."""
        self._idle.discard(node.name)
        self.plan(node)
        for number in self.course.record.unreported_by(node.name):
            self.report(node, number)

    def report(self, node: Known, number: int) -> None:
        """A round is over: say what was done in it."""
        self.send(node.agent, {"t": "report", "job": self.planning.number, "round": number})

    def drop(self, node: Known) -> None:
        """Give back all that there is of the job."""
        number, name = self.planning.number, self.planning.name
        self.send(node.agent, {"t": "drop", "job": number, "name": name})

    # -- gateways: the round -----------------------------------------------------------------
    def job(self, node: Known) -> None:
        """What does not change from round to round."""
        self.send(node.gateway, self.planning.job_to_gateway())

    def round(self, node: Known) -> None:
        """The round that is under way; its message twice is harmless."""
        course = self.course
        assert course.plan is not None
        assert course.round is not None
        self.send(
            node.gateway,
            self.planning.round_to_gateway(
                course.plan, node, self.members, epoch=course.epoch, number=course.round.number,
                roster=course.roster, holder=self._holder(),
                elapsed_s=course.record.elapsed_s(course.round.number),
                excused=course.round.excused, made_in=course.made_in,
                crowd_at=course.crowds.length(node),
            ),
        )  # fmt: skip

    def _holder(self) -> Known:
        """Who has the model that the round starts from; the node itself, if it is all that has."""
        course, members = self.course, self.members
        assert course.round is not None
        if course.record.published_by is not None:
            holder = members[course.record.published_by]
            if not holder.is_lost:
                return holder
        top = members[course.round.top_node]
        begun = [each for each in (top, *members.here) if each.begun >= course.round.number]
        return begun[0] if begun else top

    def order(self, orders: list[Order]) -> None:
        """What follows for the round: no more updates, or that it is over."""
        if orders:
            fault("coordinator_all_in", "coordinator")
        for order in orders:
            self._of_round(self.members[order.node], {"t": order.verb})
        if orders:
            fault("coordinator_close_sent", "coordinator")

    def fence(self, node: Known) -> None:
        """Say what there is of the round, and take no more of nodes that are lost."""
        course = self.course
        assert course.plan is not None
        assert course.round is not None
        self.send(node.gateway, {
            "t": "fence", "job": self.planning.name, "round": course.round.number,
            "epoch": course.epoch, "open": course.round.top_node != course.plan.top_node,
            "nodes": {each.key: each.epoch for each in self.members if each.is_lost},
        })  # fmt: skip

    def over(self, node: Known) -> None:
        """The round is published: nobody needs this node's sum any more."""
        self._of_round(node, {"t": "over"})

    def end(self, node: Known) -> None:
        """The job is over: clients may leave."""
        self._of_round(node, {"t": "end"})

    def _of_round(self, node: Known, message: Message) -> None:
        assert self.course.round is not None
        number = self.course.round.number
        self.send(node.gateway, message | {"job": self.planning.name, "round": number})

    # -- gateways: where clients belong ------------------------------------------------------
    def redirect(self, node: Known) -> None:
        """Tell clients that called this node's gateway where they belong."""
        away = self.members.astray(node.name)
        if away:
            self.send(node.gateway, {"t": "redirect", "job": self.planning.name, "clients": away})

    def send_away(self, name: str, gateway: bytes | None) -> None:
        """Everybody who belongs elsewhere is sent there, whether or not this node said so."""
        away = self.members.sent_away(name, self.members.homes)
        self.send(gateway, {"t": "redirect", "job": self.planning.name, "clients": away})

    def elsewhere(self, node: Known) -> None:
        """Where this node's clients go when it is gone."""
        others = self.members.elsewhere(node.name)
        self.send(node.gateway, {
            "t": "elsewhere", "job": self.planning.name,
            "gateways": [[other.endpoint, other.key] for other in others],
            "outside": [[self.members.outside.door(other), other.key] for other in others],
        })  # fmt: skip
