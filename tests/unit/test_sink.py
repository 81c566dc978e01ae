"""CloudEvents: what they say, and their way to a sink that may be away, slow or unwilling."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lifl.placement import cloudevents, sink
from lifl.placement.cloudevents import About
from lifl.placement.sink import Counts, Sink
from tests.unit.listener import listening

pytestmark = pytest.mark.timeout(30)

ABOUT = About("team-a/toy", "/apis/x/toy", "uid/1")
DONE = {"event": "done", "rounds": 3, "wall_s": 1.5, "evaluation": {}, "metrics": {"loss": 0.5}}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "FIRST_S", 0.001)
    monkeypatch.setattr(sink, "LONGEST_S", 0.01)


def made(number: int) -> dict[str, Any]:
    event = cloudevents.of({"event": "published", "round": number, "seconds": 0.1}, ABOUT)
    assert event is not None
    return event


def ended(closing: Sink, linger_s: float = 20.0) -> int:
    closing.close(linger_s)
    return closing.join(25.0)


def test_an_event_has_the_attributes_of_the_standard() -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = {
        "event": "round_done", "round": 3, "seconds": 0.5, "clients": 4, "bytes": 100,
        "metrics": {"loss": float("nan"), "accuracy": 0.9}, "tree": {}, "handoffs": {},
    }  # fmt: skip
    assert cloudevents.of(row, ABOUT, now) == {
        "specversion": "1.0", "type": "dev.lifl.round.completed", "source": "/apis/x/toy",
        "id": "uid/1/round.completed/3", "time": "2030-01-02T03:04:05.000+00:00",
        "subject": "team-a/toy/round/3", "datacontenttype": "application/json",
        "data": {"job": "team-a/toy", "round": 3, "seconds": 0.5, "clients": 4, "bytes": 100,
                 "metrics": {"loss": None, "accuracy": 0.9}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("event", "kind", "data"),
    [
        ({"event": "round_started", "round": 1, "clients": 4}, "job.started", {"clients": 4}),
        ({"event": "published", "round": 2, "seconds": 1.0}, "model.published",
         {"round": 2, "seconds": 1.0}),
        ({"event": "metrics", "round": 2, "figures": {"accuracy": 1.0}}, "model.evaluated",
         {"round": 2, "figures": {"accuracy": 1.0}}),
        ({"event": "checkpoint", "round": 2, "place": "s3://a"}, "model.stored",
         {"round": 2, "place": "s3://a"}),
        (DONE, "job.completed", {"rounds": 3, "seconds": 1.5, "figures": {"loss": 0.5}}),
        ({"event": "failed", "error": "no", "code": "defect"}, "job.failed",
         {"error": "no", "code": "defect"}),
    ],
)  # fmt: skip
def test_what_is_told(event: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
    found = cloudevents.of(event, ABOUT)
    assert found is not None
    assert (found["type"], found["data"]) == (f"dev.lifl.{kind}", {"job": "team-a/toy", **data})
    assert found["type"] in cloudevents.TYPES


@pytest.mark.parametrize("event", [{"event": "round_started", "round": 2}, {"event": "progress"}])
def test_what_is_not_told(event: dict[str, Any]) -> None:
    assert cloudevents.of(event, ABOUT) is None


def test_it_is_posted_in_the_structured_mode() -> None:
    with listening() as there:
        way = Sink(there.url)
        way.put(made(1))
        way.put(made(2))
        assert ended(way) == 0
        assert there.wait(2) == [made(1) | {"time": there.came[0][2]["time"]},
                                 made(2) | {"time": there.came[1][2]["time"]}]  # fmt: skip
        path, headers, _ = there.came[0]
        assert path == "/events?who=lifl"
        assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert way.counts["delivered"] == 2


@pytest.mark.parametrize("busy", [503, 429])
def test_a_sink_that_is_busy_is_asked_again_in_order(busy: int) -> None:
    with listening(lambda before: busy if before < 3 else 204) as there:
        way = Sink(there.url)
        way.put(made(1))
        way.put(made(2))
        assert ended(way) == 0
        rounds = [body["data"]["round"] for body in there.wait(5)]
    assert rounds == [1, 1, 1, 1, 2]
    assert (way.counts["delivered"], way.counts["retries"]) == (2, 3)


@pytest.mark.parametrize("refusal", [400, 307])
def test_what_is_refused_is_not_sent_again(refusal: int) -> None:
    with listening(lambda before: refusal if before == 0 else 202) as there:
        way = Sink(there.url)
        way.put(made(1))
        way.put(made(2))
        assert ended(way) == 1
        assert [body["data"]["round"] for body in there.wait(2)] == [1, 2]
        assert {path for path, _, _ in there.came} == {"/events?who=lifl"}
    assert (way.counts["refused"], way.counts["delivered"]) == (1, 1)


def test_a_sink_that_is_away_costs_nobody_a_moment_and_a_bounded_queue() -> None:
    """Nobody listens at port 1; whoever puts comes back, and the newest are kept."""
    counts = Counts()
    way = Sink("http://127.0.0.1:1/", counts)
    for number in range(sink.MOST + 10):
        way.put(made(number + 1))
    assert len(way) == sink.MOST
    assert counts["dropped"] == 10
    assert ended(way, linger_s=0.0) == sink.MOST + 10
    assert counts["dropped"] == sink.MOST + 10
    assert counts["delivered"] == 0
    way.put(made(1))  # closed: counted, and not kept
    assert len(way) == 0


def test_what_no_try_can_send_is_refused_and_those_after_it_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    way = Sink("http://127.0.0.1:65536/")
    way.put(made(1))
    assert ended(way) == 1
    assert way.counts["refused"] == 1
    assert "cannot be sent to http://127.0.0.1:65536/" in caplog.text
    with listening(lambda _: 202) as there:
        way = Sink(there.url)
        way.put({"id": "1", "data": {1, 2}})  # no JSON
        way.put(made(2))
        assert ended(way) == 1
    assert (way.counts["refused"], way.counts["delivered"]) == (1, 1)


def test_events_of_a_job_that_is_gone_still_come_through() -> None:
    """The sink was away when the job was deleted, and comes back a moment later."""
    came_back = threading.Event()
    with listening(lambda _: 202 if came_back.is_set() else 503) as there:
        way = Sink(there.url)
        way.put(made(1))
        way.close(20.0)
        there.wait(2)
        came_back.set()
        assert way.join(25.0) == 0
    assert way.counts["delivered"] == 1


def test_the_guide_has_every_type_and_what_it_says() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md").read_text()
    for kind, what in cloudevents.TYPES.items():
        assert f"| `{kind}` | {what} |" in page
