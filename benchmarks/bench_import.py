"""What `import lifl` costs: milliseconds in a fresh process, beside an interpreter without it.

    python benchmarks/bench_import.py

Each figure is the median over fresh processes, all bytecode compiled; `lifl.Client` is the first
use of a name, which loads NumPy and ZeroMQ.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 21
CASES = {
    "import lifl": "import lifl",
    "lifl.Client": "import lifl; lifl.Client",
    "import numpy": "import numpy",
}


def milliseconds(statement: str) -> float:
    """Of a statement, without the start of the interpreter."""
    code = (
        "import time; t = time.perf_counter()\n"
        f"{statement}\n"
        "print((time.perf_counter() - t) * 1000)"
    )
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(RUNS)
    ]
    return statistics.median(found)


def main() -> None:
    for name, statement in CASES.items():
        print(f"{name:<14} {milliseconds(statement):8.2f} ms")


if __name__ == "__main__":
    main()
