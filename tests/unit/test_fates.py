"""How trainers ended, in sentences: said once, and only what the user can mend."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from lifl.errors import InvalidUpdate, Refused
from lifl.fates import EVALUATOR, Fate, Fates
from lifl.functions.layout import Layout


def raised(number: int, what: object) -> Fate:
    try:
        {}[what]
    except KeyError as error:
        return Fate.of(error, number)
    raise AssertionError


def news(*ended: tuple[str, Fate], clients: int = 3, needed: int = 2) -> tuple[object, ...]:
    fates = Fates(clients, needed, rounds=5)
    for who, fate in ended:
        fates.add(who, fate)
    news = fates.news()
    assert not fates.has_news
    return {who for who, _ in news.lines}, [*news.warnings], news.fatal


def test_one_of_several_fails() -> None:
    assert news(("client-1", raised(2, "a"))) == (
        {"client-1"}, ["client-1 failed in round 2: KeyError: 'a'; 2 clients are left"], None,
    )  # fmt: skip


def test_the_same_of_several_is_said_once() -> None:
    who, warnings, fatal = news(*((f"client-{n}", raised(2, "a")) for n in range(3)))
    assert who == {"3 clients"}
    assert warnings == []
    assert fatal == (
        "3 clients failed in round 2: KeyError: 'a'; no client is left, and a round needs 2 "
        "(spec.clients.min)"
    )


def test_different_things_are_said_each() -> None:
    who, warnings, fatal = news(("client-0", raised(2, "a")), ("client-1", raised(2, "b")))
    assert who == {"client-0", "client-1"}
    assert warnings == ["client-0 failed in round 2: KeyError: 'a'; 2 clients are left"]
    assert fatal == (
        "client-1 failed in round 2: KeyError: 'b'; 1 client is left, and a round needs 2 "
        "(spec.clients.min)"
    )


def test_who_returns_early_has_left() -> None:
    left = ("client-0", Fate(round=1))
    assert news(left)[1] == ["client-0's trainer returned after round 1 of 5; 2 clients are left"]
    assert news(left, needed=3)[2] == (
        "client-0's trainer returned after round 1 of 5: 2 clients are left, and a round needs 3 "
        "(spec.clients.min)"
    )
    assert news(("client-0", Fate()))[2] == (
        "client-0's trainer returned before any round, and the first round waits for every client"
    )


def test_who_is_killed_may_be_missed_and_need_not() -> None:
    assert news(("client-0", Fate(status=-9)))[1] == [
        "client-0 was killed by SIGKILL; 2 clients are left"
    ]
    assert news(*((f"client-{n}", Fate(status=3)) for n in range(3)))[2] == (
        "3 clients ended with status 3: no client is left, and a round needs 2 (spec.clients.min)"
    )


def test_who_ends_without_a_word_has_left() -> None:
    """As os._exit(0) does, in whichever round that was."""
    silent = ("client-0", Fate(is_silent=True))
    said = "client-0 ended with status 0 in the middle of its work, as os._exit(0) does"
    assert news(silent) == (set(), [f"{said}; 2 clients are left"], None)
    assert news(silent, needed=3)[2] == (
        f"{said}: 2 clients are left, and a round needs 3 (spec.clients.min)"
    )
    fates = Fates(3, 2, rounds=5)
    fates.add(*silent)
    assert fates.news().missed == (said,)


def test_a_worker_says_whose_function_failed_and_cannot_be_missed() -> None:
    fates = Fates(2, 2, rounds=5, is_least=False)
    error = raised(1, "seven")
    fates.add("worker-1", replace(error, client="client-7"))
    assert fates.news().fatal == (
        "worker-1 failed in round 1, running client-7: KeyError: 'seven'; "
        "nothing else runs what it ran"
    )
    assert Fate.from_words(asdict(replace(error, client="client-7"))).client == "client-7"


def test_who_was_revoked_is_missed_by_nobody() -> None:
    refused = ("client-0", Fate.of(Refused("the key was revoked", code="revoked"), 0))
    assert news(refused) == (
        {"client-0"},
        ["client-0 failed before the first round: the key was revoked; 2 clients are left"], None,
    )  # fmt: skip
    assert Fates(2, 3, rounds=5).too_few() == (
        "2 clients are left, and a round needs 3 (spec.clients.min)"
    )
    assert Fates(3, 3, rounds=5).too_few() is None


def test_without_the_evaluator_a_run_ends() -> None:
    assert news((EVALUATOR, raised(4, "a")))[2] == (
        "the evaluator failed on the model of round 4: KeyError: 'a'"
    )
    said = Fate(4, "job.yaml, line 3: all of it", is_said=True)
    assert news((EVALUATOR, said))[2] == "job.yaml, line 3: all of it"


def test_frames_of_lifl_are_left_out_and_its_errors_speak_for_themselves() -> None:
    layout = Layout.of({"w": np.zeros(3)})
    try:
        layout.pack_into({}, memoryview(bytearray(100)))
    except InvalidUpdate as error:
        fate = Fate.of(error, 1)
    assert fate.error == "tensor 'w' of this job's model is missing: send all of them"
    assert "test_fates.py" in fate.trace[1]
    assert not any("layout.py" in line for line in fate.trace)
