"""How a command fails: one red line for an error, the shell's 130 for an interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from lifl.errors import InvalidJob, LiflError

P = ParamSpec("P")
R = TypeVar("R")


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Exit with 2 for what the user gave, 1 for what went wrong."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LiflError as error:
            click.secho(f"error: {error}", fg="red", err=True)
            sys.exit(2 if isinstance(error, InvalidJob) else 1)
        except KeyboardInterrupt:
            click.echo("stopped by Ctrl-C", err=True)
            sys.exit(130)

    return run
