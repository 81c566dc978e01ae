"""A run whose clients send when the test lets them: gated.py is what they run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conftest import HERE, PROXY, Runner


class Gated:
    """Every client has the model of its round and waits, until `open`.

    Attributes:
        events: what the run has said, as far as this was read.
    """

    def __init__(
        self, runner: Runner, *arguments: str, trainers: int, env: dict[str, str] | None = None,
        **spec: Any,
    ) -> None:  # fmt: skip
        self.runner, self.clients = runner, trainers
        (runner.folder / "gated.py").write_text((HERE / "gated.py").read_text())
        self.gates = runner.folder / "gates"
        self.gates.mkdir()
        for client in range(trainers):
            os.mkfifo(self.gates / str(client))
        trainer = {"entrypoint": "gated:train", "clients": trainers}
        path = runner.job_file(trainers=trainers, trainer=trainer, **spec)
        self.process = runner.start(
            path, "--proxy", PROXY, *arguments, env={"GATES": str(self.gates), **(env or {})}
        )
        self.events: list[dict[str, Any]] = []

    def next(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event that is the one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if is_it(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"ended: {self.process.stderr and self.process.stderr.read()}")

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next such event with these fields."""
        return self.next(lambda e: e["event"] == event and fields.items() <= e.items())

    def heard(self, event: str, **fields: Any) -> dict[str, Any]:
        """Such an event: one that was read already, or else the next."""
        before = (e for e in self.events if e["event"] == event and fields.items() <= e.items())
        return next(before, None) or self.until(event, **fields)

    def until_all_have(self, number: int) -> None:
        """Every client has the model that a round starts from; nothing is on its way then."""
        for _ in range(self.clients):
            self.until("output", text=f"has {number}")

    def roles(self, node: str) -> dict[int, str]:
        """In the round that has begun last: endpoint and kind."""
        last = next(e for e in reversed(self.events) if e["event"] == "round_started")
        return {role["endpoint"]: role["role"] for role in last["tree"][node]}

    def open(self) -> None:
        for client in range(self.clients):
            (self.gates / str(client)).open("w").close()


@contextmanager
def gated(runner: Runner, *arguments: str, trainers: int, **more: Any) -> Iterator[Gated]:
    """Ended with the block, whatever happens in it."""
    run = Gated(runner, *arguments, trainers=trainers, **more)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.communicate(timeout=30)
