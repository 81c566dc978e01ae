"""The key directory, and the commands around it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lifl.cli import main
from lifl.errors import InvalidJob
from lifl.functions.wire import Keys
from lifl.placement.enrolment import Enrolment
from lifl.placement.keyring import Keyring
from tests.unit.test_stopping import SMALL


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    ring = Keyring(tmp_path / "a" / ("long" * 60))  # longer than a socket's path may be
    ring.make()
    return ring


def test_a_key_directory_is_its_owners_alone(ring: Keyring) -> None:
    ring.enroll({"clinic": Keys.new().public})
    assert stat.S_IMODE(ring.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((ring.directory / "enrolled.json").stat().st_mode) == 0o600


def test_what_cannot_be_enrolled(ring: Keyring) -> None:
    key = Keys.new().public
    ring.enroll({"clinic": key})
    for name, public, sentence in (
        ("clinic", Keys.new().public, "there is a client 'clinic' already"),
        ("other", key, "is enrolled already, as clinic"),
        ("../other", Keys.new().public, "is no name for a client"),
        ("client-7", Keys.new().public, "what a run calls its own clients"),
        ("other", "x" * 39, "is no public key"),
        ("other", "~" * 40, "is no public key"),
    ):
        with pytest.raises(InvalidJob, match=sentence) as caught:
            ring.enroll({name: public})
        assert caught.value.code == "bad-keys"
    assert [entry.name for entry in ring.entries] == ["clinic"]


def test_a_revoked_key_stays_revoked_and_its_name_is_free(ring: Keyring) -> None:
    key, second = Keys.new().public, Keys.new().public
    ring.enroll({"clinic": key})
    assert ring.revoke(key).name == "clinic"
    with pytest.raises(InvalidJob, match="was revoked, as clinic"):
        ring.enroll({"clinic": key})
    ring.enroll({"clinic": second})
    with pytest.raises(InvalidJob, match=r"no client 'nobody' is enrolled .* enrolled: clinic"):
        ring.revoke("nobody")
    assert [bool(entry.revoked_at) for entry in ring.entries] == [True, False]


def test_a_job_sees_what_changes(ring: Keyring) -> None:
    own, other = Keys.new().public, Keys.new().public
    ring.enroll({"client-0": own}, own=True)
    job = Enrolment(ring.directory, {own: "client-0"})
    try:
        ring.enroll({"clinic": other})
        assert job.look().enrolled == {other: "clinic"}
        ring.revoke("client-0")
        change = job.look()
        assert (change.enrolled, change.revoked) == ({}, {own: "client-0"})
        assert job.names == {other: "clinic"}
        assert job.look().revoked == {}
    finally:
        job.close()
    assert not list(ring.directory.glob("*.sock"))


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["keys", *arguments])
    assert "Traceback" not in result.output
    return result


def test_a_secret_is_printed_only_when_asked_for(tmp_path: Path) -> None:
    quiet = invoke("new", "a", "--out", str(tmp_path))
    keys = Keys.load(tmp_path / "a.key")
    assert keys.public in quiet.output
    assert keys.secret not in quiet.output
    assert keys.secret not in (tmp_path / "a.pub").read_text()
    loud = invoke("new", "b", "--out", str(tmp_path), "--show-secret")
    assert Keys.load(tmp_path / "b.key").secret in loud.output
    again = invoke("new", "a", "--out", str(tmp_path))
    assert again.exit_code == 2
    assert Keys.load(tmp_path / "a.key") == keys


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list", "--run", "nowhere"], "nowhere/keys is no key directory"),
        (["revoke", "x", "--keys", "nowhere"], "nowhere is no key directory"),
        (["enroll", "none.pub", "--name", "x", "--keys", "{}"], "neither a public key"),
        (["enroll", "none.pub"], "Missing option '--name'"),
        (["new", "x", "--out", "{}/none"], "No such file or directory"),
        (["new", "../x", "--out", "{}"], "'../x' is no name for a client"),
        (["new", "", "--out", "{}"], "'' is no name for a client"),
        (["new", "client-3", "--out", "{}"], "is what a run calls its own clients"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = invoke(*(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert sentence in result.output


def test_the_secret_file_is_not_enrolled(tmp_path: Path) -> None:
    invoke("new", "a", "--out", str(tmp_path))
    to = ("--name", "a", "--keys", str(tmp_path / "ring"))
    refused = invoke("enroll", str(tmp_path / "a.key"), *to)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'a.key'} holds a secret key, which stays with the client" in refused.output
    assert f"enroll the public one, {tmp_path / 'a.pub'}" in refused.output
    assert Keys.load(tmp_path / "a.key").secret not in refused.output
    assert invoke("enroll", str(tmp_path / "a.pub"), *to).exit_code == 0


@pytest.mark.parametrize("below", ["", "ring"])
def test_a_file_is_no_key_directory(tmp_path: Path, below: str) -> None:
    file = tmp_path / "afile"
    file.touch()
    for arguments in (
        ["keys", "enroll", Keys.new().public, "--name", "a"],
        ["run", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "runs")],
    ):
        (tmp_path / "job.yaml").write_text(SMALL)
        done = CliRunner().invoke(main, [*arguments, "--keys", str(file / below)])
        assert done.exit_code == 2
        assert f"--keys {file / below}: {file} is a file, and keys are kept in a" in done.output
        assert done.output.count("\n") == 1
