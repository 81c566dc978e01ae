"""Who is there: nodes and clients as they call, fall silent, are lost and come back.

    agent, gateway, client call ─► membership.py ─► what follows for the rounds: course.py
         asked now and then ─► silent for too long ─► lost ─► empty ─► back

Owns what follows when somebody comes or goes: who is let in where, who is told where others are,
and when the next round may be tried.  What is known of each is membership.py's, who answers
presence.py's, how a round goes on without a node loss.py's, the rounds are course.py's.  Called by
coordinator.py with every message that is about it, and once each turn of its loop.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from lifl.api.job import FLJob
from lifl.errors import TransientError
from lifl.events import emit
from lifl.functions.wire import Message
from lifl.placement import drains
from lifl.placement.course import RECONNECT_S, Course
from lifl.placement.enrolment import Enrolment
from lifl.placement.membership import Known, Membership
from lifl.placement.presence import Presence
from lifl.placement.telling import Send


class Attendance:
    """Nodes and clients of one job.

    Args:
        run_dir: of the run; says which nodes are to be left.
        own: names by key of the clients that the run starts itself.
        send: a message to a connection of a node, if there is one.
    """

    def __init__(
        self, job: FLJob, run_dir: Path, own: dict[str, Any], *, course: Course,
        enrolment: Enrolment, presence: Presence, send: Send,
    ) -> None:  # fmt: skip
        self.job, self.name, self.run_dir, self.own = job, job.metadata.full_name, run_dir, own
        self.course, self.enrolment, self.presence = course, enrolment, presence
        self.members, self.record, self.telling = course.members, course.record, course.telling
        self.send = send
        self.grace_s = job.spec.clients.grace_s
        course.first_needs = self._started()

    # -- nodes -------------------------------------------------------------------------------
    def agent(self, node: Known, peer: bytes, message: Message) -> None:
        """What a node's agent says of it."""
        node.agent = peer
        node.measured = message["capacity"] | {"budget_bytes": message["budget_bytes"]}
        self.record.engine(message, len(self.members.nodes))

    def gateway(self, node: Known, peer: bytes, message: Message) -> None:
        was_last = node.gateway is None
        self.enrol(node, peer, message)
        if where := self.members.gateways:
            self.record.gateways(where)
            for other in self.members.here if was_last else ():  # who had to wait for its address
                self.telling.redirect(other)
                self.course.catch_up(other)
                self.telling.elsewhere(other)
        self.course.try_to_plan()

    def enrol(self, node: Known, peer: bytes, message: Message) -> None:
        """A gateway, maybe after a restart, hears who may call it; its clients call again."""
        if node.gateway not in (None, peer):
            gone_at = time.monotonic() + self.grace_s + RECONNECT_S
            for client in list(self.members.connected):
                self.members.leaves(client, node.name, gone_at)
        if node.gateway != peer:
            node.ready = False
        node.gateway, node.endpoint = peer, message["endpoint"]
        self._tell_rights(node)

    def _tell_rights(self, node: Known) -> None:
        """Who may speak to a gateway; whom this does not name has no rights there."""
        self.send(node.gateway, {
            "t": "enrol", "keys": self.members.rights, "jobs": [self.name],
            "ports": self.members.outside.ports(node.name),
            "look": self.enrolment.looks,
        })  # fmt: skip

    # -- clients -----------------------------------------------------------------------------
    def client(self, node: Known, message: Message) -> None:
        """A client, a worker or an observer has called a gateway."""
        if message["job"] != self.name:
            return
        if message["observer"]:
            self.members.is_observed = True
            return
        key = message["key"]
        if key not in self.members.names and key not in self.members.shares:  # revoked meanwhile
            return
        self.members.comes(key, node.name)
        if self.members.homes.get(key, node.name) != node.name:
            self.telling.redirect(node)
        self.course.client_is_back(key)
        self.course.try_to_plan()

    def gone(self, node: Known, message: Message) -> None:
        """Its connection has ended; it may come back."""
        self.members.leaves(message["key"], node.name, time.monotonic() + self.grace_s)

    def let_go(self) -> None:
        """Clients that left and did not come back in time are not waited for any more."""
        for key in self.members.gone(time.monotonic()):
            name = self.members.names.get(key, key)
            emit("warning", text=f"{name} has left: its connection ended {self.grace_s:g} s ago")
            self.course.client_is_gone(key)

    def _started(self) -> int:
        """Clients that the run starts itself and that have their rights still."""
        trainer = self.job.spec.trainer
        own = [*self.own][: trainer.clients] if trainer else []
        return max(1, sum(key in self.members.names for key in own))

    # -- keys --------------------------------------------------------------------------------
    def keys_changed(self) -> None:
        """Somebody was enrolled or revoked: gateways go by it before whoever did it is answered."""
        change = self.enrolment.look()
        self.members.names = self.enrolment.names
        for node in self.members:
            self._tell_rights(node)
        for key in change.revoked:
            self.members.forget(key)
            self.course.client_is_gone(key)
        self.course.first_needs = self._started()
        self.course.try_to_plan()
        if change.enrolled or change.revoked:
            emit("keys", enrolled=[*change.enrolled.values()], revoked=[*change.revoked.values()])

    def answer_enrolment(self) -> None:
        """Once every gateway goes by the new keys: a client that is refused does not try again."""
        due, looks = self.enrolment.answer_by, self.enrolment.looks
        missing = any(node.gateway is not None and node.enrolled < looks for node in self.members)
        if due == math.inf or (missing and time.monotonic() < due):
            return
        self.enrolment.answer(
            job=self.name, run_dir=str(self.run_dir), gateways=self.members.gateways or {},
            own=len(self.own),
        )  # fmt: skip

    # -- nodes that are lost -----------------------------------------------------------------
    @property
    def next_look_at(self) -> float:
        """When to look for the lost again (monotonic seconds)."""
        return self.presence.next_at if len(self.members.nodes) > 1 else math.inf

    def look_for_the_lost(self) -> None:
        """Ask whoever is here; one that does not answer is lost, if another is there."""
        now = time.monotonic()
        if not self.ask_who_is_here(now):
            return
        see_who_drains(self.members, self.run_dir)
        for node in list(self.members):
            self._take_back(node)
        for node in self.members.here:
            was_silent, node.is_silent = node.is_silent, node.name in self.presence.quiet(now)
            if was_silent and not node.is_silent:  # whose clients may have gone elsewhere
                for other in self.members.here:
                    self.telling.redirect(other)
        for name in self.silent(now):
            if not self.members[name].is_lost:  # one that had to be given a model, meanwhile
                self.lost(name, f"silent for {self.presence.grace_s:g} s")

    def ask_who_is_here(self, now: float) -> bool:
        """Ask every node that is here, if it is time to; with one node there is no use in it."""
        here = self.members.here
        if len(self.members.nodes) == 1 or not self.presence.ask((n.name for n in here), now):
            return False
        for node in here:
            for peer in (node.agent, node.gateway):
                self.send(peer, {"t": "ask"})
        return True

    def silent(self, now: float) -> list[str]:
        """Nodes that have not answered for too long; where none does this process hears nobody."""
        silent = self.presence.silent(now)
        return silent if len(silent) < len(self.members.here) else []

    def lost(self, name: str, why: str) -> None:
        """A node is lost; without another the job ends here.

        Raises:
            TransientError: this was the last.
        """
        if [node.name for node in self.members.here] == [name]:
            raise TransientError(f"{name}: {why}", code="node-lost")
        self.course.losses.lose(name, why)
        if where := self.members.gateways:  # clients may have been waiting for this node's
            self.record.gateways(where)

    # -- ... and come back -------------------------------------------------------------------
    def comes_back(self, node: Known, peer: bytes, message: Message) -> None:
        """A node that was lost begins anew: what it has of the job goes first."""
        match message["t"]:
            case "node":
                self.agent(node, peer, message)
                self.begins_anew(node, peer)
            case "gateway":
                node.gateway, node.endpoint = peer, message["endpoint"]
                self._tell_rights(node)
                self.telling.send_away(node.name, peer)
            case "dropped":
                node.is_empty = True
            case "client":  # who called where it always did, and belongs elsewhere
                self.client(node, message)
            case "gone":
                self.gone(node, message)
        self._take_back(node)

    def begins_anew(self, node: Known, peer: bytes) -> None:
        node.agent, node.is_empty = peer, False
        self.telling.drop(node)

    def _take_back(self, node: Known) -> None:
        """It has nothing any more, and the round that lost it is settled: a node like others."""
        if not node.is_lost or self.course.losses.stage:
            return
        if node.is_empty and node.agent and node.gateway:
            self.members.returns(node.name)
            self.presence.heard(node.name, "agent")
            emit("node_back", node=node.name)
            for other in self.members.here:
                self.telling.elsewhere(other)
            self.course.try_to_plan()


def see_who_drains(members: Membership, run_dir: Path) -> None:
    """Nodes that are to be left: from the next round on nobody is there."""
    draining = drains.read(run_dir)
    for node in members:
        if node.is_draining != (node.name in draining):
            node.is_draining = not node.is_draining
            emit("draining" if node.is_draining else "uncordoned", node=node.name)
