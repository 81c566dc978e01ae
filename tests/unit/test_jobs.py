"""What a gateway knows of a job: who waits for a slot when lanes change in mid-round."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lifl.functions.jobs import Asking, Job
from lifl.shm.slots import Payload


def job(in_use: int = 0) -> Job:
    tally = SimpleNamespace(start_round=lambda *_: None)
    intake: Any = SimpleNamespace(tally=tally, in_use=lambda: in_use)
    made = Job("digits", 1, intake, (0, 0, 0))
    made.start_round(heard({0: 1, 1: 1, 2: 1}, crowd_at=4))
    return made


def heard(lanes: dict[int, int], *, round_: int = 1, crowd_at: int | None = None) -> dict[str, Any]:
    return {
        "round": round_, "epoch": 1, "roster": ["a", "b", "c"], "excused": b"", "settings": {},
        "lanes": {str(bit): role for bit, role in lanes.items()}, "nodes": {}, "top": 9,
        "forward": None, "model_from": None, "elapsed_s": 0.0, "crowd_at": crowd_at, "made": 1,
    }  # fmt: skip


def ask(made: Job, key: str, clients: int, payload: Payload = Payload.UPDATE) -> Asking:
    asking = Asking(b"peer", key, {"round": 1}, payload, clients, 1, 8, 1.0)
    made.waiting[key] = asking
    return asking


def test_who_waits_goes_to_the_leaf_that_is_its_own_now() -> None:
    made = job()
    updates = [ask(made, key, 1 << bit) for bit, key in enumerate("abc")]
    sum_ = ask(made, "node", 0b110, Payload.SUM)
    made.start_round(heard({0: 1, 1: 5, 2: 6}))
    assert [each.consumer for each in updates] == [1, 5, 6]
    assert sum_.consumer == 1, "a sum of another node is for the top"
    made.start_round(heard({0: 7, 1: 7, 2: 7}, round_=2))
    assert updates[0].consumer == 1, "of a round that is over"


def test_a_queue_that_is_too_long_is_told_once_until_the_round_is_heard_again() -> None:
    made = job(in_use=2)
    assert made.crowd() is None
    for bit, key in enumerate("abc"):
        ask(made, key, 1 << bit)
    assert [made.crowd(), made.crowd()] == [5, None]
    made.start_round(heard({0: 1, 1: 1, 2: 1}, crowd_at=5))
    assert made.crowd() == 5
    made.start_round(heard({0: 1, 1: 1, 2: 1}))
    assert made.crowd() is None
