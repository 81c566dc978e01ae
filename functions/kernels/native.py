"""Kernels in C (`_fold.c`): one pass over all queued inputs, for the CPU at hand.

Importing this module needs the extension; `choice.choose` says what to do without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lifl.functions.kernels import _fold
from lifl.functions.kernels.checks import check_finish, check_fold
from lifl.functions.kernels.contract import Input, Optimiser, Section


def isas() -> list[str]:
    """Instruction sets that this CPU and this build have, best first."""
    return _fold.isas()


class Native:
    """`Kernels` in C, with the instruction set `isa`; the interpreter lock is released."""

    name = "native"

    def __init__(self, isa: str) -> None:
        self.isa = isa

    def fold(
        self,
        out: memoryview,
        acc: memoryview | None,
        inputs: Sequence[Input],
        sections: Sequence[Section],
    ) -> None:
        """See `Kernels.fold`."""
        layout = check_fold(out, acc, inputs, sections)
        _fold.fold(self.isa, out, acc, _terms(inputs), layout.table)

    def finish(
        self,
        out: memoryview,
        total: memoryview | None,
        total_weight: float,
        sections: Sequence[Section],
        *,
        inputs: Sequence[Input] = (),
        base: memoryview | None = None,
        velocity_in: memoryview | None = None,
        velocity_out: memoryview | None = None,
        optimiser: Optimiser,
    ) -> None:
        """See `Kernels.finish`."""
        layout = check_finish(
            out, total, inputs, total_weight, sections, base, velocity_in, velocity_out, optimiser
        )
        with_momentum = optimiser.name == "fedavgm"
        _fold.finish(
            self.isa,
            out,
            total,
            _terms(inputs),
            total_weight,
            base if with_momentum else None,
            velocity_in if with_momentum else None,
            velocity_out if with_momentum else None,
            optimiser.learning_rate,
            optimiser.momentum,
            with_momentum,
            layout.table,
        )


def _terms(inputs: Sequence[Input]) -> tuple[tuple[memoryview, float, bool], ...]:
    return tuple((item.data, item.weight, item.is_sum) for item in inputs)
