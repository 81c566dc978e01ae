"""Amounts of bytes as people write them: "512Mi", "1.5G", 4096.

Owns the syntax, which is Kubernetes' for memory.  Called by `part` for fields of this kind.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

UNITS: Final = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T", "P"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)},
}

_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,3})?"  # as many as a cluster can check, too
_SYNTAX: Final = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)")

PATTERN: Final = rf"{_NUMBER} ?({'|'.join(filter(None, UNITS))})?"


def parse_bytes(value: object) -> int:
    """Bytes of a quantity.

    Args:
        value: a number of bytes, or text: a decimal number and a unit of `UNITS`.

    Raises:
        ValueError: no quantity, an unknown unit, less than one byte or a fraction of one.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('must be a number of bytes or text like "512Mi"')
    match = _SYNTAX.fullmatch(str(value))
    if match is None:
        raise ValueError('must be a number and a unit, like "512Mi" or "1.5G"')
    number, unit = match.groups()
    if unit not in UNITS:
        raise ValueError(
            f"has the unit {unit!r}: it must be one of {', '.join(filter(None, UNITS))}"
        )
    size = Decimal(number) * UNITS[unit]
    if size < 1 or size != int(size):
        raise ValueError("must be a whole number of bytes, at least 1")
    return int(size)
