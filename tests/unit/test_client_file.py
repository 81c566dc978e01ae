"""LIFL_CLIENT: what is said when it is not, or does not name, a client file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lifl


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "which cannot be read (No such file or directory): set it to a client file"),
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
