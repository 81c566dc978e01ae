"""`make bench`: its cheapest case, as a user starts it, and what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HERE, Runner
from leftovers import MARKER

from benchmarks import case_starts
from benchmarks.docs import BEGIN, END, insert, markdown
from benchmarks.rows import Case, Figure, Goal, Line, NotMeasured

ROOT = HERE.parent.parent
COLUMNS = {"case", "value", "unit", "beside", "ratio", "goal", "holds", "reference", "note"}


def test_the_cheapest_case(tmp_path: Path, runner: Runner) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "small", "--turns", "1", "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=90, cwd=ROOT,
        env=os.environ | {MARKER: runner.mark},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 × 256 B" in done.stdout
    found = json.loads(out.read_text())
    assert set(found) == {"machine", "rows"}
    assert found["machine"]["cpus"] == len(os.sched_getaffinity(0))
    (row,) = found["rows"]
    assert set(row) == COLUMNS
    assert row["value"] > row["beside"] > 0
    assert row["ratio"] == pytest.approx(row["value"] / row["beside"], rel=1e-3)  # one pair
    assert row["holds"] is (row["value"] <= 10)
    page = insert(f"before\n{BEGIN}\nold\n{END}\nafter\n", markdown(found))
    assert "8 × 256 B" in page
    assert "\nold\n" not in page
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")


def test_starts_are_of_the_kind_that_the_row_says() -> None:
    found = case_starts.measure(turns=1)
    assert set(found) == set(case_starts.CASE.lines)
    assert all(figure.value > 0 for figure in found.values())
    with case_starts.starting("cold") as node:
        node.kind = "zygote"
        with pytest.raises(RuntimeError, match="not Counter"):
            node.seconds()


def test_status_and_rows_when_something_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmarks import __main__ as bench

    def lacking() -> dict[str, Figure]:
        raise NotMeasured("no torch here: pip install torch")

    def broken() -> dict[str, Figure]:
        raise RuntimeError("broken")

    line = Line(case="a", unit="ms", reference="b", goal=Goal("ratio", "≤", 2.0))

    def failing() -> dict[str, Figure]:
        return {"a": Figure.of_pairs([3.0, 9.0, 5.0], [1.0, 3.0, 1.0])}

    for measure, status, value, holds in (
        (lacking, 0, None, None), (failing, 0, 5.0, False), (broken, 1, None, None),
    ):  # fmt: skip
        monkeypatch.setitem(
            bench.CASES, "small", Case(name="small", lines={"a": line}, measure=measure)
        )
        out = tmp_path / "bench.json"
        with pytest.raises(SystemExit) as ended:
            bench.main(["small", "--out", str(out)])
        assert ended.value.code == status
        (row,) = json.loads(out.read_text())["rows"]
        assert (row["value"], row["holds"]) == (value, holds)
        assert ("not measured" in row["note"]) is (value is None)
