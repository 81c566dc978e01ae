"""The rounds of a job as a state machine: what the coordinator does when something is reported.

Owns one round's progress: who was accepted where, what is closed, what is missing.  No I/O, no
clock: events in, orders out.  Called by course.py and loss.py.

    planned ─► start ─► accepted … ─► all in, or deadline ─► close other nodes, cut the top's
          ─► their closed sets arrived at the top ─► close the top's node ─► published
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Verb = Literal["cut", "close"]


@dataclass(frozen=True)
class Order:
    """Tell the gateway of `node` to do `verb`."""

    node: str
    verb: Verb


@dataclass
class Round:
    """One round under way.

    Args:
        number: 1 and up.
        selected: clients of each node that takes part, as sets of roster bits.
        top_node: the node whose gateway closes last.
        minimum: fewest updates with which the round may close before all are in.
        enough: updates with which it closes though others were drawn, too; None: it waits for all.
    """

    number: int
    selected: dict[str, int]
    top_node: str
    minimum: int = 1
    enough: int | None = None
    accepted: dict[str, int] = field(default_factory=dict)  # at each gateway, as it last said
    excused: int = 0  # clients that take part without an update
    closed: dict[str, int] = field(default_factory=dict)  # final sets of the other nodes
    phase: Literal["planned", "open", "closing", "closed", "published"] = "open"
    overdue: bool = False
    is_decided: bool = False  # by a coordinator before this one: some gateway takes no more
    gone: int = 0  # clients that left: not waited for, though their update may still count
    shut: set[str] = field(default_factory=set)  # told to close before a loss opened it again
    is_held: bool = False  # a node is lost, and it is not settled yet what of it counts

    @property
    def in_count(self) -> int:
        """Updates that some node has accepted."""
        union = 0
        for clients in self.accepted.values():
            union |= clients
        return union.bit_count()

    @property
    def of_count(self) -> int:
        return sum(clients.bit_count() for clients in self.selected.values())

    @property
    def missing(self) -> int:
        """Clients that take part and have not answered."""
        missing = 0
        for node, clients in self.selected.items():
            missing |= clients & ~self.accepted.get(node, 0) & ~self.excused
        return missing

    @property
    def late(self) -> int:
        """Clients of nodes that stay closed though the round was opened again; the top's opens."""
        late = 0
        for node in self.shut - {self.top_node}:
            late |= self.selected.get(node, 0)
        return late

    def on_accepted(self, node: str, clients: int, excused: int = 0) -> list[Order]:
        """A gateway reports all that it has accepted so far, and who sends nothing."""
        self.excused |= excused
        self.accepted[node] = self.accepted.get(node, 0) | clients
        return self._next()

    def on_closed(self, node: str, clients: int) -> list[Order]:
        """Another node's gateway is closed: this set is what its sum will hold."""
        if node != self.top_node:
            self.closed[node] = clients
            self.accepted[node] = clients
        return self._next()

    def on_cut(self, node: str) -> None:
        """A gateway says that it takes no more updates, which it was told to: the round is over.

        Unless it was told so before a loss opened the round again, and stays closed: as it says
        while that loss is being settled, to a coordinator that came back.
        """
        if self.is_held:
            self.shut.add(node)
        else:
            self.is_decided |= node == self.top_node or node not in self.shut

    def on_gone(self, clients: int) -> list[Order]:
        """Clients have left and did not come back in time."""
        self.gone |= clients
        return self._next()

    def on_back(self, clients: int) -> None:
        """Clients are here again; the round waits for them if it is still open."""
        self.gone &= ~clients

    def on_deadline(self) -> list[Order]:
        self.overdue = True
        return self._next()

    # -- a node is lost --------------------------------------------------------------------
    @property
    def may_go_on(self) -> bool:
        """What other nodes had is in: a node that is lost now takes nothing along.

        Not while another loss is being settled: this node may be in the plan that waits for it.
        """
        return self.phase in ("closed", "published") and not self.is_held

    def takers(self, here: Iterable[str]) -> set[str]:
        """Of the nodes here those that take updates: of those that were closed the top's alone."""
        return {node for node in here if node == self.top_node or node not in self.shut}

    def on_lost(self, node: str) -> None:
        """Nothing is decided until it is known what of the lost node has arrived at the top.

        A round that was closing is open from here on: what was told to close is `shut`, which is
        all that a coordinator after this one has to know of it.
        """
        self.is_held = True
        self.closed.pop(node, None)
        if self.phase in ("closing", "closed"):
            self.phase = "open"
            self.shut |= self.selected.keys()

    def on_moved(self, selected: dict[str, int], top_node: str, *, again: int) -> list[Order]:
        """The round goes on with other nodes: who is where, and who has to send `again`.

        What a lost node said of its updates counts no more; what arrived from it is the top's.
        A deadline that has passed, or enough updates, decide again once those are back.
        """
        lost = self.selected.keys() - selected.keys()
        self.selected, self.top_node = selected, top_node
        for node in lost:
            self.accepted.pop(node, None)
            self.closed.pop(node, None)
        self.closed.pop(top_node, None)
        self.is_held = self.is_decided = False
        if again & ~self.excused:
            self.overdue = False
        return self._next()

    def on_published(self) -> None:
        self.phase = "published"

    def orders_for(self, node: str) -> list[Order]:
        """What a gateway that came back must hear again."""
        if self.is_held or self.phase in ("planned", "open", "published"):
            return []
        if node != self.top_node:
            return [Order(node, "close")]
        return [Order(node, "close" if self.phase == "closed" else "cut")]

    def _next(self) -> list[Order]:
        orders: list[Order] = []
        if self.is_held:
            return orders
        others = [node for node in self.selected if node != self.top_node]
        if self.phase == "open" and self._is_over():
            self.phase = "closing"
            orders += [Order(node, "close") for node in others]
            if others:
                orders.append(Order(self.top_node, "cut"))
        if self.phase == "closing" and all(node in self.closed for node in others):
            due = 0
            for clients in self.closed.values():
                due |= clients
            if due & ~self.accepted.get(self.top_node, 0) == 0 and self._something_is_in():
                self.phase = "closed"
                orders.append(Order(self.top_node, "close"))
        return orders

    def _is_over(self) -> bool:
        waited_for = self.missing & ~self.gone & ~self.late
        if self.enough is not None and self.in_count >= max(self.enough, self.minimum):
            waited_for = 0
        return self.is_decided or (
            (not waited_for or self.overdue) and self.in_count >= self.minimum
        )

    @property
    def is_starved(self) -> bool:
        """Everybody has answered, and too few with an update."""
        return not self.missing and self.in_count < self.minimum

    def _something_is_in(self) -> bool:
        return self.accepted.get(self.top_node, 0) != 0
