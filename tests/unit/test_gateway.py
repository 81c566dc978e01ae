"""A gateway that has seen many jobs: what it keeps of those that are over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.functions.gateway import Gateway
from lifl.functions.jobs import Job
from lifl.functions.wire import Keys

JOBS = 75  # for each way to end
NOWHERE = "tcp://127.0.0.1:9"  # discard: nobody answers


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    keys = Keys.new()
    gateway = Gateway(tmp_path / "agent.sock", "n", "tcp://127.0.0.1:*", keys, None)
    yield gateway
    gateway.lines.lead_to({})
    gateway.context.destroy(linger=0)


def rows(gateway: Gateway) -> dict[str, int]:
    clients = gateway.clients
    return {
        "jobs": len(gateway.jobs), "peers": len(gateway.errands.peers),
        "early": len(gateway.orders.early), "enrolled": len(gateway.orders.enrolled),
        "rights": len(clients.rights.keys), "revoked": len(clients.rights._revoked),
        "elsewhere": len(clients.welcomes.elsewhere), "over": len(clients.over),
        "coming": len(clients.welcomes.coming), "unknown": len(clients.unknown),
        "expected": len(clients.rights.jobs),
        "tickets": len(clients.bulk.tickets._by_id), "lines": len([*gateway.lines]),
    }  # fmt: skip


def lead(gateway: Gateway, keys: Keys, *names: str) -> None:
    """The agent says which jobs there are."""
    gateway.orders.coordinators(dict.fromkeys(names, (NOWHERE, keys.public)))


def begin(gateway: Gateway, keys: Keys, number: int) -> str:
    """A job comes, with a client that says hello early, and a round for which others are needed."""
    name, other = f"job-{number}", (NOWHERE, Keys.new().public)
    enrol(gateway, name, {f"client of {name}": "client", f"left {name}": "client"})
    gateway.orders.obey(name, {
        "t": "elsewhere", "job": name, "gateways": [[NOWHERE, "key"]], "outside": [],
    })  # fmt: skip
    gateway.orders.obey(name, {"t": "round", "job": name})
    gateway.orders.obey(name, {"t": "job", "job": name, "layout": [["w", 1, [3]]], "settings": {}})
    gateway.clients._let_in(b"peer", f"client of {name}", "client", name)
    intake: Any = SimpleNamespace(ports={})
    gateway.jobs[name] = Job(name, number, intake, (0, 0, 0), forward=other)
    gateway.errands.peer(other)
    enrol(gateway, name, {f"client of {name}": "client"})
    return name


def enrol(
    gateway: Gateway, line: str, keys: dict[str, str], *, jobs: list[str] | None = None,
    ports: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """A coordinator says over its line who takes part."""
    gateway.orders.obey(line, {
        "t": "enrol", "keys": keys, "jobs": jobs or [line], "ports": ports or {}, "look": 1,
    })  # fmt: skip


def give_back(gateway: Gateway, name: str) -> None:
    """The agent takes the memory of a job."""
    gateway._forgotten(gateway.jobs.pop(name))


@pytest.mark.parametrize("memory_first", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_of_jobs_that_are_over_nothing_stays(
    gateway: Gateway, *, memory_first: bool, ended: bool
) -> None:
    """However they ended, and whichever of its agent's two messages comes first."""
    keys = Keys.new()
    lead(gateway, keys, "job-0")
    begin(gateway, keys, 0)
    lead(gateway, keys, "job-0")
    before = rows(gateway)
    for number in range(1, JOBS + 1):
        lead(gateway, keys, "job-0", f"job-{number}")
        name = begin(gateway, keys, number)
        if ended:
            gateway.jobs[name].ended = True
            gateway.clients.over.add(name)
        if memory_first:
            give_back(gateway, name)
        lead(gateway, keys, "job-0")
        if not memory_first:
            give_back(gateway, name)
        assert rows(gateway) == before


def test_a_gateway_that_another_job_has_to_do_with_stays(gateway: Gateway) -> None:
    keys = Keys.new()
    lead(gateway, keys, "job-1", "job-2")
    first, second = (begin(gateway, keys, number) for number in (1, 2))
    where = gateway.jobs[second].forward
    gateway.jobs[first].model_from = where
    give_back(gateway, second)
    assert [*gateway.errands.peers].count(where) == 1  # type: ignore[arg-type]
    give_back(gateway, first)
    assert gateway.errands.peers == {}


def test_who_is_revoked_is_told_so_as_long_as_the_job_is_there(gateway: Gateway) -> None:
    keys = Keys.new()
    lead(gateway, keys, "job-1")
    begin(gateway, keys, 1)
    assert gateway.clients.rights.stranger("left job-1").code == "revoked"
    lead(gateway, keys)
    assert gateway.clients.rights.stranger("left job-1").code == "not-enrolled"


def test_a_new_coordinator_hears_again_what_an_observer_has_reported(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, told = Keys.new(), list[dict[str, Any]]()
    lead(gateway, keys, "job-1")
    begin(gateway, keys, 1)
    monkeypatch.setattr(gateway.lines, "send", lambda message, *_: told.append(message))
    gateway.clients.report = gateway.lines.send
    enrol(gateway, "job-1", {"observer": "observer"})
    for number, accuracy in ((1, 0.5), (2, 0.75)):
        gateway.clients._handle(b"peer", "observer", {
            "t": "metrics", "job": "job-1", "round": number, "metrics": {"accuracy": accuracy},
        }, None)  # fmt: skip
    first, last = (message for message in told if message["t"] == "metrics")
    assert [first["round"], last["round"]] == [1, 2]
    told.clear()
    gateway.reports.everything("job-1")
    assert [message for message in told if message["t"] == "metrics"] == [last]
