"""The goals in docs/benchmarks.md are those that `make bench` judges by."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import CASES
from benchmarks.docs import GOALS, PAGE, goals, insert


def test_the_page_has_the_goals_of_the_cases() -> None:
    page = PAGE.read_text()
    assert insert(page, goals(), GOALS) == page, "run: make bench-docs"


def test_every_goal_is_a_row() -> None:
    lines = [line for case in CASES.values() for line in case.lines.values() if line.goal]
    assert len(goals().splitlines()) == 2 + len(lines)
    assert "| `small` | round of 8 × 256 B, whole job | raw TCP | ≤ " in goals()
    assert all(name in PAGE.read_text() for name in CASES)


def test_a_page_without_markers_is_told() -> None:
    with pytest.raises(ValueError, match="goals: begin"):
        insert("no markers", goals(), GOALS)
