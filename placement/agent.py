"""The agent: what a node is.

Owns the loop, and through its parts the eBPF program and its maps, the arenas, the control socket
and the pool of runtimes: node.py carries plans out, members.py has the processes, takeover.py what
an earlier agent left, accounts.py what was done, which scrape.py serves.  It maps no slot and
keeps no ledger of descriptors: whatever may have been lost ends in a poke, upon which the receiver
reads the shared words.  Started by the local engine:

    python -m lifl.placement.agent --node NAME --directory DIR --coordinator ENDPOINT ...

or as a DaemonSet's container, where the operator says which jobs there are, each with a coordinator
of its own, and all processes are in pods of their own:

    python -m lifl.placement.agent --node NAME --directory DIR --operator ENDPOINT --guests ...
"""

from __future__ import annotations

import logging
import math
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click
import zmq

from lifl.errors import LiflError
from lifl.faults import at_node, fault
from lifl.functions.kernels import choose
from lifl.functions.lines import EVERYTHING, Lines
from lifl.functions.polling import Sources
from lifl.functions.wire import Keys, Message
from lifl.placement.accounts import Accounts
from lifl.placement.cluster.api import Api
from lifl.placement.cluster.steward import Steward, led_by
from lifl.placement.cluster.tokens import Doorman, Rule
from lifl.placement.guests import Guests
from lifl.placement.hosted import saved_jobs
from lifl.placement.measure import measure
from lifl.placement.members import Members
from lifl.placement.netns import enter
from lifl.placement.node import Node
from lifl.placement.notice import Notice
from lifl.placement.pool import Pool
from lifl.placement.processes import end_with_parent
from lifl.placement.scrape import Endpoint, listen
from lifl.proxy_ebpf.descriptor import Kind
from lifl.proxy_ebpf.open import open_router

log = logging.getLogger("lifl.agent")


class Agent:
    """One node's loop."""

    def __init__(
        self, *, node: str, pool: Pool, keys: Keys, coordinator: tuple[str, str] | None,
        proxy: str, kernels: str, pins: Path | None, listen_at: str, liveness_s: float,
        arena_budget_bytes: int, metrics: socket.socket, link_bytes_s: int = 0,
        doorman: Doorman | None = None, operator: tuple[str, str] | None = None,
        notice: Notice | None = None,
    ) -> None:  # fmt: skip
        self.kernels = choose(kernels)  # type: ignore[arg-type]
        self.router = open_router(proxy, pins)  # type: ignore[arg-type]
        self.keys, self.pool = keys, pool
        self.restarted = self.pool.adopt()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.lines = Lines(self.context, self.keys, node)
        if coordinator is not None:
            self.lines.lead_to({EVERYTHING: coordinator})
        self.link_bytes_s = link_bytes_s or math.inf
        self.capacity: dict[str, float] = {}
        self.idle_in_s: float | None = None
        self.sources = Sources()
        directory = pool.directory
        self.node = Node(
            name=node, directory=directory, router=self.router, pool=self.pool,
            kernels=self.kernels.name, budget_bytes=arena_budget_bytes, report=self.lines.send,
        )  # fmt: skip
        self.accounts = Accounts(self.node, self.kernels.isa)
        self.endpoint = Endpoint(self.accounts.figures, self.accounts.refresh, metrics)
        self.node.on_forget = self.accounts.close
        self.node.on_count, self.node.on_assign = self.accounts.counts, self.accounts.assigned
        self.members = Members(
            self.node, self.accounts, liveness_s=liveness_s, listen_at=listen_at,
            doorman=doorman, keys=keys,
        )  # fmt: skip
        self.steward = (
            Steward(self.context, keys, operator, self.node, self.members, self.lines)
            if operator is not None else None
        )  # fmt: skip
        self.notice = notice
        self.node.jobs = {job.number: job for job in saved_jobs(directory)}

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        if self.notice is not None:
            led_by(self.notice.jobs(), self.node, self.members, self.lines)
        if self.pool.gateway is None:
            self.pool.start_gateway(self.members.gateway_address())
        self.pool.start_zygote()
        self._hello()
        if self.restarted:
            fault("agent_restarted", "agent")
        members = self.members
        while True:
            ready = self._poll()
            members.turn(ready)
            if members.doorman is not None and members.doorman.fileno() in ready:
                members.admit()
            if self.router.fileno() in ready:
                self._returned()
            if self.notice is not None and self.notice.fileno() in ready:
                for name in led_by(self.notice.jobs(), self.node, self.members, self.lines):
                    self._hello(name)
            for name in self.lines.came_back(ready):
                self._hello(name)
            for name, message in self.lines.received(ready):
                self._obey(name, message)
            if self.steward is not None:
                for name in self.steward.turn(ready, self._about_this_node()):
                    self._hello(name)
            if ready & set(self.endpoint.fds):
                self.endpoint.answer()
            members.check()
            self.idle_in_s = self.node.look_at_idle()

    def _poll(self) -> set[Any]:
        members = self.members
        fds = [members.listener.fileno(), self.router.fileno(), *self.endpoint.fds]
        fds += [members.doorman.fileno()] if members.doorman is not None else []
        fds += [self.notice.fileno()] if self.notice is not None else []
        zygote = self.pool.zygote
        fds += zygote.fds if zygote is not None else []
        fds += [p.pidfd for p in self.pool.processes.values() if p.pidfd >= 0]
        sockets = self.lines.sockets + (self.steward.sockets if self.steward is not None else [])
        waits_s = [self.accounts.overdue() or members.liveness.look_in_s]
        waits_s += [self.idle_in_s]
        waits_s += [self.steward.silent_for_s() or None] if self.steward is not None else []
        waits_s += [zygote.late_in_s()] if zygote is not None else []
        wait_s = min((each for each in waits_s if each is not None), default=None)
        timeout_ms = None if wait_s is None else int(wait_s * 1000) + 1
        return self.sources.ready([*fds, *members.connections, *sockets], timeout_ms)

    # -- coordinator -------------------------------------------------------------------------
    def _about_this_node(self) -> Message:
        self.capacity = self.capacity or measure(self.kernels, link_bytes_s=self.link_bytes_s)
        return {
            "t": "node", "key": self.keys.public, "proxy": self.router.name,
            "reason": self.router.reason, "kernels": self.kernels.name, "isa": self.kernels.isa,
            "capacity": self.capacity, "budget_bytes": self.node.budget_bytes,
            "metrics": self.endpoint.url,
        }  # fmt: skip

    def _hello(self, only: str | None = None) -> None:
        self.lines.send(self._about_this_node(), only)

    def _obey(self, line: str, message: Message) -> None:
        """Do as a coordinator says; of a job that is not its own it has nothing to say."""
        if not self._is_its_own(line, message):
            what, number = message["t"], message["job"]
            log.warning("%s says %r of job %r, %r", line, what, number, message.get("name"))
            return
        match message["t"]:
            case "ask":
                self.lines.send({"t": "here"}, line)
            case "who":
                self._hello(line)
            case "plan":
                self.node.carry_out(message)
            case "report":
                if message["job"] in self.node.jobs:
                    # a round is over: FLUSHes to idle lanes, which no release answers, cost nothing
                    self.router.reset_credit(message["job"])
                    self.node.jobs[message["job"]].idling.round_over(
                        time.monotonic(), message["round"]
                    )
                    self.accounts.report(self.node.jobs[message["job"]], message)
            case "drop":
                self.node.drop(message["job"], message["name"])

    def _is_its_own(self, line: str, message: Message) -> bool:
        """A message names no job, or by number and name the one that was said to be the line's."""
        if line == EVERYTHING or "job" not in message:
            return True
        numbers = {job["name"]: job["number"] for job in self.members.coordinators or ()}
        return bool(message["job"] == numbers.get(line) and message.get("name", line) == line)

    def _returned(self) -> None:
        """Descriptors that were not routed: only who must look is remembered."""
        found = self.router.returned()
        to_do = {
            each.job for each in found
            if any(d.kind not in (Kind.RELEASE, Kind.EXPECT) for d in each.descriptors)
        }  # fmt: skip
        for number in {each.job for each in found} & self.node.jobs.keys():
            job = self.node.jobs[number]
            if number in to_do and job.idling.asleep:
                self.node.wake(job)
            self.node.poke_everybody(job)

    def close(self) -> None:
        """End every process of this node and everything in the kernel that is its own.

        In a cluster a job's memory and processes are in other pods: what the next agent needs to
        take them over stays, unless there is no job.
        """
        if self.steward is not None and self.node.jobs:
            self.router.close(keep_pins=True)
            self.endpoint.close()
            return
        self.pool.end()
        self.router.close()
        self.endpoint.close()
        left = [*self.node.directory.glob("job-*"), self.pool.socket_path]
        if self.steward is not None:
            left += [self.node.directory / name for name in ("gateway", "keys")]
        for path in left:
            path.unlink(missing_ok=True)


@click.command()
@click.option("--node", required=True)
@click.option("--directory", type=click.Path(path_type=Path), required=True)
@click.option("--coordinator", help="ZeroMQ endpoint")
@click.option("--coordinator-key")
@click.option("--jobs", type=click.Path(path_type=Path), help="instead: file with several; SIGHUP: "
              "it has changed")  # fmt: skip
@click.option("--keys", "keys_path", type=click.Path(path_type=Path))
@click.option("--proxy", type=click.Choice(["auto", "ebpf", "unix"]), default="auto")
@click.option("--kernels", type=click.Choice(["auto", "native", "reference"]), default="auto")
@click.option("--pins", type=click.Path(path_type=Path), help="directory in a bpffs")
@click.option("--listen", "listen_at", default="tcp://127.0.0.1:*")
@click.option("--liveness-s", default=10.0, help="a role that does not answer is replaced")
@click.option("--arena-budget-bytes", default=0, help="shared memory of all jobs; 0: no limit")
@click.option("--metrics-port", default=0, help="of the metrics endpoint; 0: any")
@click.option("--netns", help="network namespace that this node is in; its metrics stay outside")
@click.option("--link-bytes-s", default=0, help="of the node's link, each way; 0: as measured")
@click.option("--operator", help="in a cluster: ZeroMQ endpoint, instead of a coordinator's")
@click.option("--operator-key", type=click.Path(path_type=Path), help="file with its public key")
@click.option("--guests", multiple=True, help="gateway=NAMESPACE:ACCOUNT: whose pods may join")
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), help="for guests")
def main(
    node: str, directory: Path, coordinator: str | None, coordinator_key: str | None,
    jobs: Path | None, keys_path: Path | None, operator: str | None, operator_key: Path | None,
    guests: tuple[str, ...], socket_path: Path | None, metrics_port: int, netns: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Run the agent of one node until SIGTERM."""
    logging.basicConfig(format="%(name)s: %(message)s")
    at_node(node)

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        if operator is None:
            if (coordinator is None or coordinator_key is None) == (jobs is None) or not keys_path:
                raise click.UsageError(
                    "name --operator, or --keys and either --jobs or a coordinator and its key"
                )
            end_with_parent()
            metrics = listen(metrics_port)
            if netns is not None:
                enter(netns)
            arguments, one = ["--keys", str(keys_path)], None
            if coordinator is not None and coordinator_key is not None:
                one = (coordinator, coordinator_key)
                arguments += ["--coordinator", coordinator, "--coordinator-key", coordinator_key]
            agent = Agent(
                node=node, pool=Pool(node, directory, arguments), keys=Keys.load(keys_path),
                coordinator=one, metrics=metrics,
                notice=Notice(jobs) if jobs is not None else None, **options,
            )  # fmt: skip
        else:
            if operator_key is None or socket_path is None:
                raise click.UsageError("--operator needs --operator-key and --socket")
            agent = Agent(
                node=node, pool=Guests(node, directory, socket_path), keys=_own_keys(directory),
                coordinator=None, metrics=listen(metrics_port, host="0.0.0.0"),
                doorman=Doorman(Api.of_pod(), tuple(map(Rule.of, guests)), node),
                operator=(operator, operator_key.read_text().strip()), **options,
            )  # fmt: skip
    except LiflError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    try:
        agent.run()
    finally:
        agent.close()


def _own_keys(directory: Path) -> Keys:
    """The node's keys in a cluster: made by its first agent, and known to nobody else before."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "keys"
    if not path.exists():
        Keys.new().save(path)
    return Keys.load(path)


if __name__ == "__main__":
    main()
