"""What is done before LIFL is uninstalled, against an API server of one page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lifl.errors import Busy
from lifl.placement.cluster.api import Missing
from lifl.placement.cluster.uninstall import clear

JOBS = "/apis/fl.lifl.dev/v1alpha1/fljobs"


class Server:
    """Jobs that are gone so many looks after they were deleted; Deployments by label."""

    def __init__(self, jobs: dict[str, int], functions: list[str]) -> None:
        self.jobs, self.functions = jobs, functions
        self.services: list[str] | None = None  # None: there is no Knative, or no right to ask
        self.ending: set[str] = set()
        self.is_defined = True
        self.notes: dict[str, dict[str, Any]] = {}

    def merge(self, path: str, patch: Any) -> None:
        name = path.removeprefix("/api/v1/nodes/").removesuffix("/status")
        left = self.notes[name] | patch["metadata"]["annotations"]
        self.notes[name] = {key: value for key, value in left.items() if value is not None}

    def items(self, path: str, labels: dict[str, str] | None = None) -> list[dict[str, Any]]:
        if path == "/api/v1/nodes":
            assert not any(looks > 0 for looks in self.jobs.values()), "agents are there till then"
            return [
                {"metadata": {"name": name, "annotations": notes}}
                for name, notes in self.notes.items()
            ]
        if path != JOBS:
            if path == "/apis/serving.knative.dev/v1/namespaces/fl-functions/services":
                assert self.services is not None, "not allowed"
                return [{"metadata": {"name": name}} for name in self.services]
            assert path == "/apis/apps/v1/namespaces/fl-functions/deployments"
            assert labels == {"lifl.dev/component": "function"}
            return [{"metadata": {"name": name}} for name in self.functions]
        if not self.is_defined:
            raise Missing("no such kind")
        for name in self.ending:
            self.jobs[name] -= 1
        left = [name for name, looks in self.jobs.items() if looks > 0]
        return [{"metadata": {"namespace": "team", "name": name}} for name in left]

    def delete(self, path: str) -> None:
        *_, namespace, kind, name = path.split("/")
        if kind == "fljobs":
            assert namespace == "team"
            self.ending.add(name)
        else:
            assert not any(looks > 0 for looks in self.jobs.values()), "jobs come first"
            (self.services or [] if kind == "services" else self.functions).remove(name)


def run(server: Server, jobs: str = "delete", knative: bool = False) -> tuple[int, float]:
    """What `clear` says, and for how long it has waited."""
    waited = [0.0]

    def sleep(seconds: float) -> None:
        waited[0] += seconds

    clock: Callable[[], float] = lambda: waited[0]  # noqa: E731
    count = clear(
        server,  # type: ignore[arg-type]
        jobs=jobs,  # type: ignore[arg-type]
        functions_namespace="fl-functions", knative=knative, timeout_s=5, now=clock, sleep=sleep,
    )  # fmt: skip
    return count, waited[0]


def test_jobs_end_before_functions_go() -> None:
    server = Server({"a": 2, "b": 3}, ["f", "g"])
    assert run(server) == (2, 2.0)
    assert server.functions == []


def test_knative_services_go_too() -> None:
    server = Server({}, ["f"])
    server.services = ["a", "b"]
    assert run(server, knative=True) == (0, 0.0)
    assert (server.services, server.functions) == ([], [])


def test_without_jobs_there_is_nothing_to_wait_for() -> None:
    assert run(Server({}, [])) == (0, 0.0)
    server = Server({}, [])
    server.is_defined = False
    assert run(server, "refuse") == (0, 0.0)


def test_jobs_that_do_not_end_are_named() -> None:
    server = Server({"a": 1000, "b": 2}, ["f"])
    with pytest.raises(Busy, match=r"1 FLJobs are still there: team/a after 5 s: is the operator"):
        run(server)
    assert server.functions == ["f"]


def test_jobs_may_be_kept() -> None:
    server = Server({f"job-{n:02}": 1 for n in range(12)}, ["f"])
    with pytest.raises(Busy, match=r"12 FLJobs .*team/job-09 and 2 more: delete them first"):
        run(server, "refuse")
    assert not server.ending
    assert server.functions == ["f"]


def test_nodes_say_nothing_of_lifl_any_more() -> None:
    server = Server({"a": 2}, [])
    server.notes = {
        "n1": {"lifl.dev/arena-memory": "1", "lifl.dev/gateway": "tcp://a:1", "other": "stays"},
        "n2": {"other": "stays"},
    }
    run(server)
    assert server.notes == {"n1": {"other": "stays"}, "n2": {"other": "stays"}}
