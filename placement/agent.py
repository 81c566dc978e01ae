"""The agent: what a node is.

Owns the loop, and through its parts the eBPF program and its maps, the arenas, the control socket
and the pool of runtimes: node.py carries plans out, members.py has the processes, takeover.py what
an earlier agent left, accounts.py what was done, which scrape.py serves.  It maps no slot and
keeps no ledger of descriptors: whatever may have been lost ends in a poke, upon which the receiver
reads the shared words.  Started by the local engine, or as a DaemonSet's container:

    python -m lifl.placement.agent --node NAME --directory DIR --coordinator ENDPOINT ...
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import click
import zmq

from lifl.errors import LiflError
from lifl.faults import at_node, fault
from lifl.functions.kernels import choose
from lifl.functions.wire import LARGEST_TRUSTED, Keys, Line, Message, decode, encode
from lifl.placement.accounts import Accounts
from lifl.placement.hosted import saved_jobs
from lifl.placement.measure import measure
from lifl.placement.members import Members
from lifl.placement.node import Node
from lifl.placement.pool import Pool
from lifl.placement.processes import end_with_parent
from lifl.placement.scrape import Endpoint
from lifl.proxy_ebpf.open import open_router


class Agent:
    """One node's loop."""

    def __init__(
        self, *, node: str, directory: Path, coordinator: tuple[str, str], keys_path: Path,
        proxy: str, kernels: str, pins: Path | None, listen_at: str, liveness_s: float,
        arena_budget_bytes: int, metrics_port: int,
    ) -> None:  # fmt: skip
        self.kernels = choose(kernels)  # type: ignore[arg-type]
        self.router = open_router(proxy, pins)  # type: ignore[arg-type]
        self.keys = Keys.load(keys_path)
        self.pool = Pool(node, directory, [
            "--keys", str(keys_path),
            "--coordinator", coordinator[0], "--coordinator-key", coordinator[1],
        ])  # fmt: skip
        self.restarted = self.pool.adopt()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.line = Line(self.context, self.keys, *coordinator)
        self.coordinator = self.line.socket
        self.capacity: dict[str, float] = {}
        self.node = Node(
            name=node, directory=directory, router=self.router, pool=self.pool,
            kernels=self.kernels.name, budget_bytes=arena_budget_bytes, report=self._report,
        )  # fmt: skip
        self.accounts = Accounts(self.node, self.kernels.isa)
        self.endpoint = Endpoint(self.accounts.figures, self.accounts.refresh, metrics_port)
        self.node.on_forget = self.accounts.close
        self.members = Members(self.node, self.accounts, liveness_s=liveness_s, listen_at=listen_at)
        if self.restarted:
            self.node.jobs = {job.number: job for job in saved_jobs(directory)}

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        if self.pool.gateway is None:
            self.pool.start_gateway(self.members.gateway_address())
        self._hello()
        if self.restarted:
            fault("agent_restarted", "agent")
        members = self.members
        while True:
            ready = self._poll()
            if members.listener.fileno() in ready:
                members.accept()
            for fd in [fd for fd in members.connections if fd in ready]:
                members.receive(fd)
            for process in [p for p in self.pool.processes.values() if p.pidfd in ready]:
                members.died(process)
            if self.router.fileno() in ready:
                self._returned()
            if self.line.monitor in ready and self.line.came_back():
                self._hello()
            if self.coordinator in ready:
                while self.coordinator.poll(0):
                    self._obey(decode(self.coordinator.recv(), limit=LARGEST_TRUSTED))
            if ready & set(self.endpoint.fds):
                self.endpoint.answer()
            members.check()

    def _poll(self) -> set[Any]:
        poller = zmq.Poller()
        poller.register(self.coordinator, zmq.POLLIN)
        poller.register(self.line.monitor, zmq.POLLIN)
        members = self.members
        fds = [members.listener.fileno(), self.router.fileno(), *self.endpoint.fds]
        for fd in [*fds, *members.connections, *(p.pidfd for p in self.pool.processes.values())]:
            poller.register(fd, zmq.POLLIN)
        wait_s = self.accounts.overdue() or (members.ping_s if self.node.jobs else None)
        return {what for what, _ in poller.poll(None if wait_s is None else int(wait_s * 1000))}

    # -- coordinator -------------------------------------------------------------------------
    def _hello(self) -> None:
        self.capacity = self.capacity or measure(self.kernels)
        self._report({
            "t": "node", "key": self.keys.public, "proxy": self.router.name,
            "reason": self.router.reason, "kernels": self.kernels.name, "isa": self.kernels.isa,
            "capacity": self.capacity, "budget_bytes": self.node.budget_bytes,
            "metrics": self.endpoint.url,
        })  # fmt: skip

    def _report(self, message: Message) -> None:
        self.coordinator.send(encode(message | {"node": self.node.name}))

    def _obey(self, message: Message) -> None:
        match message["t"]:
            case "plan":
                self.node.carry_out(message)
            case "report":
                if message["job"] in self.node.jobs:
                    # a round is over: FLUSHes to idle lanes, which no release answers, cost nothing
                    self.router.reset_credit(message["job"])
                    self.accounts.report(self.node.jobs[message["job"]], message)
            case "drop":
                self.node.drop(message["job"])

    def _returned(self) -> None:
        """Descriptors that were not routed: only who must look is remembered."""
        for number in {returned.job for returned in self.router.returned()}:
            if number in self.node.jobs:
                self.node.poke_everybody(self.node.jobs[number])

    def close(self) -> None:
        """End every process of this node and everything in the kernel that is its own."""
        self.pool.end()
        self.router.close()
        self.endpoint.close()
        for path in [*self.node.directory.glob("job-*"), self.node.directory / "agent.sock"]:
            path.unlink(missing_ok=True)


@click.command()
@click.option("--node", required=True)
@click.option("--directory", type=click.Path(path_type=Path), required=True)
@click.option("--coordinator", required=True, help="ZeroMQ endpoint")
@click.option("--coordinator-key", required=True)
@click.option("--keys", type=click.Path(path_type=Path), required=True)
@click.option("--proxy", type=click.Choice(["auto", "ebpf", "unix"]), default="auto")
@click.option("--kernels", type=click.Choice(["auto", "native", "reference"]), default="auto")
@click.option("--pins", type=click.Path(path_type=Path), help="directory in a bpffs")
@click.option("--listen", "listen_at", default="tcp://127.0.0.1:*")
@click.option("--liveness-s", default=10.0, help="a role that does not answer is replaced")
@click.option("--arena-budget-bytes", default=0, help="shared memory of all jobs; 0: no limit")
@click.option("--metrics-port", default=0, help="of the metrics endpoint; 0: any")
def main(coordinator: str, coordinator_key: str, keys: Path, **options: Any) -> None:
    """Run the agent of one node until SIGTERM."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_with_parent()
    at_node(options["node"])

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        agent = Agent(coordinator=(coordinator, coordinator_key), keys_path=keys, **options)
    except LiflError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    try:
        agent.run()
    finally:
        agent.close()


if __name__ == "__main__":
    main()
