"""A node's part of a plan, carried out: memory, routes, roles, pokes.

Owns the jobs of this node and every change to them.  Does not wait for anything and reads no
message: agent.py hears the coordinator, members.py the processes.  Whatever may have been lost
ends in a poke, upon which the receiver reads the shared words.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from lifl.errors import LiflError, Unreachable
from lifl.faults import fault
from lifl.functions.wire import Message
from lifl.placement.hosted import NodeJob, allot
from lifl.placement.limits import check_memory
from lifl.placement.pool import Pool, Process
from lifl.proxy_ebpf.contract import Router
from lifl.proxy_ebpf.descriptor import Descriptor, Kind, lane
from lifl.shm.arena import ArenaFiles, arena_bytes
from lifl.shm.geometry import Geometry

log = logging.getLogger("lifl.agent")


class Node:
    """One node: its router, its processes, its jobs.

    Args:
        kernels: name of the arithmetic that its runtimes are told to use.
        budget_bytes: shared memory of all jobs; 0: no limit.
        report: tells the coordinator something.
    """

    def __init__(
        self, *, name: str, directory: Path, router: Router, pool: Pool, kernels: str,
        budget_bytes: int, report: Callable[[Message], None],
    ) -> None:  # fmt: skip
        self.name, self.directory = name, directory
        self.router, self.pool, self.kernels = router, pool, kernels
        self.budget_bytes, self.report = budget_bytes, report
        self.jobs: dict[int, NodeJob] = {}
        self.on_forget: Callable[[NodeJob], None] = lambda _: None
        self.on_count: Callable[[str, NodeJob], None] = lambda *_: None
        self.on_assign: Callable[[NodeJob, Process], None] = lambda *_: None

    # -- plan --------------------------------------------------------------------------------
    def carry_out(self, message: Message) -> None:
        """Carry out a plan: memory, routes, roles, and a poke for everybody."""
        job = self.jobs.setdefault(message["job"], NodeJob(message["job"], message["name"]))
        job.plan, job.announced = message, False
        job.idling.least_s = message["scaling"]["keep_alive_s"]
        if job.queue_settings is not None:
            job.idling.limit_s = job.queue_settings.idle_s
        job.idling.plan(time.monotonic())  # whoever sent it waits for every role
        try:
            self._carry_out(job)
        except LiflError as error:
            self.report({
                "t": "failed", "job": job.name, "code": error.code, "error": str(error),
            })  # fmt: skip

    def _carry_out(self, job: NodeJob) -> None:
        if job.files is None and job.inodes:
            return  # its memory comes back with the first process that rejoins
        if job.files is None and not job.roles:
            del self.jobs[job.number]  # nothing of it is here, and nothing has to be looked at
            return
        job.waits = not self.make_room(job)
        if job.waits:
            self.tell_gateway(job)  # slots that it has to give back are not waited for
            return
        job.save(self.directory)
        self.route(job)
        fault("agent_routed", "agent")
        for endpoint, kind in list(job.assigned.items()):
            if endpoint not in job.roles or job.roles[endpoint]["kind"] != kind:
                self.take_back(job, endpoint)
        self.staff(job)
        self.tell_gateway(job)
        self.router.reset_credit(job.number)
        self.poke_everybody(job)
        self.announce(job)

    def route(self, job: NodeJob) -> None:
        """Write the plan's next hops."""
        for sender, to in self._hops(job).items():
            self.router.route(job.number, sender, to)

    def _hops(self, job: NodeJob) -> dict[int, int]:
        """Lane to role, role to parent, root to its lane."""
        roles = job.roles.items()
        return {lane(endpoint): endpoint for endpoint, _ in roles} | {
            endpoint: role["parent"] or lane(endpoint) for endpoint, role in roles
        }

    def mend(self) -> Counter[str]:
        """Put back what was taken out of the kernel behind this agent's back; how often what."""
        found = self.router.mend()
        for job in self.jobs.values():
            if job.files is None or job.over:
                continue  # its routes are not written yet, or of no use any more
            missing = self._hops(job).items() - self.router.routes(job.number).items()
            if missing:
                found["route"] += len(missing)
                self.route(job)
                self.router.reset_credit(job.number)
                self.poke_everybody(job)
        return found

    def make_room(self, job: NodeJob) -> bool:
        """The job's memory on this node: its input slots, and sum slots for every role of the plan.

        False while other jobs have it, which give it back between their rounds or at their end.
        """
        geometry = Geometry(**job.plan["geometry"])
        kinds = {endpoint: role["kind"] for endpoint, role in job.roles.items()}
        sum_slots = allot(kinds, job.sum_slots, geometry.sums)
        wanted = min(geometry.model_slot, job.plan["slots"])
        job.limit, job.limit_number = min(wanted, job.slots), job.limit_number + 1
        needed = arena_bytes(
            geometry, sum(map(len, sum_slots.values())), inputs=max(wanted, job.slots)
        )
        others = self.memory_of_others(job)
        if self.budget_bytes and needed <= self.budget_bytes < needed + others:
            log.info("%s waits for memory that other jobs have", job.name)
            return False
        check_memory(
            needed, node=self.name, budget_bytes=self.budget_bytes,
            limit_bytes=job.plan["limit_bytes"],
            taken_bytes=job.files.resident_bytes() if job.files else 0,
        )  # fmt: skip
        job.sum_slots = sum_slots
        if job.files is None:
            job.files = ArenaFiles.make(job.name, geometry, wanted)
        job.files.reserve_inputs(wanted)
        job.slots, job.limit = max(wanted, job.slots), wanted
        for slots in job.sum_slots.values():
            job.files.reserve_sums(slots)
        return True

    def memory_of_others(self, job: NodeJob) -> int:
        """Bytes that the node's other jobs have."""
        return sum(
            other.files.resident_bytes()
            for other in self.jobs.values() if other is not job and other.files is not None
        )  # fmt: skip

    def limited(self, job: NodeJob, number: int) -> None:
        """The gateway uses no slot beyond a limit any more: what is there is others'."""
        if number == job.limit_number and job.files is not None and job.limit < job.slots:
            job.files.give_back_inputs(job.limit)
            job.slots = job.limit
            self.try_again()

    def try_again(self) -> None:
        """Memory was given back: it is somebody's who waits for it."""
        for job in [job for job in self.jobs.values() if job.waits and not job.over]:
            self.carry_out(job.plan)

    def drop(self, number: int, name: str = "") -> None:
        """The job is over, or begins anew here: its roles leave, then its memory goes.

        Args:
            name: of the job, whose coordinator hears also that there was nothing.
        """
        job = self.jobs.get(number)
        if job is None:
            if name:
                self.report({"t": "dropped", "job": name})
            return
        job.over = True
        for endpoint in {*job.roles, *job.assigned}:
            self.take_back(job, endpoint, over=True)
        self.forget_if_left(job)

    def forget_if_left(self, job: NodeJob) -> None:
        processes = self.pool.processes.values()
        if not job.over or any(p.role and p.role[0] == job.number for p in processes):
            return
        gateway = self.pool.gateway
        if gateway and gateway.control:
            self.send(gateway, {"t": "close-job", "job": job.name})
        self.on_forget(job)
        self.router.forget(job.number)
        job.path(self.directory).unlink(missing_ok=True)
        if job.files:
            job.files.close()
        self.jobs.pop(job.number, None)
        self.report({"t": "dropped", "job": job.name})
        self.try_again()

    # -- roles -------------------------------------------------------------------------------
    def staff(self, job: NodeJob) -> None:
        """Give every role that nobody holds to an idle runtime; start what is missing."""
        if job.files is None or job.over or job.waits or job.idling.asleep:
            return
        vacant = [
            endpoint for endpoint in job.roles
            if self.pool.holder(job.number, endpoint) is None
        ]  # fmt: skip
        for endpoint in vacant:
            process = self.pool.idle(tenant=job.tenant)
            if process is None:
                break
            self.assign(job, endpoint, process)
        waiting = sum(self.pool.holder(job.number, endpoint) is None for endpoint in vacant)
        for _ in range(waiting - self.pool.starting()):
            self.pool.start_runtime()

    def drain(self, pods: Iterable[str]) -> None:
        """These pods get no role from now on, others do (again)."""
        self.pool.draining = frozenset(pods)
        for job in self.jobs.values():
            self.staff(job)

    def assign(self, job: NodeJob, endpoint: int, process: Process) -> None:
        assert job.files is not None
        process.role, process.joined = (job.number, endpoint), False
        process.awaited_since_s = time.monotonic()
        self.on_assign(job, process)
        job.assigned[endpoint] = job.roles[endpoint]["kind"]
        self.pool.save()
        inputs = job.files.read_only_inputs()
        slots = [slot | 1 << 31 for slot in job.sum_slots[endpoint]]
        fields = ("geometry", "sections", "update_bytes", "sum_bytes", "velocity_at", "optimiser")
        self.send(
            process,
            {
                "t": "assign", "job": job.number, "proxy": self.router.name,
                "kernels": self.kernels, "role": job.roles[endpoint] | {"slots": slots},
                "slots": job.limit,
                **{name: job.plan[name] for name in fields},
            },
            [inputs, job.files.sums, job.files.locks],
        )  # fmt: skip
        os.close(inputs)

    def take_back(self, job: NodeJob, endpoint: int, *, over: bool = False) -> None:
        """The role leaves when nobody needs its slots any more: at once where the job is over."""
        process = self.pool.holder(job.number, endpoint)
        if process:
            self.send(process, {
                "t": "leave", "job": job.number, "endpoint": endpoint, "over": over,
                "if_idle": False,
            })  # fmt: skip

    # -- to zero and from zero ---------------------------------------------------------------
    def look_at_idle(self) -> float | None:
        """Stop runtimes that are not worth keeping, have those there that are expected.

        Returns:
            When to look again, in seconds; None: nothing comes with time alone.
        """
        now_s, waits_s = time.monotonic(), []
        for job in self.jobs.values():
            match job.idling.turn(now_s):
                case "stop":
                    self._sleep(job)
                case "start":
                    self.on_count("lifl_scaled_from_zero", job)
                    self.staff(job)
            waits_s.append(job.idling.next_in_s(now_s))
        for process in list(self.pool.processes.values()):
            idle_s = now_s - process.idle_since_s
            if process.is_free and self.jobs and all(
                job.idling.asleep or job.idling.is_to_go(idle_s) for job in self.jobs.values()
            ):  # fmt: skip
                self.pool.retire(process)
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def _sleep(self, job: NodeJob) -> None:
        """Ask every role to leave, if nobody needs its slots.

        Each is taken out of the routing first.  Whatever is sealed later is then a descriptor
        that finds no receiver, which wakes the job; whatever was sealed before, the role finds in
        the words before it leaves, and stays: it registers again.
        """
        self.on_count("lifl_scaled_to_zero", job)
        for endpoint in job.roles:
            process = self.pool.holder(job.number, endpoint)
            if process is not None and process.joined:
                self.router.unregister(job.number, endpoint)
                self.send(process, {
                    "t": "leave", "job": job.number, "endpoint": endpoint, "over": False,
                    "if_idle": True,
                })  # fmt: skip

    def wake(
        self, job: NodeJob, at_s: float | None = None, round_: int | None = None
    ) -> None:
        """Something is to be done since `at_s`, or now, for a round that somebody may have named:
        every role is given out again, unless that round is over.
        """
        was_asleep = job.idling.asleep
        job.idling.work(time.monotonic() if at_s is None else at_s, round_)
        if was_asleep and not job.idling.asleep:
            self.on_count("lifl_scaled_from_zero", job)
            self.staff(job)

    def tell_gateway(self, job: NodeJob) -> None:
        gateway = self.pool.gateway
        if gateway is None or gateway.control is None or job.files is None:
            return
        files = job.files
        self.send(
            gateway,
            {
                "t": "arena", "job": job.number, "name": job.name, "roles": list(job.roles),
                "geometry": job.plan["geometry"], "proxy": self.router.name,
                "slots": job.limit, "limit": job.limit_number,
                "watch_queue": job.queue_settings is not None,
            },
            [files.inputs, files.sums, files.locks],
        )  # fmt: skip
        if not job.handed:  # nothing can be in it yet: no lane has joined, which is answered here
            job.handed = True
            job.save(self.directory)

    def announce(self, job: NodeJob) -> None:
        """Tell the coordinator once that every role and every lane is in place."""
        holders = [self.pool.holder(job.number, endpoint) for endpoint in job.roles]
        if job.announced or job.waits or not all(p and p.joined for p in holders):
            return
        if job.lanes >= set(job.roles):
            job.announced = True
            job.idling.ready(time.monotonic())
            self.report({"t": "planned", "job": job.name, "epoch": job.plan["epoch"]})

    # -- pokes -------------------------------------------------------------------------------
    def poke_everybody(self, job: NodeJob) -> None:
        """EXPECT: here is your parent, this many make a sum, and look at the words yourself."""
        for endpoint, role in job.roles.items():
            expect = Descriptor(role["parent"], role["expected"], job.plan["round"], 0, Kind.EXPECT)
            self.router.poke(job.number, endpoint, expect)
            self.router.poke(job.number, lane(endpoint), expect)
        fault("agent_poked", "agent")

    def send(self, process: Process, message: Message, fds: list[int] | None = None) -> None:
        if process.control:
            try:
                process.control.send(message, fds or [])
            except Unreachable:
                log.info("%s %d does not listen", process.kind, process.pid)
