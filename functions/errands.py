"""A gateway's errands to other gateways: the model that a round starts from, its node's sums.

    round ─► the model is on another node ─► get ─► here        leaf or middle ─► sum ─► put ─► top

Owns which other gateways there is a connection to, and for how long.  One connection and what is
under way on it is peers.py's; that a model is needed is said by orders.py, that a sum is ready by
gateway.py, whose loop turns this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import zmq

from lifl.faults import fault
from lifl.functions.jobs import Forward, Job
from lifl.functions.peers import Peer, Transfer
from lifl.functions.transfer import Download, Upload, Whole
from lifl.functions.wire import Keys, Message, bits
from lifl.shm.slots import Header

log = logging.getLogger("lifl.gateway")


class Errands:
    """Connections to other gateways, by endpoint and key.

    Args:
        jobs: the gateway's jobs by name.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys, jobs: dict[str, Job]
    ) -> None:
        self._context, self._keys, self._jobs = context, keys, jobs
        self.peers: dict[Forward, Peer] = {}

    # -- loop --------------------------------------------------------------------------------
    @property
    def sources(self) -> list[Any]:
        """To be polled."""
        return [
            each for peer in self.peers.values() for each in (peer.socket, peer.outlets.fileno())
        ]  # fmt: skip

    @property
    def is_busy(self) -> bool:
        """Something is under way, and may have to be asked for again."""
        return any(peer.is_busy for peer in self.peers.values())

    def turn(self, ready: set[Any]) -> None:
        """Handle what is ready."""
        for peer in list(self.peers.values()):
            if peer.socket in ready:
                peer.receive()
            if peer.outlets.fileno() in ready:
                peer.outlets.turn()
            peer.tick()

    # -- what is to be moved -----------------------------------------------------------------
    def fetch_model(self, job: Job, then: Callable[[Job], None]) -> None:
        """Bring the model of the last round here, from the gateway where the top was.

        Args:
            then: called with the job when it is here.
        """
        if job.model_from is None or job.fetching == job.model_from or job.layout is None:
            return
        if job.fetching in self.peers:  # which is lost
            self.peers[job.fetching].forget(job.name)
        length = job.settings["model_bytes"]
        wanted = job.round - 1
        job.fetching = job.model_from

        def done() -> None:
            job.intake.finish_model(wanted, length)
            job.fetching = None
            then(job)

        def refused(_: Message) -> None:
            job.fetching = None  # asked for again when the coordinator says the round again

        work = Download(job.name, wanted, job.intake.begin_model(length))
        self.peer(job.model_from).start(job.name, Transfer(work, done, refused))

    def forward(self, job: Job, slot: int, header: Header) -> None:
        """Send this node's sum to the node of the top.

        It stays here until the round is over: the top's node may be lost, and then another needs
        it.
        """
        assert job.forward is not None
        state = job.intake.arena.state(slot)
        if (slot, state.generation) in job.forwarding:
            return
        job.forwarding.add((slot, state.generation))

        def done() -> None:
            fault("gateway_forwarded", "gateway")

        def refused(message: Message) -> None:
            log.warning("the sum of round %d was refused: %s", header.round, message.get("text"))

        put = {
            "t": "put", "kind": "sum", "job": job.name, "round": header.round,
            "epoch": job.epoch, "weight": header.weight, "clients": bits(header.clients),
            "lane": job.settings["lane"],
        }  # fmt: skip
        work = Upload(put, Whole(job.intake.arena.payload(slot, header.length)))
        self.peer(job.forward).start(job.name, Transfer(work, done, refused))

    # -- whom it has to do with --------------------------------------------------------------
    def peer(self, where: Forward) -> Peer:
        """The connection to a gateway, which is made if there is none."""
        if where not in self.peers:
            self.peers[where] = Peer(self._context, self._keys, *where)
        return self.peers[where]

    def top_is_elsewhere(self, job: Job, before: Forward | None) -> None:
        """What was on its way to the node where the top was is not wanted there any more."""
        if before != job.forward and before in self.peers:
            self.peers[before].forget(job.name)
        self._close_unneeded()

    def forget(self, job: Job) -> None:
        """A job's memory goes, and with it what is under way to other gateways."""
        for peer in self.peers.values():
            peer.forget(job.name)
        self._close_unneeded(but=job)

    def _close_unneeded(self, but: Job | None = None) -> None:
        """Let go of gateways that no job, `but` this one, has to do with."""
        jobs = [job for job in self._jobs.values() if job is not but]
        wanted = {at for job in jobs for at in (job.forward, job.model_from, job.fetching)}
        for where in self.peers.keys() - wanted:
            self.peers.pop(where).close()
