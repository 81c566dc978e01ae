"""Keys of outside clients while a job runs, and a job that goes without them."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
import toy
from conftest import PROXY, Runner
from outsider import Field, Outsider, command
from test_runs import check

import lifl
from lifl.errors import LiflError, Refused
from lifl.functions.wire import UP_CHUNK, Keys


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.SIZE", 600_000)


def lifl_keys(*arguments: str) -> str:
    done = command("keys", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_enrolled_and_revoked_while_a_job_runs(runner: Runner, tmp_path: Path, large: None) -> None:
    field = Field(
        runner, rounds=100_000, trainers=2, memory={"inputSlots": 1},
        env={"TOY_SIZE": "600000"},
    )  # fmt: skip
    run = ("--run", str(field.run_dir))
    try:
        first, bad = field.clients
        # its upload loses the only slot, and the round goes on without it
        number = field.round()
        bad.put(number)
        bad.hear("go", number=number)
        bad.chunk(number, 0, bytes(UP_CHUNK))
        first.put(number)
        assert "client-1 is revoked" in lifl_keys("revoke", "client-1", *run)
        assert bad.hear("reject")["code"] == "revoked"
        first.hear("go", number=number)
        assert first.upload(number, first.update(number))["t"] == "ack"
        field.check(number, [first])
        assert field.of("keys")[-1]["revoked"] == ["client-1"]
        # nothing that it sends is read any more, whatever it is
        bad.socket.send(b"\xc1")
        assert bad.hear("reject")["code"] == "revoked"
        bad.close()
        with (
            lifl.Client.connect({"LIFL_CLIENT": str(field.folder / "client-1.json")}) as client,
            pytest.raises(Refused) as caught,
        ):
            next(client.rounds())
        assert caught.value.code == "not-enrolled"
        assert caught.value.context == {"job": "toy", "client": "client-1"}

        # another one comes, and what it needs is no secret of this side
        out = lifl_keys("new", "hospital-a", "--out", str(tmp_path))
        keys = Keys.load(tmp_path / "hospital-a.key")
        assert stat.S_IMODE((tmp_path / "hospital-a.key").stat().st_mode) == 0o600
        assert keys.public in out
        assert keys.secret not in out
        lifl_keys("enroll", str(tmp_path / "hospital-a.pub"), "--name", "hospital-a", *run)
        path = field.folder / "hospital-a.json"
        fields = json.loads(path.read_text())
        assert (fields["index"], fields["count"]) == (2, 3)  # after client-0 and client-1
        assert keys.secret not in path.read_text()
        both = {"LIFL_CLIENT": str(path), "LIFL_KEY": str(tmp_path / "hospital-a.key")}
        lifl.Client.connect(both).close()
        other = Outsider(path, keys)
        other.send("hello")
        field.clients = [first, other]
        number = field.round()  # for which there were too few until the other came
        other.play(number)
        # what was accepted of it stays
        lifl_keys("revoke", keys.public, *run)
        assert other.hear("reject")["code"] == "revoked"
        field.finish(number, [first])
        assert [e["enrolled"] for e in field.of("keys")] == [[], ["hospital-a"], []]

        listed = json.loads(lifl_keys("list", "--json", *run))
        assert {row["name"]: bool(row["revoked_at"]) for row in listed} == {
            "client-0": False, "client-1": True, "hospital-a": True,
        }  # fmt: skip
        other.close()
    finally:
        field.end()
    for folder in (field.folder, field.run_dir / "keys"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert os.listdir(field.run_dir / "keys") == ["enrolled.json"]


def test_who_is_revoked_while_the_job_waits_for_others_hears_it(runner: Runner) -> None:
    """There is no plan yet, and its gateway has no memory of the job."""
    path = runner.job_file(rounds=1, trainer=None, clients={"min": 2})
    process = runner.start(path, "--proxy", PROXY)
    try:
        assert process.stdout is not None
        said = map(json.loads, process.stdout)
        folder = Path(next(e["files"] for e in said if e["event"] == "endpoint"))
        early = Outsider(folder / "client-0.json")
        early.send("hello")
        next(e for e in said if e["event"] == "waiting" and e["clients"] == 1)
        lifl_keys("revoke", "client-0", "--run", str(folder.parent))
        assert early.hear("reject")["code"] == "revoked"
        early.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def admitted(client: Outsider) -> None:
    """At once: whoever enrolls a key is answered when every gateway goes by it."""
    client.send("hello")
    client.hear("welcome")


def test_a_key_directory_of_ones_own(runner: Runner, tmp_path: Path) -> None:
    """Its clients are known from the start and can take part then, and the run makes none."""
    for name in ("gone", "clinic"):
        lifl_keys("new", name, "--out", str(tmp_path))
        said = lifl_keys("enroll", str(tmp_path / f"{name}.pub"), "--name", name, "--keys",
                         str(tmp_path / "ring"))  # fmt: skip
        assert f"lifl run JOB.yaml --keys {tmp_path / 'ring'}" in said
    lifl_keys("revoke", "gone", "--keys", str(tmp_path / "ring"))
    field = Field(runner, "--keys", str(tmp_path / "ring"), rounds=100_000, trainers=1, env={})
    try:
        assert [path.name for path in field.folder.iterdir()] == ["clinic.json"]
        assert field.of("endpoint")[0]["enrolled"] == ["clinic"]
        clinic = Outsider(field.folder / "clinic.json", Keys.load(tmp_path / "clinic.key"))
        assert (clinic.index, clinic.fields["count"]) == (1, 2)  # gone keeps its number
        clinic.send("hello")
        field.clients = [clinic]
        number = field.round()
        clinic.play(number)
        field.check(number, [clinic])
        lifl_keys("new", "late", "--out", str(tmp_path))
        said = lifl_keys("enroll", str(tmp_path / "late.pub"), "--name", "late", "--keys",
                         str(tmp_path / "ring"))  # fmt: skip
        assert "job toy knows it" in said
        client = Outsider(field.folder / "late.json", Keys.load(tmp_path / "late.key"))
        assert (client.index, client.fields["count"]) == (2, 3)
        assert json.loads((field.folder / "clinic.json").read_text())["count"] == 3
        admitted(client)  # the coordinator knows of it from then on
        clinic.play(field.round())  # drawn before the other was there
        field.clients = [clinic, client]
        number = field.round()
        for one in field:
            one.play(number)
        field.check(number, field.clients)
    finally:
        field.end()


def test_a_key_directory_with_fewer_than_the_job_waits_for(
    runner: Runner, tmp_path: Path
) -> None:
    """The run says so, and `lifl keys` finds its directory by the run."""
    ring = tmp_path / "ring"
    for name in ("one", "two"):
        lifl_keys("new", name, "--out", str(tmp_path))
    lifl_keys("enroll", str(tmp_path / "one.pub"), "--name", "one", "--keys", str(ring))
    field = Field(runner, "--keys", str(ring), rounds=100_000, trainers=2, env={})
    run = ("--run", str(field.run_dir))
    try:
        (said,) = (e["text"] for e in field.of("warning"))
        assert f"waits for 2 clients (spec.clients.min), and 1 may take part from {ring}" in said
        lifl_keys("enroll", str(tmp_path / "two.pub"), "--name", "two", *run)
        field.clients = [
            Outsider(field.folder / f"{name}.json", Keys.load(tmp_path / f"{name}.key"))
            for name in ("one", "two")
        ]
        for client in field:
            client.send("hello")
        assert field.round() == 1
        assert "two is revoked" in lifl_keys("revoke", "two", *run)
        assert field.clients[1].hear("reject")["code"] == "revoked"
    finally:
        field.end()


def test_an_ended_run_enrolls_nobody_unless_it_can_go_on(runner: Runner, tmp_path: Path) -> None:
    lifl_keys("new", "late", "--out", str(tmp_path))
    key = str(tmp_path / "late.pub")
    run = runner("--proxy", PROXY, rounds=1, trainers=1)
    said = command("keys", "enroll", key, "--name", "late", "--run", str(run.run_dir))
    assert said.returncode == 2
    assert f"the run in {run.run_dir.resolve()} is complete" in said.stderr
    assert "late" not in lifl_keys("list", "--run", str(run.run_dir))
    (run.run_dir / "summary.json").unlink()  # as if it had been killed
    out = lifl_keys("enroll", key, "--name", "late", "--run", str(run.run_dir))
    assert f"lifl run --resume {run.run_dir} knows it from its start" in out
    assert "no job that goes by it is under way" in lifl_keys(
        "revoke", "late", "--run", str(run.run_dir)
    )


@pytest.mark.parametrize("faults", ["gateway:gateway_accepted:kill:2", "agent:agent_poked:kill:3"])
def test_without_curve(runner: Runner, faults: str) -> None:
    run = runner(
        "--nodes", "2", "--proxy", PROXY, "--liveness", "1", trainers=4, rounds=2, insecure=True,
        aggregation={"fanIn": 2}, memory={"inputSlots": 2}, env={"LIFL_FAULT": faults},
    )  # fmt: skip
    check(run, rounds=2, clients=4)
    assert run.of("restart")
    assert any("insecure" in e["text"] for e in run.of("warning"))
    assert run.of("engine")[0]["insecure"] is True
    assert run.summary["insecure"] is True
    assert json.loads((run.run_dir / "clients" / "client-0.json").read_text())["secret_key"] == ""


def test_revoked_while_it_waits_for_a_slot(runner: Runner, large: None) -> None:
    """The library says so; it does not go on asking."""
    field = Field(
        runner, rounds=100_000, trainers=2, memory={"inputSlots": 1}, env={"TOY_SIZE": "600000"}
    )  # fmt: skip
    raised: list[BaseException] = []
    asks = threading.Event()
    path = field.folder / "client-1.json"

    def waits() -> None:
        with lifl.Client.connect({"LIFL_CLIENT": str(path)}) as client:
            try:
                round_ = next(client.rounds())
                asks.set()
                round_.send(toy.update(1, round_.number)[0], weight=1.0)
            except LiflError as error:
                raised.append(error)

    try:
        first, other = field.clients
        number = field.round()
        other.close()
        first.put(number)
        first.hear("go", number=number)
        thread = threading.Thread(target=waits)
        thread.start()
        assert asks.wait(60)
        lifl_keys("revoke", "client-1", "--run", str(field.run_dir))
        thread.join(60)
        assert [type(error) for error in raised] == [Refused]
        assert first.upload(number, first.update(number))["t"] == "ack"
        field.check(number, [first])
    finally:
        field.end()
