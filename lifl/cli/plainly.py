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
from typing import ParamSpec, TypeVar

import click

from lifl.errors import InvalidJob, LiflError

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
        with _interrupts() as interrupts:
            try:
                return command(*args, **kwargs)
            except LiflError as error:
                click.secho(f"error: {error}", fg="red", err=True)
                sys.exit(2 if isinstance(error, InvalidJob) else 1)
            except (KeyboardInterrupt, ImportError) as error:
                if isinstance(error, ImportError) and not interrupts:
                    raise  # else NumPy's own import has made it of the interruption
                click.echo("stopped by Ctrl-C", err=True)
                sys.exit(130)
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
def _interrupts() -> Iterator[list[int]]:
    """Note the signals of Ctrl-C on their way to KeyboardInterrupt."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    is_here = threading.current_thread() is threading.main_thread()
    if not is_here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
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
