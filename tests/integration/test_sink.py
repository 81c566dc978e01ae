"""CloudEvents of a run, at a sink that is there and at one that is not."""

from __future__ import annotations

import pytest
from conftest import Runner

from tests.unit.listener import listening

pytestmark = pytest.mark.timeout(120)


def test_a_run_posts_what_becomes_of_it(runner: Runner) -> None:
    with listening() as there:
        run = runner(rounds=2, eventSink=there.url)
        events = [body for _, _, body in there.came]
    assert run.status == 0, run.stderr
    kinds = [event["type"].removeprefix("dev.lifl.") for event in events]
    assert (kinds[0], kinds[-1]) == ("job.started", "job.completed")
    for kind in ("model.published", "round.completed"):
        rounds = [e["data"]["round"] for e in events if e["type"] == f"dev.lifl.{kind}"]
        assert rounds == [1, 2]
    assert {event["source"] for event in events} == {f"urn:lifl:run:{run.run_dir.resolve().name}"}
    assert events[-1]["data"]["place"] == str(run.run_dir.resolve() / "model.safetensors")
    assert not run.of("warning")


def test_a_sink_that_is_away_costs_a_sentence(runner: Runner) -> None:
    run = runner(rounds=2, eventSink="http://127.0.0.1:1/events")
    assert run.status == 0, run.stderr
    assert [row["round"] for row in run.rows] == [1, 2]
    (warning,) = run.of("warning")
    assert "events were not taken by spec.eventSink, http://127.0.0.1:1/events" in warning["text"]


def test_a_run_that_fails_says_so_to_its_sink(runner: Runner) -> None:
    with listening() as there:
        run = runner(
            rounds=2, eventSink=there.url, env={"TOY_ODD": "-1 1 die"}, clients={"min": 4}
        )
        kinds = [body["type"] for _, _, body in there.came]
    assert run.status == 1
    assert kinds[-1] == "dev.lifl.job.failed"
