"""`lifl doctor`: what this machine has and lacks, and what ended runs have left on it.

Owns how it is shown and the exit code: 0 when nothing is lacking and nothing is left, else 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from lifl.cli.facts import gather
from lifl.cli.figures import binary, count
from lifl.cli.findings import Finding, findings
from lifl.cli.leftovers import Leftovers, find, remove

_MARKS = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "lack": ("lack", "bold red")}
_COLUMN = 15
MOST = 8  # processes and eBPF objects that are named; --json has all


def doctor(*, as_json: bool, clean: bool, console: Console | None = None) -> int:
    """Look, say, and with `clean` remove; the exit code."""
    console = console or Console(highlight=False)
    found = findings(gather())
    left = find()
    if clean and left:
        remove(left)
    now = find() if clean else left
    lacking = any(finding.status == "lack" for finding in found)
    if as_json:
        console.file.write(json.dumps(_plain(found, left, now, clean), indent=2) + "\n")
    else:
        _show(console, found, left, now, clean)
    return 1 if lacking or now else 0


def _plain(
    found: list[Finding], left: Leftovers, now: Leftovers, clean: bool
) -> dict[str, object]:  # fmt: skip
    return {
        "findings": [asdict(finding) for finding in found],
        "leftovers": asdict(now),
        "removed": asdict(left) if clean else None,
    }


def _show(
    console: Console, found: list[Finding], left: Leftovers, now: Leftovers, clean: bool
) -> None:  # fmt: skip
    for finding in found:
        mark, colour = _MARKS[finding.status]
        line = Text.assemble((mark, colour), "  ", (f"{finding.name:<{_COLUMN}}", "bold"))
        console.print(line.append(finding.what), soft_wrap=True)
        for label, text in (("costs", finding.costs), ("fix", finding.fix)):
            if text and finding.status != "ok":
                console.print(Text(f"      {label + ':':<{_COLUMN}}{text}", "dim"), soft_wrap=True)
    lines = _leftovers(now)
    if clean and left:
        _line(console, "ok", "removed: " + "; ".join(_leftovers(left)))
    if lines:
        for said in lines:
            _line(console, "lack", said)
        what = "cannot be removed by this user" if clean else "lifl doctor --clean"
        console.print(Text(f"      {'fix:':<{_COLUMN}}{what}", "dim"), soft_wrap=True)
    elif not (clean and left):
        _line(console, "ok", "nothing")
    if now.unseen:
        _line(console, "note", f"not seen: {now.unseen}")


def _line(console: Console, status: str, text: str) -> None:
    mark, colour = _MARKS[status]
    line = Text.assemble((mark, colour), "  ", (f"{'leftovers':<{_COLUMN}}", "bold"), text)
    console.print(line, soft_wrap=True)


def _leftovers(left: Leftovers) -> list[str]:
    lines = []
    if left.processes:
        kinds = ", ".join(
            f"{(process.module or 'child').rpartition('.')[2]} {process.pid}"
            for process in left.processes[:MOST]
        )
        kinds += ", …" if len(left.processes) > MOST else ""
        held = f", which hold {binary(sum(left.memfds.values()))} of arenas" if left.memfds else ""
        lines.append(f"{count(len(left.processes), 'process')} without a run ({kinds}){held}")
    if left.directories:
        lines.append("directories of ended runs: " + " ".join(left.directories))
    if left.objects:
        kinds = ", ".join(f"{each.kind} {each.id} {each.name}" for each in left.objects[:MOST])
        kinds += ", …" if len(left.objects) > MOST else ""
        lines.append(f"{count(len(left.objects), 'eBPF object')} that nobody holds ({kinds})")
    return lines
