"""The gateway: the only process that parses bytes from outside.

    client ──ROUTER──► check ─► input slot ─► descriptor ─► leaf
    client ◄─ chunks of the model ◄─ slot ◄─ descriptor ◄─ top

Owns the loop, and what follows when a role has sealed or released something.  What clients ask is
in clients.py, what coordinators order in orders.py and what they hear in reports.py, errands to
other gateways are in errands.py; what the agent gives is in lanes.py, the steps on shared words in
intake.py, the checks in jobs.py; the tree is the coordinator's.  Started by the agent:

    python -m lifl.functions.gateway --socket PATH --node NAME --listen tcp://... --keys FILE
        --coordinator ENDPOINT --coordinator-key KEY

or as a container of its own, which has its keys and its jobs' coordinators from the agent:

    LIFL_TOKEN=FILE python -m lifl.functions.gateway --socket PATH --node NAME --listen tcp://...
"""

from __future__ import annotations

import logging
import math
import resource
import sys
from pathlib import Path
from typing import Any

import click
import zmq

from lifl.errors import LiflError
from lifl.faults import at_node
from lifl.functions.clients import Clients
from lifl.functions.ending import HOPELESS, end_on_sigterm
from lifl.functions.errands import Errands
from lifl.functions.jobs import Job
from lifl.functions.lanes import Lanes, keys_of_node
from lifl.functions.lines import EVERYTHING, Lines
from lifl.functions.orders import Orders
from lifl.functions.polling import Sources
from lifl.functions.reports import TELL_S, Reports
from lifl.functions.wire import (
    Doorkeeper,
    Keys,
    Message,
    bind,
    bound_endpoint,
    host_of,
    server,
)
from lifl.shm.slots import Payload

RECONNECT_S = 0.02
UNREAD = 128  # messages for one client that does not read


class Gateway:
    """The process: its sockets, its jobs, one loop."""

    def __init__(
        self, socket_path: Path, node: str, listen: str, keys: Keys,
        coordinator: tuple[str, str] | None, bulk_port: int = 0,
    ) -> None:  # fmt: skip
        self.node, self.keys = node, keys
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.context.max_sockets = 4096
        self.door = Doorkeeper(self.context)
        self.router = server(self.context, keys, unread=UNREAD)
        bind(self.router, listen)
        self.endpoint = bound_endpoint(self.router)
        self.lines = Lines(self.context, keys, node)
        if coordinator is not None:
            self.lines.lead_to({EVERYTHING: coordinator})
        self.jobs: dict[str, Job] = {}
        self.clients = Clients(
            self.router, node, self.jobs, host=host_of(self.endpoint), bulk_port=bulk_port,
            keys=keys, report=self.lines.send, serve=self._serve,
        )  # fmt: skip
        self.agent = Lanes(
            socket_path, self.endpoint, keys.public, self.jobs, self._ready,
            self._forgotten,
        )  # fmt: skip
        self.errands = Errands(self.context, keys, self.jobs)
        self.reports = Reports(
            self.endpoint, keys.public, lines=self.lines, jobs=self.jobs, clients=self.clients,
            agent=self.agent,
        )  # fmt: skip
        self.orders = Orders(
            self.jobs, lines=self.lines, door=self.door, clients=self.clients,
            errands=self.errands, reports=self.reports, serve=self._serve,
        )  # fmt: skip
        self.agent.figures = self._figures
        self.agent.coordinators = self.orders.coordinators
        self._sources = Sources()

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        self.agent.connect()
        self.reports.hello()
        while True:
            self._turn()

    def _turn(self) -> None:
        """Once round the loop; what it names goes with it, so that a job's memory can go, too."""
        ready = self._poll()
        if self.agent.control and self.agent.control.fileno() in ready:
            self.agent.receive()
        if self.door.socket in ready:
            self.door.answer()
        for name in self.lines.came_back(ready):
            self.reports.everything(name)
        for name, message in self.lines.received(ready):
            self.orders.obey(name, message)
        for key in [k for k, at in self.agent.lanes.items() if at.fileno() in ready]:
            self.agent.drain(key)
            self._serve(self.jobs[key[0]])
        self.errands.turn(ready)
        if self.clients.bulk.is_due or self.clients.bulk.fileno() in ready:
            self.clients.bulk.turn()
        if self.router in ready:
            self.clients.receive()
        if self.clients.monitor in ready:
            self.clients.disconnected()
        self.clients.expire()
        for job in self.jobs.values():
            self.reports.progress(job)
            self.agent.withhold(job)
            job.note_queue()
            self.reports.crowd(job)
        if self.agent.control is None:
            self.agent.connect()

    def _poll(self) -> set[Any]:
        clients = self.clients
        wanted: list[Any] = [*self.lines.sockets, clients.monitor, clients.bulk.fileno()]
        if clients.rights.jobs:  # who calls before the keys are here waits, and is not turned away
            wanted += [self.door.socket, self.router]
        wanted += self.errands.sources
        wanted += [at.fileno() for at in self.agent.lanes.values()]
        wait_s = clients.wait_s()
        if self.errands.is_busy:
            wait_s = min(wait_s, 1.0)
        if any(job.dirty for job in self.jobs.values()):
            wait_s = min(wait_s, TELL_S)
        if self.agent.control:
            wanted.append(self.agent.control.fileno())
        else:
            wait_s = min(wait_s, RECONNECT_S)
        if clients.bulk.is_due:
            wait_s = 0.0
        timeout_ms = None if wait_s == math.inf else math.ceil(wait_s * 1000)
        return self._sources.ready(wanted, timeout_ms)

    def _ready(self, job: Job) -> None:
        """Memory and lanes of a job are here; say so, and do what was asked for meanwhile."""
        self.clients.adopt(job)
        self.reports.ready(job)
        self.orders.catch_up(job)
        self._serve(job)

    def _forgotten(self, job: Job) -> None:
        """A job's memory goes, and with it what is under way to other gateways."""
        self.clients.forget(job)
        self.errands.forget(job)

    def _figures(self) -> Message:
        """For the node's metrics; keys that the door refused never reach `clients`."""
        figures = self.clients.figures()
        if self.door.refused:
            figures["rejected"]["unknown-key"], self.door.refused = self.door.refused, 0
        return figures

    # -- shared memory -----------------------------------------------------------------------
    def _serve(self, job: Job) -> None:
        """A role has sealed or released something: publish, forward, hand out free slots."""
        if not job.intake.ports:
            return
        for slot, header in job.intake.sealed():
            if header.payload is Payload.MODEL:
                job.intake.publish(slot, header)
                news = {"t": "published", "job": job.name, "round": header.round}
                self.lines.send(news)
                for peer in job.observers.values():
                    self.clients.send(peer, news)
            elif job.forward:
                self.errands.forward(job, slot, header)
            elif job.top and job.round == header.round:
                job.intake.hand_over(slot, header, job.top)
        waited = len(job.waiting)
        while job.waiting:
            asking = next(iter(job.waiting.values()))
            if not self.clients.uploads.admit(job, asking):
                break
            self.clients.uploads.leaves_queue(job, asking)
        if 0 < len(job.waiting) < waited:  # the slots are taken again
            job.intake.nudge()


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
@click.option("--listen", required=True)
@click.option("--bulk-port", default=0, help="for models and updates; 0: any")
@click.option("--keys", type=click.Path(path_type=Path), help="the agent's, unless given")
@click.option("--coordinator", default="")
@click.option("--coordinator-key", default="")
def main(
    socket_path: Path, node: str, listen: str, bulk_port: int, keys: Path | None,
    coordinator: str, coordinator_key: str,
) -> None:  # fmt: skip
    """Run the gateway of one node until its agent's directory, or its run, is gone."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_on_sigterm()
    at_node(node)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two descriptors a client
    try:
        where = (coordinator, coordinator_key) if coordinator else None
        own = Keys.load(keys) if keys else keys_of_node(socket_path)
        gateway = Gateway(socket_path, node, listen, own, where, bulk_port)
    except LiflError as error:
        print(f"gateway of {node}: {error}", file=sys.stderr)
        sys.exit(HOPELESS)
    gateway.run()


if __name__ == "__main__":
    main()
