"""What `lifl top` shows, from samples as endpoints give them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lifl.cli.top import Look, Samples, look, screen
from lifl.errors import Unreachable

KEY = tuple[str, tuple[tuple[str, str], ...]]


def samples(at_s: float, **values: float) -> Samples:
    found: dict[KEY, float] = {(f"lifl_{name}", ()): value for name, value in values.items()}
    return Samples(at_s, found)


def test_a_rate_is_what_changed_by_time() -> None:
    before, now = samples(1.0, updates_total=10), samples(3.0, updates_total=30)
    assert now.rate(before, "lifl_updates_total") == 10
    assert now.rate(None, "lifl_updates_total") is None
    assert before.rate(now, "lifl_updates_total") is None
    restarted = samples(4.0, updates_total=2)
    assert restarted.rate(now, "lifl_updates_total") == 0


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("height", [24, 12])
def test_the_screen_fits_and_says_who_is_away(count: int, height: int) -> None:
    nodes: dict[str, Samples | None] = {f"node-{i}": samples(2.0, slots=8) for i in range(count)}
    nodes["node-0"] = None
    coordinator = samples(2.0, round=3, rounds_planned=9, round_clients=5, round_updates=2)
    for phase in ("wait", "ingest", "fold", "hand_off", "publish"):
        key = ("lifl_round_last_phase_seconds", (("phase", phase),))
        coordinator.values[key] = 123.4  # type: ignore[index]
    now = Look(coordinator, nodes)
    console = Console(width=80, height=height, file=io.StringIO(), record=True)
    console.print(screen(Path("runs/latest"), now, None, 80, height))
    lines = console.export_text().splitlines()
    assert len(lines) <= max(height, 20)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "round 3 of 9" in text
    assert "away" in text
    assert "publish" in text
    assert ("more" in text) == (count > 8 or (height == 12 and count > 2))


def test_without_a_running_job_the_fix_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no job is running in .*lifl run JOB\.yaml"):
        look(tmp_path)
    where = {"coordinator": "http://127.0.0.1:9/metrics", "nodes": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(where))
    with pytest.raises(Unreachable, match=r"does not answer .*lifl run JOB\.yaml"):
        look(tmp_path)
