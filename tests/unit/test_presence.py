"""Which nodes are silent."""

from __future__ import annotations

from lifl.placement.presence import START_S, Presence


def played(seconds: int, speaks: list[tuple[str, str]]) -> Presence:
    """Two nodes asked for so long, of which these parts answer."""
    presence = Presence(["a", "b"], 8.0, -START_S)
    for now in range(seconds + 1):
        presence.ask(["a", "b"], float(now))
        for who in speaks:
            presence.heard(*who)
    return presence


EVERYBODY = [(node, part) for node in "ab" for part in ("agent", "gateway")]


def test_who_answers_is_not_silent() -> None:
    assert played(60, EVERYBODY).silent(60.0) == []


def test_a_node_is_silent_if_its_agent_or_its_gateway_is() -> None:
    for part in ("agent", "gateway"):
        presence = played(12, [who for who in EVERYBODY if who != ("b", part)])
        assert presence.silent(12.0) == ["b"]


def test_silence_within_the_grace_is_none() -> None:
    presence = played(20, EVERYBODY)
    presence.ask(["a", "b"], 22.0)
    assert presence.silent(29.9) == []
    assert presence.silent(30.1) == ["a", "b"]


def test_who_did_not_look_has_heard_nobody() -> None:
    """A coordinator that moved a model for a minute asks again before it takes anybody for lost."""
    presence = played(10, EVERYBODY)
    presence.ask(["a", "b"], 12.0)
    assert presence.ask(["a", "b"], 72.0)
    assert presence.silent(72.0) == []


def test_a_node_that_is_not_asked_is_not_silent() -> None:
    presence = played(4, [who for who in EVERYBODY if who[0] == "a"])
    for now in range(5, 30):
        presence.ask(["a"], float(now))
        presence.heard("a", "agent")
        presence.heard("a", "gateway")
    assert presence.silent(30.0) == []


def test_a_node_has_time_to_start() -> None:
    presence = Presence(["a", "b"], 8.0, 0.0)
    for now in range(60):
        presence.ask(["a", "b"], float(now))
        assert presence.silent(float(now)) == ([] if now <= START_S + 8 else ["a", "b"])
