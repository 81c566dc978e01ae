"""What the agent gives a gateway: the memory of each job, and a socket towards each role.

Owns the connection to the agent and the lanes, and hands both back after an agent's restart.
Does not read a word of what it maps: intake.py does.  Called by gateway.py.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from lifl.errors import Refused, Unreachable
from lifl.functions.ending import start_again
from lifl.functions.intake import Intake
from lifl.functions.jobs import Job
from lifl.functions.orphaned import Orphaned
from lifl.functions.wire import Keys, Message
from lifl.proxy_ebpf.control import Control, close_all, credentials
from lifl.proxy_ebpf.descriptor import lane
from lifl.proxy_ebpf.port import Port, make_pair
from lifl.shm.arena import lock_role, map_arena
from lifl.shm.geometry import Geometry
from lifl.shm.slots import GATEWAY

KNOCK_S = 0.2


def keys_of_node(socket_path: Path) -> Keys:
    """The node's keys, from its agent, who gives them to the node's gateway alone.

    Raises:
        Refused: the agent does not take this process for the gateway.
    """
    while True:
        with contextlib.suppress(Unreachable):
            control = Control.connect(socket_path)
            try:
                control.send({"t": "keys", **credentials()})
                received = control.receive()
            finally:
                control.close()
            if received is not None and received[0]["t"] == "keys":
                return Keys(received[0]["public"], received[0]["secret"])
            if received is not None:
                raise Refused(f"the agent refused: {received[0].get('error')}")
        time.sleep(KNOCK_S)  # it starts, or starts again


class Lane:
    """The gateway's socket towards one role."""

    def __init__(self, job: str, role: int, proxy: str) -> None:
        self.job, self.role, self.proxy = job, role, proxy
        self.near, self.far = make_pair(proxy)
        self.port = Port(self.near)

    def fileno(self) -> int:
        return self.port.fileno()

    def close(self) -> None:
        self.near.close()
        self.far.close()


class Lanes:
    """The gateway's side towards its agent.

    Args:
        jobs: the gateway's jobs by name; opened and forgotten here.
        ready: called when every lane of a job may be used, maybe again after a new plan.
        forgotten: called with a job before its memory is given back.
    """

    def __init__(
        self, socket_path: Path, endpoint: str, key: str, jobs: dict[str, Job],
        ready: Callable[[Job], None], forgotten: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self.socket_path, self.endpoint, self.key = socket_path, endpoint, key
        self.orphaned = Orphaned(socket_path)
        self.jobs, self.ready, self.forgotten = jobs, ready, forgotten
        self.figures: Callable[[], Message] = dict  # what a ping is answered with
        self.coordinators: Callable[[dict[str, tuple[str, str]]], None] = lambda _: None
        self.control: Control | None = None
        self.proxy = ""
        self.lanes: dict[tuple[str, int], Lane] = {}

    def connect(self) -> None:
        """Join the agent, or join again after its restart and hand back all that is held."""
        try:
            control = Control.connect(self.socket_path)
            holds = [job.number for job in self.jobs.values()]
            control.send({
                "t": "gateway", "endpoint": self.endpoint, "key": self.key, "holds": holds,
                **credentials(),
            })  # fmt: skip
            for job in self.jobs.values():
                control.send({"t": "held-job", "job": job.number, "name": job.name}, job.fds)
                for at in self.lanes.values():
                    if at.job == job.name:
                        control.send(
                            {"t": "held-lane", "job": job.number, "endpoint": lane(at.role)},
                            [at.near.fileno(), at.far.fileno()],
                        )
            self.control = control
        except Unreachable:
            if self.orphaned.is_over():
                raise SystemExit(0) from None

    def drain(self, key: tuple[str, int]) -> None:
        """Take hints, which only say that the words should be read."""
        try:
            self.lanes[key].port.receive()
        except Unreachable:  # the pair is broken; the memory is not
            self.lanes.pop(key).close()
            self._open_lanes(key[0], [key[1]], self.proxy)

    def _tell(self, message: Message, fds: list[int]) -> None:
        if self.control:
            with contextlib.suppress(Unreachable):
                self.control.send(message, fds)

    def receive(self) -> None:
        assert self.control is not None
        received = self.control.receive()
        if received is None:
            self.control.close()
            self.control = None
            return
        message, fds = received
        match message["t"]:
            case "arena":
                self._open_job(message, fds)
            case "joined":
                self._lane_joined(message)
            case "jobs":
                self.coordinators({
                    job["name"]: (job["endpoint"], job["key"]) for job in message["jobs"]
                })  # fmt: skip
            case "other-keys":  # the last agent had no job, and left nothing to this one
                start_again()
            case "refused":
                raise SystemExit(f"the agent refused this gateway: {message['error']}")
            case "close-job":
                self._tell({"t": "pong", **self.figures()}, [])  # its last counts
                self._forget(message["job"])
            case "ping":
                self._tell({"t": "pong", **self.figures()}, [])
            case _:
                close_all(fds)

    def _open_job(self, message: Message, fds: list[int]) -> None:
        """Take over a job's memory; lock it before anything is read."""
        name = message["name"]
        if name in self.jobs:
            close_all(fds)
        else:
            inputs, sums, locks = fds
            lock_role(locks, GATEWAY, wait=True)
            arena = map_arena(
                Geometry(**message["geometry"]), inputs, sums, write_inputs=True,
                slots=message["slots"],
            )  # fmt: skip
            job = Job(name, message["job"], Intake(arena, {}), (inputs, sums, locks))
            self.jobs[name] = job
            job.intake.rebuild()
        self.jobs[name].intake.limit(message["slots"])
        self.jobs[name].withholding = message["limit"]
        self.withhold(self.jobs[name])
        if message["watch_queue"]:
            self.jobs[name].intake.tally.watch_queue()
        self.proxy = message["proxy"]
        self._open_lanes(name, message["roles"], self.proxy)

    def withhold(self, job: Job) -> None:
        """Tell the agent when no slot beyond the job's limit is in use any more."""
        if job.withholding is not None and job.intake.withhold():
            limit, job.withholding = job.withholding, None
            self._tell({"t": "limited", "job": job.number, "limit": limit}, [])

    def _open_lanes(self, name: str, roles: list[int], proxy: str) -> None:
        job = self.jobs[name]
        for role in roles:
            if (name, role) not in self.lanes:
                at = self.lanes[name, role] = Lane(name, role, proxy)
                self._tell(
                    {"t": "join", "job": job.number, "endpoint": lane(role)},
                    [at.near.fileno(), at.far.fileno()],
                )
        self._lane_joined({"name": name})

    def _lane_joined(self, message: Message) -> None:
        """A lane may be used from now on; with the last one, the job is ready here."""
        job = self.jobs[message["name"]]
        role = message.get("endpoint", 0) & 0x7FFF
        if role and (job.name, role) in self.lanes:
            job.intake.ports[role] = self.lanes[job.name, role].port
        if self.is_ready(job):
            self.ready(job)

    def is_ready(self, job: Job) -> bool:
        """Every lane of the job may be used."""
        return all(r in job.intake.ports for n, r in self.lanes if n == job.name)

    def _forget(self, name: str) -> None:
        job = self.jobs.pop(name, None)
        if job is None:
            return
        self.forgotten(job)
        for key in [key for key in self.lanes if key[0] == name]:
            self.lanes.pop(key).close()
        close_all(job.fds)
