"""Whose the nodes are: what jobs are told, by hand, and what always holds."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.placement import asking as asking_module
from lifl.placement.arbiter import Arbiter, Part, Share, Want, share_out
from lifl.placement.asking import ALL, Asking

reproducible = settings(derandomize=True, deadline=None, max_examples=150)


class Told:
    """An arbiter, and what it last told whom."""

    def __init__(self) -> None:
        self.last: dict[str, Share] = {}
        self.order: list[str] = []
        self.arbiter = Arbiter(self._take)

    def _take(self, job: str, share: Share) -> None:
        self.last[job] = share
        self.order.append(job)

    def slots(self) -> dict[str, int]:
        return {
            job: sum(part.slots for part in share.parts.values())
            for job, share in self.last.items()
        }


def want(job: str, clients: int = 16, *, on: dict[str, int] | None = None, **more: Any) -> Want:
    return Want(job=job, clients=clients, nodes=on or {"n": 8}, slots=more.pop("slots", 8), **more)


@pytest.fixture
def told() -> Told:
    return Told()


def test_alone_a_job_has_everything(told: Told) -> None:
    told.arbiter.ask(want("a", 3, on={"n": 8}))
    assert told.last["a"] == Share(parts={"n": Part(8, 8)})


def test_weights_3_to_1_are_slots_3_to_1_until_one_leaves(told: Told) -> None:
    told.arbiter.ask(want("a", weight=3.0))
    told.arbiter.ask(want("b"))
    assert told.slots() == {"a": 6, "b": 2}
    told.arbiter.leave("a")
    assert told.last["b"].parts == {"n": Part(8, 8)}


def test_what_nobody_wants_is_shared_too(told: Told) -> None:
    told.arbiter.ask(want("a", 2))
    told.arbiter.ask(want("b", 2))
    assert told.slots() == {"a": 4, "b": 4}


def test_a_higher_priority_takes_all_and_the_other_is_told_why(told: Told) -> None:
    told.arbiter.ask(want("a"))
    told.arbiter.ask(want("z", priority=7))
    assert told.last["a"].parts == {}
    assert told.last["a"].why == (
        "waits for a share of the nodes (priority 0, 16 clients): n takes 8 of its updates at "
        "once, of which has z (priority 7) 8"
    )
    told.arbiter.ask(want("z", 0, priority=7))  # between rounds it lacks clients
    assert told.last["a"].parts == {"n": Part(8, 8)}


def test_jobs_stay_on_their_nodes_when_another_comes(told: Told) -> None:
    two = {"m": 8, "n": 8}
    told.arbiter.ask(want("a", 8, on=two))
    told.arbiter.ask(want("b", 8, on=two))
    told.arbiter.ask(want("c", 0, on=two))
    assert (set(told.last["a"].parts), set(told.last["b"].parts)) == ({"m"}, {"n"})


def test_more_jobs_than_there_is_room_for_take_turns(told: Told) -> None:
    for job in "abc":
        told.arbiter.ask(want(job, 4, on={"n": 1}, slots=1))
    turns = []
    for _ in range(9):
        (job,) = [job for job, share in told.last.items() if share.parts]
        turns.append(job)
        told.arbiter.round_done(job)
    assert sorted(turns[:3]) == sorted(turns[3:6]) == sorted(turns[6:]) == ["a", "b", "c"]


def test_who_comes_late_does_not_make_up_for_what_it_missed(told: Told) -> None:
    told.arbiter.ask(want("a", 4, on={"n": 1}, slots=1))
    for _ in range(50):
        told.arbiter.round_done("a")
    told.arbiter.ask(want("b", 4, on={"n": 1}, slots=1))
    had = []
    for _ in range(6):
        (job,) = [job for job, share in told.last.items() if share.parts]
        had.append(job)
        told.arbiter.round_done(job)
    assert sorted(had[:2]) == sorted(had[2:4]) == ["a", "b"]


def test_nobody_is_told_twice_what_has_not_changed(told: Told) -> None:
    told.arbiter.ask(want("a"))
    told.arbiter.ask(want("b"))
    told.arbiter.ask(want("b"))  # who asks is always answered
    assert told.order == ["a", "a", "b", "b"]
    told.arbiter.again("a")
    assert told.order[-1] == "a"


MEMORY: dict[str, Any] = {"budgets": {"n": 100}, "fixed_bytes": 20, "slot_bytes": 10}


def test_memory_is_shared_like_capacity(told: Told) -> None:
    told.arbiter.ask(want("a", **MEMORY))
    assert told.slots() == {"a": 8}
    told.arbiter.ask(want("b", weight=2.0, **MEMORY))
    assert told.slots() == {"a": 2, "b": 4}


def test_what_has_begun_keeps_its_model(told: Told) -> None:
    """z does not fit beside the 60 that a and b keep: they go on, and z comes when one ends."""
    memory: dict[str, Any] = {"budgets": {"n": 100}, "fixed_bytes": 30, "slot_bytes": 20}
    for job in "ab":
        told.arbiter.ask(want(job, **memory))
    told.arbiter.ask(want("z", priority=1, **memory))
    assert "100 bytes of shared memory" in told.last["z"].why
    assert told.slots() == {"a": 1, "b": 1, "z": 0}
    told.arbiter.leave("b")
    assert told.last["z"].parts == {"n": Part(2, 2)}
    assert told.last["a"].parts == {}


def test_what_does_not_fit_alone_is_its_agents_to_say(told: Told) -> None:
    told.arbiter.ask(want("a", budgets={"n": 10}, fixed_bytes=20, slot_bytes=10))
    assert told.last["a"].parts == {"n": Part(1, 1)}


@reproducible
@given(
    st.lists(
        st.tuples(
            st.integers(1, 20), st.integers(0, 2), st.sampled_from([0.5, 1.0, 3.0]),
            st.integers(1, 8), st.integers(0, 30), st.integers(1, 20),
        ),
        min_size=1, max_size=5,
    ),
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.integers(0, 200),
)  # fmt: skip
def test_never_more_than_there_is_and_never_nobody(
    jobs: list[tuple[int, int, float, int, int, int]], capacities: list[int], budget: int
) -> None:
    wants = [
        Want(
            job=f"j{at}", clients=clients, priority=priority, weight=weight, slots=slots,
            nodes={f"n{at}": min(mc, slots) for at, mc in enumerate(capacities)},
            budgets={f"n{at}": budget for at in range(len(capacities))},
            fixed_bytes=fixed, slot_bytes=slot,
        )
        for at, (clients, priority, weight, slots, fixed, slot) in enumerate(jobs)
    ]  # fmt: skip
    shares, _ = share_out(wants, turns={}, homes={}, holding={})
    assert all(bool(share.parts) != bool(share.why) for share in shares.values())
    if any(capacities):
        assert any(share.parts for share in shares.values())
    for node in range(len(capacities)):
        here = [(w, shares[w.job].parts[f"n{node}"]) for w in wants
                if f"n{node}" in shares[w.job].parts]  # fmt: skip
        assert sum(part.updates / w.nodes[f"n{node}"] for w, part in here) <= 1 + 1e-6
        assert all(1 <= part.slots <= w.slots for w, part in here)
        if budget and len(here) > 1:
            assert sum(w.fixed_bytes + part.slots * w.slot_bytes for w, part in here) <= budget


# -- a job's side --------------------------------------------------------------------------------
class Line:
    """Standard input of a coordinator, and what it emits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.text = io.BytesIO()
        monkeypatch.setattr(
            asking_module, "emit", lambda event, **fields: self.asked.append({event: fields})
        )
        monkeypatch.setattr("os.read", lambda _, size: self.text.read(size))

    def say(self, parts: dict[str, list[int]], why: str = "") -> None:
        self.text = io.BytesIO(json.dumps({"parts": parts, "why": why}).encode() + b"\n")


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


def test_alone_nothing_is_asked(line: Line) -> None:
    asking = Asking(is_shared=False)
    assert asking.may_plan({"clients": 3})
    assert (asking.updates("n"), asking.slots("n"), line.asked) == (ALL, ALL, [])


def test_a_round_waits_for_a_share(line: Line) -> None:
    asking = Asking(is_shared=True)
    assert not asking.may_plan({"clients": 3})
    line.say({"n": [2, 4]})
    assert asking.hear() == (True, True)
    assert asking.may_plan({"clients": 3})
    assert (asking.updates("n"), asking.slots("n"), asking.slots("m")) == (2, 4, 0)
    assert line.asked == [{"ask": {"clients": 3}}]
    assert asking.may_plan({"clients": 5})  # with what it has; the answer is for the round after
    assert line.asked[1:] == [{"ask": {"clients": 5}}]


def test_without_a_share_it_says_why_once_and_waits(line: Line) -> None:
    asking = Asking(is_shared=True)
    asking.may_plan({"clients": 3})
    for _ in range(2):
        line.say({}, "others have all")
        asking.hear()
    assert asking.is_crowded_out
    assert not asking.may_plan({"clients": 3})
    assert line.asked[1:] == [{"crowded_out": {"text": "others have all"}}]


def test_who_cannot_begin_a_round_gives_its_share_back(line: Line) -> None:
    asking = Asking(is_shared=True)
    asking.may_plan({"clients": 3})
    line.say({"n": [2, 2]})
    asking.hear()
    asking.wants_nothing({"clients": 0})
    asking.wants_nothing({"clients": 0})
    assert not asking.may_plan({"clients": 3})
    assert [next(iter(e.values()))["clients"] for e in line.asked] == [3, 0, 3]
    line.text = io.BytesIO()
    assert asking.hear() == (False, False)  # whoever was asked is gone
