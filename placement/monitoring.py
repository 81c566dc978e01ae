"""A job's metrics, and where its processes can be asked for theirs.

Owns the coordinator's figures and metrics.json in the run's directory, which `lifl top` reads.
Called by record.py, which hears everything that happens to a job.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.events import emit
from lifl.metrics import Figures
from lifl.placement.limits import full_disk_says
from lifl.placement.rounds import Round

FILE = "metrics.json"
RESTARTED: Final = ("agent", "gateway", "zygote", "runtime", "leaf", "middle", "top")


class Monitoring:
    """What the outside may know of one job."""

    def __init__(self, job: FLJob, run_dir: Path) -> None:
        self.figures = Figures("coordinator")
        self.path = run_dir / FILE
        self.url = ""
        self.nodes: dict[str, str] = {}  # name -> where its agent serves metrics
        spec = job.spec
        self.figures.info(
            "lifl_job", fljob=job.metadata.full_name, run=run_dir.name,
            algorithm=spec.aggregation.algorithm, mode=spec.aggregation.mode,
        )  # fmt: skip
        self.figures.set("lifl_rounds_planned", spec.rounds)

    def node(self, name: str, url: str, of: int) -> None:
        """An agent reports itself, for the first time or after a restart."""
        if name in self.nodes:
            self.restarted(name, "agent")
        for what in RESTARTED:  # from 0 on, so that Prometheus sees the first one increase
            self.figures.add("lifl_restarts", 0, node=name, what=what)
        self.nodes[name] = url
        self.figures.set("lifl_nodes", len(self.nodes))
        if len(self.nodes) == of:
            where = {"coordinator": self.url, "nodes": self.nodes}
            temporary = self.path.with_suffix(".new")
            with full_disk_says(self.path):
                temporary.write_text(json.dumps(where, indent=2) + "\n")
                temporary.rename(self.path)
            emit("metrics_at", **where)

    def restarted(self, node: str, what: str) -> None:
        self.figures.add("lifl_restarts", node=node, what=what)

    def started(self, round_: Round) -> None:
        self.figures.set("lifl_round", round_.number)
        self.progress(round_)

    def progress(self, round_: Round) -> None:
        self.figures.set("lifl_round_clients", round_.of_count)
        self.figures.set("lifl_round_updates", round_.in_count)

    def published(self, seconds: float, metrics: Mapping[str, float]) -> None:
        self.figures.add("lifl_rounds")
        self.figures.observe("lifl_round_seconds", seconds)
        self._set("lifl_client_metric", metrics)

    def split(self, phases: Mapping[str, float]) -> None:
        for phase, seconds in phases.items():
            self.figures.add("lifl_round_phase_seconds", seconds, phase=phase)
            self.figures.set("lifl_round_last_phase_seconds", seconds, phase=phase)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._set("lifl_evaluation", metrics)

    def _set(self, name: str, metrics: Mapping[str, Any]) -> None:
        for metric, value in metrics.items():
            if isinstance(value, int | float):
                self.figures.set(name, float(value), metric=metric)

    def finish(self) -> None:
        end_of_metrics(self.path.parent)


def end_of_metrics(run_dir: Path) -> None:
    """Nobody answers any more, however the run has ended."""
    with contextlib.suppress(OSError):
        (run_dir / FILE).unlink(missing_ok=True)
