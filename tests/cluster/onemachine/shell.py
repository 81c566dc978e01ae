"""Runs the standard tools that a cluster is made with, and says what they said when they fail.

Owns how a command is run, how its failure reads, and that a build begins with an empty folder.
Called by every module of this package.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Failed(Exception):
    """The cluster cannot be made, or taken down; the message says what to do."""


def fresh(folder: Path) -> Path:
    """The folder, empty: what a killed build has left in it is of no use."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def run(
    words: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float | None = None,
) -> str:
    """The command's standard output.

    Raises:
        Failed: it is missing, took longer, or ended with anything but 0; with its last words.
    """
    shown = shlex.join(map(str, words))
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=env,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError as error:
        raise Failed(f"{words[0]} is missing: run `make cluster-up` as root on Debian") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{shown} took longer than {timeout_s} s") from error
    if done.returncode:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-20:])
        raise Failed(f"{shown} failed:\n{last}")
    return done.stdout


def works(words: Sequence[str | Path], *, timeout_s: float | None = None) -> bool:
    """Whether the command ends with 0."""
    try:
        run(words, timeout_s=timeout_s)
    except Failed:
        return False
    return True
