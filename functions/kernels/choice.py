"""Which kernels run: chosen once, by name, and never replaced in silence."""

from __future__ import annotations

from typing import Literal

from lifl.functions.kernels.contract import Kernels

Name = Literal["auto", "native", "reference"]


def choose(name: Name = "auto", *, isa: str | None = None) -> Kernels:
    """The kernels of that name; the caller logs their `name` and `isa`.

    Args:
        name: `native` is C, `reference` is NumPy, `auto` is native where the extension was
            built and reference elsewhere.
        isa: force an instruction set of `native`, for tests and benchmarks; None is the best
            that this CPU has.

    Raises:
        lifl.errors.Unsupported: `native` without the extension, or an `isa` that this CPU
            or these kernels do not have.
        ValueError: an unknown name.
    """
    raise NotImplementedError
