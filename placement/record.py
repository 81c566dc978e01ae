"""What a run leaves behind: events, rounds.jsonl, model.safetensors, summary.json.

Owns the run directory.  Decides nothing.  Called by the coordinator.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from lifl.api.entrypoints import entrypoint, what
from lifl.api.job import FLJob
from lifl.api.named import at_field, called
from lifl.errors import InvalidJob, InvalidUpdate
from lifl.events import emit
from lifl.faults import fault
from lifl.functions.layout import Layout
from lifl.functions.wire import Message
from lifl.placement.limits import full_disk_says
from lifl.placement.monitoring import Monitoring
from lifl.placement.phases import Timeline, split
from lifl.placement.rounds import Round
from lifl.placement.rows import cut_to_whole_lines, rows_of, summary_of
from lifl.placement.snapshot import Plan
from lifl.placement.stopping import Watch
from lifl.placement.store import Clock, Saved

PROGRESS_S: Final = 0.05  # from one word of a round's progress to the next


class Recorder:
    """The story of one run, as it happens on standard output and as it stays on disk."""

    def __init__(self, job: FLJob, run_dir: Path, evaluated: bool) -> None:
        self.job, self.run_dir, self.evaluated = job, run_dir, evaluated
        self.path = run_dir / "rounds.jsonl"
        self.started: dict[int, float] = {}  # the round under way
        self.rows: dict[int, dict[str, Any]] = {}  # that are not written and saved yet
        self.open_rows: dict[int, set[str]] = {}  # rounds whose nodes have still to report
        self.written = 0
        self.last = job.spec.rounds
        self.stopped: str | None = None  # why the job ends before its last round
        self.published_by: str | None = None
        self.taken_bytes: dict[str, int] = {}  # by node, of the round under way
        self.reported: dict[str, list[tuple[float, dict[str, float], str]]] = {}
        self.taken_s: dict[str, list[float]] = {}  # by node: when, since the round's start
        self.unsaved: set[int] = set()  # rows that the job's store does not know as they are
        self.used: tuple[str, ...] = ()
        self.timelines: dict[int, Timeline] = {}
        self.monitoring = Monitoring(job, run_dir)
        self.backends: dict[str, str] = {}
        self.watch = Watch(job.spec.stop, evaluated=evaluated, rounds=job.spec.rounds)
        self.unsaid: Round | None = None  # one whose progress is not said yet
        self.said_at = -math.inf
        self.began_at = time.monotonic()  # with the time of earlier starts taken off
        self.is_continued = False  # a coordinator of this run has said some of it already

    def go_on(self, saved: Saved) -> None:
        """Take up the rows of the coordinator before this one.

        What is in rounds.jsonl is done; of rounds beyond that, nodes are asked again.
        """
        cut_to_whole_lines(self.path)
        for done in rows_of(self.path):
            self.written = done["round"]
            self._watch(done)
        self.watch.unheard_of(self.written)  # the coordinator before this one has said so
        self.published_by = saved.model_at
        for number, row in saved.rows.items():
            if number > self.written:
                self.rows[number] = dict(row) | _no_work()
                self.open_rows[number] = set(row["tree"])
                self._watch(row)

    def has_run_for(self, seconds: float) -> None:
        """So long before this process began."""
        self.began_at -= seconds

    def clock(self) -> Clock:
        """How long the run has taken until now, all its starts together."""
        return Clock(elapsed_s=time.monotonic() - self.began_at, at_s=time.time())

    # -- events ------------------------------------------------------------------------------
    def gateways(self, where: dict[str, list[str]]) -> None:
        emit("gateways", gateways=where)

    def engine(self, message: Message, nodes: int) -> None:
        """A node says which back ends it uses; said again when a node differs."""
        self.monitoring.node(message["node"], message["metrics"], nodes)
        backends = {name: message[name] for name in ("proxy", "kernels", "isa", "reason")}
        if backends != self.backends:
            said = self.is_continued and not self.backends  # by the coordinator before
            self.backends = backends
            if not said:
                emit("engine", nodes=nodes, run_dir=str(self.run_dir),
                     insecure=self.job.spec.insecure, **backends)  # fmt: skip

    def progress(self, round_: Round) -> None:
        """More is in; it is said now and then, the last of it when the round is over."""
        self.unsaid = round_
        self.monitoring.progress(round_)
        self.say_progress()

    @property
    def next_word_at(self) -> float:
        """When to call `say_progress` (monotonic seconds)."""
        return math.inf if self.unsaid is None else self.said_at + PROGRESS_S

    def say_progress(self, *, is_over: bool = False) -> None:
        round_, now = self.unsaid, time.monotonic()
        if round_ is not None and (is_over or now >= self.next_word_at):
            emit("progress", round=round_.number, accepted=round_.in_count,
                 of=round_.of_count, bytes=sum(self.taken_bytes.values()))  # fmt: skip
            self.unsaid, self.said_at = None, now

    def restarted(self, node: str, what: str) -> None:
        emit("restart", what=f"{what} on {node}")
        self.monitoring.restarted(node, what)

    # -- rounds ------------------------------------------------------------------------------
    def start(self, round_: Round, plan: Plan, *, epoch: int, age_s: float = 0.0) -> None:
        self.started = {round_.number: time.monotonic() - age_s}
        self.timelines[round_.number] = Timeline()
        self.monitoring.started(round_)
        self.used = plan.used
        self.taken_bytes, self.reported, self.taken_s = {}, {}, {}
        tree = _tree(plan)
        self.rows[round_.number] = {"round": round_.number, "tree": tree}
        emit("round_started", round=round_.number, clients=round_.of_count, tree=tree,
             epoch=epoch, unplaced=len(plan.unplaced))  # fmt: skip

    def lost(self, node: str) -> None:
        """A node reports nothing any more; rounds that are over do without its part."""
        self.used = tuple(name for name in self.used if name != node)
        for number, missing in list(self.open_rows.items()):
            if node in missing:
                missing.discard(node)
                self._when_whole(number)
        self._write()

    def moved(
        self, round_: Round, plan: Plan, epoch: int, *, again: int, answered: Container[str]
    ) -> None:
        """A round goes on with other nodes.

        Args:
            again: clients that have to send again.
            answered: clients from whom nothing is needed; what others had sent to a lost node is
                counted where they send it again.
        """
        row = self.rows[round_.number]
        self.used = plan.used
        for node in [node for node in self.reported if node not in plan.used]:
            rows = self.reported[node]
            kept = [each for each in rows if each[2] in answered]
            self.reported[node] = kept
            self.taken_s[node] = self.taken_s.get(node, [])[: len(kept)]
            self.taken_bytes[node] = self.taken_bytes[node] * len(kept) // max(1, len(rows))
        row["tree"] = _tree(plan)
        row["moves"] = row.get("moves", 0) + again
        emit("moved", round=round_.number, clients=again, tree=row["tree"], epoch=epoch)
        self.monitoring.progress(round_)

    def grown(self, round_: Round, plan: Plan, epoch: int, *, node: str) -> None:
        """A node has more leaves than the round began with."""
        row = self.rows[round_.number]
        row["tree"] = _tree(plan)
        emit("grown", round=round_.number, node=node, tree=row["tree"], epoch=epoch)

    def elapsed_s(self, number: int) -> float:
        """Since a round began; said to gateways, whose clocks are their own."""
        return time.monotonic() - self.started[number]

    def closed(self, node: str, message: Message) -> None:
        """A gateway takes no more updates of a round, and says when it took those it has."""
        timeline = self.timelines.get(message["round"])
        if timeline is not None:
            timeline.ingested(node, message["began_at"], message["ingest"])

    def taken(self, node: str, message: Message) -> None:
        """A node has taken more, or says all that it has taken again."""
        if message["again"]:
            self.taken_bytes[node], self.reported[node], self.taken_s[node] = 0, [], []
        self.taken_bytes[node] = self.taken_bytes.get(node, 0) + message["bytes"]
        self.reported.setdefault(node, []).extend(message["metrics"])

    def arrived(self, node: str, number: int, clients: int) -> None:
        """So many clients' updates are there, as far as this coordinator has heard."""
        now_s = round(self.elapsed_s(number), 6)
        self.taken_s.setdefault(node, []).extend([now_s] * clients)

    def published(self, round_: Round) -> None:
        row = self.rows[round_.number]
        row |= {
            "seconds": round(time.monotonic() - self.started[round_.number], 6),
            "clients": round_.in_count,
            "accuracy": None,
            "bytes": sum(self.taken_bytes.values()),
            **_no_work(),
            "metrics": _weighted([row for rows in self.reported.values() for row in rows]),
        }
        self.unsaved.add(round_.number)
        self._watch(row)
        self.published_by = round_.top_node
        self.open_rows[round_.number] = set(self.used)
        self._trace(round_.number)
        self.say_progress(is_over=True)
        emit("published", round=round_.number, seconds=row["seconds"])
        self.monitoring.published(row["seconds"], row["metrics"])

    def _trace(self, number: int) -> None:
        """When the round's updates were there: what `lifl simulate` can play again."""
        path = self.run_dir / "trace.jsonl"
        with full_disk_says(path), path.open("a") as file:
            file.write(json.dumps({"round": number, "accepted_s": self.taken_s}) + "\n")

    def work(self, node: str, message: Message) -> None:
        """A node's part of a finished round."""
        row = self.rows.get(message["round"])
        if row is None or node not in self.open_rows.get(message["round"], ()):
            return
        for backend, count in message["handoffs"].items():
            row["handoffs"][backend] = row["handoffs"].get(backend, 0) + count
        for start in ("cold", "zygote", "warm"):
            row[f"{start}_starts"] += message[start]
        for start, seconds in message["start_s"].items():
            row["start_seconds"][start] += seconds
        row["fold_seconds"] += message["work"].get("fold_seconds", 0.0)
        row["fold_bytes"] += int(message["work"].get("fold_bytes", 0))
        timeline = self.timelines.setdefault(message["round"], Timeline())
        timeline.folded(node, message["folds"], message["model_at"])
        self.open_rows[message["round"]].discard(node)
        self.unsaved.add(message["round"])
        self._when_whole(message["round"])
        self._write()

    def _when_whole(self, number: int) -> None:
        """Once no node has anything to add to a round's row."""
        if not self.open_rows[number]:
            row, timeline = self.rows[number], self.timelines.pop(number, Timeline())
            phases = split(timeline, row["seconds"])
            row["phases"] = {phase: round(share, 6) for phase, share in phases.items()}
            self.monitoring.split(phases)
            emit("round_done", **row)

    def unreported_by(self, node: str) -> list[int]:
        """Rounds of which a node has still to report its part."""
        return [number for number, nodes in self.open_rows.items() if node in nodes]

    def take_unsaved(self) -> dict[int, dict[str, Any]]:
        """Rows that changed since the last call."""
        rows = {number: self.rows[number] for number in self.unsaved}
        self.unsaved.clear()
        self._forget()
        return rows

    def _forget(self) -> None:
        """Rows that are in the file and in the store are nobody's business any more."""
        for number in [n for n in self.rows if n <= self.written and n not in self.unsaved]:
            del self.rows[number]
            self.open_rows.pop(number, None)

    def metrics(self, number: int, metrics: dict[str, float]) -> None:
        """An observer evaluated the model of a round."""
        row = self.rows.get(number)
        if number <= self.written or (row is not None and row.get("evaluation") == metrics):
            return  # said again, to a coordinator that came back
        if row is not None:
            self.unsaved.add(number)
            row["accuracy"] = metrics.get("accuracy")
            row["evaluation"] = metrics
            self._watch(row)
        emit("metrics", round=number, figures=metrics)
        self.monitoring.evaluated(metrics)
        self._write()

    @property
    def is_complete(self) -> bool:
        """Every round's row is whole and written."""
        return self.written == self.last

    @property
    def is_unevaluated(self) -> bool:
        """The last model is still to be measured."""
        row = self.rows.get(self.last)
        return self.evaluated and row is not None and "evaluation" not in row

    def _write(self, force: bool = False) -> None:
        """Append rows in the order of rounds, each when nothing of it is missing."""
        with full_disk_says(self.path), self.path.open("a") as file:
            while (row := self.rows.get(self.written + 1)) is not None:
                number = self.written + 1
                missing = number not in self.open_rows or self.open_rows[number]
                overtaken = any("evaluation" in self.rows[n] for n in self.rows if n > number)
                unevaluated = self.evaluated and "evaluation" not in row and not overtaken
                if (missing or unevaluated) and not (force and "seconds" in row):
                    break
                file.write(json.dumps(row) + "\n")
                file.flush()
                self.written = number
                fault("coordinator_row_written", "coordinator")
                if (text := self.watch.unheard_of(number)) is not None:
                    emit("warning", text=text)
        self._forget()

    def _watch(self, row: Mapping[str, Any]) -> None:
        self.watch.take(row["round"], row.get("metrics", {}), row.get("evaluation"))

    # -- the end -----------------------------------------------------------------------------
    def finish(
        self, layout: Layout, model: memoryview, nodes: int, **more: Any
    ) -> dict[str, Any]:
        """Write the last files; returns the summary."""
        self._write(force=True)
        path = self.run_dir / "model.safetensors"
        with full_disk_says(path):
            save_model(layout, model, path)
        summary = summary_of(rows_of(self.path), evaluated=self.evaluated) | {
            "stopped": self.stopped,
            "wall_s": round(self.clock().elapsed_s, 3),
            "nodes": nodes,
            "insecure": self.job.spec.insecure,
            "proxy": self.backends.get("proxy"),
            "kernels": self.backends.get("kernels"),
            **more,
        }
        self.monitoring.finish()
        data = json.dumps(summary, indent=2).encode() + b"\n"
        path = self.run_dir / "summary.json"
        with full_disk_says(path):
            write_whole(path, data)
        return summary


def _tree(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """The roles of each node, as a row has them."""
    return {
        name: [
            {
                "role": role.kind, "endpoint": role.endpoint, "parent": role.parent,
                "clients": role.expected,
            }
            for role in plan.nodes[name].roles
        ]
        for name in plan.used
    }  # fmt: skip


def initial_model(job: FLJob, job_path: Path) -> dict[str, Any]:
    """The model that round 1 starts from, as the job names it: arrays by name, at least one.

    Raises:
        InvalidJob: it cannot be had, or cannot be a model; names file, line and field.
    """
    folder, is_finite = job_path.parent, job.spec.aggregation.non_finite == "reject"
    if (file := job.spec.model.file) is not None:
        with at_field(job_path, "spec", "model", "file"):
            return _checked(file, load_model(folder / file), "hold", is_finite=is_finite)
    name = job.spec.model.initial
    assert name is not None
    with at_field(job_path, "spec", "model", "initial"):
        state = called(name, entrypoint(name, folder), folder)
        return _checked(name, state, "return", is_finite=is_finite)


def _checked(name: str, state: object, verb: str, *, is_finite: bool) -> dict[str, Any]:
    """The same, if it is a model, and finite where that is asked for."""
    rule, has = f"must {verb} a dict of NumPy arrays by name", f"{name} {verb}s"
    has = has.replace("returns", "returned")
    if not isinstance(state, Mapping) or not state:
        raise InvalidJob(f"{rule}, and {has} {what(state)}")
    for key, value in state.items():
        if not (hasattr(value, "dtype") and hasattr(value, "shape")):
            hint = (f": give each array a name of its own, such as {f'{key}.weight'!r}"
                    if isinstance(value, Mapping) else "")  # fmt: skip
            raise InvalidJob(f"{rule}, and {has} {what(value)} as {key!r}{hint}")
    try:
        Layout.of(state)
    except InvalidUpdate as error:
        raise InvalidJob(f"{rule}, and of {name} {error.sentence}") from None
    for key, value in state.items() if is_finite else ():
        finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)  # torch
        if not finite.all():
            raise InvalidJob(f"must {verb} finite numbers, and {has} NaN or infinity in {key!r}")
    return dict(state)


def load_model(path: Path) -> dict[str, Any]:
    """A state_dict from safetensors, bfloat16 included.

    Raises:
        InvalidJob: no such file, or not a safetensors file.
    """
    try:
        rows = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except OSError as error:
        raise InvalidJob(f"{path} cannot be read: {error.strerror}") from error
    except safetensors.SafetensorError as error:
        raise InvalidJob(f"{path} is no safetensors file: {error}") from error
    return {
        name: np.frombuffer(row["data"], _DTYPES[row["dtype"]]).reshape(row["shape"])
        for name, row in rows
    }


_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16), "BOOL": np.dtype(bool),
    **{f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}")
       for kind in "IU" for bits in (8, 16, 32, 64)},
    "F16": np.dtype("f2"), "F32": np.dtype("f4"), "F64": np.dtype("f8"),
}  # fmt: skip


def save_model(layout: Layout, model: memoryview, path: Path) -> None:
    """Write a state_dict as safetensors, whole or not at all."""
    write_whole(path, safetensors.numpy.save(layout.views(model)))


def _no_work() -> dict[str, Any]:
    """What nodes report of a round, before they have."""
    return {
        "handoffs": {"ebpf": 0, "unix": 0},
        "cold_starts": 0, "zygote_starts": 0, "warm_starts": 0,
        "start_seconds": {"cold": 0.0, "zygote": 0.0}, "fold_seconds": 0.0, "fold_bytes": 0,
    }  # fmt: skip


def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
    """The file as a whole or not at all; `mode` as for open(2)."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.touch(mode)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _weighted(reported: list[tuple[float, dict[str, float], str]]) -> dict[str, float]:
    """Means of what clients reported, weighted as their updates are."""
    totals: dict[str, list[float]] = {}
    for weight, metrics, _ in reported:
        for name, value in metrics.items():
            total = totals.setdefault(name, [0.0, 0.0])
            total[0] += weight * value
            total[1] += weight
    return {name: total / weight for name, (total, weight) in totals.items()}
