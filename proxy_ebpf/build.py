"""Builds route.bpf.o from route.bpf.c: `python -m lifl.proxy_ebpf.build`.

Owns the compiler's command line.  Needs clang, libbpf's headers and the kernel's user-space
headers where it runs; the object needs none of them.  Called by `make` and by packaging, never at
run time.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
SOURCE: Final = FOLDER / "route.bpf.c"
OBJECT: Final = FOLDER / "route.bpf.o"
CLANG: Final = ("clang", *(f"clang-{version}" for version in range(21, 10, -1)))


def command(clang: str, output: Path) -> list[str]:
    """`-target bpf` knows no architecture, so the folder of <asm/types.h> is named (Debian)."""
    asm = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    return [
        clang, "-target", "bpf", "-O2", "-g", "-Wall", "-Werror",
        f"-ffile-prefix-map={FOLDER}=.", "-fdebug-compilation-dir=.",
        *(["-isystem", str(asm)] if asm.is_dir() else []),
        "-I", str(FOLDER), "-c", str(SOURCE), "-o", str(output),
    ]  # fmt: skip


def build(output: Path = OBJECT) -> Path:
    """Compile, into place in one step.

    Raises:
        RuntimeError: there is no clang, or it refused; the message says which and what to do.
    """
    clang = next(filter(None, map(shutil.which, CLANG)), None)
    if clang is None:
        raise RuntimeError(
            "clang is missing: install clang and libbpf's headers (Debian: apt install clang "
            "libbpf-dev linux-libc-dev), or run with the unix router"
        )
    partial = output.with_suffix(".partial")
    done = subprocess.run(command(clang, partial), capture_output=True, text=True)
    if done.returncode:
        partial.unlink(missing_ok=True)
        hint = (
            "\nthe headers of libbpf or of the kernel are missing: apt install libbpf-dev "
            "linux-libc-dev"
            if "file not found" in done.stderr
            else ""
        )
        raise RuntimeError(f"clang refused {SOURCE.name}:\n{done.stderr.strip()}{hint}")
    partial.replace(output)
    return output


if __name__ == "__main__":
    try:
        print(f"built {build().name}")
    except RuntimeError as error:
        sys.exit(f"lifl.proxy_ebpf.build: {error}")
