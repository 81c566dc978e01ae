"""LIFL_CLIENT: what is said when it is not, or does not name, a client file."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

import lifl
from lifl.clientfile import read_client_file
from lifl.functions.wire import Keys


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "and there is no such file: start the run first, and its clients once it has"),
        ("# not JSON", "which is not JSON: set it to a client file"),
        ("\x00\xff", "which is not JSON: set it to a client file"),
        ('{"job": "digits"}', "which is JSON but no client file: set it to a client file"),
        ("[1]", "which is JSON but no client file: set it to a client file"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "client-0.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(lifl.Unreachable) as caught:
        lifl.Client.connect({"LIFL_CLIENT": str(path)})
    assert str(caught.value).startswith(f"LIFL_CLIENT is {str(path)!r}, {sentence}")


def test_a_client_that_the_run_does_not_have(tmp_path: Path) -> None:
    for index in (0, 1, 2, 10):
        (tmp_path / f"client-{index}.json").touch()
    with pytest.raises(lifl.Unreachable) as caught:
        lifl.Client.connect({"LIFL_CLIENT": str(tmp_path / "client-7.json")})
    assert str(caught.value).endswith(
        "the run has no client of that name; it has client-0, client-1, client-2, … client-10"
    )


def test_a_folder_is_no_client_file(tmp_path: Path) -> None:
    with pytest.raises(lifl.Unreachable, match=r"which cannot be read \(Is a directory\)"):
        lifl.Client.connect({"LIFL_CLIENT": str(tmp_path)})


def test_a_file_of_a_run_that_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no error, since the run may go on; whoever meant the next run is told."""
    path = tmp_path / "clients" / "client-0.json"
    path.parent.mkdir()
    pair = Keys.named("client-0")
    path.write_text(json.dumps({
        "job": "j", "endpoint": "tcp://127.0.0.1:9", "server_key": "k", "index": 0, "count": 1,
        "public_key": pair.public, "secret_key": pair.secret,
    }))  # fmt: skip
    environment = {"LIFL_CLIENT": str(path)}
    assert read_client_file(environment).job == "j"
    assert not caplog.messages  # in the directory of no run
    (tmp_path / "run.json").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    read_client_file(environment)
    assert not caplog.messages
    os.close(fd)
    read_client_file(environment)
    (said,) = caplog.messages
    assert said.startswith(f"the run of {path} has ended: this client waits for lifl run --resume")
    (tmp_path / "summary.json").touch()
    with pytest.raises(lifl.Unreachable, match="and that run is complete: a new run has other"):
        read_client_file(environment)


def test_no_file_at_all() -> None:
    with pytest.raises(lifl.Unreachable, match="LIFL_CLIENT is not set: set it to a client file"):
        lifl.Client.connect({})


@pytest.mark.parametrize(
    ("key", "content", "sentence"),
    [
        (None, None, "LIFL_KEY is not set, and the client file holds no secret: set it to"),
        ("gone.key", None, "gone.key', which cannot be read (No such file or directory): set it"),
        ("a.key", "hello", "a.key', which is no key file: set it to the .key file that lifl keys"),
    ],
)
def test_a_key_file_that_is_none(
    tmp_path: Path, key: str | None, content: str | None, sentence: str
) -> None:
    file = tmp_path / "clinic.json"
    where = {"endpoint": "tcp://127.0.0.1:9", "server_key": "k"}
    file.write_text(json.dumps({"job": "j", "public_key": "p", "index": 0, "count": 1, **where}))
    if key is not None and content is not None:
        (tmp_path / key).write_text(content)
    environment = {"LIFL_KEY": str(tmp_path / key)} if key is not None else {}
    with pytest.raises(lifl.InvalidJob, match="LIFL_KEY") as caught:
        lifl.Client.connect({"LIFL_CLIENT": str(file), **environment})
    assert sentence in str(caught.value)
    assert caught.value.code == "bad-keys"
