"""Native extensions; everything else is in pyproject.toml."""

from setuptools import Extension, setup

WARN = ["-O3", "-Wall", "-Wextra", "-Werror=implicit-function-declaration", "-std=gnu11"]

setup(
    ext_modules=[
        Extension("lifl.shm._words", ["lifl/shm/_words.c"], extra_compile_args=WARN),
        Extension(
            "lifl.functions.kernels._fold",
            ["lifl/functions/kernels/_fold.c"],
            depends=[
                f"lifl/functions/kernels/_{name}.h" for name in ("core", "finish", "finite", "isa")
            ],
            extra_compile_args=WARN,
        ),
    ],
)
