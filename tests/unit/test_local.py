"""`lifl run` around its engine: what is said when it fails before there is one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lifl.api.load import load_job
from lifl.errors import InvalidJob
from lifl.placement import local

JOB = {
    "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": "toy"},
    "spec": {
        "rounds": 1, "model": {"initial": "toy:initial_model"},
        "trainer": {"entrypoint": "toy:train", "clients": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("fails", ["with an error", "with a status"])
def test_that_runs_latest_is_given_back_is_said_however_a_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path, events = tmp_path / "job.json", list[dict[str, Any]]()
    path.write_text(json.dumps(JOB))
    before = tmp_path / "runs" / "before"
    before.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to(before.name)

    def supervise(*_: object) -> int:
        if fails == "with an error":
            raise InvalidJob("there is no engine")
        return 1

    monkeypatch.setattr(local, "_supervise", supervise)
    monkeypatch.setattr(local, "end_descendants", lambda: None)
    jobs = [(load_job(path), path)]
    if fails == "with an error":
        with pytest.raises(InvalidJob, match="there is no engine"):
            local.run(jobs, handle=events.append, out=tmp_path / "runs")
    else:
        assert local.run(jobs, handle=events.append, out=tmp_path / "runs") == 1
    (said,) = (event for event in events if event["event"] == "latest")
    assert Path(said["run"]) == before
    assert (tmp_path / "runs" / "latest").resolve() == before


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local.Stop().heard():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with local.Stop().heard(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hang_up_does_not_interrupt_clearing_up() -> None:
    """As when a terminal is closed: first it cannot be written to, then there is the signal."""
    stop = local.Stop()
    with stop.heard():
        stop.clears_up = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.by == "SIGTERM"
    stop = local.Stop()
    with pytest.raises(KeyboardInterrupt), stop.heard():
        os.kill(os.getpid(), signal.SIGTERM)
