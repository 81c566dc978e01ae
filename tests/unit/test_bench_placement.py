"""`make bench-placement`: rows of the cases that take no time, and the tables made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.case_fanin import CASES as FAN_IN
from benchmarks.case_fanin import LINES
from benchmarks.case_policies import CLIENTS, STEPS, scenario
from benchmarks.docs_placement import _real, tables
from benchmarks.placement import main
from benchmarks.rows import Figure, Line, row
from lifl.placement.simulator.rounds import simulate, total

COLUMNS = {"case", "value", "unit", "beside", "ratio", "goal", "holds", "reference", "note"}


def test_steps_and_plans_are_rows_of_make_bench_and_tables_of_the_docs(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    result = CliRunner().invoke(main, ["ablation", "planner", "--turns", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert all(set(row) == COLUMNS for row in found["rows"])
    rows = {row["case"]: row for row in found["rows"]}
    assert len(rows) == len(CLIENTS) * len(STEPS) * 4 + 3
    plan = rows["plan of 10,000 clients on 1,000 nodes"]
    assert plan["holds"] is (plan["value"] < 200)
    shown = tables(found)
    assert all(f"| {name} | " in shown for name, *_ in STEPS)
    assert "plan of 10,000 clients" in shown


def test_real_runs_are_a_table_of_their_own_in_the_order_of_the_cases() -> None:
    here = {"cpu": "a CPU", "cpus": 2, "memory_gb": 1, "kernel": "6.1-x", "load_at_start": 0.0,
            "began_at": "2026-01-01T00:00"}  # fmt: skip

    def file(line: Line, value: float | None) -> dict[str, Any]:
        figure = value and Figure(value=value, beside=1.0, ratio=value, note="all of them")
        return {"machine": here, "rows": [row(line, figure or None)]}

    assert _real([]) == []
    assert _real([file(LINES[0], None)]) == []
    sentence, table = _real([file(LINES[2], 1.2), file(LINES[0], 1.01), file(LINES[0], 1.03)])
    assert "whole jobs" in sentence
    assert "1.01" not in table  # measured again since
    assert table.index("8 × 1MB") < table.index("256 × 1MB")


def test_each_step_of_the_paper_gains_what_its_note_says() -> None:
    """What the notes of the ablation and docs/placement.md claim, for each number of clients."""
    for clients in CLIENTS:
        plain, placed, planned, reused, eager = (
            total(simulate(scenario(clients, 5, 1_250_000_000, **fields), policy))
            for _, policy, fields, _ in STEPS
        )
        assert placed.nodes < plain.nodes
        assert placed.internode_bytes < plain.internode_bytes
        assert placed.aggregate_s > plain.aggregate_s  # until starts are planned
        assert planned.aggregate_s < min(placed.aggregate_s, plain.aggregate_s)
        assert reused.starts < planned.starts / 4
        assert reused.cpu_s < planned.cpu_s
        assert reused.aggregate_s <= planned.aggregate_s
        assert eager.aggregate_s < reused.aggregate_s
        assert eager.cpu_s > reused.cpu_s


def test_bestfit_is_within_five_per_cent_with_the_fewest_nodes() -> None:
    for clients in (20, 60, 100):
        for link in (125_000_000, 1_250_000_000, 12_500_000_000):
            asked = scenario(clients, 5, link)
            best, *others = (total(simulate(asked, policy)) for policy in asked.policies)
            assert best.policy == "bestfit"
            assert best.seconds <= 1.05 * min(one.seconds for one in others)
            assert best.nodes <= min(one.nodes for one in others)


def test_there_is_a_real_run_for_each_size_and_number_of_clients() -> None:
    names = {f"fan-in-{clients}-{size}" for clients in (8, 64, 256) for size in ("1MB", "46.8MB")}
    assert {case.name for case in FAN_IN} == names | {"fanin-real"}
    (together,) = (case for case in FAN_IN if case.name == "fanin-real")
    assert together.lines.keys() == names
