"""A lost node of a local run: its agent is killed first, and that is no crash of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lifl.placement import anew
from lifl.placement import engine as module
from lifl.placement.children import Child
from lifl.placement.engine import RESTARTS, Engine, Over
from lifl.placement.output import Speaker

PID = 1 << 30  # nobody's


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is killed, in its order."""
    killed: list[str] = []
    monkeypatch.setattr(os, "kill", lambda *_: killed.append("agent"))
    for where in (module, anew):
        monkeypatch.setattr(where, "end_those_with", lambda path: killed.append(path.name))
    return killed


def engine_of(folder: Path) -> Engine:
    """With two nodes and two jobs, and no process."""
    config = {
        "nodes": {"node-0": [], "node-1": []}, "run_dir": str(folder), "event_sink": None,
        "start": 1, "coordinator": ["key", ""],
    }  # fmt: skip
    return Engine(folder, [config | {"name": name} for name in ("a", "b")])


def test_a_node_may_be_lost_more_often_than_an_agent_may_crash(
    tmp_path: Path, killed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = engine_of(tmp_path)
    monkeypatch.setattr(engine, "_start_agent", lambda name: engine.children.by_pid.setdefault(
        PID, Child(name, PID, Speaker(name, lambda *_: None))
    ))  # fmt: skip
    engine._start_agent("node-0")
    for _ in range(RESTARTS + 1):
        killed.clear()
        engine._begin_anew("node-0", engine.jobs["a"])
        assert killed == ["agent", "node-0"]
        engine._ended(engine.children.by_pid.pop(PID), -signal.SIGKILL)
        assert PID in engine.children.by_pid
    assert engine.given_up == set()
    assert engine.restarts["node-0"] == 0


def test_a_node_that_is_given_up_does_not_begin_anew(tmp_path: Path, killed: list[str]) -> None:
    engine: Any = engine_of(tmp_path)
    engine.given_up.add("node-0")
    engine._begin_anew("node-0", engine.jobs["a"])
    assert killed == []


def test_a_node_that_cannot_start_ends_the_run(tmp_path: Path, killed: list[str]) -> None:
    engine: Any = engine_of(tmp_path)
    engine.children.by_pid[PID] = child = Child("node-0", PID, Speaker("node-0", lambda *_: None))
    with pytest.raises(Over, match="node-0: the agent ended with status 1"):
        engine._ended(child, 1)
    assert killed == []


def test_once_a_round_has_begun_the_other_nodes_go_on(tmp_path: Path, killed: list[str]) -> None:
    engine: Any = engine_of(tmp_path)
    engine._on_event(engine.jobs["b"], {"event": "round_started"})
    engine._ended(Child("node-0", PID, Speaker("node-0", lambda *_: None)), 1)
    assert engine.given_up == {"node-0"}
    assert killed == ["node-0"]
    with pytest.raises(Over, match="node-1: the agent ended with status 1"):
        engine._ended(Child("node-1", PID, Speaker("node-1", lambda *_: None)), 1)
