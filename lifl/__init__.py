"""Federated-learning aggregation over shared memory and eBPF.

What users import.  Names are loaded when first used, so that `import lifl` costs next
to nothing: training code that only wants a `Client` does not pay for job files, and the
other way round.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's constant, known to type checkers by name; typing itself is slow
if TYPE_CHECKING:
    from typing import Any

    from lifl.aio import AsyncClient
    from lifl.api.job import FLJob
    from lifl.api.load import load_job
    from lifl.client import Client, Round
    from lifl.errors import (
        Busy,
        InvalidJob,
        InvalidUpdate,
        Late,
        LiflError,
        PermanentError,
        Refused,
        TransientError,
        Unreachable,
        Unsupported,
    )
    from lifl.functions.tensors import load_into

    __version__: str

_HOME = {
    "AsyncClient": "lifl.aio",
    "Client": "lifl.client",
    "Round": "lifl.client",
    "FLJob": "lifl.api.job",
    "load_into": "lifl.functions.tensors",
    "load_job": "lifl.api.load",
    **dict.fromkeys(
        (
            "Busy", "InvalidJob", "InvalidUpdate", "Late", "LiflError", "PermanentError",
            "Refused", "TransientError", "Unreachable", "Unsupported",
        ),
        "lifl.errors",
    ),
}  # fmt: skip

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "FLJob",
    "InvalidJob",
    "InvalidUpdate",
    "Late",
    "LiflError",
    "PermanentError",
    "Refused",
    "Round",
    "TransientError",
    "Unreachable",
    "Unsupported",
    "__version__",
    "load_into",
    "load_job",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("lifl")
        except PackageNotFoundError:  # run from its sources, not installed
            value = "0+sources"
    elif name in _HOME:
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'lifl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
