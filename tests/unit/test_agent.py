"""Whom an agent obeys: of a job, its own coordinator and nobody else's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lifl.functions.lines import EVERYTHING
from lifl.placement.agent import Agent

POSTED = [{"name": "team-a/digits", "number": 1}, {"name": "team-b/words", "number": 2}]


class Rig:
    """An agent with lines to two jobs' coordinators, or to one for everything, and what it did."""

    def __init__(self, posted: list[dict[str, Any]] | None) -> None:
        self.did: list[tuple[str, int]] = []
        jobs = {number: SimpleNamespace(
            idling=SimpleNamespace(
                round_over=lambda *_, number=number: self._does("report", number)
            )
        ) for number in (1, 2)}  # fmt: skip
        self.agent: Any = SimpleNamespace(
            members=SimpleNamespace(coordinators=posted),
            node=SimpleNamespace(
                jobs=jobs, carry_out=lambda said: self._does("plan", said["job"]),
                drop=lambda number, _: self._does("drop", number),
            ),
            router=SimpleNamespace(reset_credit=lambda _: None),
            accounts=SimpleNamespace(report=lambda *_: None),
            lines=SimpleNamespace(send=lambda said, line: self.did.append((said["t"], line))),
        )  # fmt: skip
        self.agent._is_its_own = lambda *said: Agent._is_its_own(self.agent, *said)

    def _does(self, what: str, number: int) -> None:
        self.did.append((what, number))

    def hears(self, line: str, what: str, **fields: object) -> None:
        Agent._obey(self.agent, line, {"t": what, **fields})


def said(number: int, name: str) -> list[tuple[str, dict[str, Any]]]:
    """All that a coordinator says of a job."""
    return [
        ("plan", {"job": number, "name": name}), ("report", {"job": number, "round": 1}),
        ("drop", {"job": number, "name": name}),
    ]  # fmt: skip


def test_a_coordinator_has_a_say_in_its_own_job(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(POSTED)
    for what, fields in said(2, "team-b/words"):
        rig.hears("team-b/words", what, **fields)
    assert rig.did == [("plan", 2), ("report", 2), ("drop", 2)]
    rig.hears("team-b/words", "ask")
    assert rig.did[-1] == ("here", "team-b/words")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "team-a/digits"), (1, "team-b/words"), (2, "team-a/digits"), (3, "team-b/words")],
    ids=["another's", "under its own name", "its own under another's", "that nobody posted"],
)
def test_in_another_job_it_has_none(
    number: int, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(POSTED)
    for what, fields in said(number, name):
        if "name" in fields or number != 2:
            rig.hears("team-b/words", what, **fields)
    assert rig.did == []
    assert f"team-b/words says 'plan' of job {number}, '{name}'" in caplog.text


def test_the_one_line_of_a_local_run_has_a_say_in_everything() -> None:
    rig = Rig(None)
    for what, fields in said(1, "digits"):
        rig.hears(EVERYTHING, what, **fields)
    assert rig.did == [("plan", 1), ("report", 1), ("drop", 1)]
