"""One FLJob, kept as it is to be: observe, decide, act.

    FLJob, nodes, Jobs, coordinator ─► decide.py ─► Secret, Jobs, coordinator, status, Events

Owns the acting, and what was observed.  Knows no rule: decide.py has them, objects.py what an
object looks like, papers.py how it is written down, story.py what a coordinator's words mean.  The
operator wakes it whenever something has changed; whatever fails is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.api.part import TEXT_MAX
from lifl.api.status import Status
from lifl.errors import LiflError, Unreachable
from lifl.placement import cloudevents, drains
from lifl.placement.arbiter import Arbiter, Share, Want
from lifl.placement.cloudevents import About
from lifl.placement.cluster import names
from lifl.placement.cluster.api import Api, Conflict, Object, path_of
from lifl.placement.cluster.decide import ENDED, Decision, Ready, Seen, decide, fitting
from lifl.placement.cluster.desk import Desk, Posted
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.objects import (
    FunctionsRuntime,
    Gateway,
    Install,
    job_file,
    member_job,
    member_secret,
)
from lifl.placement.cluster.outside import Doors
from lifl.placement.cluster.papers import Papers, job_of, saved_of, status_of
from lifl.placement.cluster.runs import MAKE_ROOM, Coordinator
from lifl.placement.cluster.secrets import Secrets
from lifl.placement.cluster.services import why_not
from lifl.placement.cluster.story import News, failed, news, told, with_endpoint, with_model
from lifl.placement.cluster.visitors import Visitors
from lifl.placement.limits import full_disk_says
from lifl.placement.record import write_whole
from lifl.placement.sink import LINGER_S, Counts, Sink
from lifl.placement.store import Saved

log = logging.getLogger("lifl.operator")

WRITE_S: Final = 0.5  # from one write of a status to the next
LOOK_S: Final = 10.0  # to the next look, when nobody wakes it
BATCH: Final = "batch/v1"


class Keeper:
    """The keeper of one FLJob.

    Args:
        body: the object as it is at first; `body` is set anew when it has changed.
        epoch: of the lease under which everything is written.
        arbiter: says what of the nodes the job may use; it answers by `tell_share`.
    """

    def __init__(
        self, api: Api, desk: Desk, install: Install, body: Object, *, epoch: int,
        identity: str, address: str, directory: Path, arbiter: Arbiter,
        events: Counts | None = None,
    ) -> None:  # fmt: skip
        self.api, self.desk, self.install, self.arbiter = api, desk, install, arbiter
        self.body, self.epoch, self.identity, self.address = body, epoch, identity, address
        metadata = body["metadata"]
        self.namespace, self.name, self.uid = (
            metadata[field] for field in ("namespace", "name", "uid")
        )
        self.full_name = names.full(self.namespace, self.name)
        self.path = names.fljob(self.namespace, self.name)
        self.run_dir: Path = directory / self.namespace / f"{self.name}-{self.uid[:8]}"
        self.status = status_of(body)
        self.saved: Saved | None = saved_of(body)
        self.record: Record | None = None
        self.coordinator: Coordinator | None = None
        self.woken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._saying: set[asyncio.Task[None]] = set()  # the loop itself keeps no task
        self.complaint = ""  # of a turn that failed, while it is the status's message
        self.failures: dict[str, str] = {}
        self.closed = False
        self.is_paused = self.is_rewound = False
        self.rewind_from = False  # the newest model is lost: rounds begin at the last checkpoint
        under_way = self.saved.round if self.saved is not None else None
        self.lost = set(under_way.lost) if under_way else set()  # the coordinator does without them
        self.sink: Sink | None = None
        self._events = events
        self.secrets = Secrets(api)
        self.papers = Papers(api, body, home=install.namespace, epoch=epoch, identity=identity)
        self.visitors = Visitors(
            api, install, self.secrets, self.namespace, self.name, self.run_dir / "keys"
        )
        self.generation = 0  # of the spec that this turn goes by, whatever comes meanwhile
        self.started_for: tuple[int, Doors] = 0, {}  # generation and doors that it knows
        self.no_runtime = ""
        self.metrics_at = ""  # of its coordinator, in this pod
        self.crowded_out = ""  # why other jobs have all of the nodes, while they do

    # -- the loop ----------------------------------------------------------------------------
    def wake(self) -> None:
        self.woken.set()

    def start(self) -> asyncio.Task[None]:
        """Begin; `end` and `leave` wait until it has stopped."""
        self.task = asyncio.create_task(self.run())
        return self.task

    async def run(self) -> None:
        """Until it is closed."""
        while not self.closed:
            self.woken.clear()
            try:
                await self._turn()
            except LiflError as error:
                log.warning("%s: %s", self.full_name, error)
                await self._complain(error)
                await asyncio.sleep(1.0)
                self.woken.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), LOOK_S)
            await asyncio.sleep(WRITE_S / 10)  # several news at once are one turn

    async def _complain(self, error: LiflError) -> None:
        """In the status, where whoever waits for the job looks; not that the API server is away."""
        if not isinstance(error, Unreachable | Conflict):
            self.complaint = str(error)[:TEXT_MAX]
            self._set(self.status.model_copy(update={"message": self.complaint}))
            with contextlib.suppress(LiflError):
                await self._write()

    async def _turn(self) -> None:
        self.generation = int(self.body["metadata"].get("generation", 0))
        try:
            job = job_of(self.body)
        except ValueError as error:  # the CRD lets nothing of that kind through
            await self._say(News("Refused", str(error), "Warning"))
            return
        if self.record is None:
            self.record = await asyncio.to_thread(self.papers.load_record, job)
        await self._give_up_lost_nodes()
        await self._take_in_nodes(job)
        await asyncio.to_thread(self._see_who_drains)
        if self.runtime == "knative" and self.coordinator is None:
            self.no_runtime = await asyncio.to_thread(why_not, self.api, self.install)
        decision = decide(job, self._seen(job))
        if decision.failed is not None:
            reason, why = decision.failed
            self._set(failed(self.status, why, reason, now=names.now(), generation=self.generation))
            self._tell(job, {"event": "failed", "error": why, "code": reason})
            await self._say(News("Failed", why, "Warning"))
            decision = decide(job, self._seen(job))
        await self._carry_out(job, decision)
        await self._write()
        await self._expire(job)

    async def _give_up_lost_nodes(self) -> None:
        """A node that has other keys is not what it was: memory of the job that was there is gone.

        Where no node of the job is left, or its model went with one, the job is placed anew, and
        its rounds begin at the last checkpoint.  Otherwise its coordinator does without the node.
        """
        assert self.record is not None
        lost = sorted(
            name for name, key in self.record.nodes.items()
            if name in self.desk.nodes and self.desk.nodes[name].key != key
        )
        is_all = bool(lost) and len(lost) == len(self.record.nodes)
        if self.status.phase in ENDED or not (is_all or self.rewind_from):
            return
        self.rewind_from = False
        await self._stop()
        self.desk.withdraw(self.full_name)
        for member in names.MEMBERS:  # their files name the gateways of before
            await asyncio.to_thread(self.api.delete, self._member(member))
        left = {n: key for n, key in self.record.nodes.items() if n not in {*lost, *self.lost}}
        self.record = self.record.again().on(left)
        await self._save_record()
        gone = ", ".join(sorted({*lost, *self.lost}))
        text = f"{gone} began anew, or is lost: rounds go on from the last checkpoint"
        await self._say(News("PlacedAnew", text, "Warning"))

    async def _take_in_nodes(self, job: FLJob) -> None:
        """A node that has joined the cluster, or begins anew, is the job's from the next round on.

        Its coordinator is started again with it, which costs the round under way nothing.
        """
        assert self.record is not None
        nodes = self.record.nodes
        if self.status.phase != "Running" or self.coordinator is None or not nodes:
            return
        known = {name: key for name, key in nodes.items() if name not in self.lost}
        new = {
            name: key for name, key in fitting(job, self._ready()).items()
            if nodes.get(name) != key and name not in known
        }  # fmt: skip
        if not new:
            return
        self.lost -= new.keys()
        self.record = self.record.on({**nodes, **new})
        await self._save_record()
        await self._stop()  # and it is started again in this turn
        await self._say(News("NodesJoined", f"{', '.join(sorted(new))}: from the next round on"))

    def _see_who_drains(self) -> None:
        """Nodes that are cordoned are left."""
        assert self.record is not None
        draining = self.desk.cordoned & self.record.nodes.keys()
        if self.run_dir.exists() and drains.read(self.run_dir) != draining:
            drains.write(self.run_dir, draining)

    @property
    def runtime(self) -> FunctionsRuntime:
        """What the job's functions run as."""
        asked = self.body["spec"].get("functions", {}).get("runtime")
        return asked or self.install.functions_runtime

    def _ready(self) -> list[Ready]:
        """Nodes that can be given to the job."""
        return [
            Ready(name=node.name, key=node.key, endpoint=node.gateway,
                  budget_bytes=node.budget_bytes)
            for node in sorted(self.desk.nodes.values(), key=lambda node: node.name)
            if node.gateway and node.name not in self.desk.cordoned
        ]  # fmt: skip

    def _seen(self, job: FLJob) -> Seen:
        assert self.record is not None
        return Seen(
            status=self.status, nodes=self._ready(), placed=self.record.nodes,
            has_initial=self._initial.exists() or _is_past_initial(self.saved, self.record.start),
            failures=self.failures, is_running=self.coordinator is not None,
            crowded_out=self.crowded_out,
            no_runtime=self.no_runtime,
        )  # fmt: skip

    @property
    def _initial(self) -> Path:
        return self.run_dir / "initial.safetensors"

    # -- acting ------------------------------------------------------------------------------
    async def _carry_out(self, job: FLJob, decision: Decision) -> None:
        assert self.record is not None
        if self.is_rewound:
            self.record, self.is_rewound = self.record.again(), False
            await self._save_record()
        if decision.place:
            self.record = self.record.on(decision.place)
            await self._save_record()
            where = ", ".join(sorted(decision.place))
            await self._say(News("Placed", f"on {where}"))
        for said in decision.conditions:
            self._set(self.status.with_condition(
                said.type, said.so, said.reason, said.message, now=names.now(),
                generation=self.generation,
            ))  # fmt: skip
        before = "" if self.status.message == self.complaint else self.status.message
        self._set(self.status.model_copy(update={
            "phase": decision.phase, "observed_generation": self.generation,
            "message": decision.message or before, "rounds": job.spec.rounds,
            "epoch": self.epoch, "coordinator": self.identity,
        }))  # fmt: skip
        if not decision.coordinator:
            await self._stop()
        if decision.clear:
            for member in names.MEMBERS:
                await asyncio.to_thread(self.api.delete, self._member(member))
        await self._expose(job, decision)
        if decision.members:
            await self._members(job, decision)
        if decision.pause and self.coordinator is not None:
            self.coordinator.pause()
        elif decision.coordinator:
            # it goes on with what is new
            if self.started_for != (self.generation, self.visitors.doors):
                if self.coordinator is not None:
                    await self.visitors.revoke(job, self.record)
                await self._stop()
            await self._start(job)
        elif decision.phase in (*ENDED, "Suspended"):
            self.desk.withdraw(self.full_name)

    async def _members(self, job: FLJob, decision: Decision) -> None:
        """Files first, then the pods that read them."""
        assert self.record is not None
        gateways = self._gateways()
        if gateways is None:
            return
        secret = member_secret(job, self.uid, self.record, gateways, self.install)
        await asyncio.to_thread(self.secrets.keep, secret)
        if "initial" in decision.members:
            self.desk.expect(self.full_name, self.record.initial[0], self._initial)
        for member in decision.members:
            there = await asyncio.to_thread(self.api.find, self._member(member))
            if member == "initial" and there and there.get("status", {}).get("succeeded"):
                # what it brought is not here: it went with the pod of the operator before
                await asyncio.to_thread(self.api.delete, self._member(member))
                there = None
            if there is None:
                made = member_job(job, self.uid, member)
                await asyncio.to_thread(
                    self.api.create, path_of(BATCH, "jobs", self.namespace), made
                )
                count = made["spec"]["completions"]
                await self._say(News("Started", f"{count} pod(s) of the {member}"))

    def _gateways(self) -> list[Gateway] | None:
        """Of the job's nodes that are not lost; None until all are here (again)."""
        assert self.record is not None
        gateways = [
            Gateway(name, self.desk.nodes[name].gateway, key)
            for name, key in sorted(self.record.nodes.items())
            if name in self.desk.nodes and self.desk.nodes[name].gateway and name not in self.lost
        ]  # fmt: skip
        return gateways if len(gateways) >= len(self.record.nodes.keys() - self.lost) else None

    async def _expose(self, job: FLJob, decision: Decision) -> None:
        """Let clients from outside in, while there is something for them."""
        assert self.record is not None
        gateways, endpoint = self._gateways(), self.status.endpoint
        if decision.phase in ENDED:
            await self.visitors.close(job)
        elif decision.coordinator and gateways:
            if not await self.visitors.open(job, self.uid, self.record, gateways):
                self.complaint = f"no load balancer has given {names.outside(self.name)} an address"
                self._set(self.status.model_copy(update={"message": self.complaint}))
            elif secret := await self.visitors.give_files(job, self.uid, self.record, gateways):
                self._set(with_endpoint(self.status, secret=secret))
        doors = self.visitors.doors
        where = tuple(doors[node][0] for node in doors if node not in self.lost)
        if where or (endpoint is not None and endpoint.outside):
            self._set(with_endpoint(self.status, outside=where))

    def _member(self, member: str) -> str:
        return path_of(BATCH, "jobs", self.namespace, f"{self.name}-{member}")

    async def _start(self, job: FLJob) -> None:
        """The coordinator, if it does not run; agents hear where it is."""
        if self.coordinator is not None:
            return
        assert self.record is not None
        record, folder = self.record, self.run_dir
        fields = job_file(job)
        fields["spec"]["model"] = {"file": self._initial.name}
        with full_disk_says(folder, MAKE_ROOM):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.visitors.keyring(job, record)
            write_whole(folder / "job.json", json.dumps(fields).encode())
        config = {
            "job": str(folder / "job.json"), "run_dir": str(folder), "nodes": dict(record.nodes),
            "keys": list(record.coordinator), "start": record.start, "number": record.number,
            "clients": record.names(job), "keyring": str(folder / "keys"),
            "observers": [record.observer[0]], "workers": [keys[0] for keys in record.workers],
            "metrics_port": 0, "fljob": self.path, "epoch": self.epoch, "shared": True,
            "outside": self.visitors.outside(job, record).wire(),
        }  # fmt: skip
        self.coordinator = Coordinator(
            self.full_name, folder, config, self.address, self._on_event
        )
        self.started_for = self.generation, self.visitors.doors
        self.desk.post(Posted(
            self.full_name, record.number, self.coordinator.endpoint, record.coordinator[0],
            dict(record.nodes),
        ))  # fmt: skip

    async def _stop(self) -> None:
        self.metrics_at = ""
        coordinator, self.coordinator = self.coordinator, None
        if coordinator is not None:
            await coordinator.stop()
            self._wants_nothing()

    def tell_share(self, share: Share) -> None:
        """The arbiter has decided; the coordinator plans its next round with that."""
        if share.why != self.crowded_out:
            self.crowded_out = share.why
            self.wake()
        if self.coordinator is not None:
            self.coordinator.tell(share.wire())

    def _wants_nothing(self) -> None:
        """Without a coordinator there are no rounds; other jobs may have the share."""
        self.crowded_out = ""
        self.arbiter.leave(self.full_name)

    def _on_event(self, event: Mapping[str, Any]) -> None:
        """What the coordinator says; it has ended when it says so."""
        if event["event"] == "paused":
            self.is_paused = True
        if event["event"] == "ended":
            self.coordinator, self.metrics_at = None, ""
            if self.is_paused:
                self.is_paused, self.is_rewound = False, True
            elif self.rewind_from:
                pass
            elif self.status.phase not in ENDED:
                event = {"event": "failed", "code": "defect",
                         "error": f"the coordinator {event['how']}"}  # fmt: skip
            self._wants_nothing()
        if event["event"] == "listening":
            self.arbiter.again(self.full_name)
        if event["event"] == "ask":
            self.arbiter.ask(Want(**{k: v for k, v in event.items() if k != "event"}))
        if event["event"] == "published":
            self.arbiter.round_done(self.full_name)
        if event["event"] in ("done", "failed"):
            self._wants_nothing()
        if event["event"] == "rewind":
            self.rewind_from = True
        if event["event"] == "node_lost":
            self.lost.add(event["node"])
        if event["event"] == "node_back":
            self.lost.discard(event["node"])
        if event["event"] == "metrics_at":
            self.metrics_at = event["coordinator"]
        before = self.status.phase
        job = job_of(self.body)
        self._set(told(self.status, event, job, now=names.now(), generation=self.generation))
        if event["event"] == "done":
            place = str(self.run_dir / "model.safetensors")
            self._set(with_model(self.status, place, now=names.now()))
            event = {**event, "place": place}
        if before not in ENDED:
            self._tell(job, event)
        said = news(event)
        if said is not None and before not in ENDED:
            saying = asyncio.get_running_loop().create_task(self._say(said))
            self._saying.add(saying)
            saying.add_done_callback(self._saying.discard)
        self.wake()

    def _tell(self, job: FLJob, event: Mapping[str, Any]) -> None:
        """The job's sink, if it names one."""
        url, start = job.spec.event_sink, self.record.start if self.record else 1
        about = About(self.full_name, self.path, f"{self.uid}/{start}")
        if url is None or (made := cloudevents.of(event, about)) is None:
            return
        self.sink = self.sink or Sink(url, self._events)
        self.sink.put(made)

    def member_says(self, batch: Object) -> None:
        """A batch Job of this FLJob has changed."""
        member = batch["metadata"]["labels"].get(names.COMPONENT, "")
        for condition in batch.get("status", {}).get("conditions", []):
            if condition["type"] == "Failed" and condition["status"] == "True":
                why = condition.get("message", "it failed")
                if self.failures.get(member) != why:
                    self.failures[member] = why
                    self.wake()

    # -- the API server ----------------------------------------------------------------------
    def _set(self, status: Status) -> None:
        self.status = status

    async def _save_record(self) -> None:
        assert self.record is not None
        await asyncio.to_thread(self.papers.save_record, self.record)

    async def _write(self) -> None:
        if not await asyncio.to_thread(self.papers.write, self.status):
            self.closed = True

    async def _say(self, said: News) -> None:
        await asyncio.to_thread(self.papers.say, said)

    async def _expire(self, job: FLJob) -> None:
        """Delete the FLJob when its time is over."""
        ttl = job.spec.ttl_seconds_after_finished
        if ttl is None or self.status.finished_at is None:
            return
        at = datetime.fromisoformat(self.status.finished_at) + timedelta(seconds=ttl)
        left = (at - datetime.now(UTC)).total_seconds()
        if left <= 0:
            await asyncio.to_thread(self.api.delete, self.path)
        else:
            asyncio.get_running_loop().call_later(left, self.wake)

    # -- the end -----------------------------------------------------------------------------
    async def end(self) -> None:
        """The FLJob is being deleted: nothing stays."""
        await self._close()
        self.desk.withdraw(self.full_name)
        for member in names.MEMBERS:
            await asyncio.to_thread(self.api.delete, self._member(member))
        await asyncio.to_thread(self.papers.delete_record)
        await asyncio.to_thread(shutil.rmtree, self.run_dir, True)

    async def leave(self) -> None:
        """The operator ends; another goes on."""
        await self._close()

    async def _close(self) -> None:
        """After it nothing of this keeper acts: what a turn under way makes is there by then."""
        self.closed = True
        self.wake()
        if self.task is not None:
            await asyncio.wait({self.task})
        await self._stop()
        if self.sink is not None:
            self.sink.close(LINGER_S)


def _is_past_initial(saved: Saved | None, start: int) -> bool:
    """Nobody needs the initial model any more: nodes have it, or there is a checkpoint."""
    if saved is None:
        return False
    if saved.start < start:  # rounds begin at the checkpoint, or at the beginning
        return saved.checkpoint is not None
    begun = saved.round is not None and saved.round.started_at_s is not None
    return bool(saved.base or saved.rows or begun)
