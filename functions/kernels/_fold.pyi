"""C kernels (`_fold.c`). Buffers are checked by `checks` before, for the sake of the message."""

from typing_extensions import Buffer

def isas() -> list[str]: ...
def nonfinite(isa: str, data: Buffer, start: int, sections: Buffer, /) -> int: ...
def fold(
    isa: str,
    out: Buffer,
    acc: Buffer | None,
    inputs: tuple[tuple[Buffer, float, bool], ...],
    sections: Buffer,
    /,
) -> None: ...
def finish(
    isa: str,
    out: Buffer,
    total: Buffer | None,
    inputs: tuple[tuple[Buffer, float, bool], ...],
    total_weight: float,
    base: Buffer | None,
    velocity_in: Buffer | None,
    velocity_out: Buffer | None,
    learning_rate: float,
    momentum: float,
    with_momentum: bool,
    sections: Buffer,
    /,
) -> None: ...
