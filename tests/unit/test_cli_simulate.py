"""`lifl simulate` as a person starts it: the table, JSON, pictures, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lifl.cli import main

SCENARIO = """\
seed: 2
rounds: 3
clients: 12
updateBytes: 1M
nodes: [{count: 3, capacity: 6}]
policies: [bestfit, worstfit]
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


def test_the_table_has_a_row_for_each_policy(scenario: Path) -> None:
    result = CliRunner().invoke(main, ["simulate", str(scenario)])
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert "3 rounds, 12 clients, 3 nodes, updates of 1.00 MB" in result.stdout
    assert rows["bestfit"][5:] != rows["worstfit"][5:]
    assert "exact engine" in result.stdout


@pytest.mark.parametrize("columns", ["40", "300"])
def test_the_table_is_whole_however_narrow_it_is(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    scenario.write_text(SCENARIO.replace("worstfit", "least-connections"))
    out = CliRunner().invoke(main, ["simulate", str(scenario)]).stdout
    assert [line.split()[0] for line in out.splitlines()] == [
        "3", "policy", "bestfit", "least-connections", "round:", "exact",
    ]  # fmt: skip
    assert "\u2026" not in out


def test_a_job_is_no_scenario_and_the_other_way_round(scenario: Path) -> None:
    scenario.write_text("apiVersion: fl.lifl.dev/v1alpha1\nkind: FLJob\nspec: {rounds: 3}\n")
    result = CliRunner().invoke(main, ["simulate", str(scenario)])
    assert result.exit_code == 2
    assert f"{scenario} is a job, which lifl run runs" in result.stderr
    assert "docs/scenario.md has every field" in result.stderr
    scenario.write_text(SCENARIO)
    result = CliRunner().invoke(main, ["run", str(scenario)])
    assert "this may be a scenario, which lifl simulate plays" in result.stderr
    scenario.write_text("")
    result = CliRunner().invoke(main, ["simulate", str(scenario)])
    assert "is empty: it must hold a scenario" in result.stderr


def test_json_has_every_round_and_is_the_same_again(scenario: Path) -> None:
    first, second = (
        CliRunner().invoke(main, ["simulate", str(scenario), "--json"]) for _ in range(2)
    )
    assert first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert [(row["policy"], row["round"]) for row in found["rounds"]] == [
        (policy, number) for policy in ("bestfit", "worstfit") for number in (1, 2, 3)
    ]
    nodes = {one["policy"]: one["nodes"] for one in found["totals"]}
    assert nodes == {"bestfit": 2.0, "worstfit": 3.0}
    fast = CliRunner().invoke(main, ["simulate", str(scenario), "--json", "--engine", "fast"])
    assert json.loads(fast.stdout)["engine"] == "fast"
    for one, other in zip(json.loads(fast.stdout)["totals"], found["totals"], strict=True):
        assert one == pytest.approx(other)


def test_pictures_go_where_they_are_wanted(scenario: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "drawn"
    result = CliRunner().invoke(main, ["simulate", str(scenario), "--plots", str(folder)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in folder.iterdir()} == {
        "between-nodes.png", "cpu.png", "nodes.png", "round-time.png", "starts.png",
        "time-to-aggregate.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())


def test_a_wrong_scenario_is_said_with_its_line(scenario: Path) -> None:
    scenario.write_text(SCENARIO + "fanIm: 3\n")
    result = CliRunner().invoke(main, ["simulate", str(scenario)])
    assert result.exit_code == 2
    assert "line 7: fanIm: there is no such field; did you mean 'fanIn'?" in result.stderr


@pytest.mark.parametrize("name", ["flash", "machine"])
def test_the_examples_are_valid(name: str) -> None:
    path = Path(__file__).parents[2] / "examples" / "06-simulate" / f"{name}.yaml"
    result = CliRunner().invoke(main, ["simulate", str(path), "--json"])
    assert result.exit_code == 0, result.output
