"""The demo: its accuracy, and every round of it against FedAvg in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import HERE, PROXY, Runner

from lifl.functions.kernels.bound import bound
from lifl.placement.record import load_model

ROOT = HERE.parent.parent
DIGITS = ROOT / "examples" / "01-digits"
UPDATE_BYTES = 4 * ((64 + 1) * 64 + (64 + 1) * 64 + (64 + 1) * 10)  # three layers, float32


def test_the_demo(runner: Runner) -> None:
    job = (DIGITS / "job.yaml").read_text()
    for what in ("initial_model", "train", "evaluate"):
        job = job.replace(f"digits:{what}", f"recording:{what}")
    path = runner.folder / "job.yaml"
    path.write_text(job)
    (runner.folder / "recording.py").write_text((HERE / "recording.py").read_text())
    recorded = runner.folder / "recorded"
    recorded.mkdir()
    run = runner.finish(
        runner.start(path, "--proxy", PROXY, env={"DIGITS": str(DIGITS), "RECORDED": str(recorded)})
    )
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert len(run.rows) == 30
    assert run.summary["accuracy"] >= 0.95
    assert run.summary["nodes"] == 2
    sent = 16 * UPDATE_BYTES  # without the sum that one node sends to the other
    assert {row["bytes"] for row in run.rows} == {sent}
    assert run.summary["bytes"] == 30 * sent
    assert {role["role"] for roles in run.rows[0]["tree"].values() for role in roles} == {
        "leaf", "middle", "top",
    }  # fmt: skip
    for number in range(1, 31):
        last = run.run_dir / "model.safetensors"
        model = (
            load_model(last) if number == 30 else dict(np.load(recorded / f"model-{number}.npz"))
        )
        updates = [dict(np.load(p)) for p in sorted(recorded.glob(f"update-{number}-*.npz"))]
        assert len(updates) == 16
        weights = [float(update["__weight__"]) for update in updates]
        for name, value in model.items():
            inputs = [update[name] for update in updates]
            exact = sum(
                w * x.astype(np.float64) for w, x in zip(weights, inputs, strict=True)
            ) / sum(weights)
            far = np.abs(value.astype(np.float64) - exact)
            assert (far <= bound(weights, inputs, extra_roundings=6)).all(), (number, name)


def test_the_job_of_the_readme(runner: Runner) -> None:
    """As a reader would try it: beside the module that it names, and for a round only."""
    texts = re.findall(r"```yaml\n(apiVersion.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(texts) == 1
    path = runner.folder / "job.yaml"
    path.write_text(texts[0].replace("rounds: 30", "rounds: 1"))
    (runner.folder / "digits.py").write_text((DIGITS / "digits.py").read_text())
    run = runner.finish(runner.start(path, "--proxy", PROXY))
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert [row["clients"] for row in run.rows] == [16]
    assert run.summary["accuracy"] > 0.3


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, runner: Runner) -> None:
    path = runner.job_file(rounds=1, trainers=2)
    done = subprocess.run(
        [sys.executable, "-m", "lifl", "run", str(path), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"TOY_MODELS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b[" not in done.stdout
    latest = tmp_path / "out" / "latest"
    assert latest.is_symlink()
    summary = json.loads((latest / "summary.json").read_text())
    assert set(summary) >= {
        "accuracy", "rounds", "wall_s", "round_s_median", "nodes", "updates", "bytes",
        "handoffs", "proxy", "kernels", "zygote_starts", "cold_starts", "warm_starts",
        "start_seconds",
    }  # fmt: skip
    row = json.loads((latest / "rounds.jsonl").read_text())
    assert set(row) >= {
        "round", "seconds", "clients", "accuracy", "bytes", "handoffs", "zygote_starts",
        "cold_starts", "warm_starts", "start_seconds", "tree",
    }  # fmt: skip
