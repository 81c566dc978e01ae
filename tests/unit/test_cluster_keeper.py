"""One FLJob that is kept: what fails, and what is left when it is deleted."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifl.errors import NoSpace, TransientError
from lifl.placement.arbiter import Arbiter
from lifl.placement.cluster import keeper as keeper_module
from lifl.placement.cluster import runs
from lifl.placement.cluster.desk import NodeHere, Posted
from lifl.placement.cluster.keeper import Keeper
from lifl.placement.cluster.objects import Install
from lifl.placement.cluster.runs import Coordinator
from lifl.placement.keyring import Keyring
from tests.unit.clusterjobs import body

INSTALL = Install(namespace="lifl-system", image="lifl:1")
pytestmark = pytest.mark.timeout(30)


class NoProcess(Coordinator):
    """A coordinator that is only noted: configurations are those with which one was started."""

    configurations: list[dict[str, Any]]

    def __init__(self, name: str, run_dir: Path, config: dict[str, Any], *_: Any) -> None:
        self.endpoint = "tcp://127.0.0.1:30000"
        job = Path(config["job"])  # is written again for the next one
        spec = json.loads(job.read_text())["spec"] if job.exists() else {}
        self.configurations.append(config | {"spec": spec})

    async def stop(self) -> None:
        pass


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """With what coordinators were started, of which there is no process."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(NoProcess, "configurations", found, raising=False)
    monkeypatch.setattr(keeper_module, "Coordinator", NoProcess)
    return found


class Objects:
    """An API server's objects, by path."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.before_apply: Callable[[], object] = lambda: None

    def find(self, path: str) -> Any:
        return copy.deepcopy(self.there.get(path))

    def apply(self, path: str, made: Any) -> Any:
        self.before_apply()
        self.there[path] = made
        return made

    def create(self, path: str, made: Any) -> Any:
        if path.endswith("/secrets"):
            self.before_apply()
        if not path.endswith("/events"):
            self.there[f"{path}/{made['metadata']['name']}"] = made
        return made

    def merge(self, path: str, patch: Any) -> Any:
        self.status |= patch["status"]
        return patch

    def without_owner(self) -> list[str]:
        """What would stay when the FLJob is gone."""
        return [
            path for path, made in self.there.items()
            if not made["metadata"].get("ownerReferences")
        ]  # fmt: skip

    def delete(self, path: str, *, grace_s: int | None = None) -> None:
        self.there.pop(path, None)


class Lines:
    """A desk without lines."""

    def __init__(self, *nodes: NodeHere) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.posted: dict[str, Posted] = {}
        self.cordoned: set[str] = set()

    def post(self, job: Posted) -> None:
        self.posted[job.name] = job

    def withdraw(self, name: str) -> None:
        self.posted.pop(name, None)

    def expect(self, name: str, key: str, path: Path) -> None:
        pass


def kept(
    api: Objects, desk: Lines, directory: Path, asked: dict[str, Any] | None = None
) -> Keeper:
    return Keeper(
        api, desk, INSTALL, asked or body(), epoch=1, identity="operator-1",  # type: ignore[arg-type]
        address="127.0.0.1", directory=directory, arbiter=Arbiter(lambda job, share: None),
    )  # fmt: skip


def node() -> NodeHere:
    return NodeHere("n1", "key of n1", b"", gateway="tcp://10.0.0.1:7710")


def test_an_initial_model_that_went_with_an_operator_is_made_again(tmp_path: Path) -> None:
    """Its pod has ended well; the disk that it brought the model to is another one now."""
    api, desk = Objects(), Lines(node())

    async def main() -> None:
        keeper = kept(api, desk, tmp_path)
        await keeper._turn()
        [path] = [path for path in api.there if path.endswith("-initial")]
        before = api.there[path]
        await keeper._turn()
        assert api.there[path] is before, "it runs"
        api.there[path] = before | {"status": {"succeeded": 1}}
        await keeper._turn()
        assert api.there[path].get("status") is None, "it was not made again"

    asyncio.run(main())


@pytest.mark.parametrize("applied", [1, 3], ids=["the record", "files of members"])
def test_what_a_turn_makes_while_the_job_is_deleted_goes_too(tmp_path: Path, applied: int) -> None:
    """The record is written, then again with nodes, then the members' files and their Jobs."""
    api, desk = Objects(), Lines(node())
    reached, goes_on, count = threading.Event(), threading.Event(), 0

    def wait() -> None:
        nonlocal count
        count += 1
        if count == applied:
            reached.set()
            assert goes_on.wait(20)

    async def main() -> None:
        api.before_apply = wait
        keeper = kept(api, desk, tmp_path)
        desk.posted[keeper.full_name] = Posted(keeper.full_name, 1, "tcp://127.0.0.1:1", "key", {})
        task = keeper.start()
        assert await asyncio.to_thread(reached.wait, 20)
        ending = asyncio.create_task(keeper.end())
        for _ in range(10):
            await asyncio.sleep(0)
        still = dict(desk.posted)
        goes_on.set()
        await ending
        assert task.done()
        assert still, "agents dropped the job while a turn of it was under way"

    asyncio.run(main())
    assert count >= applied
    assert api.without_owner() == []
    assert not any("/jobs/" in path for path in api.there)
    assert desk.posted == {}
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("began")
def test_a_disk_that_is_full_costs_no_other_job_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper says so in the status, goes on, and starts the coordinator when there is room."""
    api, desk = Objects(), Lines(node())
    keeper_of: list[Keeper] = []
    tries = 0

    def write_whole(path: Path, data: bytes, mode: int = 0o666) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError(28, os.strerror(28))
        keeper_of[0].closed = True

    async def at_once(_: float) -> None:
        nonlocal said
        said = said or api.status.get("message", "")

    said = ""
    monkeypatch.setattr(keeper_module, "write_whole", write_whole)
    monkeypatch.setattr(keeper_module, "LOOK_S", 0)
    monkeypatch.setattr(keeper_module.asyncio, "sleep", at_once)

    async def main() -> None:
        keeper = kept(api, desk, tmp_path)
        keeper_of.append(keeper)
        keeper.run_dir.mkdir(parents=True)
        (keeper.run_dir / "initial.safetensors").touch()
        await keeper.start()
        assert keeper.coordinator is not None

    asyncio.run(main())
    assert "No space left on device" in said
    assert "operator.storage" in said
    assert api.status["message"] == ""
    assert "team-a/toy" in desk.posted


class Exposing(Objects):
    """An API server that gives a Service its ports, and a Node its address."""

    def apply(self, path: str, made: Any) -> Any:
        found = super().apply(path, copy.deepcopy(made))
        if "/services/" in path:
            found["metadata"]["uid"] = "uid of the Service"
            for at, port in enumerate(found["spec"]["ports"]):
                port["nodePort"] = 30000 + at
        return found

    def find(self, path: str) -> Any:
        if "/nodes/" in path:
            address = {"type": "ExternalIP", "address": "192.0.2.1"}
            return {"status": {"addresses": [address]}}
        return super().find(path)


def test_clients_from_outside_get_their_way_in_and_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: list[dict[str, Any]]
) -> None:
    """Who is revoked while the coordinator runs is told to it, and has no file any more."""
    api, desk, told = Exposing(), Lines(node()), []

    def tell(keyring: Keyring) -> list[Any]:
        told.append({entry.name for entry in keyring.entries if entry.revoked_at})
        return []

    monkeypatch.setattr(Keyring, "tell", tell)
    exposed = body(trainer=None, clients={"min": 1, "max": 2}, expose={"type": "NodePort"})
    exposed["spec"].pop("trainer")
    secret = "/api/v1/namespaces/team-a/secrets/toy-clients"

    async def main() -> None:
        keeper = kept(api, desk, tmp_path, exposed)
        keeper.run_dir.mkdir(parents=True)
        (keeper.run_dir / "initial.safetensors").touch()
        await keeper._turn()
        door = "tcp://192.0.2.1:30000"
        assert api.status["endpoint"] == {"outside": [door], "secret": "toy-clients"}
        files = {
            name: json.loads(text) for name, text in api.there[secret]["stringData"].items()
        }
        assert {name: file["endpoint"] for name, file in files.items()} == {
            "client-0.json": door, "client-1.json": door,
        }  # fmt: skip
        keys = {file["public_key"] for file in files.values()}
        assert began[0]["outside"] == {"clients": sorted(keys), "doors": {"n1": (door, 30001)}}
        assert began[0]["clients"].keys() == keys

        changed = copy.deepcopy(exposed)
        changed["metadata"]["generation"] += 1
        changed["spec"]["clients"]["revoked"] = ["client-1"]
        keeper.body = changed
        await keeper._turn()
        assert told == [{"client-1"}]
        assert list(api.there[secret]["stringData"]) == ["client-0.json"]
        assert len(began) == 2

        keeper.status = keeper.status.model_copy(update={"phase": "Complete"})
        await keeper._turn()
        assert not [path for path in api.there if "/services/" in path]
        assert api.status["endpoint"]["outside"] == []

    asyncio.run(main())


def test_a_node_that_is_lost_takes_no_door_from_others_and_the_coordinator_goes_on(
    tmp_path: Path, began: list[dict[str, Any]]
) -> None:
    nodes = [NodeHere(n, f"key of {n}", b"", gateway="tcp://10.0.0.1:7710") for n in ("n1", "n2")]
    api, desk = Exposing(), Lines(*nodes)

    exposed = body(clients={"min": 1, "max": 2}, expose={"type": "NodePort"})
    exposed["spec"].pop("trainer")

    async def main() -> None:
        keeper = kept(api, desk, tmp_path, exposed)
        keeper.run_dir.mkdir(parents=True)
        (keeper.run_dir / "initial.safetensors").touch()
        await keeper._turn()
        doors = {"n1": ("tcp://192.0.2.1:30000", 30001), "n2": ("tcp://192.0.2.1:30002", 30003)}
        assert keeper.visitors.doors == doors
        keeper._on_event({"event": "node_lost", "node": "n1"})
        await keeper._turn()
        assert keeper.visitors.doors == doors
        assert api.status["endpoint"]["outside"] == [doors["n2"][0]]
        keeper._on_event({"event": "node_back", "node": "n1"})
        await keeper._turn()
        assert sorted(api.status["endpoint"]["outside"]) == [door for door, _ in doors.values()]
        assert len(began) == 1

    asyncio.run(main())


def test_what_is_said_of_a_job_is_kept_until_it_is_written(tmp_path: Path) -> None:
    """The loop holds tasks by weak references alone."""

    async def main() -> None:
        keeper = kept(Objects(), Lines(node()), tmp_path)
        keeper._on_event({"event": "warning", "text": "odd"})
        assert len(keeper._saying) == 1
        await asyncio.gather(*keeper._saying)
        await asyncio.sleep(0)
        assert not keeper._saying

    asyncio.run(main())


def test_ports_that_run_out_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(runs, "PORTS", range(port, port + 1))
        with pytest.raises(TransientError, match=f"from {port} to {port}.*in use"):
            runs._listen("127.0.0.1")


def test_a_coordinator_without_room_for_its_file_gives_its_port_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(runs, "PORTS", range(port, port + 1))
    with pytest.raises(NoSpace, match=r"operator\.storage") as error:
        Coordinator("toy", tmp_path / "gone", {}, "127.0.0.1", lambda _: None)
    with runs._listen("127.0.0.1") as again:
        assert again.getsockname()[1] == port
    assert error.value.retryable


@pytest.mark.parametrize("outcome", ["killed", "nothing to be had"])
def test_a_coordinator_that_is_killed_is_started_again_ten_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """And what is said is what is done: no `restart` after the last time."""
    started: list[str] = []

    class Killed:
        returncode = -9

        def __init__(self) -> None:
            self.stdout = asyncio.StreamReader()
            self.stdout.feed_eof()

        async def wait(self) -> int:
            return -9

    async def start(_: Coordinator) -> Any:
        started.append(outcome)
        if outcome != "killed":
            raise OSError(11, os.strerror(11))
        return Killed()

    monkeypatch.setattr(Coordinator, "_started", start)
    monkeypatch.setattr(runs, "AGAIN_S", 0)
    heard: list[dict[str, Any]] = []

    async def main() -> None:
        await Coordinator("toy", tmp_path, {}, "127.0.0.1", heard.append).task

    asyncio.run(main())
    assert len(started) == runs.RESTARTS + 1
    assert [each["event"] for each in heard] == ["restart"] * runs.RESTARTS + ["ended"]
    assert f"{runs.RESTARTS + 1} times" in heard[-1]["how"]


def test_a_coordinator_that_is_to_stop_while_it_is_started_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = tmp_path / "waits"
    waits.write_text("#!/bin/sh\nexec sleep 60\n")
    waits.chmod(0o700)
    monkeypatch.setattr(runs.sys, "executable", str(waits))
    heard: list[dict[str, Any]] = []

    async def main() -> None:
        coordinator = Coordinator("toy", tmp_path, {}, "127.0.0.1", heard.append)
        await asyncio.sleep(0)
        await asyncio.wait_for(coordinator.stop(), 20)
        assert coordinator.task.done()

    asyncio.run(main())
    assert heard == []


def test_what_functions_run_as_is_the_jobs_to_say_then_the_installations(tmp_path: Path) -> None:
    """Without the webhook Knative Services are none, and the job says so."""
    asked = body(functions={"runtime": "knative"})
    keeper = kept(Objects(), Lines(node()), tmp_path, asked)
    assert keeper.runtime == "knative"
    asyncio.run(keeper._turn())
    said = {each.type: each for each in keeper.status.conditions}["Accepted"]
    assert said.status == "False"
    assert "webhook.enabled: true" in said.message
    keeper.body = body()
    assert keeper.runtime == "deployment"


def test_a_spec_that_changes_in_the_middle_of_a_turn_is_the_next_turns(
    tmp_path: Path, began: list[dict[str, Any]]
) -> None:
    """A coordinator that starts with the old one is not taken for one that knows the new one."""
    api, desk = Objects(), Lines(node())

    async def main() -> None:
        keeper = kept(api, desk, tmp_path)
        keeper.run_dir.mkdir(parents=True)
        (keeper.run_dir / "initial.safetensors").touch()
        new = json.loads(json.dumps(keeper.body))
        new["spec"]["rounds"] += 7
        new["metadata"]["generation"] = 2
        api.before_apply = lambda: setattr(keeper, "body", new)
        await keeper._turn()
        await keeper._turn()
        rounds = new["spec"]["rounds"]
        assert [config["spec"]["rounds"] for config in began] == [rounds - 7, rounds]

    asyncio.run(main())
