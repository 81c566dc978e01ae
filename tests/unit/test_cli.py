"""The command line: exit codes, sentences, nothing that looks like a traceback."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from lifl.cli import main
from lifl.cli.memory import find
from lifl.errors import InvalidJob, Unsupported

DIGITS = Path(__file__).parents[2] / "examples" / "01-digits" / "job.yaml"


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of the local engine: what it was called with, and what it is to do."""
    called: dict[str, Any] = {"events": [], "code": 0, "raise": None}

    def run(jobs: object, *, handle: Any, **options: object) -> int:
        called["options"] = options
        for event in called["events"]:
            handle(event)
        if called["raise"] is not None:
            raise called["raise"]
        return int(called["code"])

    local = ModuleType("lifl.placement.local")
    local.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lifl.placement.local", local)
    monkeypatch.setattr("lifl.placement.local", local, raising=False)
    return called


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["keys", "run", "shm", "validate", "version"]),
        (["run", "--help"], ["JOB.yaml", "--nodes", "--out", "--plain", "--proxy", "--kernels"]),
        (["shm", "--help"], ["ls"]),
        (["keys", "--help"], ["new", "enroll", "revoke", "list"]),
        (["validate", "-h"], ["--no-import"]),
        (["simulate", "--help"], ["docs/scenario.md"]),
        (["run", "--help"], ["the live view is for one"]),
    ],
)
def test_help_names_everything(arguments: list[str], words: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert all(word in said for word in words)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "name either job files, JOB.yaml, or a run with --resume RUN"),
        (["run", "x.yaml", "--resume", "runs/x"], "name either job files"),
        (["run", "--resume", "runs/x", "--nodes", "2"], "a run keeps its nodes"),
        (["run", "--resume", "none"], "is not the directory of a run"),
        (["run", "x.yaml", "--node", "2"], "No such option"),
        (["run", "x.yaml", "--nodes", "0"], "0 is not in the range 1<=x<=64"),
        (["run", "x.yaml", "--nodes", "many"], "'many' is not a valid integer"),
        (["run", "x.yaml", "--proxy", "tcp"], "'tcp' is not one of 'auto', 'ebpf', 'unix'"),
        (["rum", "x.yaml"], "No such command 'rum'"),
        (["run", "none.yaml"], "error: none.yaml does not exist"),
        (["run", str(DIGITS.parent)], "is a folder"),
        (["run", str(DIGITS), "--host", "0.0.0.0"], "nobody can call this one"),
        (["run", str(DIGITS), "--keys", "rnig"], "--keys rnig: there is no such key directory"),
        (["run", str(DIGITS), "--plain", "--json"], "--plain and --json exclude one another"),
        (["validate", "none.yaml"], "error: none.yaml does not exist"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(arguments: list[str], sentence: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert sentence in click.unstyle(result.output)


def test_a_bad_job_is_not_run(tmp_path: Path, engine: dict[str, Any]) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(DIGITS.read_text().replace("mode: eager", "mode: egaer"))
    for command in ("run", "validate"):
        result = invoke(command, str(job))
        assert result.exit_code == 2
        assert "did you mean 'eager'?" in result.output
    assert "options" not in engine


def test_validate() -> None:
    result = invoke("validate", str(DIGITS))
    assert result.exit_code == 0
    assert "is valid: job digits, rounds 30, clients 16, nodes 2" in result.output


def test_clients_that_a_round_does_not_wait_for_are_there_too(
    engine: dict[str, Any], tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(DIGITS.read_text().replace("min: 16", "min: 4").replace("nts: 16", "nts: 6"))
    said = "6{} (a round waits for 4)"
    assert f"clients {said.format('')}, nodes 2" in invoke("validate", str(job)).output
    engine["events"] = [{"event": "starting", "nodes": 2, "run_dir": "runs/digits-1"}]
    first = invoke("run", "--plain", str(job)).output.splitlines()[0]
    assert first == f"job digits: 30 rounds, {said.format(' clients')}, 2 nodes"


def test_validate_looks_for_what_the_job_names(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(DIGITS.read_text().replace("digits:train", "elsewhere:train"))
    (tmp_path / "digits.py").write_text((DIGITS.parent / "digits.py").read_text())
    result = invoke("validate", str(job))
    assert result.exit_code == 2
    assert f"looked for {tmp_path}/elsewhere.py" in result.output
    assert invoke("validate", "--no-import", str(job)).exit_code == 0
    job.write_text(DIGITS.read_text().replace("initial: digits:initial_model",
                                              "file: first.safetensors"))  # fmt: skip
    assert "first.safetensors cannot be read: No such file" in invoke("validate", str(job)).output


def test_what_only_a_cluster_can_do_is_refused_or_named(
    tmp_path: Path, engine: dict[str, Any]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(DIGITS.read_text() + "  suspend: true\n  expose: {type: NodePort}\n")
    result = invoke("run", str(job))
    assert result.exit_code == 2
    assert "job.yaml: spec.suspend is true: lifl run would run the job at once" in result.output
    assert "spec.expose.type is NodePort" in result.output
    assert "options" not in engine
    said = invoke("validate", "--no-import", str(job))
    assert said.exit_code == 0
    assert "for a cluster, not for lifl run: spec.suspend is true" in said.output
    job.write_text(DIGITS.read_text() + "  template: {image: registry.example/digits}\n")
    result = invoke("run", "--plain", str(job))
    assert result.exit_code == 0
    assert "of use to a cluster alone: spec.template" in result.output


def test_version() -> None:
    assert invoke("version").output.startswith("lifl 0")
    assert invoke("--version").output == invoke("version").output


def test_run_hands_on_the_flags(engine: dict[str, Any], tmp_path: Path) -> None:
    engine["events"] = [{"event": "engine", "nodes": 3, "proxy": "unix", "kernels": "reference"}]
    result = invoke(
        "run", str(DIGITS), "--nodes", "3", "--out", str(tmp_path), "--proxy", "unix",
        "--kernels", "reference", "--liveness", "2", "--metrics-port", "9400",
        "--host", "127.0.0.2",
    )  # fmt: skip
    assert result.exit_code == 0
    assert engine["options"] == {
        "nodes": 3, "out": tmp_path, "proxy": "unix", "kernels": "reference",
        "liveness_s": 2.0, "metrics_port": 9400, "keys_dir": None,
        "host": "127.0.0.2", "link_bit_s": 0, "link_delay_s": 0.0, "resumed": [],
            "arena_bytes": 0,
    }  # fmt: skip
    assert "3 nodes, proxy unix, kernels reference" in result.output


def test_without_flags_the_job_decides(engine: dict[str, Any]) -> None:
    invoke("run", str(DIGITS))
    assert engine["options"] == {
        "nodes": None, "out": Path("runs"), "proxy": None, "kernels": None,
        "liveness_s": 10.0, "metrics_port": 0, "keys_dir": None,
        "host": None, "link_bit_s": 0, "link_delay_s": 0.0, "resumed": [], "arena_bytes": 0,
    }  # fmt: skip


def test_links_of_namespaces_have_a_rate(engine: dict[str, Any]) -> None:
    engine["events"] = [
        {"event": "starting", "nodes": 4, "run_dir": "runs/digits-1", "link": "1Gbit"},
        {"event": "engine", "nodes": 4, "proxy": "unix", "kernels": "reference"},
    ]
    result = invoke("run", str(DIGITS), "--network", "netns")
    assert result.exit_code == 0
    assert "4 nodes with links of 1Gbit, proxy unix" in result.output
    assert engine["options"]["link_bit_s"] == 10**9
    invoke("run", str(DIGITS), "--network", "netns", "--link-rate", "200Mbit")
    assert engine["options"]["link_bit_s"] == 2 * 10**8
    invoke("run", str(DIGITS), "--network", "netns", "--link-delay", "20ms")
    assert engine["options"]["link_delay_s"] == 0.02


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--link-rate", "1Gbit"], "--link-rate goes with --network netns alone"),
        (["--link-delay", "20ms"], "--link-delay goes with --network netns alone"),
        (["--network", "netns", "--link-delay", "20"], "--link-delay: '20' is no time"),
        (["--network", "netns", "--link-delay", "0ms"], "--link-delay: '0ms' is not from 0.1ms"),
        (["--network", "netns", "--link-delay", "3s"], "--link-delay: '3s' is not from 0.1ms"),
        (["--network", "netns", "--link-rate", "fast"], "--link-rate: 'fast' is no rate"),
        (["--network", "netns", "--host", "127.0.0.1"], "--host does not go with --network netns"),
        (["--arena-memory", "10"], "--arena-memory 10 is 10 bytes, and no job has room in less"),
        (["--arena-memory", "10"], "write it with a unit, like 512Mi or 2G"),
        (["--arena-memory", "2GB"], "--arena-memory 2GB: has the unit 'GB': it must be one of"),
    ],
)
def test_flags_that_do_not_go_together_or_say_nothing(
    engine: dict[str, Any], flags: list[str], sentence: str
) -> None:
    result = invoke("run", str(DIGITS), *flags)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", "").split())


def test_events_as_json(engine: dict[str, Any]) -> None:
    engine["events"] = [{"event": "waiting", "clients": 1, "need": 2}]
    assert json.loads(invoke("run", str(DIGITS), "--json").output) == engine["events"][0]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ({"raise": Unsupported("no eBPF here: run with --proxy unix")}, 1),
        ({"raise": InvalidJob("no eBPF here: run with --proxy unix")}, 2),
        ({"events": [{"event": "failed", "error": "no eBPF here: run with"}], "code": 1}, 1),
        ({"events": [{"event": "failed", "error": "no eBPF here: run with"}], "code": 0}, 1),
    ],
)
def test_failures_are_one_line(engine: dict[str, Any], what: dict[str, Any], code: int) -> None:
    engine.update(what)
    result = invoke("run", str(DIGITS))
    assert result.exit_code == code
    errors = [line for line in result.output.splitlines() if "error: no eBPF here" in line]
    assert len(errors) == 1


def test_a_failed_run_says_how_it_goes_on(engine: dict[str, Any], tmp_path: Path) -> None:
    failed = {"event": "failed", "error": "a round needs 5"}
    starting = {"event": "starting", "run_dir": str(tmp_path)}
    engine.update(code=1, events=[starting, {"event": "published", "round": 1}, failed])
    way = f"once that is mended, lifl run --resume {tmp_path} goes on"
    assert way not in invoke("run", str(DIGITS)).output  # it has no run.json
    (tmp_path / "run.json").touch()
    assert way in invoke("run", str(DIGITS)).output.splitlines()
    engine["code"] = 2  # the job cannot be run as it stands
    assert way not in invoke("run", str(DIGITS)).output


def test_a_run_that_failed_in_its_first_round_starts_anew(
    engine: dict[str, Any], tmp_path: Path
) -> None:
    """Its job is to be changed, and a run that goes on refuses another job."""
    (tmp_path / "run.json").touch()
    starting = {"event": "starting", "run_dir": str(tmp_path)}
    failed = {"event": "failed", "error": "a trainer has failed"}
    engine.update(code=1, events=[starting, {"event": "round_started", "round": 1}, failed])
    anew = f"once that is mended, lifl run {DIGITS} starts anew: no round was done"
    said = invoke("run", str(DIGITS)).output
    assert anew in said.splitlines()
    assert "--resume" not in said
    for again, known in (({"round": 3, "again": 0}, True), ({"round": 1, "again": 2}, True),
                         ({"round": 1, "again": 0}, False)):  # fmt: skip
        engine["events"] = [starting | {"goes_on": again}, failed]
        assert ("--resume" in invoke("run", str(DIGITS)).output) == known


@pytest.mark.parametrize("what", [{"raise": KeyboardInterrupt()}, {"code": 130}])
def test_an_interrupted_run_ends_with_130(engine: dict[str, Any], what: dict[str, Any]) -> None:
    engine.update(what)
    assert invoke("run", str(DIGITS)).exit_code == 130


def test_shm_ls_finds_what_this_process_holds() -> None:
    fd = os.memfd_create("lifl-a-job-inputs")
    other = os.dup(fd)
    try:
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"x", 0)
        (memory,) = [m for m in find() if m.job == "a-job"]
        assert (memory.part, memory.size_bytes) == ("inputs", 1 << 20)
        assert memory.resident_bytes == 4096
        assert memory.pids == [os.getpid()]
        listed = json.loads(invoke("shm", "ls", "--json").output)
        assert "a-job" in {entry["job"] for entry in listed}
        table = invoke("shm", "ls").output.splitlines()
        phases = ["FREE", "WRITING", "OPEN", "SEALED"]
        assert table[0].split() == ["JOB", "PART", "SIZE", "RESIDENT", *phases, "PROCESSES"]
        assert any(line.startswith("a-job") and "1.05 MB" in line for line in table)
    finally:
        os.close(fd)
        os.close(other)
    assert not [m for m in find() if m.job == "a-job"]
