"""From "digits:train" to the function.

Owns the import of the modules that a job names.  The folder of the job file goes first on
`sys.path` and stays there, since trainers import their neighbours when they run.  Called
through `lifl.api.load` by whatever runs trainers, evaluators and initial models.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from lifl.api.job import Trainer
from lifl.api.near import did_you_mean
from lifl.errors import InvalidJob

KNOWN: Final = 12  # functions that are named to whoever names one that is not there
_from_jobs: set[str] = set()  # top-level modules that entry points brought in


def entrypoint(name: str, base_dir: str | os.PathLike[str]) -> Callable[..., Any]:
    """The function that a job names.

    Args:
        name: "module:function"; the module may have dots.
        base_dir: folder of the job file.

    Raises:
        InvalidJob: no such module or function, not a function, or the module failed when it
            was imported; the sentence names the file.
    """
    module_name, _, function_name = name.partition(":")
    folder = Path(base_dir).resolve()
    if not module_name or not function_name:
        raise InvalidJob(f'{name!r} is not "module:function", for example "digits:train"')
    if sys.path[:1] != [str(folder)]:
        sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
        importlib.invalidate_caches()
    module = _import(module_name, folder)
    function = getattr(module, function_name, None)
    where = getattr(module, "__file__", None) or module_name
    if function is None:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = did_you_mean(function_name, functions)
        raise InvalidJob(f"{where} has no {function_name!r}{near or _known(module, functions)}")
    if not callable(function):
        raise InvalidJob(f"{function_name!r} in {where} is {what(function)}, not a function")
    return function  # type: ignore[no-any-return]


def _known(module: ModuleType, functions: list[str]) -> str:
    """ "; its functions: f, g": those first that are its own, not imported."""
    public = [name for name in functions if not name.startswith("_")]
    public.sort(key=lambda name: getattr(module, name).__module__ != module.__name__)
    if not public:
        return "; it has no function"
    more = ", ..." if len(public) > KNOWN else ""
    return f"; its functions: {', '.join(public[:KNOWN])}{more}"


def takes_round(function: Callable[..., Any]) -> bool:
    """It is to be called with (client, round), for every round."""
    return _parameters(function) == 2


def check_parameters(trainer: Trainer, function: Callable[..., Any]) -> None:
    """See that a trainer's function can be called as its job asks.

    Raises:
        InvalidJob: wrong number of parameters, or a loop over rounds where workers are asked for.
    """
    found = _parameters(function)
    if found == 2 or (found == 1 and trainer.workers is None):
        return
    if found == 1:
        raise InvalidJob(
            f"{trainer.entrypoint!r} takes (client) and loops over its "
            f"rounds, but trainer.workers is {trainer.workers}: a worker calls it with "
            "(client, round) for every round of every client: give it two parameters"
        )
    raise InvalidJob(
        f"{trainer.entrypoint!r} takes {found} parameters: it must take "
        "(client), or (client, round)"
    )


def _parameters(function: Callable[..., Any]) -> int:
    """How many arguments it wants, those with a default left out."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1  # of a compiled function nothing is known
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _import(module_name: str, folder: Path) -> ModuleType:
    top = module_name.partition(".")[0]
    _make_way(top, folder)
    path = folder.joinpath(*module_name.split("."))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name or module_name.startswith(missing + "."):
            beside = [file.stem for file in path.parent.glob("*.py") if file.stem != "__init__"]
            raise InvalidJob(
                f"no module {module_name!r}; looked for {path}.py, then among the "
                f"installed packages{did_you_mean(path.name, beside)}"
            ) from None
        raise InvalidJob(
            f"module {module_name!r} needs {missing!r}, which is not installed in {sys.prefix}: "
            f"install it there, for example with {sys.executable} -m pip install {missing}"
        ) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
        where, line = (mine or frames)[-1].filename, (mine or frames)[-1].lineno
        if isinstance(error, SyntaxError):
            where, line = error.filename or where, error.lineno
        raise InvalidJob(
            f"importing {module_name!r} failed at {where}:{line}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
        _from_jobs.add(top)
    return module


def _make_way(top: str, folder: Path) -> None:
    """See that the folder's own module is meant, not one of that name from elsewhere."""
    files = (folder / f"{top}.py", folder / top / "__init__.py")
    mine = next((file for file in files if file.exists()), None)
    loaded = sys.modules.get(top)
    if mine is None or loaded is None:
        return
    there = getattr(loaded, "__file__", None)
    if there is not None and Path(there).resolve() == mine.resolve():
        return
    if top not in _from_jobs:
        raise InvalidJob(
            f"{mine} has the name of a module that is in use already "
            f"({there or 'built in'}): rename the file"
        )
    for other in [key for key in sys.modules if key == top or key.startswith(top + ".")]:
        del sys.modules[other]


def what(value: object) -> str:
    """None, "a list" or "an ndarray", in a sentence."""
    if value is None:
        return "None"
    if isinstance(value, dict) and not value:
        return "an empty dict"
    kind = type(value).__name__
    return f"an {kind}" if kind[0].lower() in "aeiou" or kind == "ndarray" else f"a {kind}"
