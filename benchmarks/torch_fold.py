"""The sum of a fold by PyTorch, each way that it offers; driven by case_fold.py over pipes.

    python torch_fold.py FILE K ELEMENTS STRIDE

Runs in an interpreter that has torch, without LIFL.  FILE holds K rows of ELEMENTS float32, STRIDE
bytes apart.  Reads "WAY THREADS" a line, computes Σ wᵢxᵢ once in that way and writes the seconds;
a way named "check" writes the first elements instead.  The ways, of K tensors:

    add_    out ← w₀x₀, then out.add_(xᵢ, alpha=wᵢ)
    einsum  einsum("k,kn->n", w, stack(x))
    matmul  w @ stack(x)

and what someone who knows the hardware could write:

    blocks  add_, over a block that stays in the second-level cache, then the next block
    gemv    w @ X, where the rows are one tensor already, as if stacking were free
"""

import sys
import time

import numpy as np
import torch

BLOCK = 65536  # elements


def main() -> None:
    path, *numbers = sys.argv[1:]
    k, elements, stride = map(int, numbers)
    whole = np.memmap(path, np.float32, mode="r+", shape=(k, stride // 4))
    together = torch.from_numpy(whole)[:, :elements]
    rows = list(together)
    weights = [1.0 + j for j in range(k)]
    w = torch.tensor(weights)
    out = torch.zeros(elements)
    stacked = torch.zeros(k, elements)  # so that stacking is a copy and no page fault

    def add(begin: int = 0, end: int = elements) -> None:
        part = out[begin:end]
        torch.mul(rows[0][begin:end], weights[0], out=part)
        for j in range(1, k):
            part.add_(rows[j][begin:end], alpha=weights[j])

    def blocks() -> None:
        for begin in range(0, elements, BLOCK):
            add(begin, min(begin + BLOCK, elements))

    def einsum() -> torch.Tensor:
        return torch.einsum("k,kn->n", w, torch.stack(rows, out=stacked))

    def matmul() -> torch.Tensor:
        return torch.mv(torch.stack(rows, out=stacked).t(), w, out=out)

    def gemv() -> torch.Tensor:
        return torch.mv(together.t(), w, out=out)

    ways = {"add_": add, "einsum": einsum, "matmul": matmul, "blocks": blocks, "gemv": gemv}
    print(torch.__version__, torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        way, threads = line.split()
        torch.set_num_threads(int(threads))
        if way == "check":
            print(*(float(x) for x in out[:8]), flush=True)
            continue
        began = time.perf_counter()
        ways[way]()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
