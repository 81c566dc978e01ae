"""How a command fails: one red line for an error, the shell's 130 for an interruption.

Owns also what happens when nobody can be told: a full disk behind standard output, or a terminal
that is gone.  A closed pipe is click's, which ends in silence.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from types import FrameType
from typing import Final, ParamSpec, TypeVar

import click

from lifl.errors import InvalidJob, LiflError

STOPPED: Final = "stopped by Ctrl-C"
INTERRUPTED: Final = 130  # as a shell says it

P = ParamSpec("P")
R = TypeVar("R")


class Unwritable(OSError):
    """What a command shows can no longer be written."""


@contextlib.contextmanager
def showing() -> Iterator[None]:
    """Around what writes to standard output, and to no file.

    Raises:
        Unwritable: that failed; a closed pipe is an error of its own.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(error.errno, error.strerror) from error


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Exit with 2 for what the user gave, 1 for what went wrong."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _interruptible():
            try:
                return command(*args, **kwargs)
            except LiflError as error:
                click.secho(f"error: {error}", fg="red", err=True)
                sys.exit(2 if isinstance(error, InvalidJob) else 1)
            except KeyboardInterrupt:
                click.echo(STOPPED, err=True)
                sys.exit(INTERRUPTED)
            except BrokenPipeError:
                raise
            except OSError as error:
                if not _give_up_output() and not isinstance(error, Unwritable):
                    raise
                with contextlib.suppress(OSError):
                    text = f"error: standard output cannot be written ({error.strerror})"
                    click.secho(f"{text}: send it where it can", fg="red", err=True)
                _give_up_output()
                sys.exit(1)

    return run


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, but end at once in an import: NumPy's would print what it
    caught and make another error of it.  Who has begun something hears Ctrl-C in a way of its own.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        at = frame
        while at is not None:
            if at.f_code.co_filename.startswith("<frozen importlib"):
                os.write(sys.stderr.fileno(), f"{STOPPED}\n".encode())
                os._exit(INTERRUPTED)
            at = at.f_back
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _give_up_output() -> bool:
    """Send what could not be written, and all to come, to nowhere; False: all could be written.

    What failed to be written stays in its stream's buffer, and would fail again at exit.
    """
    failed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            failed = True
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
    return failed
