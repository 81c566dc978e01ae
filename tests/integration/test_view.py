"""What a person sees of a run: prints with a name, reasons, its last line, documented files."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROXY, Run, Runner
from leftovers import MARKER
from test_nothing_stays import until_round

DOCS = Path(__file__).parents[2] / "docs" / "run-directory.md"
ENDED = {
    "quit": "client-1 ended with status 0 in the middle of its work, as os._exit(0) does",
    "die": "client-1 was killed by SIGKILL",
}


def fields(heading: str) -> set[str]:
    """Names in the table of one section of the page on run directories."""
    section = DOCS.read_text().partition(f"## {heading}")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_prints_have_a_name_and_files_are_documented(runner: Runner) -> None:
    run = runner(
        "--proxy", PROXY, trainers=2, evaluator={"entrypoint": "toy:evaluate_loss"},
        env={"TOY_ODD": "1 1 heavy"},
    )  # fmt: skip
    assert run.status == 0, (run.events[-3:], run.stderr)
    said = {(event["who"], event["text"]) for event in run.of("output")}
    assert said >= {("client-1", "refused"), ("the evaluator", "evaluating"),
                    ("the evaluator", "WARNING: root: measured")}  # fmt: skip
    assert run.stderr == ""
    assert {name for row in run.rows for name in row} == fields("rounds.jsonl")
    assert set(run.summary) == fields("summary.json")
    files = [*(run.run_dir / "clients").iterdir()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert len(files) == 2


def error_of(run: Run) -> str:
    assert run.status != 0
    (failed,) = run.of("failed")
    return str(failed["error"])


def test_a_traceback_of_all_clients_is_shown_once(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=3, env={"TOY_ODD": "-1 1 raise"})
    assert "failed in round 1: RuntimeError: this trainer is broken; " in error_of(run)
    lines = [event["text"] for event in run.of("output")]
    assert 1 <= lines.count("RuntimeError: this trainer is broken") <= 3  # of who failed in time
    assert any("toy.py" in line for line in lines)
    assert not any("lifl/trainer.py" in line for line in lines)


def test_an_evaluator_that_cannot_work_ends_the_run_before_a_client_is_started(
    runner: Runner,
) -> None:
    run = runner("--proxy", PROXY, evaluator={"entrypoint": "toy:evaluate_nothing"})
    assert error_of(run) == (
        "the evaluator failed on the initial model: RuntimeError: this evaluator is broken"
    )
    assert not run.of("round_started")


def test_an_evaluator_that_breaks_later_ends_the_run(runner: Runner) -> None:
    run = runner("--proxy", PROXY, rounds=1, evaluator={"entrypoint": "toy:evaluate_late"})
    assert error_of(run) == (
        "the evaluator failed on the model of round 1: RuntimeError: this evaluator breaks later"
    )


def test_a_trainer_that_returns_early_has_left(runner: Runner) -> None:
    run = runner("--proxy", PROXY, trainers=3, rounds=4, env={"TOY_ODD": "0 2 return"})
    assert error_of(run) == (
        "client-0's trainer returned after round 2 of 4: 2 clients are left, and a round needs 3 "
        "(spec.clients.min)"
    )
    run = runner(
        "--proxy", PROXY, trainers=3, rounds=4, env={"TOY_ODD": "0 2 return"},
        clients={"min": 2, "graceS": 0.2},
    )  # fmt: skip
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert [row["clients"] for row in run.rows] == [3, 2, 2, 2]
    warnings = [event["text"] for event in run.of("warning")]
    assert "client-0's trainer returned after round 2 of 4; 2 clients are left" in warnings


@pytest.mark.parametrize("how", ["quit", "die"])
def test_a_trainer_that_ends_without_a_word_has_left(runner: Runner, how: str) -> None:
    """os._exit(0) or a signal: the run does not wait for what does not come."""
    said = ENDED[how]
    run = runner("--proxy", PROXY, trainers=3, rounds=4, env={"TOY_ODD": f"1 2 {how}"})
    assert error_of(run) == (f"{said}: 2 clients are left, and a round needs 3 (spec.clients.min)")
    fewer = {"min": 2, "graceS": 0.2}
    run = runner(
        "--proxy", PROXY, trainers=3, rounds=4, env={"TOY_ODD": f"1 2 {how}"}, clients=fewer
    )
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert [row["clients"] for row in run.rows] == [3, 2, 2, 2]
    assert f"{said}; 2 clients are left" in [event["text"] for event in run.of("warning")]


@pytest.mark.parametrize("how", ["quit", "die"])
def test_a_trainer_that_ends_before_its_first_round(runner: Runner, how: str) -> None:
    """The first round waits for it; where its connection was faster than its end, it has begun."""
    said = ENDED[how]
    fewer = {"min": 2, "graceS": 0.2}
    run = runner("--proxy", PROXY, trainers=3, env={"TOY_ODD": f"1 0 {how}"}, clients=fewer)
    if run.status != 0:
        assert error_of(run) == f"{said}, and the first round waits for every client"
    else:
        assert {row["clients"] for row in run.rows} == {2}
        assert f"{said}; 2 clients are left" in [event["text"] for event in run.of("warning")]


def test_a_job_that_names_what_is_not_there(runner: Runner) -> None:
    """It takes runs/latest from no run that began."""
    good = runner("--proxy", PROXY, trainers=1, rounds=1)
    there = good.run_dir.resolve()
    run = runner("--proxy", PROXY, trainer={"entrypoint": "nomod:train", "clients": 4})
    assert run.status == 2
    assert "line 1: spec.trainer.entrypoint: no module 'nomod'; looked for" in error_of(run)
    assert run.stderr == ""
    assert run.run_dir.resolve() == there
    (again,) = run.of("latest")
    assert again["run"] == str(there)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give up rights")
def test_an_agent_that_cannot_start_says_why(runner: Runner) -> None:
    path = runner.job_file(trainers=2)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "lifl", "run",
         str(path), "--proxy", "ebpf", "--out", str(runner.folder / "runs")],
        capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {MARKER: runner.mark, "XDG_RUNTIME_DIR": str(runner.runtime_dir)},
    )  # fmt: skip
    assert done.returncode == 1
    assert re.search(r"error: node-0: the agent ended with status 1: eBPF needs root", done.stderr)


@pytest.mark.parametrize(
    ("moment", "sign", "by", "what"),
    [
        # the coordinator may have begun to write meanwhile, or not
        ("run directory", signal.SIGTERM, "SIGTERM", "nothing was written|no round is done"),
        ("hand-offs", signal.SIGINT, "Ctrl-C", "rounds.jsonl; lifl run --resume "),
        ("hand-offs", signal.SIGHUP, "SIGHUP", "rounds.jsonl; lifl run --resume "),
    ],
)
def test_a_stopped_run_says_what_there_is(
    runner: Runner, moment: str, sign: int, by: str, what: str
) -> None:
    """From the first line on: before there is an engine, and in the middle of a round."""
    path = runner.job_file(rounds=100_000, trainers=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "lifl", "run", str(path), "--proxy", PROXY,
         "--out", str(runner.folder / "runs")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ
        | {MARKER: runner.mark, "XDG_RUNTIME_DIR": str(runner.runtime_dir),
           "PYTHONUNBUFFERED": "1", "TOY_MODELS": str(runner.folder)},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    process.send_signal(sign)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    last = out.splitlines()[-1]
    assert last.startswith(f"toy: stopped by {by} after ")
    assert re.search(what, last), last
    assert (out + err).count("stopped by") == 1
    assert err == ""


@pytest.mark.parametrize("how", ["--plain", "--json"])
def test_a_full_disk_behind_standard_output(runner: Runner, how: str) -> None:
    """One line says so, and the run ends in order: see `runner`."""
    path = runner.job_file(rounds=100_000, trainers=2)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "lifl", "run", str(path), "--proxy", PROXY, how,
             "--out", str(runner.folder / "runs")],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env=os.environ | {MARKER: runner.mark, "XDG_RUNTIME_DIR": str(runner.runtime_dir)},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output cannot be written (No space left on device): send it where it can\n"
    )


@pytest.mark.parametrize("goes", [[], ["--plain"]])
def test_a_terminal_that_is_closed(runner: Runner, goes: list[str]) -> None:
    """Writing to it fails then, live or in lines, and no traceback is left in the log."""
    path = runner.job_file(rounds=100_000, trainers=2)
    ours, theirs = pty.openpty()
    log = runner.folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "lifl", "run", str(path), "--proxy", PROXY, *goes,
             "--out", str(runner.folder / "runs")],
            stdout=theirs, stderr=errors,
            env=os.environ
            | {MARKER: runner.mark, "XDG_RUNTIME_DIR": str(runner.runtime_dir), "TERM": "xterm",
               "TOY_MODELS": str(runner.folder)},
        )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"round" not in seen:
        seen += os.read(ours, 1 << 16)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    process.wait(30)
    assert process.returncode in (1, 130)
    assert log.read_text() in ("", (
        "error: standard output cannot be written (Input/output error): send it where it can\n"
    ))  # fmt: skip


def test_trainers_give_way_to_who_serves_them(runner: Runner) -> None:
    process = runner.start(runner.job_file(rounds=100_000, trainers=2), "--proxy", PROXY)
    until_round(process, 1)
    how = {
        module: {os.sched_getscheduler(pid) for pid in runner.processes(module)}
        for module in ("lifl.trainer", "lifl.functions.gateway", "lifl.functions.aggregator")
    }
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert how == {
        "lifl.trainer": {os.SCHED_BATCH},
        "lifl.functions.gateway": {os.SCHED_OTHER},
        "lifl.functions.aggregator": {os.SCHED_OTHER},
    }


def test_the_words_of_a_killed_process(runner: Runner) -> None:
    process = runner.start(runner.job_file(rounds=100_000, trainers=2), "--proxy", PROXY)
    until_round(process, 1)
    os.kill(min(runner.processes("lifl.trainer")), signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    failed = [json.loads(line) for line in out.splitlines() if '"failed"' in line]
    assert [event["error"] for event in failed] == [
        "the process of the trainers was killed by SIGKILL"
    ]
