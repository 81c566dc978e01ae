"""Which nodes of a run are to be left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from lifl.cli import main
from lifl.placement import drains


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert drains.read(tmp_path) == set()
    drains.write(tmp_path, {"b", "a"})
    assert drains.read(tmp_path) == {"a", "b"}


def ran(run: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["nodes", *words, "--run", str(run)])
    return done.exit_code, done.output


def test_a_node_is_drained_and_taken_again(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"nodes": {"node-0": 1, "node-1": 1}}))
    status, said = ran(tmp_path, "drain", "node-1")
    assert status == 0
    assert "not under way" in said
    assert drains.read(tmp_path) == {"node-1"}
    assert "drained already" in ran(tmp_path, "drain", "node-1")[1]
    status, said = ran(tmp_path, "uncordon", "node-1")
    assert status == 0
    assert "node-1 may take clients again" in said
    assert drains.read(tmp_path) == set()
    assert ran(tmp_path, "uncordon", "node-1") == (
        0,
        "node-1 was not drained: nothing has changed\n",
    )


def test_of_several_jobs_one_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        nodes = {"node-0": 1, "node-1": 1}
        (tmp_path / name / "run.json").write_text(json.dumps({"name": name, "nodes": nodes}))
    for command in ("drain", "uncordon"):
        status, said = ran(tmp_path, command, "node-1")
        assert status == 2
        assert f"has several jobs: name one of {tmp_path / 'a'}, {tmp_path / 'b'}" in said
    assert ran(tmp_path / "b", "drain", "node-1")[0] == 0
    assert drains.read(tmp_path / "b") == {"node-1"}
    assert drains.read(tmp_path / "a") == set()


def test_what_cannot_be_drained_is_a_sentence(tmp_path: Path) -> None:
    status, said = ran(tmp_path, "drain", "node-0")
    assert status == 2
    assert "is not the directory of a run" in said
    (tmp_path / "run.json").write_text(json.dumps({"nodes": {"node-0": 1, "node-1": 1}}))
    status, said = ran(tmp_path, "drain", "node-7")
    assert status == 2
    assert "node-0, node-1" in said
    ran(tmp_path, "drain", "node-0")
    status, said = ran(tmp_path, "drain", "node-1")
    assert status == 2
    assert "last node" in said


def test_of_a_complete_run_no_node_is_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"nodes": {"node-0": 1, "node-1": 1}}))
    monkeypatch.setattr("lifl.placement.resume.is_complete", lambda _: True)
    status, said = ran(tmp_path, "drain", "node-1")
    assert (status, "is complete: none of its nodes is used any more" in said) == (2, True)
    assert drains.read(tmp_path) == set()
