"""How a command ends that was interrupted."""

from __future__ import annotations

import contextlib
import signal

import pytest

from lifl.cli.plainly import plainly


@pytest.mark.parametrize("interrupted", [False, True])
def test_ctrl_c_of_which_an_import_makes_an_error_of_its_own(
    capsys: pytest.CaptureFixture[str], *, interrupted: bool
) -> None:
    """As NumPy's does."""

    @plainly
    def command() -> None:
        if interrupted:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        raise ImportError("numpy._core.umath failed to import")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit if interrupted else ImportError) as raised:
        command()
    assert getattr(raised.value, "code", None) == (130 if interrupted else None)
    assert ("stopped by Ctrl-C" in capsys.readouterr().err) == interrupted
    assert signal.getsignal(signal.SIGINT) is before
