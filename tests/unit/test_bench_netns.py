"""`make bench-netns`: the fit of the simulator's constants, and the tables made of its rows."""

from __future__ import annotations

import pytest

from benchmarks.case_calibration import (
    BLIND,
    CALIBRATION,
    CASE,
    VALIDATION,
    Machine,
    fit,
    predicted,
)
from benchmarks.case_netns import CASES, POLICIES
from benchmarks.docs import insert
from benchmarks.docs_netns import MARKERS, tables
from benchmarks.docs_placement import PAGE
from benchmarks.rows import Figure, row

MACHINE = Machine(8e9, cores=2)


def test_what_is_predicted_was_not_fitted() -> None:
    assert not {*CALIBRATION} & {*VALIDATION, *BLIND}
    assert not {*BLIND} & {*VALIDATION}
    assert len(VALIDATION) >= 8


def test_the_fit_finds_constants_that_explain_what_was_measured() -> None:
    costs = {"linkShare": 0.8, "sumBytesS": 10**8, "modelSpread": 0.3, "updateCpuS": 0.005,
             "roundS": 0.03, "ingestBytesS": 8 * 10**8}  # fmt: skip
    few = [*CALIBRATION][:4]
    seconds = {asked: predicted(asked, costs, MACHINE) for asked in few}
    found = fit(seconds, MACHINE)
    for asked in few:
        assert predicted(asked, found, MACHINE) == pytest.approx(seconds[asked], rel=0.05)


def test_rows_are_tables() -> None:
    note = (
        "2 nodes; 20.1 MB between nodes; 0.25 CPU s of nodes; 0.44 CPU s of all; "
        "idle 0.0010 CPU s"
    )
    rows = [
        row(line, Figure(value=1.5, note=note)) for case in CASES for line in case.lines.values()
    ]
    rows += [row(line, Figure(value=1.3, beside=1.0, ratio=1.3)) for line in CASE.lines.values()]
    machine = {"began_at": "2026-01-01T", "cpu": "a", "cpus": 2, "memory_gb": 1, "kernel": "6.1-x"}
    page = tables({"machine": machine, "rows": rows})
    for policy in POLICIES:
        assert f", {policy} | 1.50 s | 2 | 20.1 | 0.25 | 0.44 | 0.0010 |" in page
    assert f"0 of {len(VALIDATION) + len(BLIND)} within 20%" in page
    assert page.count("| 1.000 s | 1.300 s | 1.30 | no |") == len(VALIDATION)
    assert page.count("| 1.000 s | 1.300 s | 1.30 | blind no |") == len(BLIND)
    assert tables({"machine": machine, "rows": rows}) in insert(PAGE.read_text(), page, MARKERS)
