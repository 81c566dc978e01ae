"""Several jobs in one run: right models, shares by weight, priorities between rounds, memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HERE, PROXY, Run, Runner, wait_until
from leftovers import ours
from test_nothing_stays import until_round

from lifl.functions.layout import Layout
from lifl.placement.record import load_model

LATE = """
from together import *
wait_for("late")
"""


class Together:
    """Starts several jobs, whose trainers are of together.py."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.env = {"TOGETHER": str(runner.folder)}
        (runner.folder / "together.py").write_text((HERE / "together.py").read_text())
        (runner.folder / "late.py").write_text(LATE)

    def job(self, name: str, *, file: str = "", module: str = "together", **spec: Any) -> Path:
        trainer = {"entrypoint": f"{module}:train_{name}", "clients": spec.pop("clients", 4)}
        if how := spec.pop("how", ""):
            trainer["entrypoint"] = f"{module}:train_{how}"
        path = self.runner.folder / (file or f"{name}.json")
        path.write_text(json.dumps({
            "apiVersion": "fl.lifl.dev/v1alpha1", "kind": "FLJob", "metadata": {"name": name},
            "spec": {"rounds": 3, "memory": {"inputSlots": 4},
                     "model": {"initial": "together:initial_model"},
                     "trainer": trainer, **spec},
        }))  # fmt: skip
        return path

    def steps(self, file: str, *lines: str) -> None:
        (self.runner.folder / file).write_text("\n".join(lines))

    def start(self, *paths: Path, arguments: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        first, *others = paths
        more = (*map(str, others), "--proxy", PROXY, *arguments)
        return self.runner.start(first, *more, env=self.env)

    def __call__(self, *paths: Path, arguments: tuple[str, ...] = ()) -> Run:
        return self.runner.finish(self.start(*paths, arguments=arguments))


@pytest.fixture
def together(runner: Runner) -> Together:
    return Together(runner)


def of(run: Run, job: str, event: str) -> list[dict[str, Any]]:
    return [e for e in run.of(event) if e.get("job") == job]


def check(run: Run, job: str, *, rounds: int, clients: int) -> None:
    """The last model is the mean by weight of its last round, and every client was in each."""
    folder = run.run_dir / job
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert [(row["round"], row["clients"]) for row in rows] == [
        (number, clients) for number in range(1, rounds + 1)
    ]
    sent = [(1.0 + index + 100.0 * rounds, 1.0 + index % 3) for index in range(clients)]
    mean = sum(v * w for v, w in sent) / sum(w for _, w in sent)
    found = load_model(folder / "model.safetensors")["x"]
    np.testing.assert_allclose(np.asarray(found), mean, rtol=2.0**-22)


def at(run: Run, job: str, event: str, number: int | None = None) -> int:
    """Where in the story that is."""
    return next(
        at for at, e in enumerate(run.events)
        if (e["event"], e.get("job")) == (event, job) and number in (None, e.get("round"))
    )  # fmt: skip


def gauge(run_dir: Path, name: str) -> dict[str, float]:
    """A figure of the first node, by job; what cannot be had is left out."""
    found: dict[str, float] = {}
    try:
        where = json.loads((run_dir / "metrics.json").read_text())
        page = urllib.request.urlopen(where["nodes"]["node-0"], timeout=5).read().decode()
    except (OSError, ValueError):
        return found
    for line in page.splitlines():
        if line.startswith(f"{name}{{"):
            labels, _, value = line.partition("} ")
            found[labels.partition('fljob="')[2].partition('"')[0]] = float(value)
    return found


def latest(together: Together) -> Path:
    return together.runner.folder / "runs" / "latest"


# -- one run -----------------------------------------------------------------------------------
def test_two_jobs_at_once_are_what_each_is_alone(together: Together) -> None:
    """While a is in its first round b begins, and the other way round; models are bit for bit."""
    together.steps("waits", "a 1 b-is-there", "b 1 a-is-there")
    together.steps("marks", "a 1 a-is-there", "b 1 b-is-there")
    paths = together.job("a"), together.job("b", clients=6, rounds=4)
    run = together(*paths, arguments=("--nodes", "2"))
    assert run.status == 0, (run.events[-5:], run.stderr)
    check(run, "a", rounds=3, clients=4)
    check(run, "b", rounds=4, clients=6)
    assert (run.run_dir / "b" / "report.html").exists()
    both = {job: (run.run_dir / job / "model.safetensors").read_bytes() for job in "ab"}
    alone = together(paths[1], arguments=("--nodes", "2"))
    assert alone.status == 0
    assert (alone.run_dir / "model.safetensors").read_bytes() == both["b"]


def test_one_that_fails_takes_nobody_along(together: Together) -> None:
    together.steps("waits", "a 2 go")
    process = together.start(together.job("a"), together.job("bad", how="broken"))
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "failed":
            (together.runner.folder / "go").touch()
    run = together.runner.finish(process)
    assert run.status == 1
    failed = [event for event in lines if event["event"] == "failed"]
    assert [(event["job"], event["code"]) for event in failed] == [("bad", "trainer-failed")]
    assert [event["job"] for event in lines if event["event"] == "done"] == ["a"]
    check(run, "a", rounds=3, clients=4)


def test_stopped_in_the_midst_it_goes_on_with_all_that_are_not_complete(
    together: Together,
) -> None:
    together.steps("waits", "a 2 go")
    process = together.start(together.job("a"), together.job("b", rounds=2))
    assert process.stdout is not None
    done = next(e for e in map(json.loads, process.stdout) if e["event"] == "done")
    assert done["job"] == "b"
    process.send_signal(signal.SIGINT)
    assert together.runner.finish(process).status == 130
    (together.runner.folder / "go").touch()
    process = together.runner.start(
        None, "--resume", str(latest(together)), "--proxy", PROXY, env=together.env
    )
    run = together.runner.finish(process)
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert {event.get("job") for event in run.of("done")} == {None}  # it is alone now
    check(run, "a", rounds=3, clients=4)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([("a", "one.json", {}), ("a", "two.json", {})], ["one.json and ", "two.json", "named a"]),
        ([("a", "one.json", {}), ("b", "two.json", {"insecure": True})], ["two.json: insecure"]),
    ],
)
def test_jobs_that_cannot_run_together_are_named(
    together: Together, jobs: list[tuple[str, str, dict[str, Any]]], words: list[str]
) -> None:
    paths = [together.job(name, file=file, **spec) for name, file, spec in jobs]
    run = together(*paths)
    assert run.status == 2
    assert all(word in run.stderr for word in words), run.stderr
    assert not (together.runner.folder / "runs").exists()


# -- shares --------------------------------------------------------------------------------------
def test_weights_3_to_1_give_slots_3_to_1(together: Together) -> None:
    together.steps("marks", "b 1 b-is-there")  # a has all until b has asked
    together.steps("waits", "a 1 b-is-there", "a 2 go", "b 2 go")
    process = together.start(
        together.job("a", placement={"weight": 3}), together.job("b")
    )
    for _ in range(2):
        until_round(process, 1)
    wait_until(
        lambda: gauge(latest(together) / "a", "lifl_slots") == {"a": 3, "b": 1},
        lambda: f"slots: {gauge(latest(together) / 'a', 'lifl_slots')}", 30,
    )  # fmt: skip
    (together.runner.folder / "go").touch()
    run = together.runner.finish(process)
    assert run.status == 0, run.stderr
    check(run, "a", rounds=3, clients=4)
    check(run, "b", rounds=3, clients=4)


def test_a_higher_priority_comes_first_between_rounds(together: Together) -> None:
    """a begins and has all; b comes in a's round 2, and a waits after it until b is done."""
    together.steps("marks", "a 2 late", "b 1 b-is-there")
    together.steps("waits", "a 2 b-is-there", "b 2 a-waits")
    process = together.start(
        together.job("a"),
        together.job("b", rounds=2, module="late", placement={"priority": 5}),
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if (events[-1]["event"], events[-1].get("job"), events[-1].get("round")) == (
            "round_done", "a", 2,
        ):  # fmt: skip
            (together.runner.folder / "a-waits").touch()
    run = together.runner.finish(process)
    run.events = events
    assert run.status == 0, (events[-5:], run.stderr)
    (waits,) = of(run, "a", "crowded_out")
    assert "b (priority 5) 4" in waits["text"]
    assert at(run, "a", "round_done", 2) < at(run, "b", "done") < at(run, "a", "round_started", 3)
    check(run, "a", rounds=3, clients=4)
    check(run, "b", rounds=2, clients=4)


SIZE = 100_000


def test_a_job_that_comes_second_gets_memory_that_the_first_gives_back(
    together: Together,
) -> None:
    """There is memory for 4 input slots, of which a has all until b comes."""
    together.env["TOGETHER_SIZE"] = str(SIZE)
    layout = Layout.of({"x": np.zeros(SIZE, np.float32)})
    page = layout.update_bytes // 4096 * 4096 + 4096
    fixed = (2 * 2 + 3 + 1) * page + 300_000  # sums of three levels, the model, words
    budget = 2 * fixed + 4 * page
    together.steps("marks", "a 2 late", "b 2 b-is-there")
    together.steps("waits", "a 2 go", "a 3 b-is-there")
    process = together.start(
        together.job("a", rounds=5),
        together.job("b", module="late"),
        arguments=("--arena-memory", str(budget)),
    )
    seen: list[dict[str, float]] = []
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "share" and events[-1]["job"] == "b":
            (together.runner.folder / "go").touch()
        if events[-1]["event"] in ("round_started", "round_done"):
            seen.append(gauge(latest(together) / "a", "lifl_arena_bytes"))
    run = together.runner.finish(process)
    run.events = events
    assert run.status == 0, (events[-5:], run.stderr)
    assert any(len(each) == 2 for each in seen)
    assert max(sum(each.values()) for each in seen) <= budget
    assert at(run, "b", "round_done", 2) < at(run, "a", "done")
    check(run, "a", rounds=5, clients=4)
    check(run, "b", rounds=3, clients=4)


def test_without_a_slot_for_it_a_job_waits_and_nobody_fails(together: Together) -> None:
    """a's memory is all there is: b says so, and begins when a is done."""
    together.env["TOGETHER_SIZE"] = str(SIZE)
    page = SIZE * 4 // 4096 * 4096 + 4096
    fixed = (2 * 2 + 3 + 1) * page + 300_000
    together.steps("marks", "a 1 late")
    together.steps("waits", "a 2 go")
    process = together.start(
        together.job("a"),
        together.job("b", module="late"),
        arguments=("--arena-memory", str(fixed + 4 * page)),
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "crowded_out":
            (together.runner.folder / "go").touch()
    run = together.runner.finish(process)
    run.events = events
    assert run.status == 0, (events[-5:], run.stderr)
    assert "bytes of shared memory" in of(run, "b", "crowded_out")[0]["text"]
    assert at(run, "a", "done") < at(run, "b", "round_started", 1)
    check(run, "b", rounds=3, clients=4)


def test_a_gateway_starts_again_and_hears_of_one_job_only(together: Together) -> None:
    """Clients of the other, whose coordinator says nothing for a while, wait at its door."""
    together.steps("marks", "a 2 a-is-there", "b 2 b-is-there")
    together.steps("waits", "a 2 go", "b 2 b-goes-on")
    process, runner = together.start(together.job("a"), together.job("b")), together.runner
    for name in ("a-is-there", "b-is-there"):
        wait_until((runner.folder / name).exists, lambda: "no round 2", 60)
    (silent,) = (pid for pid, command in ours(runner.mark) if "/coordinator-2.json" in command)
    os.kill(silent, signal.SIGSTOP)
    try:
        os.kill(runner.processes("lifl.functions.gateway")[0], signal.SIGKILL)
        (runner.folder / "go").touch()
        events = []
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["event"] in ("done", "failed"):
                break
    finally:
        os.kill(silent, signal.SIGCONT)
    assert (events[-1]["event"], events[-1]["job"]) == ("done", "a"), events[-1]
    (runner.folder / "b-goes-on").touch()
    run = runner.finish(process)
    assert run.status == 0, (run.events[-5:], run.stderr)
    for job in "ab":
        check(run, job, rounds=3, clients=4)


@pytest.mark.losses
@pytest.mark.parametrize("grace_s", [2, 30])
def test_a_node_that_one_job_loses_is_lost_for_all(together: Together, grace_s: int) -> None:
    """In round 2 of both, whose updates it has acked; b finds out as a does, or hears of it."""
    together.env["LIFL_FAULT"] = "gateway@node-1:gateway_acked:lose:10"
    together.steps("waits", "a 2 go", "b 2 go")
    process = together.start(
        *(
            together.job(name, clients=6, rounds=4, memory={"inputSlots": 8},
                         placement={"policy": "worstfit", "nodeGraceS": each_s})
            for name, each_s in (("a", 2), ("b", grace_s))
        ),
        arguments=("--nodes", "2", "--liveness", "1"),
    )  # fmt: skip
    fired = together.runner.folder / "faults" / "gateway@node-1:gateway_acked:10"
    wait_until(fired.exists, lambda: "node-1 is not lost", 60)
    (together.runner.folder / "go").touch()
    run = together.runner.finish(process)
    assert run.status == 0, (run.events[-5:], run.stderr)
    assert [e["node"] for job in "ab" for e in of(run, job, "node_lost")] == ["node-1"] * 2
    assert [e["what"] for e in run.of("restart")].count("agent of node-1") == 1
    for job in "ab":
        check(run, job, rounds=4, clients=6)


@pytest.mark.parametrize("command", [["top"], ["keys", "list", "--run"]])
def test_of_several_jobs_one_is_to_be_named(tmp_path: Path, command: list[str]) -> None:
    for job in "ab":
        (tmp_path / job).mkdir()
        (tmp_path / job / "run.json").write_text(json.dumps({"name": job}))
    done = subprocess.run(
        [sys.executable, "-m", "lifl", *command, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"several jobs: name one of {tmp_path / 'a'}, {tmp_path / 'b'}" in done.stderr
