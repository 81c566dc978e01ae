"""The agent: what a node is.

Owns the eBPF program and its maps, the arenas, the control socket and the pool of runtimes, and
carries out the coordinator's plan: memory, routes, roles, pokes.  It maps no slot and keeps no
ledger of descriptors: whatever may have been lost ends in a poke, upon which the receiver reads
the shared words.  Started by the local engine, or as a DaemonSet's container:

    python -m lifl.placement.agent --node NAME --directory DIR --coordinator ENDPOINT ...
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click
import zmq

from lifl.errors import LiflError, Unreachable
from lifl.faults import at_node, fault
from lifl.functions.kernels import choose
from lifl.functions.wire import Keys, Message, dealer, decode, encode
from lifl.placement.measure import measure
from lifl.placement.pool import Pool, Process
from lifl.proxy_ebpf.control import Control, close_all, listen
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.proxy_ebpf.open import open_router
from lifl.shm.arena import ArenaFiles, arena_bytes
from lifl.shm.geometry import Geometry

log = logging.getLogger("lifl.agent")

PING_S = 2.0


@dataclass
class NodeJob:
    """One job on this node."""

    number: int
    name: str
    plan: Message = field(default_factory=dict)
    files: ArenaFiles | None = None
    inodes: list[int] = field(default_factory=list)  # of the memory, after an agent's restart
    sum_slots: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by role, bare indices
    lanes: set[int] = field(default_factory=set)
    announced: bool = False
    over: bool = False
    warm: int = 0
    work: dict[str, float] = field(default_factory=dict)
    reported_handoffs: int = 0

    @property
    def roles(self) -> dict[int, dict[str, Any]]:
        return {role["endpoint"]: role for role in self.plan.get("roles", [])}

    @property
    def endpoints(self) -> list[int]:
        return [*self.roles, *(lane(role) for role in self.roles)]


class Agent:
    """One node: its router, its processes, its jobs, one loop."""

    def __init__(
        self, *, node: str, directory: Path, coordinator: tuple[str, str], keys_path: Path,
        proxy: str, kernels: str, pins: Path | None, listen_at: str, liveness_s: float,
        arena_budget_bytes: int,
    ) -> None:  # fmt: skip
        self.node, self.directory, self.listen_at = node, directory, listen_at
        self.liveness_s, self.budget_bytes = liveness_s, arena_budget_bytes
        self.kernels = choose(kernels)  # type: ignore[arg-type]
        self.router = open_router(proxy, pins)  # type: ignore[arg-type]
        self.keys = Keys.load(keys_path)
        self.pool = Pool(node, directory, [
            "--keys", str(keys_path),
            "--coordinator", coordinator[0], "--coordinator-key", coordinator[1],
        ])  # fmt: skip
        self.restarted = self.pool.adopt()
        self.listener = listen(directory / "agent.sock")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self.coordinator = dealer(self.context, self.keys, *coordinator)
        self.jobs: dict[int, NodeJob] = {}
        self.connections: dict[int, tuple[Control, Process | None]] = {}
        self.pinged_at = 0.0
        if self.restarted:
            self._load()

    # -- loop --------------------------------------------------------------------------------
    def run(self) -> None:
        if self.pool.gateway is None:
            self.pool.start_gateway(self._gateway_address())
        self._hello()
        if self.restarted:
            fault("agent_restarted", "agent")
        while True:
            ready = self._poll()
            if self.listener.fileno() in ready:
                self._accept()
            for fd in [fd for fd in self.connections if fd in ready]:
                self._from_process(fd)
            for process in [p for p in self.pool.processes.values() if p.pidfd in ready]:
                self._died(process)
            if self.router.fileno() in ready:
                self._returned()
            if self.coordinator in ready:
                while self.coordinator.poll(0):
                    self._obey(decode(self.coordinator.recv()))
            self._check_liveness()

    def _poll(self) -> set[Any]:
        poller = zmq.Poller()
        poller.register(self.coordinator, zmq.POLLIN)
        fds = [self.listener.fileno(), self.router.fileno(), *self.connections]
        for fd in fds + [process.pidfd for process in self.pool.processes.values()]:
            poller.register(fd, zmq.POLLIN)
        wait_s = min(PING_S, self.liveness_s / 3) if self.jobs else None
        return {what for what, _ in poller.poll(None if wait_s is None else int(wait_s * 1000))}

    def _gateway_address(self) -> str:
        """Where the gateway listens: where the last one did, so that clients find it again."""
        try:
            return (self.directory / "gateway").read_text()
        except FileNotFoundError:
            return self.listen_at

    # -- coordinator -------------------------------------------------------------------------
    def _hello(self) -> None:
        self._report({
            "t": "node", "key": self.keys.public, "proxy": self.router.name,
            "reason": self.router.reason, "kernels": self.kernels.name, "isa": self.kernels.isa,
            "capacity": measure(self.kernels), "budget_bytes": self.budget_bytes,
        })  # fmt: skip

    def _report(self, message: Message) -> None:
        self.coordinator.send(encode(message | {"node": self.node}))

    def _obey(self, message: Message) -> None:
        match message["t"]:
            case "hello":
                self._hello()
            case "plan":
                try:
                    self._plan(message)
                except LiflError as error:
                    self._report({"t": "failed", "job": message["name"], "error": str(error)})
            case "report":
                self._work(message)
            case "drop":
                self._drop(message["job"])

    def _plan(self, message: Message) -> None:
        """Carry out a plan: memory, routes, roles, and a poke for everybody."""
        job = self.jobs.setdefault(message["job"], NodeJob(message["job"], message["name"]))
        before = set(job.roles)
        job.plan, job.announced = message, False
        if job.files is None and job.inodes:
            return  # its memory comes back with the first process that rejoins
        if job.files is None and not job.roles:
            return
        self._make_room(job)
        self._save(job)
        self._route(job)
        fault("agent_routed", "agent")
        for endpoint in before - set(job.roles):
            self._take_back(job, endpoint)
        self._staff(job)
        self._tell_gateway(job)
        self.router.reset_credit(job.number)
        self._poke_everybody(job)
        self._announce(job)

    def _route(self, job: NodeJob) -> None:
        """Write the plan's next hops: lane to role, role to parent, root to its lane."""
        for endpoint, role in job.roles.items():
            self.router.route(job.number, lane(endpoint), endpoint)
            self.router.route(job.number, endpoint, role["parent"] or lane(endpoint))

    def _make_room(self, job: NodeJob) -> None:
        """The job's memory on this node, and sum slots for every role of the plan."""
        geometry = Geometry(**job.plan["geometry"])
        taken = {slot for slots in job.sum_slots.values() for slot in slots}
        for endpoint, role in job.roles.items():
            if endpoint in job.sum_slots:
                continue
            free = (slot for slot in range(geometry.sums) if slot not in taken)
            slots = tuple(next(free) for _ in range(3 if role["kind"] == "top" else 2))
            taken |= set(slots)
            job.sum_slots[endpoint] = slots
        needed = arena_bytes(geometry, len(taken))
        if self.budget_bytes and needed > self.budget_bytes:
            raise LiflError(
                f"the job needs {needed} bytes of shared memory on {self.node}, which has "
                f"{self.budget_bytes}: lower spec.memory.inputSlots or raise the budget"
            )
        if job.files is None:
            job.files = ArenaFiles.make(job.name, geometry)
        for slots in job.sum_slots.values():
            job.files.reserve_sums(slots)

    def _work(self, message: Message) -> None:
        job = self.jobs.get(message["job"])
        if job is None:
            return
        handed = sum(c.redirected for c in self.router.counters(job.number).values())
        self._report({
            "t": "work", "job": job.name, "round": message["round"], "work": job.work,
            "handoffs": {self.router.name: handed - job.reported_handoffs},
            "cold": self.pool.cold_starts, "warm": job.warm,
        })  # fmt: skip
        job.work, job.reported_handoffs = {}, handed
        job.warm = len(job.roles)  # every role that goes on in the next round starts warm
        self.pool.cold_starts = 0

    def _drop(self, number: int) -> None:
        """The job is over: its roles leave, then its memory goes."""
        job = self.jobs.get(number)
        if job is None:
            return
        job.over = True
        for endpoint in job.roles:
            self._take_back(job, endpoint)
        self._forget_if_left(job)

    def _forget_if_left(self, job: NodeJob) -> None:
        if not job.over or any(self.pool.holder(job.number, role) for role in job.roles):
            return
        gateway = self.pool.gateway
        if gateway and gateway.control:
            self._send(gateway, {"t": "close-job", "job": job.name})
        self.router.forget(job.number)
        (self.directory / f"job-{job.number}").unlink(missing_ok=True)
        if job.files:
            job.files.close()
        self.jobs.pop(job.number, None)
        self._report({"t": "dropped", "job": job.name})

    # -- roles -------------------------------------------------------------------------------
    def _staff(self, job: NodeJob) -> None:
        """Give every role that nobody holds to an idle runtime; start what is missing."""
        if job.files is None or job.over:
            return
        vacant = [
            endpoint for endpoint in job.roles
            if self.pool.holder(job.number, endpoint) is None
        ]  # fmt: skip
        for endpoint in vacant:
            process = self.pool.idle()
            if process is None:
                break
            self._assign(job, endpoint, process)
        waiting = sum(self.pool.holder(job.number, endpoint) is None for endpoint in vacant)
        for _ in range(waiting - self.pool.starting()):
            self.pool.start_runtime()

    def _assign(self, job: NodeJob, endpoint: int, process: Process) -> None:
        assert job.files is not None
        process.role, process.joined = (job.number, endpoint), False
        self.pool.save()
        inputs = job.files.read_only_inputs()
        slots = [slot | 1 << 31 for slot in job.sum_slots[endpoint]]
        fields = ("geometry", "sections", "update_bytes", "sum_bytes", "velocity_at", "optimiser")
        self._send(
            process,
            {
                "t": "assign", "job": job.number, "proxy": self.router.name,
                "kernels": self.kernels.name, "role": job.roles[endpoint] | {"slots": slots},
                **{name: job.plan[name] for name in fields},
            },
            [inputs, job.files.sums, job.files.locks],
        )  # fmt: skip
        os.close(inputs)

    def _take_back(self, job: NodeJob, endpoint: int) -> None:
        process = self.pool.holder(job.number, endpoint)
        if process:
            self._send(process, {"t": "leave", "job": job.number, "endpoint": endpoint})

    def _tell_gateway(self, job: NodeJob) -> None:
        gateway = self.pool.gateway
        if gateway is None or gateway.control is None or job.files is None:
            return
        files = job.files
        self._send(
            gateway,
            {
                "t": "arena", "job": job.number, "name": job.name, "roles": list(job.roles),
                "geometry": job.plan["geometry"], "proxy": self.router.name,
            },
            [files.inputs, files.sums, files.locks],
        )  # fmt: skip

    def _announce(self, job: NodeJob) -> None:
        """Tell the coordinator once that every role and every lane is in place."""
        holders = [self.pool.holder(job.number, endpoint) for endpoint in job.roles]
        if job.announced or not all(p and p.joined for p in holders):
            return
        if job.lanes >= set(job.roles):
            job.announced = True
            self._report({"t": "planned", "job": job.name, "epoch": job.plan["epoch"]})

    # -- pokes -------------------------------------------------------------------------------
    def _poke_everybody(self, job: NodeJob) -> None:
        """EXPECT: here is your parent, this many make a sum, and look at the words yourself."""
        for endpoint, role in job.roles.items():
            expect = Descriptor(role["parent"], role["expected"], job.plan["round"], 0, Kind.EXPECT)
            self.router.poke(job.number, endpoint, expect)
            self.router.poke(job.number, lane(endpoint), expect)
        fault("agent_poked", "agent")

    def _returned(self) -> None:
        """Descriptors that were not routed: only who must look is remembered."""
        for number in {returned.job for returned in self.router.returned()}:
            if number in self.jobs:
                self._poke_everybody(self.jobs[number])

    # -- processes ---------------------------------------------------------------------------
    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        control = Control(connection)
        self.connections[control.fileno()] = (control, None)

    def _send(self, process: Process, message: Message, fds: list[int] | None = None) -> None:
        if process.control:
            try:
                process.control.send(message, fds or [])
            except Unreachable:
                log.info("%s %d does not listen", process.kind, process.pid)

    def _from_process(self, fd: int) -> None:
        control, process = self.connections[fd]
        received = control.receive()
        if received is None:
            del self.connections[fd]
            if process and process.control is control:
                process.control = None
            control.close()
            return
        message, fds = received
        if process is None:
            self._joins(control, message, fds)
            return
        process.answered_at = time.monotonic()
        try:
            self._hears(process, message, fds)
        finally:
            close_all(fds)

    def _joins(self, control: Control, message: Message, fds: list[int]) -> None:
        """The first message of a process says what it is."""
        pid = message["pid"]
        process = self.pool.processes.get(pid)
        if process is None:
            pidfd = control.peer_pidfd()
            if pidfd is None:
                close_all(fds)
                return
            process = self.pool.processes[pid] = Process(message["t"], pid, pidfd)
            self.pool.save()
        process.control, process.answered_at = control, time.monotonic()
        self.connections[control.fileno()] = (control, process)
        if process.kind == "gateway":
            (self.directory / "gateway").write_text(message["endpoint"])
            for job in self.jobs.values():
                job.lanes.clear()
                self._tell_gateway(job)
        elif "job" in message:
            self._rejoin(process, message, fds)
        close_all(fds)
        process.holds = set(message.get("holds", ()))
        for job in self.jobs.values():
            self._make_if_nobody_holds(job)
            self._staff(job)

    def _hears(self, process: Process, message: Message, fds: list[int]) -> None:
        match message["t"]:
            case "join":
                self._register(process, message, fds)
            case "held-job" if message["job"] in self.jobs:
                self._take_files(self.jobs[message["job"]], fds)
            case "held-lane":
                self._register(process, message, fds)
            case "left":
                self.router.unregister(message["job"], message["endpoint"])
                process.role, process.joined = None, False
                for job in list(self.jobs.values()):
                    self._staff(job)
                    self._forget_if_left(job)
            case "busy" if message["job"] in self.jobs:
                job = self.jobs[message["job"]]
                if job.over or message["endpoint"] not in job.roles:
                    self._send(process, {"t": "leave", **_who(message)})
            case "work" if message["job"] in self.jobs:
                totals = self.jobs[message["job"]].work
                for name in ("folds", "updates", "bytes", "seconds"):
                    totals[name] = totals.get(name, 0) + message[name]

    def _register(self, process: Process, message: Message, fds: list[int]) -> None:
        """Put a process's socket into the map; only then may it read."""
        number, endpoint = message["job"], message["endpoint"]
        job = self.jobs.get(number)
        if job is None or not self._may_speak_for(process, number, endpoint):
            return
        near, far = (socket.socket(fileno=os.dup(fd)) for fd in fds)
        try:
            self.router.register(number, endpoint, near, far)
        finally:
            near.close()
            far.close()
        self._registered(process, job, endpoint)

    def _may_speak_for(self, process: Process, number: int, endpoint: int) -> bool:
        """A runtime speaks for the role that it was given, the gateway for lanes."""
        if process.kind == "gateway":
            return endpoint & 0x8000 != 0
        return process.role == (number, endpoint)

    def _registered(self, process: Process, job: NodeJob, endpoint: int) -> None:
        fault("agent_registered", "agent")
        answer: Message = {"t": "joined", "job": job.number, "name": job.name,
                           "endpoint": endpoint}  # fmt: skip
        if process.kind == "runtime":
            process.joined = True
            role = job.roles.get(endpoint, {"parent": 0, "expected": 0})
            answer |= {"parent": role["parent"], "expected": role["expected"]}
        else:
            job.lanes.add(endpoint & 0x7FFF)
        self._send(process, answer)
        self.router.reset_credit(job.number)
        self._poke_everybody(job)
        self._announce(job)

    def _died(self, process: Process) -> None:
        """A pidfd reports a death: somebody else takes the role, or the gateway's place."""
        fault("agent_saw_death", "agent")
        for fd in [fd for fd, (_, p) in self.connections.items() if p is process]:
            del self.connections[fd]
        role = process.role
        self.pool.bury(process)
        what = process.kind
        if process.kind == "gateway":
            for job in self.jobs.values():
                job.lanes.clear()
                for endpoint in job.roles:
                    self.router.unregister(job.number, lane(endpoint))
            self.pool.start_gateway(self._gateway_address())
        elif role and role[0] in self.jobs:
            job = self.jobs[role[0]]
            what = job.roles.get(role[1], {"kind": what})["kind"]
            if self.pool.holder(*role) is None:
                self.router.unregister(*role)
        self._report({"t": "restart", "what": what})
        for job in list(self.jobs.values()):
            self._make_if_nobody_holds(job)
            self._staff(job)
            self.router.reset_credit(job.number)
            self._poke_everybody(job)
            self._forget_if_left(job)

    def _check_liveness(self) -> None:
        """Who holds a role and does not answer is replaced: the successor waits, then it dies."""
        now = time.monotonic()
        if not self.jobs or now - self.pinged_at < min(PING_S, self.liveness_s / 3):
            return
        self.pinged_at = now
        for process in list(self.pool.processes.values()):
            holds = process.joined or process.kind == "gateway"
            if not holds or process.control is None:
                continue
            if now - process.answered_at > self.liveness_s:
                log.warning("%s %d does not answer: replaced", process.kind, process.pid)
                self._replace(process)
            else:
                self._send(process, {"t": "ping", "n": 0})

    def _replace(self, process: Process) -> None:
        """Fence: the successor asks for the role's lock, which is free when this one is dead."""
        if process.role is not None:
            number, endpoint = process.role
            process.role, process.joined = None, False
            control, process.control = process.control, None
            successor = self.pool.idle()
            if successor and number in self.jobs:
                self._assign(self.jobs[number], endpoint, successor)
            process.control = control
        process.kill()

    # -- after a restart of this agent -----------------------------------------------------------
    def _save(self, job: NodeJob) -> None:
        """Write down the plan and which memory is the job's, for the agent after this one."""
        assert job.files is not None
        inodes = [os.fstat(fd).st_ino for fd in (job.files.inputs, job.files.sums)]
        slots = [[endpoint, *slots] for endpoint, slots in job.sum_slots.items()]
        path = self.directory / f"job-{job.number}"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(encode({
            "t": "job", "plan": job.plan, "inodes": inodes, "slots": slots,
        }))  # fmt: skip
        temporary.rename(path)

    def _load(self) -> None:
        for path in self.directory.glob("job-*"):
            if path.suffix == ".new":
                continue
            saved = decode(path.read_bytes())
            plan = saved["plan"]
            job = NodeJob(plan["job"], plan["name"], plan, inodes=saved["inodes"])
            job.sum_slots = {row[0]: tuple(row[1:]) for row in saved["slots"]}
            self.jobs[job.number] = job

    def _take_files(self, job: NodeJob, fds: list[int]) -> None:
        """A process hands back the memory of its job, which is believed by its inode."""
        inputs, sums, locks = fds
        if job.files is not None or [os.fstat(fd).st_ino for fd in (inputs, sums)] != job.inodes:
            return
        writable = os.open(f"/proc/self/fd/{inputs}", os.O_RDWR | os.O_CLOEXEC)
        geometry = Geometry(**job.plan["geometry"])
        job.files = ArenaFiles(geometry, writable, os.dup(sums), os.dup(locks))
        self._route(job)
        self._tell_gateway(job)
        self._staff(job)

    def _make_if_nobody_holds(self, job: NodeJob) -> None:
        """The last agent died before it handed the memory to anyone: nothing was in it."""
        processes = self.pool.processes.values()
        if job.files is None and job.inodes and all(
            process.control and job.number not in process.holds for process in processes
        ):  # fmt: skip
            job.inodes = []
            self._plan(job.plan)

    def _rejoin(self, process: Process, message: Message, fds: list[int]) -> None:
        """A runtime comes back with its role, its socket pair and its memory."""
        near, far, *files = fds
        job = self.jobs.get(message["job"])
        if job is None:
            return
        process.role = (job.number, message["endpoint"])
        self._take_files(job, files)
        self._register(process, message, [near, far])

    def close(self) -> None:
        """End every process of this node and everything in the kernel that is its own."""
        self.pool.end()
        self.router.close()
        for path in [*self.directory.glob("job-*"), self.directory / "agent.sock"]:
            path.unlink(missing_ok=True)


def _who(message: Message) -> Message:
    return {"job": message["job"], "endpoint": message["endpoint"]}


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
def main(coordinator: str, coordinator_key: str, keys: Path, **options: Any) -> None:
    """Run the agent of one node until SIGTERM."""
    logging.basicConfig(format="%(name)s: %(message)s")
    at_node(options["node"])

    def stop(_: int, __: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        agent = Agent(coordinator=(coordinator, coordinator_key), keys_path=keys, **options)
    except LiflError as error:
        print(f"agent of {options['node']}: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        agent.run()
    finally:
        agent.close()


if __name__ == "__main__":
    main()
