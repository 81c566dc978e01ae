"""Numbers as people read them.  Called by the other modules of the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

BARS: Final = "▁▂▃▄▅▆▇█"
KINDS: Final = ("zygote", "cold", "warm")  # of starts, in the order in which they are shown


def amount(size_bytes: float) -> str:
    """1,234,567 bytes are "1.23 MB"; decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{_three(size_bytes)} {unit}"
        size_bytes /= 1000
    return f"{_three(size_bytes)} TB"


def binary(size_bytes: float) -> str:
    """8 << 30 bytes are "8 GiB": memory and its limits come in these."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.3g} TiB"


def rate(size_bytes: float, seconds: float) -> str:
    """Bytes per second; "-" where nothing was measured."""
    return f"{amount(size_bytes / seconds)}/s" if seconds > 0 and size_bytes > 0 else "-"


def duration(seconds: float) -> str:
    """0.0421 s is "42 ms", 75 s is "1:15"."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(share: float) -> str:
    """0.9639 is "96.4 %"."""
    return f"{share * 100:.1f} %"


def score(value: float) -> str:
    """An accuracy: of 0 to 1 as a share, otherwise as it was given; NaN is "nan"."""
    return percent(value) if 0 <= value <= 1 else f"{value:.4g}"


def count(number: int, what: str) -> str:
    """1 is "1 leaf", 2 are "2 leaves"."""
    plural = {"leaf": "leaves", "process": "processes"}.get(what, what + "s")
    return f"{number} {what if number == 1 else plural}"


def of_which(there: int, needed: int) -> str:
    """ " (a round waits for 4)", where so many are not all."""
    return "" if there == needed else f" (a round waits for {needed})"


def figure(name: str, value: float) -> str:
    """One of an evaluator's figures: an accuracy as a share, others as numbers."""
    return score(value) if name == "accuracy" else f"{value:.4g}"


def main_figure(metrics: Mapping[str, object], goal: str = "") -> str:
    """Which figure stands for all where there is room for one.

    That is the accuracy, else what the job's goal (`spec.stop.metric`) is about, else the first.
    """
    named = (name for name in ("accuracy", goal) if name in metrics)
    return next(named, next(iter(metrics), "accuracy"))


def numbers(metrics: object) -> dict[str, float]:
    """Figures by name; whatever is none is left out."""
    pairs = metrics.items() if isinstance(metrics, dict) else ()
    return {str(name): value for name, value in pairs if isinstance(value, int | float)}


def figures(metrics: object) -> str:
    """ "accuracy 96.4 %, loss 0.1234"; whatever is no number is left out."""
    return ", ".join(
        f"{''.join(c if c.isprintable() else ' ' for c in name)} {figure(name, value)}"
        for name, value in numbers(metrics).items()
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values between the smallest and the largest of all."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((value - low) / step)] for value in finite[-width:])


def _three(number: float) -> str:
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def starts_of(said: Mapping[str, Any]) -> dict[str, float]:
    """Starts by kind, of a round's row or of a summary."""
    return {kind: said.get(f"{kind}_starts") or 0 for kind in KINDS}


def starts(numbers: Mapping[str, float], seconds: Mapping[str, float]) -> str:
    """"7 zygote (6 ms each), 0 cold, 14 warm"; of the kinds that are in `numbers`."""
    parts = []
    for kind in [kind for kind in KINDS if kind in numbers]:
        number, spent_s = numbers[kind], seconds.get(kind, 0.0)
        each = f" ({duration(spent_s / number)} each)" if number and spent_s > 0 else ""
        parts.append(f"{number:,.0f} {kind}{each}")
    return ", ".join(parts)
