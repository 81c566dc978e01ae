"""A process that starts again in its own place."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(30)

PROGRAM = """
import os, sys
from lifl.functions.ending import start_again
if "LIFL_TEST_FD" in os.environ:
    try:
        os.fstat(int(os.environ["LIFL_TEST_FD"]))
    except OSError:
        print(os.getpid() == int(os.environ["LIFL_TEST_PID"]), sys.argv[1:])
    sys.exit(0)
fd = os.memfd_create("held", 0)  # inheritable, as descriptors that came over a socket are
os.environ |= {"LIFL_TEST_FD": str(fd), "LIFL_TEST_PID": str(os.getpid())}
start_again()
"""


def test_it_is_the_same_process_with_the_same_words_and_holds_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--node", "n1"], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "True ['--node', 'n1']\n", done.stderr
