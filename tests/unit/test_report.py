"""The report: what is drawn of a run's rows, and a page that stands alone."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lifl.cli import main
from lifl.cli.report.charts import GREY, MOST_BARS, Chart, Series, charts
from lifl.cli.report.page import CLASSES, page
from lifl.cli.report.read import RunFiles, read
from lifl.cli.report.svg import LEFT, RIGHT, WIDTH, draw, ticks, tree
from lifl.cli.report.write import NotWritten, after_run, write_page
from lifl.errors import InvalidJob

PHASES = {"wait": 0.03, "ingest": 0.01, "fold": 0.005, "hand_off": 0.004, "publish": 0.001}
TREE = {
    "node-0": [
        {"role": "top", "endpoint": 4, "parent": 0, "clients": 3},
        {"role": "leaf", "endpoint": 1, "parent": 4, "clients": 2},
    ],
    "node-1": [{"role": "leaf", "endpoint": 1, "parent": 0, "clients": 1}],
}


def row(number: int, **other: Any) -> dict[str, Any]:
    return {
        "round": number, "seconds": 0.05, "clients": 3, "bytes": 3000, "accuracy": 0.5,
        "evaluation": {"accuracy": 0.5}, "metrics": {"loss": 1.0 / number}, "phases": PHASES,
        "handoffs": {"ebpf": 7, "unix": 0}, "cold_starts": 0, "zygote_starts": 0, "warm_starts": 3,
        "fold_seconds": 0.001, "fold_bytes": 3000, "tree": TREE, **other,
    }  # fmt: skip


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rounds.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def test_the_phases_of_a_bar_are_the_rounds_time() -> None:
    chart = next(chart for chart in charts([row(1), row(2)]) if chart.slug == "phases")
    assert [series.name for series in chart.series][3] == "hand-off"
    for index in (0, 1):
        assert sum(series.values[index] or 0 for series in chart.series) == pytest.approx(0.05)


def test_many_rounds_share_bars_by_their_mean() -> None:
    rows = [row(number, warm_starts=number % 2) for number in range(1, 1001)]
    chart = next(chart for chart in charts(rows) if chart.slug == "starts")
    assert len(chart.labels) <= MOST_BARS
    assert (chart.labels[0], chart.per_bar) == ("1-12", 12)
    assert page(RunFiles("x", Path(), rows)).count("A bar is the mean of 12 rounds.") == 4
    assert chart.series[0].values[0] == pytest.approx(0.5)


@pytest.mark.parametrize("rounds", [1, 9, 89, 90, 2000, 99_999])
def test_labels_do_not_touch(rounds: int) -> None:
    """A digit is not as wide as 0.6 of its height: 12 px in the page, 10 pt in 7 inches."""
    groups = range(1, rounds + 1, -(-rounds // MOST_BARS))
    labels = [f"{at}-{at + groups.step - 1}" if groups.step > 1 else f"{at}" for at in groups]
    chart = Chart("x", "x", "bars", labels, [Series("x", [1.0] * len(labels), GREY)])
    apart = chart.written.step / len(labels)  # of the width
    longest = max(map(len, labels))
    assert longest * 0.6 * 12 < apart * (WIDTH - LEFT - RIGHT)
    assert longest * 0.6 * 10 < apart * 7 * 72
    assert len(chart.written) >= min(len(labels), 5)


def test_a_node_without_clients_is_told() -> None:
    alone = {"node-0": TREE["node-0"]}
    text = page(RunFiles("x", Path(), [row(1, tree=alone)], nodes=2))
    assert "1 of 2 nodes never had a client" in text
    assert "<span>nodes</span><b>2, 1 with clients</b>" in text
    assert "</i>node-0</span>" in text  # the legend, although one colour is all
    assert "never had a client" not in page(RunFiles("x", Path(), [row(1)], nodes=2))


def test_a_run_that_was_killed_has_what_its_files_say(tmp_path: Path) -> None:
    write(tmp_path, [row(1), row(2)])
    text = page(read(tmp_path))
    assert "<span>rounds, together</span><b>100 ms</b>" in text
    assert "<span>nodes</span><b>2</b>" in text
    assert "<span>proxy</span><b>ebpf</b>" in text
    assert "<b>-</b>" not in text
    assert "wall time" not in text
    (tmp_path / "run.json").write_text(json.dumps({"nodes": {f"node-{n}": [] for n in range(3)}}))
    assert "<span>nodes</span><b>3, 2 with clients</b>" in page(read(tmp_path))
    summary = {"nodes": 4, "wall_s": 8.2, "proxy": "unix", "kernels": "native"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    text = page(read(tmp_path))
    for name, value in (("nodes", "4, 2 with clients"), ("wall time", "8.20 s"), ("proxy", "unix"),
                        ("kernels", "native")):  # fmt: skip
        assert f"<span>{name}</span><b>{value}</b>" in text


def test_what_was_not_there_is_not_drawn() -> None:
    bare = {"round": 1, "seconds": 0.1}
    assert charts([bare]) == []
    assert "the run did not complete" in page(RunFiles("x", Path(), [bare]))


def test_an_evaluators_figures_have_tiles_and_columns_of_their_own() -> None:
    said: dict[str, Any] = {"accuracy": None, "evaluation": {"error": 0.25, "<mae>": 3.0}}
    text = page(RunFiles("x", Path(), [row(1, **said), row(2, accuracy=None, evaluation=None)]))
    assert "<span>error</span><b>0.25</b>" in text
    assert "<span>&lt;mae&gt;</span><b>3</b>" in text
    assert "<th>error</th><th>&lt;mae&gt;</th>" in text
    assert "<td>0.25</td><td>3</td>" in text
    assert "<td></td><td></td>" in text  # round 2, which was skipped
    assert "accuracy" not in text
    assert "not measured" in page(RunFiles("x", Path(), [row(1, accuracy=None, evaluation=None)]))


def test_a_line_breaks_where_rounds_were_not_measured() -> None:
    skipped = {"accuracy": None, "evaluation": None}
    rows = [row(1), row(2), row(3, **skipped), row(4), row(5, **skipped), row(6), row(7)]
    chart = next(chart for chart in charts(rows) if chart.slug == "evaluation-accuracy")
    drawn = draw(chart, CLASSES)
    lines = re.findall(r'<polyline class="[^"]*" points="([^"]*)"', drawn)
    assert [len(line.split()) for line in lines] == [2, 2]
    assert drawn.count("<circle") == 5  # also of round 4, alone between two gaps


def test_clients_of_nodes_are_those_of_their_leaves() -> None:
    chart = next(chart for chart in charts([row(1)]) if chart.slug == "nodes")
    assert {series.name: series.values[0] for series in chart.series} == {"node-0": 2, "node-1": 1}


def test_the_page_stands_alone_and_is_well_formed() -> None:
    evil = "</title><script>&\""
    text = page(RunFiles(evil, Path(), [row(1, metrics={evil: 2.0}), row(2)], {"wall_s": 3.0}))
    assert "<script" not in text
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    assert "prefers-color-scheme: dark" in text


def test_a_metrics_name_is_no_path() -> None:
    found = charts([row(1, metrics={"../../etc/x": 1.0})])
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", chart.slug) for chart in found)


def test_the_tree_has_every_role_and_a_dashed_line_between_nodes() -> None:
    drawn = tree(TREE)
    assert drawn.count('class="role') == 3
    assert drawn.count('class="edge far"') == 1
    assert drawn.count('class="edge"') == 1


@pytest.mark.parametrize(("high", "low"), [(0.0, 0.0), (1e-9, 0.0), (0.97, 0.64), (3e9, -2.0)])
def test_ticks_enclose_the_values(high: float, low: float) -> None:
    marks = ticks(high, low)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 9


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, [row(1), row(2)]) / "rounds.jsonl"
    path.write_text(path.read_text()[:-10])
    assert [each["round"] for each in read(tmp_path).rows] == [1]


def test_the_command_writes_page_and_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(main, ["report", str(write(tmp_path, [row(1), row(2)]))])
    assert result.exit_code == 0, result.output
    written = [Path(line) for line in result.output.splitlines()]
    assert {path.name for path in written} >= {"report.html", "phases.png", "clients-loss.png"}
    for path in written[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.new"))


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="runs/latest"):
        read(tmp_path)
    with pytest.raises(InvalidJob, match="no finished round"):
        read(write(tmp_path, []))
    assert CliRunner().invoke(main, ["report", str(tmp_path / "no")]).exit_code == 2


def test_a_full_disk_is_a_warning_with_path_and_fix(tmp_path: Path) -> None:
    write(tmp_path, [row(1)])
    (tmp_path / "report.html.new").symlink_to("/dev/full")
    with pytest.raises(NotWritten, match=r"report\.html.*No space left.*lifl report"):
        write_page(tmp_path)
    (tmp_path / "report.html.new").symlink_to("/dev/full")
    said: list[Any] = []
    after_run(tmp_path, said.append, plots=False)
    assert [event["event"] for event in said] == ["warning"]
    assert not (tmp_path / "report.html").exists()
