"""What a node has done: for its metrics, and as its part of a round's row.

Owns the agent's numbers.  Gateways and aggregators say theirs with messages that exist anyway
(pong, work); what the proxy moved is read from its counters when somebody asks.  Called by the
agent's loop, members.py and liveness.py.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Final

from lifl.api.codes import CODES
from lifl.errors import InvalidUpdate, Late, Refused
from lifl.functions.tally import MOST_SPANS, Span, merged
from lifl.functions.wire import Message
from lifl.metrics import Figures
from lifl.placement import autoscaler
from lifl.placement.hosted import NodeJob
from lifl.placement.node import Node
from lifl.placement.pool import STARTS, Process, StartKind
from lifl.proxy_ebpf.contract import Counters

EWMA_S: Final = 10.0
REPORTS_KEPT: Final = 3  # a coordinator that comes back asks for the last ones again
REPAIRS: Final = ("program", "socket", "credit", "route")
REFUSALS: Final = ("bad-token", "not-allowed", "malformed", "other-tenant", "not-its-role")
REJECTIONS: Final = (  # what a gateway tells a sender, and handshakes that got no further
    *(row.name for row in CODES.values() if issubclass(row.kind, InvalidUpdate | Late | Refused)),
    "unknown-job", "busy", "not-started", "too-slow", "unreachable", "unknown-key", "bad-handshake",
    *(f"bulk: {why}" for why in ("silent", "crowded out", "not a greeting", "not granted",
                                 "unknown", "stolen", "replayed", "expired")),
)  # fmt: skip
LATE_S: Final = 0.1  # how long a round's row waits for what the top still has to say


@dataclass
class Account:
    """What is known of one job."""

    work: Counter[str] = field(default_factory=Counter)  # since the last report
    folds: dict[int, list[Span]] = field(default_factory=dict)  # by round
    models: dict[int, float] = field(default_factory=dict)  # when a round's model was written
    counted: dict[int, Counters] = field(default_factory=dict)  # of the proxy, by endpoint
    handed: int = 0  # hand-offs since the last report
    warm: int = 0
    queue_at: float = -math.inf
    queue: autoscaler.Queue = field(default_factory=lambda: _empty(time.monotonic()))
    due: Message | None = None  # a report that was asked for
    due_at: float = 0.0
    reports: dict[int, Message] = field(default_factory=dict)  # the last few, by round


def _empty(now_s: float) -> autoscaler.Queue:
    return autoscaler.Queue(since_s=now_s, looked_s=now_s)


class Accounts:
    """The accounts of one node."""

    def __init__(self, node: Node, isa: str) -> None:
        self.node = node
        self.figures = Figures("agent")
        self.jobs: dict[int, Account] = {}
        self.figures.info(
            "lifl_node", node=node.name, proxy=node.router.name, kernels=node.kernels, isa=isa
        )
        for what in REPAIRS:  # from 0 on, so that Prometheus sees the first one increase
            self.figures.add("lifl_proxy_repairs", 0, what=what)
        for code in REJECTIONS:
            self.figures.add("lifl_rejections", 0, code=code)
        for code in REFUSALS:
            self.figures.add("lifl_joins_refused", 0, code=code)

    def _of(self, job: NodeJob) -> Account:
        return self.jobs.setdefault(job.number, Account())

    def started(self, start: StartKind, took_s: float | None) -> None:
        """A runtime has joined."""
        self.figures.add("lifl_runtimes_started", 1, start=start)
        if took_s is not None:
            self.figures.add("lifl_runtime_start_seconds", took_s, start=start)

    def counts(self, name: str, job: NodeJob) -> None:
        self.figures.add(name, 1, fljob=job.name)

    def assigned(self, job: NodeJob, process: Process) -> None:
        """A role was given to a runtime: one that was there for another starts it warm."""
        self._of(job).warm += process.has_served
        process.has_served = True

    # -- what processes say ------------------------------------------------------------------
    def worked(self, job: NodeJob, message: Message) -> None:
        """An aggregator has nothing left to do, and says what it did."""
        account, name = self._of(job), job.name
        for what, amount in (
            ("folds", message["folds"]), ("folded_inputs", message["updates"]),
            ("fold_bytes", message["bytes"]), ("fold_seconds", message["seconds"]),
        ):  # fmt: skip
            account.work[what] += amount
            self.figures.add(f"lifl_{what}", amount, fljob=name)
        for round_, start, end in message["spans"]:
            spans = account.folds.setdefault(round_, [])
            spans.append((start, end))
            if len(spans) > 4 * MOST_SPANS:
                account.folds[round_] = merged(spans)
        account.models.update(message["models"])

    def gateway_says(self, message: Message) -> None:
        """A pong: counts since the last one, and what there is now."""
        figures = self.figures
        for code, count in message.get("rejected", {}).items():
            figures.add("lifl_rejections", count, code=code)
        for name, said in message.get("jobs", {}).items():
            for what, amount in said["counts"].items():
                figures.add(f"lifl_{what}", amount, fljob=name)
            for job in [job for job in self.node.jobs.values() if job.name == name]:
                figures.set("lifl_slots_used", said["slots_used"], fljob=name)
                self._queue(job, said["queue"])
                if (chosen := job.queue_settings) is not None:
                    account = self._of(job)
                    account.queue = autoscaler.measured(
                        account.queue, time.monotonic(), length=said["in_service"],
                        update_s=said["counts"].get("queue_seconds", 0.0), settings=chosen,
                    )  # fmt: skip
                    if (estimate := account.queue.estimate) is not None:
                        figures.set("lifl_queue_estimate", estimate, fljob=name)

    def _queue(self, job: NodeJob, length: float) -> None:
        """e ← e + (1 - exp(-Δt/τ))·(q - e): samples need not come at equal distances."""
        account, name, now, figures = self._of(job), job.name, time.monotonic(), self.figures
        before = figures.get("lifl_queue_length_ewma", fljob=name)
        share = 1.0 - math.exp((account.queue_at - now) / EWMA_S)
        account.queue_at = now
        figures.set("lifl_queue_length", length, fljob=name)
        figures.set("lifl_queue_length_ewma", before + share * (length - before), fljob=name)

    # -- what is read ------------------------------------------------------------------------
    def _count(self, job: NodeJob) -> None:
        """Take over what the proxy has counted since the last time."""
        account, figures = self._of(job), self.figures
        for endpoint, now in self.node.router.counters(job.number).items():
            before = account.counted.get(endpoint, Counters())
            new = {f.name: getattr(now, f.name) - getattr(before, f.name) for f in fields(now)}
            account.counted[endpoint] = now
            account.handed += new["redirected"]
            figures.add(
                "lifl_handoffs", new["redirected"], fljob=job.name, proxy=self.node.router.name
            )
            for what in ("passed", "quarantined", "credit_limited"):
                figures.add(f"lifl_descriptors_{what}", new[what], fljob=job.name)

    def refresh(self) -> None:
        """Before a scrape: whatever can be had at once; the gateway's follows with its pong."""
        node, figures = self.node, self.figures
        gateway = node.pool.gateway
        if gateway is not None:
            node.send(gateway, {"t": "ping"})
        figures.clear("lifl_processes")
        for kind, number in Counter(p.kind for p in node.pool.processes.values()).items():
            figures.set("lifl_processes", number, kind=kind)
        figures.clear("lifl_roles")
        for job in node.jobs.values():
            self._count(job)
            for kind, number in Counter(r["kind"] for r in job.roles.values()).items():
                figures.set("lifl_roles", number, fljob=job.name, role=kind)
            if job.files is not None:
                figures.set("lifl_slots", job.limit, fljob=job.name)
                figures.set("lifl_arena_bytes", job.files.resident_bytes(), fljob=job.name)
                figures.info("lifl_node_job", fljob=job.name, lane=job.plan.get("lane", "zmq"))

    # -- rounds ------------------------------------------------------------------------------
    def report(self, job: NodeJob, message: Message) -> None:
        """The coordinator asks for a round's row; it is answered now or by `overdue`."""
        account = self._of(job)
        if message["round"] in account.reports:  # the coordinator that heard it is gone
            self.node.report(account.reports[message["round"]])
            return
        if account.due is not None:
            self._answer(job, account)
        account.due, account.due_at = message, time.monotonic()
        self.overdue()

    def overdue(self) -> float | None:
        """Answer what is complete or has waited enough; when to look again, in seconds."""
        waiting = None
        for job in self.node.jobs.values():
            account = self.jobs.get(job.number)
            if account is None or account.due is None:
                continue
            late = time.monotonic() - account.due_at >= LATE_S
            has_top = any(role["kind"] == "top" for role in job.roles.values())
            if late or not has_top or account.due["round"] in account.models:
                self._answer(job, account)
            else:
                waiting = LATE_S
        return waiting

    def _answer(self, job: NodeJob, account: Account) -> None:
        assert account.due is not None
        number, account.due = account.due["round"], None
        self._count(job)
        starts, start_s = self.node.pool.take_starts()
        warm = account.warm
        for start, many in (*((kind, starts[kind]) for kind in STARTS), ("warm", warm)):
            self.figures.add("lifl_starts", many, start=start)
        work: dict[str, Any] = dict(account.work)
        if work.get("fold_seconds"):
            speed = work["fold_bytes"] / work["fold_seconds"]
            self.figures.set("lifl_fold_bytes_per_second", speed, fljob=job.name)
        report = account.reports[number] = {
            "t": "work", "job": job.name, "round": number, "work": work,
            "handoffs": {self.node.router.name: account.handed}, "warm": warm,
            **{kind: starts[kind] for kind in STARTS},
            "start_s": {kind: start_s[kind] for kind in STARTS},
            "folds": merged(account.folds.get(number, [])),
            "queue": account.queue.estimate, "model_at": account.models.get(number),
        }  # fmt: skip
        account.reports.pop(number - REPORTS_KEPT, None)
        self.node.report(report)
        account.work, account.handed = Counter(), 0
        holders = [self.node.pool.holder(job.number, endpoint) for endpoint in job.roles]
        account.warm = sum(p is not None for p in holders)  # who goes on starts the next warm
        for of_round in (account.folds, account.models):
            for old in [old for old in of_round if old <= number]:
                del of_round[old]

    def left(self, job: NodeJob) -> None:
        """A role was given up between rounds."""
        account = self._of(job)
        account.warm = max(0, account.warm - 1)

    def close(self, job: NodeJob) -> None:
        """A job is about to be forgotten."""
        self._count(job)
        self.figures.forget_job(job.name)
        self.jobs.pop(job.number, None)
