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

LENGTH_MAX: Final = 24  # characters
_SYNTAX: Final = re.compile(r"([0-9]+(?:\.[0-9]{1,3})?)(?: ?([A-Za-z]+))?")


def _pattern() -> str:
    """What `parse_bytes` takes, as a regular expression of Go's: an API server has no arithmetic.

    With three decimals at most, a number is whole in units of 1000; in units of 1024 it is whole
    when its fraction is one of eighths.
    """
    whole, nothing = "0*[1-9][0-9]*", "0+"
    units = {base: "|".join(unit for unit in UNITS if unit.endswith("i") is (base == 1024) and unit)
             for base in (1000, 1024)}  # fmt: skip
    some = {1000: "[1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9]",
            1024: "50{0,2}|250?|750?|125|375|625|875"}  # fmt: skip
    forms = [rf"{whole}(\.0{{1,3}})?"]
    for base, names in units.items():
        number = rf"{whole}(\.(0{{1,3}}|{some[base]}))?|{nothing}\.({some[base]})"
        forms.append(f"({number}) ?({names})")
    return "|".join(forms)


PATTERN: Final = _pattern()


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
    if match is None or len(str(value)) > LENGTH_MAX:
        raise ValueError('must be a number and a unit, like "512Mi" or "1.5G"')
    number, unit = match.groups(default="")
    if unit not in UNITS:
        raise ValueError(
            f"has the unit {unit!r}: it must be one of {', '.join(filter(None, UNITS))}"
        )
    size = Decimal(number) * UNITS[unit]
    if size < 1 or size != int(size):
        raise ValueError("must be a whole number of bytes, at least 1")
    return int(size)
