"""Writes docs/scenario.md from placement/simulator/scenario.py.

.venv/bin/python scripts/docs_scenario.py
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lifl.placement.simulator.scenario import Arrivals, Costs, Nodes, Scenario

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scenario.md"

HEAD = """# Scenarios

Generated from `placement/simulator/scenario.py` by `scripts/docs_scenario.py`; a test fails when
the two differ. What `lifl simulate SCENARIO.yaml` takes; [placement.md](placement.md#the-simulator)
says what it does with it, and [examples/06-simulate](../examples/06-simulate) has two.
"""

PARTS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The scenario", Scenario), ("`nodes`, each", Nodes), ("`arrivals`", Arrivals),
    ("`costs`", Costs),
)  # fmt: skip


def page() -> str:
    parts = [HEAD]
    for title, model in PARTS:
        lines = [f"## {title}\n\n| field | unless given | what |\n|---|---|---|"]
        for field in model.model_fields.values():
            description = " ".join((field.description or "").split())
            lines.append(f"| `{field.alias}` | {_default(field.default)} | {description} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
