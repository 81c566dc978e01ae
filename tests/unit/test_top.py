"""What `lifl top` shows, from samples as endpoints give them."""

from __future__ import annotations

import fcntl
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from lifl.cli.top import AVERAGE_S, MISSES, Look, Samples, look, screen, since, top
from lifl.errors import Unreachable
from lifl.placement.local import is_under_way

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


def looks(*updates: float | None, rounds: float = 0.0) -> list[Look]:
    """One a second; None: the node did not answer."""
    return [
        Look(
            samples(at_s, rounds_total=rounds),
            {"node-0": None if n is None else samples(at_s, updates_total=n, slots=8)},
        )
        for at_s, n in enumerate(updates)
    ]


@pytest.mark.parametrize(
    ("updates", "rate"),
    [
        ([0, 0, 54, 54, 108], 27.0),  # a gateway that reports every other second
        ([500, 510, 0, 10, 30], 15.0),  # an agent that began anew
        ([5, None, 10, 20], 10.0),
        ([5, 9, None], None),
        ([5], None),
    ],
)
def test_rates_are_over_all_looks_since_a_node_counts_on(
    updates: list[float | None], rate: float | None
) -> None:
    found = looks(*updates)
    now, before = found[-1].nodes["node-0"], since(found).nodes["node-0"]
    assert (now.rate(before, "lifl_updates_total") if now else None) == rate


def test_a_pipe_gets_every_look_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter(looks(*(27.0 * n for n in range(20)), rounds=3.0))
    told: list[int] = []  # screens that the pipe had at each look
    out = Pipe()

    def next_look(_: Path) -> Look:
        told.append(out.flushed.count("updates/s"))
        if (found := next(seen, None)) is None:
            raise Unreachable("it has ended")
        return found

    monkeypatch.setattr("lifl.cli.top.look", next_look)
    monkeypatch.setattr("lifl.cli.top.time.sleep", lambda _: None)
    (tmp_path / "metrics.json").touch()
    top(tmp_path, 1.0, Console(file=out, width=100, height=24))
    assert told[:20] == [*range(20)]
    assert out.flushed.count("updates/s") == 20 + MISSES - 1
    rates = [line.split()[1] for line in out.flushed.splitlines() if line.startswith("node-0")]
    assert rates[:3] == ["-", "27", "27"]
    assert AVERAGE_S < 20
    assert out.flushed.rstrip().endswith("has ended")


class Pipe(io.StringIO):
    """What whoever reads it has."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


PHASES = ("wait", "ingest", "fold", "hand_off", "publish")


def shown(count: int, *, width: int, height: int, away: bool = True) -> list[str]:
    nodes: dict[str, Samples | None] = {f"node-{i}": samples(2.0, slots=8) for i in range(count)}
    if away:
        nodes["node-0"] = None
    coordinator = samples(
        2.0, round=3, rounds_planned=9, rounds_total=2, round_clients=5, round_updates=2
    )
    for phase in PHASES:
        key = ("lifl_round_last_phase_seconds", (("phase", phase),))
        coordinator.values[key] = 123.4  # type: ignore[index]
    now = Look(coordinator, nodes)
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(screen(Path("runs/latest"), now, None, width, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (60, 20), (40, 24), (200, 50)])
def test_the_screen_fits_and_says_who_is_away(count: int, width: int, height: int) -> None:
    lines = shown(count, width=width, height=height)
    assert len(lines) <= max(height, 22)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    assert "round 3 of 9" in text
    assert "away" in text
    for phase in PHASES:
        assert f"{phase.replace('_', '-')} 2:03" in text
    assert ("more" in text) == (count == 40)
    assert [line.split()[0] for line in lines if line.startswith("node-")] == [
        f"node-{n}" for n in range(sum(line.startswith("node-") for line in lines))
    ]


def test_nothing_is_told_by_colour_alone() -> None:
    lines = shown(1, width=80, height=24)
    rounds, updates = (next(x for x in lines if x.startswith(n)) for n in ("rounds", "updates"))
    assert rounds.count("━") == 55 * 2 // 9
    assert updates.count("━") == 55 * 2 // 5
    assert updates.count("·") == 55 - 55 * 2 // 5
    bar = next(line for line in lines if line.startswith("10:17"))[10:]
    assert [bar.count(sign) for sign in "·░█─▚"] == [14] * 5
    assert "".join(lines).count("░░ ingest") == 1


def test_columns_go_whole_and_are_named() -> None:
    whole = shown(2, width=200, height=24)
    titles = next(line for line in whole if line.startswith("node ")).split()[1:]
    for width in (40, 50, 60, 70):
        lines = shown(2, width=width, height=24)
        kept = next(line for line in lines if line.startswith("node ")).split()[1:]
        note = " ".join(lines).partition("wider window:")[2].partition(" waits for")[0].split()
        assert [title for title in note if title in titles] == [t for t in titles if t not in kept]
        assert {"updates/s", "slots", "restarts"} & {*kept}
        assert {*kept} < {*titles}


def test_without_a_running_job_the_fix_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no job is running in .*lifl run JOB\.yaml"):
        look(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="no job is running in "):
        look(tmp_path / "file")
    where = {"coordinator": "http://127.0.0.1:9/metrics", "nodes": {}}
    (tmp_path / "metrics.json").write_text(json.dumps(where))
    with pytest.raises(Unreachable, match=r"does not answer .*lifl run JOB\.yaml"):
        look(tmp_path)


def test_a_run_that_is_starting_is_waited_for_and_one_that_ended_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=300, file=io.StringIO(), record=True)
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # as `lifl run` holds it
    assert is_under_way(tmp_path)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            os.close(lock)  # it ends before it has a node

    monkeypatch.setattr("lifl.cli.top.time.sleep", sleep)
    with pytest.raises(Unreachable, match="no job is running in"):
        top(tmp_path, 0.5, console)
    assert slept == [0.5] * 3
    assert console.export_text() == f"the run in {tmp_path} is starting its nodes\n"
    assert not is_under_way(tmp_path)
    assert not is_under_way(tmp_path / "none")
