"""lifl.functions.kernels: the arithmetic on updates and sums.

    contract    what a kernel takes and gives: Code, Section, Input, Optimiser, Kernels
    bound       how far a correct result may be from the exact one
    reference   NumPy, for reading and for machines without a compiler
    native      C (`_fold.c`), one fused pass, chosen for the CPU at run time

Owns no memory and no policy: callers hand in buffers (slots of an arena, mostly) and
decide what is folded when. Called by `lifl.functions.aggregator` and by tests.
"""

from lifl.functions.kernels.bound import bound, error_bound
from lifl.functions.kernels.choice import choose
from lifl.functions.kernels.contract import (
    Code,
    Input,
    Kernels,
    Optimiser,
    Section,
    lay_out,
    sum_bytes,
    update_bytes,
)

__all__ = [
    "Code",
    "Input",
    "Kernels",
    "Optimiser",
    "Section",
    "bound",
    "choose",
    "error_bound",
    "lay_out",
    "sum_bytes",
    "update_bytes",
]
