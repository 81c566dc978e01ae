"""Which kernels run: chosen once, by name, and never replaced in silence."""

from __future__ import annotations

from typing import Literal

from lifl.errors import Unsupported
from lifl.functions.kernels.contract import Kernels
from lifl.functions.kernels.reference import Reference

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
    if name not in ("auto", "native", "reference"):
        raise ValueError(f"kernels are {name!r}; choose 'auto', 'native' or 'reference'")
    have = [] if name == "reference" else isas()
    if name == "native" and not have:
        raise Unsupported(
            "kernels 'native' are not built here; install lifl with a C compiler, "
            "or choose 'auto' or 'reference'"
        )
    if isa is not None and isa not in have:
        raise Unsupported(
            f"instruction set {isa!r} is not available for kernels {name!r}; "
            f"choose among {', '.join(have) or 'none'}"
        )
    if not have:
        return Reference()
    from lifl.functions.kernels.native import Native

    return Native(isa or have[0])


def isas() -> list[str]:
    """Instruction sets of `native` that this CPU has, best first; none without the extension."""
    try:
        from lifl.functions.kernels import native
    except ImportError:
        return []
    return native.isas()
