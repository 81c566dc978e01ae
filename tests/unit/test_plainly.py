"""How a command ends that was interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lifl.cli.plainly import plainly

CODE = """
import sys
sys.path.insert(0, {folder!r})
from lifl.cli.plainly import plainly

@plainly
def command():
    import heavy

command()
"""
HEAVY = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("a traceback")
    raise ImportError("umath failed to import") from None
"""


def test_ctrl_c_in_an_import_that_would_make_an_error_of_its_own(tmp_path: Path) -> None:
    """As NumPy's does, which prints what it caught."""
    (tmp_path / "heavy.py").write_text(HEAVY)
    code = CODE.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped by Ctrl-C\n")


def test_ctrl_c_elsewhere_raises(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    @plainly
    def command() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            heard.append("cleared up")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        command()
    assert (ended.value.code, heard) == (130, ["cleared up"])
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"
    assert signal.getsignal(signal.SIGINT) is before
