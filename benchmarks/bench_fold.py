"""How near a fold comes to reading its inputs and doing nothing else.

    python benchmarks/bench_fold.py [--runs 9] [--kernels native reference] [--isa avx2]

k updates of 46.8 MB (11.7 million float32) are folded into a sum: the first fold, which reads
no accumulator, and a later one, which does. Beside each, in the same run and turn about, the
same bytes of input are read and nothing is written: a BLAS dot product of each input with
itself, on one thread. Reported: medians in ms, GB/s of input, and the ratio of the two speeds.

What the ratio can be: a later fold also reads the accumulator and writes the sum, (k + 2) / k
bytes for each byte of input. On the other side, the read pass takes one input after the other
and a fold takes up to eight side by side, which suits memory better, so 1 is no ceiling.
Compare runs on a quiet machine: memory is shared with whatever else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy loads its BLAS

import numpy as np  # noqa: E402

from lifl.functions.kernels import Code, Input, Kernels, choose, lay_out  # noqa: E402

ELEMENTS = 11_700_000
QUEUES = (1, 2, 4, 8)


def page_aligned(count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """`count` float32 whose address is a multiple of 4096, as in an arena."""
    raw = np.ones(count * 4 + 4096, np.uint8)  # touched: no page faults while timing
    start = -raw.ctypes.data % 4096
    return raw[start : start + count * 4].view(np.float32)


def medians_ms(runs: int, tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Turn about, so that what else the machine does falls on all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for run in range(runs + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if run:  # the first is a warm-up
                taken[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9, help="timed runs of each (5 or more)")
    parser.add_argument("--kernels", nargs="+", default=["native", "reference"])
    parser.add_argument("--isa", help="force an instruction set of native")
    options = parser.parse_args()
    if options.runs < 5:
        parser.error(f"--runs is {options.runs}; a median needs 5 or more")

    sections = lay_out([(Code.F32, ELEMENTS)])
    arrays = [page_aligned(ELEMENTS) for _ in range(max(QUEUES))]
    rng = np.random.default_rng(0)
    for array in arrays:
        array[:] = rng.standard_normal(ELEMENTS, np.float32)
    acc, out = page_aligned(ELEMENTS), page_aligned(ELEMENTS)
    megabytes = ELEMENTS * 4 / 1e6
    print(f"{megabytes:.1f} MB an update, float32, medians of {options.runs}")
    print(f"{'kernels':<18}{'k':>3}  {'pass':<6}{'ms':>9}{'GB/s in':>9}{'of read':>9}")

    for name in options.kernels:
        isa = options.isa if name == "native" else None
        kernels: Kernels = choose(name, isa=isa)
        for k in QUEUES:
            inputs = [Input(array.data, 1.0 + j, False) for j, array in enumerate(arrays[:k])]

            def read(k: int = k) -> None:
                for array in arrays[:k]:
                    np.dot(array, array)

            def first(kernels: Kernels = kernels, inputs: list[Input] = inputs) -> None:
                kernels.fold(out.data, None, inputs, sections)

            def later(kernels: Kernels = kernels, inputs: list[Input] = inputs) -> None:
                kernels.fold(out.data, acc.data, inputs, sections)

            taken = medians_ms(options.runs, {"read": read, "first": first, "later": later})
            for what, ms in taken.items():
                print(
                    f"{f'{kernels.name} ({kernels.isa})':<18}{k:>3}  {what:<6}{ms:>9.2f}"
                    f"{k * megabytes / ms:>9.1f}{taken['read'] / ms:>9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
