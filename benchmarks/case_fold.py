"""The fused fold beside a pass that reads its inputs and does nothing, and beside PyTorch.

Inputs, sum and accumulator lie in one memfd, as in an arena.  Each figure is GB of *input* a
second, on one thread; a first fold writes the sum as well, a later one also reads the one before.
The reading pass (read_pass.c) takes the inputs in the same order and with as many streams side by
side: a pass that reads one input after the other has one stream, is slower than that on many
machines, and would flatter the fold.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.rows import Case, Figure, Found, Goal, Line, NotMeasured
from benchmarks.system import available_bytes
from lifl.functions.kernels import Code, Input, choose, lay_out
from lifl.shm.geometry import PAGE

K = 8
FEW = 2
ELEMENTS = {"46.8": 11_700_000, "232": 58_000_000}
TURNS = {"46.8": 7, "232": 5}
WAYS = ("add_", "einsum", "matmul")  # of torch_fold.py
BY_HAND = ("blocks", "gemv")
HERE = Path(__file__).parent

Task = Callable[[], float]
Taken = dict[str, list[float]]  # seconds by task, one a turn


class Memory:
    """K inputs of random numbers, an accumulator and a sum, page-aligned in one memfd."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.size_bytes = 4 * elements
        self.stride = -(-self.size_bytes // PAGE) * PAGE
        self.fd = os.memfd_create("lifl-bench")
        os.posix_fallocate(self.fd, 0, (K + 2) * self.stride)
        self.map = mmap.mmap(self.fd, (K + 2) * self.stride)
        view = memoryview(self.map)
        *self.inputs, self.acc, self.out = (
            view[at * self.stride : at * self.stride + self.size_bytes] for at in range(K + 2)
        )
        view.release()
        random = np.random.default_rng(0)
        for part in (*self.inputs, self.acc):
            random.standard_normal(dtype=np.float32, out=np.frombuffer(part, np.float32))
        np.frombuffer(self.out, np.float32)[:] = 0

    def close(self) -> None:
        for part in (*self.inputs, self.acc, self.out):
            part.release()
        self.map.close()
        os.close(self.fd)


@contextmanager
def memory(elements: int) -> Iterator[Memory]:
    needed = 4 * elements * (K + 2)
    free = available_bytes()
    if needed > free:
        raise NotMeasured(
            f"needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        )
    held = Memory(elements)
    try:
        yield held
    finally:
        held.close()


@contextmanager
def read_pass() -> Iterator[Callable[[Memory, int], Task]]:
    """read_pass.c, compiled for this CPU."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NotMeasured("the reading pass needs a C compiler, and there is no cc: install gcc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "read_pass.so"
        subprocess.run(
            [compiler, "-O3", "-march=native", "-shared", "-fPIC",
             "-o", library, HERE / "read_pass.c"], check=True,
        )  # fmt: skip
        function = ctypes.CDLL(str(library)).read_pass
        function.restype = ctypes.c_uint64
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

        def task(held: Memory, k: int) -> Task:
            addresses = [np.frombuffer(part, np.uint8).ctypes.data for part in held.inputs[:k]]
            pointers = (ctypes.c_void_p * k)(*addresses)
            return timed(lambda: function(pointers, k, held.size_bytes))

        yield task


def timed(work: Callable[[], object]) -> Task:
    def task() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return task


def fold(held: Memory, k: int, *, later: bool) -> Task:
    """Of the first k inputs; a later one adds to a sum that exists."""
    kernels = choose("native")
    sections = lay_out([(Code.F32, held.elements)])
    inputs = [Input(part, 1.0 + j, False) for j, part in enumerate(held.inputs[:k])]
    acc = held.acc if later else None
    return timed(lambda: kernels.fold(held.out, acc, inputs, sections))


def turn_about(count: int, tasks: dict[str, Task]) -> Taken:
    """Seconds of each, turn about, so that what else the machine does falls on all alike."""
    taken: Taken = {name: [] for name in tasks}
    for turn in range(count + 1):
        for name, task in tasks.items():
            seconds = task()
            if turn:  # the first warms up
                taken[name].append(seconds)
    return taken


def speed(taken: Taken, mine: str, other: str, *, size_bytes: int, note: str) -> Figure:
    return Figure.of_pairs(
        [size_bytes / s / 1e9 for s in taken[mine]],
        [size_bytes / s / 1e9 for s in taken[other]],
        note=note,
    )


# -- beside reading ------------------------------------------------------------------------------
def measure_fold(*, turns: int | None = None) -> Found:
    found: Found = {}
    for size, elements in ELEMENTS.items():
        with memory(elements) as held, read_pass() as read:
            tasks: dict[str, Task] = {}
            for k in (K, FEW):
                tasks[f"read {k}"] = read(held, k)
                tasks[f"first {k}"] = fold(held, k, later=False)
                tasks[f"later {k}"] = fold(held, k, later=True)
            taken = turn_about(turns or TURNS[size], tasks)
            for k in (K, FEW):
                for which in ("first", "later"):
                    found[f"{which} {k} {size}"] = speed(
                        taken, f"{which} {k}", f"read {k}", size_bytes=k * held.size_bytes,
                        note=f"float32, {choose('native').isa}, one thread; as many streams "
                        "read side by side as there are inputs",
                    )  # fmt: skip
            tasks.clear()
    return found


# -- beside PyTorch ------------------------------------------------------------------------------
class Torch:
    """An interpreter with torch that has the same inputs mapped."""

    def __init__(self, held: Memory) -> None:
        self.process = subprocess.Popen(
            [torch_python(), str(HERE / "torch_fold.py"), f"/proc/{os.getpid()}/fd/{held.fd}",
             str(K), str(held.elements), str(held.stride)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.version, threads = self._line().split()
        self.threads = int(threads)

    def ask(self, way: str, threads: int) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{way} {threads}\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"torch_fold.py ended with status {self.process.wait()}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def torch_python() -> str:
    """The interpreter that LIFL_TORCH_PYTHON names, else .venv-torch's, else this one."""
    beside = HERE.parent / ".venv-torch" / "bin" / "python"
    default = str(beside) if beside.exists() else sys.executable
    python = os.environ.get("LIFL_TORCH_PYTHON") or default
    asked = subprocess.run([python, "-c", "import numpy, torch"], capture_output=True, check=False)
    if asked.returncode:
        raise NotMeasured(
            "no torch here: pip install torch --index-url https://download.pytorch.org/whl/cpu, "
            "or make test-torch, which installs it into .venv-torch, or name an interpreter that "
            "has torch and numpy: LIFL_TORCH_PYTHON"
        )
    return python


def measure_torch(*, turns: int = 5) -> Found:
    torch_python()
    found: Found = {}
    for size, elements in ELEMENTS.items():
        with memory(elements) as held:
            torch = Torch(held)
            try:
                found |= _beside_torch(held, torch, size, turns)
            finally:
                torch.close()
    return found


def _beside_torch(held: Memory, torch: Torch, size: str, turns: int) -> Found:
    mine, size_bytes = fold(held, K, later=False), K * held.size_bytes

    def theirs(way: str, threads: int) -> Task:
        return lambda: float(torch.ask(way, threads))

    mine()
    float(torch.ask("add_", 1))
    check = np.array(torch.ask("check", 1).split(), np.float32)
    if not np.allclose(check, np.frombuffer(held.out, np.float32)[:8], rtol=1e-5, atol=1e-5):
        raise RuntimeError("torch and the fold do not compute the same sum")

    found: Found = {}
    for threads in (1, torch.threads) if size == "46.8" and torch.threads > 1 else (1,):
        ways = (*WAYS, *BY_HAND) if threads == 1 else WAYS
        taken = turn_about(turns, {"fold": mine} | {way: theirs(way, threads) for way in ways})

        def best(names: tuple[str, ...], threads: int = threads, taken: Taken = taken) -> Figure:
            median = {name: statistics.median(taken[name]) for name in names}
            fastest = min(median, key=median.__getitem__)
            each = ", ".join(f"{name} {size_bytes / median[name] / 1e9:.1f}" for name in names)
            note = f"torch {torch.version}, {threads} threads, {size} MB: {each} GB/s"
            return speed(taken, "fold", fastest, size_bytes=size_bytes, note=note)

        if threads == 1:
            found[size] = best(WAYS)
            found[f"{size} by hand"] = best(BY_HAND)
        else:
            found[f"{size} all"] = best(WAYS)
    return found


def _lines() -> dict[str, Line]:
    return {
        f"{which} {k} {size}": Line(
            case=f"fold of {k} × {size} MB, {which}", unit="GB/s",
            reference=f"reading them, {k} streams", goal=Goal("ratio", "≥", 0.8 if k == K else 0.6),
        )
        for size in ELEMENTS
        for k in (K, FEW)
        for which in ("first", "later")
    }  # fmt: skip


CASES = (
    Case(name="fold", lines=_lines(), measure=measure_fold),
    Case(
        name="torch",
        lines={
            name: line
            for size in ELEMENTS
            for name, line in {
                size: Line(
                    case=f"fold of {K} × {size} MB, first", unit="GB/s",
                    reference="torch's best, 1 thread", goal=Goal("ratio", "≥", 1.5),
                ),
                f"{size} by hand": Line(
                    case=f"fold of {K} × {size} MB, first", unit="GB/s",
                    reference="torch in blocks, or as gemv",
                ),
            }.items()
        }
        | {
            "46.8 all": Line(
                case=f"fold of {K} × 46.8 MB, first, 1 thread", unit="GB/s",
                reference="torch's best, all threads",
            )
        },
        measure=measure_torch,
    ),
)  # fmt: skip
