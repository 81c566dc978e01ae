"""Writes the chart's dashboard for Grafana; with --check says whether it would change.

.venv/bin/python scripts/dashboard.py [--check]

What a panel shows is said in the words of lifl/metrics.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lifl.metrics import METRICS

PAGE: Final = (
    Path(__file__).resolve().parent.parent / "charts" / "lifl" / "files" / "dashboard.json"
)
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
JOB: Final = 'fljob=~"$fljob"'
WIDTH: Final = 24


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: legend → PromQL.
        unit: Grafana's name of it.
        stacked: the series add up to something.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    stacked: bool = False


ROWS: Final[dict[str, list[Panel]]] = {
    "Jobs": [
        Panel("Jobs", {"": "count(lifl_job_info) or vector(0)"}, kind="stat"),
        Panel(
            "Rounds",
            {"published": f"sum(lifl_rounds_total{{{JOB}}})",
             "planned": f"sum(lifl_rounds_planned{{{JOB}}})"},
            kind="stat",
        ),
        Panel("Clients", {"": f"sum(lifl_clients_connected{{{JOB}}})"}, kind="stat"),
        Panel("Nodes", {"": "count(lifl_node_info)"}, kind="stat"),
        Panel("Figures", {"{{fljob}} {{metric}}": f"lifl_evaluation{{{JOB}}}"}),
        Panel("Reported by clients", {"{{fljob}} {{metric}}": f"lifl_client_metric{{{JOB}}}"}),
    ],
    "Rounds": [
        Panel(
            "Time of a round",
            {
                "median": "histogram_quantile(0.5, sum by (le) "
                f"(rate(lifl_round_seconds_bucket{{{JOB}}}[$__rate_interval])))",
                "95 %": "histogram_quantile(0.95, sum by (le) "
                f"(rate(lifl_round_seconds_bucket{{{JOB}}}[$__rate_interval])))",
            },
            unit="s",
        ),
        Panel(
            "Where the time goes",
            {"{{phase}}": "sum by (phase) "
             f"(rate(lifl_round_phase_seconds_total{{{JOB}}}[$__rate_interval]))"},
            unit="percentunit",
            stacked=True,
        ),
        Panel(
            "Updates of the round under way",
            {"{{fljob}} accepted": f"lifl_round_updates{{{JOB}}}",
             "{{fljob}} drawn": f"lifl_round_clients{{{JOB}}}"},
        ),
    ],
    "Updates": [
        Panel(
            "Updates",
            {"{{node}}": f"sum by (node) (rate(lifl_updates_total{{{JOB}}}[$__rate_interval]))"},
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Bytes of updates",
            {"{{node}}": "sum by (node) "
             f"(rate(lifl_update_bytes_total{{{JOB}}}[$__rate_interval]))"},
            unit="Bps",
            stacked=True,
        ),
        Panel(
            "Sums of other nodes",
            {"{{node}}": f"sum by (node) (rate(lifl_peer_sums_total{{{JOB}}}[$__rate_interval]))"},
            unit="ops",
        ),
        Panel(
            "Refused requests",
            {"{{code}}": "sum by (code) (rate(lifl_rejections_total[$__rate_interval])) "
             "or vector(0)"},
            unit="ops",
            stacked=True,
        ),
    ],
    "Memory": [
        Panel(
            "Shared memory",
            {"{{node}} {{fljob}}": f"lifl_arena_bytes{{{JOB}}}"},
            unit="bytes",
            stacked=True,
        ),
        Panel(
            "Slots in use",
            {"{{node}} {{fljob}}": f"lifl_slots_used{{{JOB}}} / lifl_slots{{{JOB}}}"},
            unit="percentunit",
        ),
        Panel(
            "Queue",
            {"{{node}} {{fljob}}": f"lifl_queue_length_ewma{{{JOB}}}"},
        ),
        Panel(
            "Time until there is a slot",
            {
                "{{fljob}}": "sum by (fljob) "
                f"(rate(lifl_slot_wait_seconds_total{{{JOB}}}[$__rate_interval])) / "
                f"sum by (fljob) (rate(lifl_slot_waits_total{{{JOB}}}[$__rate_interval]))"
            },
            unit="s",
        ),
    ],
    "Descriptors and arithmetic": [
        Panel(
            "Descriptors",
            {
                "by {{proxy}}": "sum by (proxy) "
                f"(rate(lifl_handoffs_total{{{JOB}}}[$__rate_interval]))",
                "through the agent": "sum "
                f"(rate(lifl_descriptors_passed_total{{{JOB}}}[$__rate_interval]))",
                "forged": "sum "
                f"(rate(lifl_descriptors_quarantined_total{{{JOB}}}[$__rate_interval]))",
            },
            unit="ops",
        ),
        Panel(
            "Put back into the kernel",
            {"{{node}} {{what}}": "sum by (node, what) (increase(lifl_proxy_repairs_total[5m]))"},
        ),
        Panel(
            "Speed of folding",
            {"{{node}}": f"sum by (node) (rate(lifl_fold_bytes_total{{{JOB}}}[$__rate_interval])) "
             f"/ sum by (node) (rate(lifl_fold_seconds_total{{{JOB}}}[$__rate_interval]))"},
            unit="Bps",
        ),
        Panel(
            "Inputs of a pass",
            {"{{node}}": "sum by (node) "
             f"(rate(lifl_folded_inputs_total{{{JOB}}}[$__rate_interval])) "
             f"/ sum by (node) (rate(lifl_folds_total{{{JOB}}}[$__rate_interval]))"},
        ),
    ],
    "Processes": [
        Panel(
            "Starts",
            {"{{start}}": "sum by (start) (rate(lifl_starts_total[$__rate_interval]))"},
            unit="ops",
            stacked=True,
        ),
        Panel("Roles", {"{{role}}": f"sum by (role) (lifl_roles{{{JOB}}})"}, stacked=True),
        Panel("Living", {"{{kind}}": "sum by (kind) (lifl_processes)"}, stacked=True),
        Panel(
            "Replaced",
            {"{{node}} {{what}}": "sum by (node, what) (increase(lifl_restarts_total[5m])) "
             "or vector(0)"},
        ),
        Panel(
            "Refused",
            {"{{node}} {{code}}": "sum by (node, code) (increase(lifl_joins_refused_total[5m]))"},
        ),
    ],
}  # fmt: skip

_SHOWN: Final = {
    metric.shown_as + suffix: metric
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def metrics_in(query: str) -> list[str]:
    """Names of LIFL's metrics in a query, as they are served."""
    return re.findall(r"\blifl_\w+", query)


def _described(panel: Panel) -> str:
    names = dict.fromkeys(name for query in panel.queries.values() for name in metrics_in(query))
    return "\n\n".join(f"`{name}`: {_SHOWN[name].help}" for name in names)


def _panel(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    options: dict[str, Any] = {}
    if panel.kind == "timeseries":
        defaults["min"] = 0
        defaults["custom"] = {
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
        options = {"legend": {"displayMode": "list", "placement": "bottom"}}
        options |= {"tooltip": {"mode": "multi"}}
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
        options |= {"graphMode": "none"} if len(panel.queries) > 1 else {"textMode": "value"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": _described(panel),
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query,
             "legendFormat": legend or "__auto"}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 1, 0
    for title, panels in ROWS.items():
        yield {
            "id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }  # fmt: skip
        number, y = number + 1, y + 1
        for kind, height in (("stat", 4), ("timeseries", 8)):
            these = [panel for panel in panels if panel.kind == kind]
            for place, panel in enumerate(these):
                width = WIDTH // len(these)
                at = {"x": place * width, "y": y, "w": width, "h": height}
                yield _panel(number, panel, at)
                number += 1
            y += height if these else 0


def dashboard() -> dict[str, Any]:
    return {
        "uid": "lifl",
        "title": "LIFL",
        "tags": ["lifl"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "fljob", "label": "job", "type": "query", "datasource": SOURCE,
                    "query": "label_values(lifl_job_info, fljob)", "refresh": 2,
                    "includeAll": True, "allValue": ".*", "multi": True,
                    "current": {"text": "All", "value": "$__all"},
                },
            ],
        },
        "annotations": {"list": []},
        "panels": list(_panels()),
    }  # fmt: skip


def text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    wanted = text()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run scripts/dashboard.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
