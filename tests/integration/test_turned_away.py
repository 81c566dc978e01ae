"""Whoever is turned away hears it once and for all, and nobody else waits for that."""

from __future__ import annotations

import textwrap

import pytest
import toy
from conftest import PROXY, Runner, wait_until
from outsider import BulkLine, Field

from lifl.placement.keyring import Keyring

LARGE = 700_001  # elements: several chunks of the bulk port


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.SIZE", LARGE)


def field_of(runner: Runner, trainers: int, **spec: object) -> Field:
    return Field(
        runner, rounds=100_000, env={"TOY_SIZE": str(LARGE)}, trainers=trainers, **spec
    )  # fmt: skip


def trained_by(runner: Runner, code: str, **spec: object) -> list[str]:
    """A run of two trainers of the client library; what it printed, or why it failed."""
    path = runner.job_file(trainers=2, **spec)
    (runner.folder / "toy.py").write_text(textwrap.dedent('''
        import numpy as np

        def initial_model():
            return {"w": np.zeros(6_000_000, np.float32)}

        def train(client):
            for round_ in client.rounds():
                one(client, round_)

        def one(client, round_):
            model = {name: array.copy() for name, array in round_.model.items()}
    ''') + textwrap.indent(textwrap.dedent(code), "    "))
    run = runner.finish(runner.start(path, "--proxy", PROXY), limit_s=60)
    return [
        str(event.get("text") or event.get("error"))
        for event in run.events if event["event"] in ("output", "failed")
    ]  # fmt: skip


def test_a_large_update_with_nan_ends_its_trainer_at_once(runner: Runner) -> None:
    """Its connection is closed in the middle of the upload: the reason must not be lost with it."""
    said = trained_by(runner, '''
        if client.index == 1:
            model["w"][0] = np.nan
        round_.send(model, weight=1.0)
    ''')  # fmt: skip
    assert any("NaN or infinite" in text for text in said)


def test_an_upload_that_its_own_callback_broke_off_can_be_sent_again(runner: Runner) -> None:
    said = trained_by(runner, '''
        def stop(sent, of):
            if sent >= of // 3:
                raise KeyError(sent)

        try:
            round_.send(model, weight=1.0, progress=stop)
        except KeyError:
            print("again", round_.number, round_.send(model, weight=1.0), flush=True)
    ''', rounds=5)  # fmt: skip
    assert sorted(said) == sorted([f"again {number} True" for number in range(1, 6)] * 2)


def test_two_that_are_revoked_at_once_do_not_inherit_from_each_other(
    runner: Runner, large: None
) -> None:
    """One has the only slot and the other waits for it; the third gets it, and counts alone."""
    field = field_of(runner, 3, memory={"inputSlots": 1, "stallS": 600})
    try:
        number = field.round()
        first, second, last = field.clients
        lines = [BulkLine(client, client.ticket()) for client in (first, second)]
        assert all(line.greet() for line in lines)
        first.put(number, lane="fast")
        first.hear("go", number=number)
        second.put(number, lane="fast")
        second.hear("wait", number=number)
        last.put(number)
        ring = Keyring(field.run_dir / "keys")
        names = {entry.public_key: entry.name for entry in ring.entries}
        for client in (first, second):
            ring.revoke(names[client.keys.public])
        ring.tell()
        assert second.hear("go", "reject")["code"] == "revoked"
        last.hear("go", number=number)
        assert last.upload(number, last.update(number))["t"] == "ack"
        wait_until(lambda: number in {e["round"] for e in field.of("published")}, field.say, 30)
        assert last.fetch(number)["double"][0] == toy.update(2, number)[0]["double"][0]
    finally:
        field.end()


@pytest.mark.parametrize("stalled", [1, 2])
def test_a_lazy_job_folds_what_it_has_when_slots_are_held_by_silent_clients(
    runner: Runner, large: None, stalled: int
) -> None:
    field = field_of(
        runner, 6, memory={"inputSlots": 3, "stallS": 600},
        aggregation={"fanIn": 8, "mode": "lazy"},
    )  # fmt: skip
    try:
        number = field.round()
        silent, others = field.clients[:stalled], field.clients[stalled:]
        for client in silent:
            client.put(number)
            client.hear("go", number=number)
        for client in others:
            client.play(number)
        for client in silent:
            assert client.upload(number, client.update(number))["t"] == "ack"
        field.check(number, field.clients)
    finally:
        field.end()


def test_who_left_while_waiting_is_not_served(runner: Runner, large: None) -> None:
    field = field_of(runner, 4, memory={"inputSlots": 1, "stallS": 600})
    try:
        number = field.round()
        first, *dead, last = field.clients
        first.put(number)
        first.hear("go", number=number)
        for client in (*dead, last):
            client.put(number)
            client.hear("wait", number=number)
        for client in (first, *dead):
            client.socket.close(linger=0)
        last.hear("go", number=number)
        assert last.upload(number, last.update(number))["t"] == "ack"
    finally:
        field.end()
