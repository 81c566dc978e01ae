"""What the client library decides by itself: back-off, progress, what it refuses to send."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from lifl.buffers import Buffers
from lifl.client import Client, report, update
from lifl.connection import Address
from lifl.errors import InvalidUpdate
from lifl.exchange import RETRY_LAST_S, Interrupted, retry_s
from lifl.functions.jobs import measured
from lifl.functions.layout import Layout
from lifl.functions.sealing import CHUNK, HEAD, TAG, Channel, Direction
from lifl.functions.tensors import load_into
from lifl.functions.transfer import Upload, Whole
from lifl.functions.wire import (
    INLINE,
    UP_CHUNK,
    Keys,
    virtual_key,
    weight_of,
    worker_and_number,
)

MODEL = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "batches": np.array(7)}


def test_import_lifl_is_light() -> None:
    heavy = ["torch", "kubernetes", "zmq", "numpy", "pydantic", "rich"]
    code = f"import sys, lifl; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_client_needs_neither_job_files_nor_torch() -> None:
    code = "import sys, lifl; lifl.Client; print([m for m in ['torch', 'pydantic', 'rich'] " \
           "if m in sys.modules])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_back_off_doubles_up_to_its_limit() -> None:
    waits = [retry_s(n) for n in range(12)]
    assert waits[:3] == [0.01, 0.02, 0.04]
    assert waits[-1] == RETRY_LAST_S
    assert waits == sorted(waits)
    assert retry_s(10_000) == RETRY_LAST_S


def test_progress_counts_up_to_all_of_it_and_back_when_it_starts_again() -> None:
    told: list[tuple[int, int]] = []
    data = memoryview(bytearray(2 * UP_CHUNK + 5))
    upload = Upload({"job": "a", "round": 1, "kind": "update"}, Whole(data),
                    progress=lambda sent, total: told.append((sent, total)))  # fmt: skip
    upload.start()
    upload.take({"t": "go", "round": 1, "n": 1})
    upload.take({"t": "more", "round": 1, "n": 1})
    upload.start()
    upload.take({"t": "go", "round": 1, "n": 3})
    total = len(data)
    one, two = UP_CHUNK, 2 * UP_CHUNK
    assert told == [(sent, total) for sent in (one, two, one, two, total)]
    assert total > INLINE


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "1", None])
def test_a_weight_must_be_finite_and_positive(weight: float) -> None:
    with pytest.raises(InvalidUpdate, match="weight"):
        update(Layout.of(MODEL), "a", 1, MODEL, weight, {}, None)
    with pytest.raises(InvalidUpdate, match="weight"):
        report("a", 1, weight, {})
    with pytest.raises(InvalidUpdate, match="weight"):
        weight_of(weight)


@pytest.mark.parametrize("weight", [7, 0.5, np.float32(0.5), np.int64(7)])
def test_a_weight_may_be_of_any_kind_of_number(weight: float) -> None:
    assert report("a", 1, weight, {})["weight"] == float(weight)


def test_metrics_must_be_numbers() -> None:
    with pytest.raises(InvalidUpdate, match="metrics"):
        report("a", 1, 1.0, {"loss": "low"})  # type: ignore[dict-item]


def test_a_gateway_keeps_finite_figures_alone() -> None:
    given = {"loss": 0.5, "nan": float("nan"), "n": 3}
    assert measured({"metrics": given}) == {"loss": 0.5, "n": 3.0}
    assert measured({}) == {}


@pytest.mark.parametrize(
    "metrics", [[1], {"text": "a"}, {4: 1.0}, {"x" * 101: 1.0}, {f"m{n}": n for n in range(1000)}]
)
def test_a_gateway_refuses_what_are_no_figures(metrics: object) -> None:
    with pytest.raises(InvalidUpdate, match="metric"):
        measured({"metrics": metrics})


def test_a_virtual_client_is_its_workers_key_and_a_number() -> None:
    from lifl.functions.wire import Keys

    for _ in range(50):  # Z85 has most signs that one would choose for a separator
        key = Keys.new().public
        assert worker_and_number(key) is None
        assert worker_and_number(virtual_key(key, 17)) == (key, 17)


def test_load_into_arrays() -> None:
    target = {name: np.zeros_like(value) for name, value in MODEL.items()}
    load_into(target, MODEL)
    assert all((target[name] == MODEL[name]).all() for name in MODEL)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"weight": MODEL["weight"]}, "has no 'batches'"),
        ({**MODEL, "more": MODEL["weight"]}, "has 'more' besides"),
        ({**MODEL, "weight": MODEL["weight"].T.copy()}, r"float32\[3, 2\]; the job's model has"),
        ({**MODEL, "weight": MODEL["weight"].astype("f8")}, r"float64\[2, 3\]"),
    ],
)
def test_load_into_what_does_not_fit(target: dict[str, np.ndarray], sentence: str) -> None:
    before = {name: value.copy() for name, value in target.items()}
    with pytest.raises(InvalidUpdate, match=sentence):
        load_into(target, {name: value + 1 for name, value in MODEL.items()})
    assert all((target[name] == before[name]).all() for name in target)


class Line:
    """An exchange that takes every update of round 1."""

    def __init__(self, *_: object, **__: object) -> None:
        self.layout = Layout.of({"w": np.zeros(3, np.float32)})
        self.buffers, self.start = Buffers(), 1
        self.pending: dict[str, Any] | None = None
        self.kept: Upload | dict[str, Any] | None = None
        self.taken: list[bytes] = []

    def wait_for(self, *_: str) -> tuple[dict[str, Any], None]:
        return {"t": "round", "round": 1, "need": True, "settings": {}, "made": 1}, None

    def fetch(self, _: int) -> dict[str, np.ndarray]:
        return {"w": np.zeros(3, np.float32)}

    def is_behind(self, _: int) -> bool:
        return False

    def upload(self, upload: Upload) -> bool:
        self.taken.append(bytes(upload.source.kept(0, upload.size)))
        return True


def test_what_counts_already_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cancelled a `send` may not know that it came through; the round may be over by now."""
    monkeypatch.setattr("lifl.client.Exchange", Line)
    client = Client(Address("", ""), job="toy", keys=Keys("somebody", ""))
    round_ = client.next_round()
    assert round_ is not None
    assert round_.send({"w": np.ones(3, np.float32)}, weight=1.0)
    assert round_.send({"w": np.full(3, 2, np.float32)}, weight=1.0)
    assert round_.report(weight=1.0)
    assert client._exchange.taken == [np.ones(3, np.float32).tobytes()]


class Restarts(Line):
    """An exchange with a run that is started again; `news` are the rounds that it says.

    An update is taken where `takes` says so, and is lost with everything else where it says the
    start that comes instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.news: list[tuple[int, int, int]] = []  # start, round, in which its model was made
        self.takes: list[int] = []

    def wait_for(self, *_: str) -> tuple[dict[str, Any], None]:
        if self.pending is not None:
            message, self.pending = self.pending, None
            return message, None
        if not self.news:
            return {"t": "done"}, None
        self.start, number, made = self.news.pop(0)
        return {"t": "round", "round": number, "need": True, "settings": {}, "made": made}, None

    def upload(self, upload: Upload) -> bool:
        super().upload(upload)
        if self.takes and self.takes.pop(0):
            self.pending, _ = self.wait_for()
            return False
        return True


def trained(rig: Restarts, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Rounds that a client was given, in order, and what its `send` said."""
    monkeypatch.setattr("lifl.client.Exchange", lambda *_, **__: rig)
    client = Client(Address("", ""), job="toy", keys=Keys("somebody", ""))
    return [
        (round_.number, round_.send({"w": np.full(3, round_.number, np.float32)}, weight=1.0))
        for round_ in client.rounds()
    ]


def test_a_round_that_is_repeated_from_the_same_model_is_not_trained_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Restarts()
    rig.news = [(1, 6, 1), (1, 7, 1), (2, 7, 1), (3, 7, 1), (3, 8, 3)]
    assert trained(rig, monkeypatch) == [(6, True), (7, True), (8, True)]
    values = [np.frombuffer(data, np.float32)[0] for data in rig.taken]
    assert values == [6, 7, 7, 7, 8], "each start has it"


def test_a_send_that_a_restart_interrupts_counts_when_the_new_start_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Restarts()
    rig.news, rig.takes = [(1, 7, 1), (2, 7, 1), (2, 8, 2)], [1, 0]
    assert trained(rig, monkeypatch) == [(7, True), (8, True)]
    assert len(rig.taken) == 3


@pytest.mark.parametrize(
    ("news", "why"),
    [
        ((2, 7, 2), "its model was made again"),
        ((2, 6, 1), "the checkpoint is older"),
        ((2, 8, 1), "it is another round"),
    ],
)
@pytest.mark.parametrize("interrupted", [False, True])
def test_what_was_kept_for_another_model_is_void(
    monkeypatch: pytest.MonkeyPatch, news: tuple[int, int, int], why: str, *, interrupted: bool
) -> None:
    rig = Restarts()
    rig.news, rig.takes = [(1, 7, 1), news], [int(interrupted)]
    assert trained(rig, monkeypatch) == [(7, not interrupted), (news[1], True)], why


def interrupted(*_: object) -> bool:
    raise Interrupted


class Seals(Restarts):
    """The same, where an update is sealed where it lies, as over a bulk connection."""

    def __init__(self) -> None:
        super().__init__()
        self._up = Channel(bytes(32), Direction.UP, b"")
        self.interrupts = 0  # so many fetches

    def upload(self, upload: Upload) -> bool:
        out, head = memoryview(bytearray(HEAD + CHUNK + TAG)), bytes(HEAD)
        part = upload.source.lies(0, upload.size)
        assert part is not None
        self.taken.append(bytes(part))
        chunk = out[: self._up.seal_into(head, part, out)]
        upload.source.remember(0, self._up.last_seal(head, chunk))
        return True

    def fetch(self, number: int) -> dict[str, np.ndarray]:
        if self.interrupts:
            self.interrupts -= 1
            raise Interrupted
        return super().fetch(number)


@pytest.fixture(params=[1, 2], ids=["asked again", "started again"])
def sealed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Seals, Client, np.ndarray]:
    """A client that has sent ones for round 7, for which it is asked once more; what it sent."""
    rig, array = Seals(), np.ones(3, np.float32)
    rig.news = [(1, 7, 1), (request.param, 7, 1)]
    monkeypatch.setattr("lifl.client.Exchange", lambda *_, **__: rig)
    client = Client(Address("", ""), job="toy", keys=Keys("somebody", ""))
    round_ = client.next_round()
    assert round_ is not None
    assert round_.send({"w": array}, weight=1.0)
    return rig, client, array


def test_arrays_that_are_as_they_were_are_sent_again(
    sealed: tuple[Seals, Client, np.ndarray],
) -> None:
    rig, client, array = sealed
    assert client.next_round() is None, "the job is done"
    assert rig.taken == 2 * [array.tobytes()]


def test_who_is_interrupted_while_an_answer_is_sent_again_sends_it_when_it_goes_on(
    sealed: tuple[Seals, Client, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, client, array = sealed
    with monkeypatch.context() as patch:
        patch.setattr(rig, "upload", interrupted)
        with pytest.raises(Interrupted):
            client.next_round()
    assert client.next_round() is None, "the job is done"
    assert rig.taken == 2 * [array.tobytes()]


@pytest.mark.parametrize("interrupts", [0, 2])
def test_a_round_is_trained_again_whose_arrays_have_changed(
    sealed: tuple[Seals, Client, np.ndarray], interrupts: int
) -> None:
    """Also where whoever waits for it is interrupted, and asks once more."""
    rig, client, array = sealed
    array[1], rig.interrupts = 5, interrupts
    for _ in range(interrupts):
        with pytest.raises(Interrupted):
            client.next_round()
    again = client.next_round()
    assert again is not None
    assert again.number == 7
    assert again.send({"w": array}, weight=1.0)
    assert rig.taken == [np.ones(3, np.float32).tobytes(), array.tobytes()]


def test_who_has_sent_nothing_is_given_the_round_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Restarts()
    rig.news = [(1, 7, 1), (2, 7, 1)]
    monkeypatch.setattr("lifl.client.Exchange", lambda *_, **__: rig)
    client = Client(Address("", ""), job="toy", keys=Keys("somebody", ""))
    assert [round_.number for round_ in client.rounds()] == [7, 7]
