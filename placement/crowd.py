"""A flash crowd in mid-round: a node whose queue is much longer than its leaves were planned for.

    round, with a length ─► gateway ─► `crowd`: so long ─► plan with more leaves ─► saved ─► agents
         ─► planned ─► the gateway hears the round again, with the lanes as they are now

Owns when leaves are added and what follows, with `scaling.leaves: queue`; where leaves follow the
roster there are enough for everybody from the start.  Only that node's tree grows, by routes and
pokes: no role leaves it, what is sealed keeps its consumer, and clients whose update is accepted
keep their leaf.  Which is why nothing can be lost or count twice: what is not sealed yet is for
whichever leaf the seal says (docs/crash-protocol.md).  Part of course.py.

No leaves are added while a node is lost, however long ago that was.  Clients that come in mid-round
are no matter of this: they take part from the next round on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lifl.functions.wire import Message
from lifl.placement.membership import Known
from lifl.placement.planner import grown

if TYPE_CHECKING:
    from lifl.placement.course import Course

TIMES: Final = 2  # as many leaves needed as there are, before some are added


class Crowds:
    """Leaves that are added in the course of a round."""

    def __init__(self, course: Course) -> None:
        self.course = course
        self._waits: set[str] = set()  # nodes whose gateways still have to hear of new lanes

    def forget(self) -> None:
        """Another round, or a loss, after which everybody hears everything."""
        self._waits.clear()

    def length(self, node: Known) -> int | None:
        """The queue of a node that its gateway is to report; None: none is too long."""
        course = self.course
        if course.job.spec.scaling.leaves != "queue":
            return None
        now, planning = self._leaves(node.name), course.planning
        if planning.leaves_for_queue(node, 1 << 30, self._clients(node.name)) < TIMES * now:
            return None
        return planning.least_fan_in * (TIMES * now - 1) + 1

    def comes(self, node: Known, message: Message) -> None:
        """A gateway says how long its queue is."""
        course, round_, name = self.course, self.course.round, node.name
        if round_ is None or course.plan is None or message["round"] != round_.number:
            return
        if round_.phase != "open" or round_.is_held or name not in course.plan.used:
            return
        if any(other.is_lost for other in course.members):
            return
        leaves = course.planning.leaves_for_queue(node, message["queue"], self._clients(name))
        answered = round_.accepted.get(name, 0) | round_.excused
        index = {key: bit for bit, key in enumerate(course.roster)}
        movable = {
            key for key in course.plan.nodes[name].clients if not answered >> index[key] & 1
        }  # fmt: skip
        if leaves <= self._leaves(name) or not movable:
            return
        course.plan = grown(course.plan, name, leaves=leaves, movable=movable)
        course.epoch += 1
        self._waits.add(name)
        course.save()
        course.record.grown(round_, course.plan, course.epoch, node=name)
        for other in course.members.here:  # the others learn the epoch
            course.telling.plan(other)

    def is_planned(self, node: Known) -> None:
        """The leaves are there."""
        if node.name in self._waits and self.course.round and self.course.round.phase == "open":
            self._waits.discard(node.name)
            self.course.telling.round(node)

    def _leaves(self, name: str) -> int:
        assert self.course.plan is not None
        return sum(role.kind == "leaf" for role in self.course.plan.nodes[name].roles)

    def _clients(self, name: str) -> int:
        assert self.course.plan is not None
        return len(self.course.plan.nodes[name].clients)
