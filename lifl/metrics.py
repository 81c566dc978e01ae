"""Every metric of LIFL, declared once, and the values of one process.

Owns names, labels and what each figure means; docs/metrics.md is generated from here by
scripts/docs_metrics.py.  Does not own the endpoint (placement/scrape.py) nor what is counted when.
Imports no metrics library: figures are plain numbers until somebody asks for them, so that a
process pays nothing for metrics that nobody reads.

Names follow Prometheus: base units, `_total` on counters, no label whose values somebody outside
could make up.  The label of a job is `fljob`, since `job` is Prometheus' own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "info"]
Where = Literal["agent", "coordinator", "operator"]
Labels = tuple[str, ...]

PHASES: Final = ("wait", "ingest", "fold", "hand_off", "publish")

PHASE_HELP: Final[dict[str, str]] = {
    "publish": "the top has written the model; until the coordinator knows that it is published",
    "ingest": "an update of a client is being received on some node: from the slot that it was "
    "given to its seal",
    "fold": "an aggregator of some node computes, the division at the top included",
    "hand_off": "nobody computes after the last update was sealed: descriptors, wake-ups, sums on "
    "their way between nodes, the order to close",
    "wait": "nobody sends or computes before that: clients fetch the model, train, or are not "
    "back yet",
}
"""Each moment of a round belongs to the first of these that is true, so they add up to its time."""


@dataclass(frozen=True)
class Metric:
    """One metric.  Counters are named without their `_total`, infos without their `_info`."""

    name: str
    kind: Kind
    where: Where
    help: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()

    @property
    def shown_as(self) -> str:
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


_JOB: Final = ("fljob",)
_ROUND_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

METRICS: Final = (
    # -- what runs -----------------------------------------------------------------------------
    Metric("lifl_node", "info", "agent", "What this node is and which back ends it uses.",
           ("node", "proxy", "kernels", "isa")),
    Metric("lifl_node_job", "info", "agent",
           "A job that has memory on this node, and the lane that its updates come in by.",
           ("fljob", "lane")),
    Metric("lifl_processes", "gauge", "agent", "Processes of this node that live.", ("kind",)),
    Metric("lifl_roles", "gauge", "agent", "Roles of the plan on this node.", ("fljob", "role")),
    # -- updates -------------------------------------------------------------------------------
    Metric("lifl_updates", "counter", "agent",
           "Updates of clients that this node has sealed and accepted.", _JOB),
    Metric("lifl_update_bytes", "counter", "agent", "Payload bytes of those updates.", _JOB),
    Metric("lifl_peer_sums", "counter", "agent",
           "Sums that other nodes sent here and that were accepted.", _JOB),
    Metric("lifl_peer_sum_bytes", "counter", "agent", "Payload bytes of those sums.", _JOB),
    Metric("lifl_joins_refused", "counter", "agent",
           "Processes of other pods that were not let in, or claimed what was not given to them, "
           "by why; in a cluster.", ("code",)),
    Metric("lifl_rejections", "counter", "agent",
           "Requests that the gateway refused, by the code that the sender was told; handshakes of "
           "keys that nobody enrolled as `unknown-key`, those that fail otherwise as "
           "`bad-handshake`, and what the bulk port refused as `bulk: ` and why.", ("code",)),
    # -- slots and queue -----------------------------------------------------------------------
    Metric("lifl_slots", "gauge", "agent", "Input slots that updates may use.", _JOB),
    Metric("lifl_slots_used", "gauge", "agent",
           "Input slots that are being written, or sealed and not yet released.", _JOB),
    Metric("lifl_slot_waits", "counter", "agent",
           "Uploads that found no free slot and had to wait for one.", _JOB),
    Metric("lifl_slot_wait_seconds", "counter", "agent",
           "Time from asking for a slot to being given one, over all uploads.", _JOB),
    Metric("lifl_queue_length", "gauge", "agent",
           "Updates that wait: sealed and not yet folded, or without a slot.", _JOB),
    Metric("lifl_queue_length_ewma", "gauge", "agent",
           "Exponentially weighted moving average of the queue length over time, with a time "
           "constant of 10 s.", _JOB),
    Metric("lifl_queue_seconds", "counter", "agent",
           "Updates that wait or are in service, integrated over time: rate() is the mean queue.  "
           "Of jobs with scaling.leaves: queue.", _JOB),
    Metric("lifl_queue_estimate", "gauge", "agent",
           "What such a job's leaves on this node follow: the mean queue of each period, smoothed; "
           "not there before the first has ended.", _JOB),
    Metric("lifl_arena_bytes", "gauge", "agent",
           "Pages of shared memory that exist for a job on this node.", _JOB),
    # -- descriptors ---------------------------------------------------------------------------
    Metric("lifl_handoffs", "counter", "agent",
           "Descriptors that the proxy moved from one endpoint to another.", ("fljob", "proxy")),
    Metric("lifl_descriptors_passed", "counter", "agent",
           "Descriptors that went to the agent instead, for whatever reason; it pokes the "
           "receiver.", _JOB),
    Metric("lifl_descriptors_quarantined", "counter", "agent",
           "Part of those passed: malformed or forged.", _JOB),
    Metric("lifl_descriptors_credit_limited", "counter", "agent",
           "Part of those passed: their sender had no credit left.", _JOB),
    Metric("lifl_proxy_repairs", "counter", "agent",
           "What somebody else took out of the kernel and the agent put back: `program`, `socket`, "
           "`credit` or `route`.", ("what",)),
    # -- arithmetic ----------------------------------------------------------------------------
    Metric("lifl_folds", "counter", "agent", "Passes over memory; one folds all that is queued.",
           _JOB),
    Metric("lifl_folded_inputs", "counter", "agent", "Updates and sums that were folded.", _JOB),
    Metric("lifl_fold_bytes", "counter", "agent", "Bytes of those inputs.", _JOB),
    Metric("lifl_fold_seconds", "counter", "agent",
           "Time that aggregators spent folding, added over aggregators.  rate(lifl_fold_bytes_"
           "total) / rate(lifl_fold_seconds_total) is the speed of one.", _JOB),
    Metric("lifl_fold_bytes_per_second", "gauge", "agent",
           "Speed of one folding aggregator in the last round: bytes of inputs by time.", _JOB),
    # -- starts --------------------------------------------------------------------------------
    Metric("lifl_starts", "counter", "agent",
           "Roles that began a round: `cold` in a process that was started for it, `zygote` in one "
           "that the node's zygote forked for it, `warm` in one that was there.", ("start",)),
    Metric("lifl_runtimes_started", "counter", "agent",
           "Aggregator runtimes that were started and have joined: `zygote`, forked by the node's "
           "zygote; `cold`, as a new interpreter.", ("start",)),
    Metric("lifl_runtime_start_seconds", "counter", "agent",
           "From asking for a runtime until it has joined, added over those of "
           "lifl_runtimes_started; pods, which the operator starts, are not in it.", ("start",)),
    Metric("lifl_scaled_to_zero", "counter", "agent",
           "Times that a job's runtimes on this node were stopped, since none were worth keeping.",
           _JOB),
    Metric("lifl_scaled_from_zero", "counter", "agent",
           "Times that they were started again: for an update, or since one was expected.", _JOB),
    # -- the job -------------------------------------------------------------------------------
    Metric("lifl_job", "info", "coordinator", "The job and the run's directory.",
           ("fljob", "run", "algorithm", "mode")),
    Metric("lifl_nodes", "gauge", "coordinator", "Nodes whose agent has reported."),
    Metric("lifl_clients_connected", "gauge", "coordinator", "Clients that some gateway knows."),
    Metric("lifl_rounds", "counter", "coordinator", "Rounds that were published."),
    Metric("lifl_rounds_planned", "gauge", "coordinator", "spec.rounds of the job."),
    Metric("lifl_round", "gauge", "coordinator", "Number of the round under way."),
    Metric("lifl_round_clients", "gauge", "coordinator", "Clients drawn for the round under way."),
    Metric("lifl_round_updates", "gauge", "coordinator",
           "Updates of the round under way that some node has accepted."),
    Metric("lifl_round_seconds", "histogram", "coordinator",
           "Time of a round: from the order to start until its model is published.",
           buckets=_ROUND_BUCKETS),
    Metric("lifl_round_phase_seconds", "counter", "coordinator",
           "Time of rounds by phase; the phases of a round add up to lifl_round_seconds.",
           ("phase",)),
    Metric("lifl_round_last_phase_seconds", "gauge", "coordinator",
           "The same of the last finished round.", ("phase",)),
    Metric("lifl_client_metric", "gauge", "coordinator",
           "What clients reported with their updates of the last round, weighted as these are.",
           ("metric",)),
    Metric("lifl_evaluation", "gauge", "coordinator",
           "What the evaluator measured of the newest model that it has seen.", ("metric",)),
    Metric("lifl_restarts", "counter", "coordinator",
           "Processes that died or fell silent and were replaced.", ("node", "what")),
    # -- the operator --------------------------------------------------------------------------
    Metric("lifl_operator_leads", "gauge", "operator", "Whether this operator holds the Lease."),
    Metric("lifl_operator_nodes", "gauge", "operator", "Nodes whose agent has a line here."),
    Metric("lifl_operator_fljobs", "gauge", "operator", "FLJobs that have not ended."),
    Metric("lifl_sink_events", "counter", "operator",
           "CloudEvents for sinks of jobs (spec.eventSink) by how they ended: delivered; refused "
           "by the sink; dropped, since too many waited or the job was gone.", ("outcome",)),
    Metric("lifl_sink_retries", "counter", "operator",
           "Tries to deliver an event that failed and were followed by another."),
    Metric("lifl_sink_waiting", "gauge", "operator", "Events that wait for a sink."),
)  # fmt: skip

_BY_NAME: Final = {metric.name: metric for metric in METRICS}


@dataclass
class Distribution:
    """Values of a histogram; `counts` has one more than there are buckets."""

    counts: list[int]
    sum: float = 0.0


Values = dict[Labels, float]


@dataclass
class Figures:
    """The values of one process, by metric and values of its labels.

    Args:
        where: whose they are; metrics of others are refused.
    """

    where: Where
    values: dict[str, Values] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        key, values = self._at(name, "counter", labels)
        values[key] = values.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        key, values = self._at(name, "gauge", labels)
        values[key] = value

    def info(self, name: str, **labels: str) -> None:
        """Say it, in place of what was said before."""
        key, values = self._at(name, "info", labels)
        if _BY_NAME[name].labels[0] != "fljob":
            values.clear()
        values[key] = 1.0

    def observe(self, name: str, value: float) -> None:
        metric = self._metric(name, "histogram")
        empty = Distribution([0] * (len(metric.buckets) + 1))
        distribution = self.distributions.setdefault(name, empty)
        distribution.counts[bisect_left(metric.buckets, value)] += 1
        distribution.sum += value

    def clear(self, name: str) -> None:
        """Forget all values of a gauge, before those that there are now are set."""
        self._metric(name, "gauge")
        self.values.pop(name, None)

    def forget_job(self, job: str) -> None:
        """Take out the gauges and infos of a job that is over; its counters stay."""
        for name, values in self.values.items():
            metric = _BY_NAME[name]
            if metric.kind != "counter" and metric.labels[:1] == _JOB:
                for key in [key for key in values if key[0] == job]:
                    del values[key]

    def get(self, name: str, **labels: str) -> float:
        """0 where nothing was said yet."""
        return self._at(name, _BY_NAME[name].kind, labels)[1].get(tuple(labels.values()), 0.0)

    def copy(self) -> Figures:
        return Figures(
            self.where,
            {name: dict(values) for name, values in self.values.items()},
            {name: Distribution(list(d.counts), d.sum) for name, d in self.distributions.items()},
        )

    def _metric(self, name: str, kind: Kind) -> Metric:
        metric = _BY_NAME[name]
        assert metric.kind == kind, f"{name} is a {metric.kind}"
        assert metric.where == self.where, f"{name} is of the {metric.where}"
        return metric

    def _at(self, name: str, kind: Kind, labels: Mapping[str, str]) -> tuple[Labels, Values]:
        metric = self._metric(name, kind)
        assert tuple(labels) == metric.labels, f"{name} has the labels {metric.labels}"
        return tuple(labels.values()), self.values.setdefault(name, {})
