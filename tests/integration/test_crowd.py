"""A flash crowd in mid-round: of updates, which get more leaves, and of clients, who come later."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import toy
from conftest import Runner, wait_until
from gates import gated
from test_monitoring import scrape, where
from test_runs import check

import lifl

CLIENTS, FAN_IN, ROUNDS = 12, 3, 4


def holders(runner: Runner, node: str, roles: Collection[int]) -> list[int]:
    """Runtimes that have one of these roles."""
    (path,) = runner.runtime_dir.rglob(f"{node}/processes.json")
    return [pid for pid, _, role in json.loads(path.read_text()) if role and role[1] in roles]


def estimate(runner: Runner, node: str) -> float | None:
    """Of the node's queue, as its agent last made it; None before it has."""
    samples = scrape(where(runner)["nodes"][node])
    return next((v for (name, *_), v in samples.items() if name == "lifl_queue_estimate"), None)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has use for one leaf")
@pytest.mark.parametrize(
    ("node", "top"), [pytest.param("node-0", 1, marks=pytest.mark.losses), ("node-1", 0)]
)
def test_leaves_are_added_in_mid_round(runner: Runner, node: str, top: int) -> None:
    """A queue that was short brings the leaves down to one; then everybody sends while it stands
    still.  Another is added for those who wait, and the model has every update once.

    What was once no queue weighs 0.99 in the estimate: a round of half a minute is a short one.
    """
    with gated(
        runner, "--liveness", "60", "--nodes", "2", trainers=CLIENTS, rounds=ROUNDS,
        aggregation={"fanIn": FAN_IN}, memory={"inputSlots": 3}, placement={"policy": "worstfit"},
        scaling={"leaves": "queue", "periodS": 0.5, "alpha": 0.99},
    ) as run:  # fmt: skip
        grown: dict[str, Any] = {}
        for number in range(1, ROUNDS + 1):
            run.until_all_have(number)
            if number == 1:  # nobody sends before the node knows that nobody waits
                wait_until(
                    lambda: estimate(runner, node) == 0.0,
                    lambda: f"estimate of the queue: {estimate(runner, node)}", 60,
                )  # fmt: skip
            elif not grown:  # ... nor before the coordinator has heard so, with what was done
                run.heard("round_done", round=number - 1)
            roles = run.roles(node)
            if grown or [*roles.values()].count("leaf") > 1:
                run.open()
                continue
            stopped = holders(runner, node, roles)
            assert len(stopped) == 1 + top, "a leaf, and the top where it is here"
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            run.open()
            grown = run.until("grown", node=node)
            assert grown["round"] == number
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        done = runner.finish(run.process)
    assert grown, "the queue was never short"
    kinds = [role["role"] for role in done.rows[grown["round"] - 1]["tree"][node]]
    assert (kinds.count("leaf"), kinds.count("middle"), kinds.count("top")) == (2, 1, top)
    check(done, rounds=ROUNDS, clients=CLIENTS)


def take_part(path: Path, refused: list[BaseException]) -> None:
    """A client from elsewhere, as toy.py has them."""
    try:
        with lifl.Client.connect({"LIFL_CLIENT": str(path)}) as client:
            for round_ in client.rounds():
                model, weight = toy.update(client.index, round_.number)
                round_.send(model, weight=weight)
    except BaseException as error:
        refused.append(error)
        raise


def test_clients_that_come_in_mid_round_take_part_from_the_next(runner: Runner) -> None:
    """Two are at work when ten more come, to both nodes: the round stays as it is."""
    with gated(
        runner, "--nodes", "2", trainers=2, clients={"min": 2, "max": CLIENTS}, rounds=3,
        aggregation={"fanIn": 2}, memory={"inputSlots": 2}, placement={"policy": "worstfit"},
    ) as run:  # fmt: skip
        run.until_all_have(1)
        folder = runner.folder / "runs" / "latest" / "clients"
        refused: list[BaseException] = []
        threads = [
            threading.Thread(target=take_part, args=(path, refused), daemon=True)
            for path in (folder / f"client-{n}.json" for n in range(2, CLIENTS))
        ]
        for thread in threads:
            thread.start()
        url = where(runner)["coordinator"]
        wait_until(
            lambda: max(
                value for name, value in scrape(url).items() if name[0] == "lifl_clients_connected"
            ) == CLIENTS,
            lambda: f"not all came: {refused}", 60,
        )  # fmt: skip
        for number in (1, 2, 3):
            if number > 1:
                run.until_all_have(number)
            run.open()
        for thread in threads:
            thread.join(60)
        done = runner.finish(run.process)
    assert refused == []
    check(done, rounds=3, clients=[2, CLIENTS, CLIENTS])
    homes = [sum(r["clients"] for r in roles if r["role"] == "leaf")
             for roles in done.rows[1]["tree"].values()]  # fmt: skip
    assert homes == [CLIENTS // 2] * 2, "both nodes got their part"
