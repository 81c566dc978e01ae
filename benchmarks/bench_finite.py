"""What it costs to look for NaN and infinity in an update that is being written into a slot.

A chunk that was just written is in the cache; beside it, the same bytes read from memory, and what
NumPy's isfinite takes for them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from lifl.functions.kernels import Code, lay_out
from lifl.functions.kernels.choice import isas
from lifl.functions.kernels.finite import FiniteCheck

SIZE = 46_800_000 // 8 * 8
CHUNK = 1 << 20
REPEATS = 7


def gb_s(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return SIZE / statistics.median(taken) / 1e9


def main() -> None:
    source = np.random.default_rng(0).standard_normal(SIZE // 4).astype(np.float32)
    bytes_in, slot = memoryview(source).cast("B"), memoryview(bytearray(SIZE))

    def write(check: FiniteCheck | None) -> None:
        for at in range(0, SIZE, CHUNK):
            end = min(at + CHUNK, SIZE)
            slot[at:end] = bytes_in[at:end]
            if check is not None:
                assert check.feed(at, slot[at:end]) is None

    def again(check: FiniteCheck) -> None:
        for _ in range(0, SIZE, CHUNK):
            check.feed(0, slot[:CHUNK])

    print(f"writing chunks of 1 MB into a slot      {gb_s(lambda: write(None)):6.1f} GB/s")
    for code in (Code.F32, Code.F16, Code.F64):
        sections = lay_out([(code, SIZE // code.size_bytes)])
        for isa in [*isas(), "numpy"] if code is Code.F32 else isas()[:1]:
            check = FiniteCheck(sections, isa=isa)
            slot[:] = bytes(SIZE)
            cold = gb_s(lambda check=check: check.feed(0, slot))  # type: ignore[misc]
            name = f"{code.name.lower()} {isa}"
            line = f"{name:<12} from memory             {cold:6.1f} GB/s"
            if code is Code.F32:
                both = gb_s(lambda check=check: write(check))  # type: ignore[misc]
                hot = gb_s(lambda check=check: again(check))  # type: ignore[misc]
                line += f", from the cache {hot:.1f}"
                line += f"; with the writing {both:.1f}"
            print(line)
    beside = gb_s(lambda: np.isfinite(source).all())
    print(f"numpy isfinite().all(), from memory     {beside:6.1f} GB/s")


if __name__ == "__main__":
    main()
