"""Writes docs/metrics.md from lifl/metrics.py and lifl/cli/top.py.

With --check it says whether the page would change.

.venv/bin/python scripts/docs_metrics.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from lifl.cli.top import COLUMN_HELP
from lifl.metrics import METRICS, PHASE_HELP, Where

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

HEAD = """# Metrics

Generated from `lifl/metrics.py` and `lifl/cli/top.py` by `scripts/docs_metrics.py`; a test fails
when they differ.

Every agent and every coordinator serves the metrics below in Prometheus' text format, on
127.0.0.1 and a free port. Where that is, is printed at the start of a run (event `metrics_at`) and
written to `metrics.json` in the run's directory, for as long as the run lasts.
`lifl run --metrics-port 9400` chooses instead: 9400 for the coordinator, the ports after it for
the nodes in their order. `lifl top` shows the same figures in a terminal.

Gateways and aggregators serve nothing: they tell their agent with messages that exist anyway, at
the latest with the answer to its ping, every 2 s while there is a job. A scrape sends a ping, too,
so the next scrape is fresh. What the proxy moved is read from the eBPF maps when somebody asks. A
platform that is idle and not scraped spends nothing on metrics.
"""

WHOSE: dict[Where, str] = {
    "agent": "Agents", "coordinator": "Coordinator", "operator": "Operator, in a cluster",
}  # fmt: skip


def page() -> str:
    parts = [HEAD]
    for where, title in WHOSE.items():
        parts.append(f"## {title}\n\n| metric | kind | labels | what |\n|---|---|---|---|")
        for metric in METRICS:
            if metric.where == where:
                labels = ", ".join(f"`{label}`" for label in metric.labels)
                cells = (f"`{metric.shown_as}`", metric.kind, labels, metric.help)
                parts[-1] += "\n| " + " | ".join(cells) + " |"
        parts[-1] += "\n"
    parts.append(
        "## Phases of a round\n\n"
        "Each moment between the start of a round and its end belongs to one phase: the first\n"
        "of these that is true of it. So they add up to the round's time. `rounds.jsonl` has\n"
        "them, too, as `phases`.\n\n| phase | what |\n|---|---|"
    )
    for phase, what in PHASE_HELP.items():
        parts[-1] += f"\n| `{phase}` | {what} |"
    parts.append(
        "\n## lifl top\n\n"
        "One line a node. Where the window is narrow, columns are left out, and named below.\n\n"
        "| column | what |\n|---|---|"
    )
    for column, what in COLUMN_HELP.items():
        parts[-1] += f"\n| `{column}` | {what} |"
    return "\n".join(parts) + "\n"


def main() -> int:
    wanted = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run scripts/docs_metrics.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
