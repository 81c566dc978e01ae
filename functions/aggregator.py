"""The aggregator runtime: one process, any role of any job of its node.

    wake up ─► drain descriptors ─► read the words ─► next_step ─► do it ─► ... ─► wait

Owns the connection to the agent and the role that it was given; what that role does is steps.py's.
Does not know the tree: its parent and the number of updates to expect come with the poke EXPECT.
Started by the agent's pool:

    python -m lifl.functions.aggregator --socket PATH --node NAME
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from lifl.errors import Unreachable
from lifl.faults import at_node, fault
from lifl.functions.ending import end_on_sigterm
from lifl.functions.kernels import Optimiser, Section, choose
from lifl.functions.orphaned import Orphaned
from lifl.functions.round import Role
from lifl.functions.steps import Aggregator, Work
from lifl.functions.waiting import readable
from lifl.proxy_ebpf.control import Control, close_all, credentials
from lifl.proxy_ebpf.port import Port, make_pair
from lifl.shm.arena import lock_role, map_arena, touch_sums, unlock_role
from lifl.shm.geometry import Geometry

log = logging.getLogger("lifl.aggregator")

RECONNECT_S = 0.02
REPORT_S = 0.1  # from one report of what was done to the next, unless something was sealed


@dataclass
class Held:
    """A role with everything that must be handed back to an agent that restarted."""

    job: int
    aggregator: Aggregator
    near: Any
    far: Any
    files: tuple[int, int, int]
    leaving: bool = False  # told to, and goes as soon as nobody needs anything of it


class Runtime:
    """The process: a connection to the agent, and at most one role at a time."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.orphaned = Orphaned(socket_path)
        self.control: Control | None = None
        self.held: Held | None = None
        self.proxy = ""
        self.reported_at = 0.0

    def run(self) -> None:
        self._connect()
        while True:
            ready = self._wait()
            if self.held and self.held.aggregator.port in ready:
                self._work(self.held)
            if self.control and self.control in ready:
                received = self.control.receive()
                if received is None:
                    self.control.close()
                    self.control = None
                else:
                    self._obey(*received)
            if self._report_in_s() == 0:
                self._report()
            if self.control is None:
                self._connect()

    def _work(self, held: Held) -> None:
        held.aggregator.rest()
        try:
            held.aggregator.drain()
        except Unreachable:  # the pair is broken; the memory is not
            self._register(held, first=False)
            return
        self._advance(held)
        if held.leaving:
            self._leave()

    def _wait(self) -> list[Any]:
        sources: list[Any] = [self.control] if self.control else []
        if self.held:
            sources.append(self.held.aggregator.port)
        return readable(sources, self._report_in_s() if self.control else RECONNECT_S)

    def _connect(self) -> None:
        """Join the agent, or join again after its restart, with what this process holds."""
        try:
            control = Control.connect(self.socket_path)
            hello: dict[str, Any] = {"t": "runtime", **credentials()}
            fds: list[int] = []
            if self.held:
                hello |= {
                    "job": self.held.job,
                    "holds": [self.held.job],
                    "endpoint": self.held.aggregator.role.endpoint,
                }
                fds = [self.held.near.fileno(), self.held.far.fileno(), *self.held.files]
            control.send(hello, fds)
            self.control = control
        except Unreachable:
            if self.orphaned.is_over():
                raise SystemExit(0) from None

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["t"]:
            case "assign":
                self._assign(message, fds)
            case "leave":
                if message["if_idle"]:
                    self._leave_if_idle()
                else:
                    self._leave(over=message["over"])
            case "ping":
                self._tell({"t": "pong"})
            case "joined":
                self._joined(message)
            case "refused":
                raise SystemExit(f"the agent refused this runtime: {message['error']}")
            case _:
                close_all(fds)

    def _tell(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        if self.control:
            with contextlib.suppress(Unreachable):  # a new agent asks for what it must know
                self.control.send(message, fds or [])

    def _assign(self, message: dict[str, Any], fds: list[int]) -> None:
        """Take a role: lock it, register its socket, and only then look at the words."""
        inputs, sums, locks = fds
        fields = message["role"]
        role = Role(**(fields | {"slots": tuple(fields["slots"])}))
        lock_role(locks, role.endpoint, wait=True)
        fault("role_locked", role.kind)
        self.proxy = message["proxy"]
        near, far = make_pair(self.proxy)
        sections = tuple(Section(*row) for row in message["sections"])
        aggregator = Aggregator(
            role=role,
            arena=map_arena(
                Geometry(**message["geometry"]), inputs, sums, write_inputs=False,
                slots=message["slots"],
            ),
            port=Port(near),
            kernels=choose(message["kernels"]),
            sections=sections,
            update_bytes=message["update_bytes"],
            sum_bytes=message["sum_bytes"],
            velocity_at=message["velocity_at"],
            optimiser=Optimiser(**message["optimiser"]),
        )
        touch_sums(aggregator.arena, role.slots)
        self.held = Held(message["job"], aggregator, near, far, (inputs, sums, locks))
        self._register(self.held, first=True)

    def _register(self, held: Held, *, first: bool) -> None:
        if not first:
            held.near.close()
            held.far.close()
            held.near, held.far = make_pair(self.proxy)
            held.aggregator.port = Port(held.near)
        self._tell(
            {"t": "join", "job": held.job, "endpoint": held.aggregator.role.endpoint},
            [held.near.fileno(), held.far.fileno()],
        )

    def _joined(self, message: dict[str, Any]) -> None:
        held = self.held
        if held is None or held.job != message["job"]:
            return
        aggregator = held.aggregator
        aggregator.role = replace(
            aggregator.role, parent=message["parent"], expected=message["expected"]
        )
        fault("role_registered", aggregator.role.kind)
        aggregator.words()
        fault("role_scanned", aggregator.role.kind)
        self._advance(held)

    def _advance(self, held: Held) -> None:
        """Do what can be done.  An error here comes again for every successor: the job ends."""
        try:
            held.aggregator.advance()
        except Exception as error:
            log.exception("%s %d", held.aggregator.role.kind, held.aggregator.role.endpoint)
            self._tell({"t": "failed", "job": held.job, "error": repr(error)})

    def _leave_if_idle(self) -> None:
        """Give the role up unless something is to be done: then register it again, and stay."""
        held = self.held
        if held is None:
            return
        self._advance(held)
        if held.aggregator.may_leave():
            self._leave()
        if self.held is held:  # an update may have come between the two looks
            held.leaving = False
            self._register(held, first=False)

    def _leave(self, *, over: bool = False) -> None:
        """Give the role up, now or with a later wake-up: a release, or the end of the round.

        Of a job that is over nobody needs anything.
        """
        held = self.held
        if held is None:
            return
        held.leaving = True
        self._advance(held)
        if not over and not held.aggregator.may_leave():
            return
        self._report()
        self.held = None
        kind, endpoint = held.aggregator.role.kind, held.aggregator.role.endpoint
        fault("role_left", kind)
        held.near.close()
        held.far.close()
        inputs, sums, locks = held.files
        unlock_role(locks, endpoint)
        close_all([inputs, sums, locks])
        self._tell({"t": "left", "job": held.job, "endpoint": endpoint})

    def _report_in_s(self) -> float | None:
        """When the agent is to hear what was done; None: there is nothing that it has not heard.

        At once where a sum or a model is on its way, since the end of a round may be near.
        """
        if self.held is None or not self.held.aggregator.work.spans:
            return None
        if self.held.aggregator.work.has_sealed:
            return 0
        return max(0.0, self.reported_at + REPORT_S - time.monotonic())

    def _report(self) -> None:
        """Tell the agent what was done since the last time."""
        if self.held is None or not self.held.aggregator.work.spans:
            return
        self.reported_at = time.monotonic()
        work = self.held.aggregator.work
        self.held.aggregator.work = Work()
        self._tell({
            "t": "work", "job": self.held.job, "endpoint": self.held.aggregator.role.endpoint,
            "folds": work.folds, "updates": work.updates, "bytes": work.bytes,
            "seconds": work.seconds, "spans": work.spans, "models": [*work.models.items()],
        })  # fmt: skip


@click.command()
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), required=True)
@click.option("--node", required=True)
def main(socket_path: Path, node: str) -> None:
    """Run one aggregator runtime until its agent's directory, or its run, is gone."""
    logging.basicConfig(format="%(name)s: %(message)s")
    end_on_sigterm()
    at_node(node)
    Runtime(socket_path).run()


if __name__ == "__main__":
    main()
