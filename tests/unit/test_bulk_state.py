"""Where a client is in its round, as the gateway's side of its bulk connection knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifl.functions.bulk_state import Connection, Stage

Step = Callable[[Connection], object]

STEPS: dict[str, tuple[Step, Stage]] = {
    "opens listening": (lambda c: c.opens(listens=True), Stage.LISTENS),
    "opens in a round": (lambda c: c.opens(listens=False), Stage.WORKS),
    "gets a round": (Connection.gets_round, Stage.TOLD),
    "asks": (Connection.asks, Stage.WORKS),
    "gets a verdict": (Connection.gets_verdict, Stage.LISTENS),
}
TO: dict[Stage, Step] = {
    Stage.LISTENS: Connection.gets_verdict, Stage.TOLD: Connection.gets_round,
    Stage.WORKS: Connection.asks,
}  # fmt: skip


def made(stage: Stage, *, talks: bool = True) -> Connection:
    sock: Any = None
    connection = Connection(sock, 0.0, talks=talks)
    TO[stage](connection)
    return connection


@pytest.mark.parametrize("before", list(Stage))
@pytest.mark.parametrize("step", STEPS)
def test_each_step_leads_to_its_stage_from_anywhere(before: Stage, step: str) -> None:
    connection = made(before)
    take, after = STEPS[step]
    said = take(connection)
    assert connection.stage is after
    assert connection.has_untold is (after is Stage.TOLD)
    if step == "gets a round":
        assert said is (before is Stage.LISTENS), "who has nothing to do is sent the model, too"


@pytest.mark.parametrize("stage", list(Stage))
def test_what_does_not_talk_has_told_nothing(stage: Stage) -> None:
    assert not made(stage, talks=False).has_untold


def test_a_stranger_is_sent_nothing_unasked() -> None:
    sock: Any = None
    assert not Connection(sock, 0.0).gets_round()


def test_a_round_from_end_to_end() -> None:
    connection = made(Stage.LISTENS)
    assert connection.gets_round()
    connection.asks()
    connection.gets_verdict()
    assert connection.gets_round()
    assert not connection.gets_round(), "twice, before it has said anything"
