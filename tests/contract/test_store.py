"""What every JobStore promises, whoever keeps it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from zmq.utils import z85

from lifl.errors import Busy, InvalidJob, NoSpace, PermanentError
from lifl.placement.cluster import store_cluster
from lifl.placement.cluster.store_cluster import ClusterStore
from lifl.placement.planner import plan
from lifl.placement.snapshot import Client, Node, Snapshot
from lifl.placement.store import Change, Checkpoint, Clock, JobStore, Saved, UnderWay
from lifl.placement.store_sqlite import SqliteStore
from tests.contract.clusterapi import OneFLJob

Open = Callable[[], JobStore]


def _sqlite(folder: Path) -> Open:
    return lambda: SqliteStore(folder / "job.sqlite", patience_s=0.1)


def _cluster(_: Path) -> Open:
    """Each process that opens it has a lease of its own."""
    api, epochs = OneFLJob(), count(1)
    return lambda: ClusterStore(api, "fljob", epoch=next(epochs))  # type: ignore[arg-type]


@pytest.fixture(params=[_sqlite, _cluster], ids=["sqlite", "cluster"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store again and again, as one process after another does."""
    opened: Open = request.param(tmp_path)
    return opened


def under_way(number: int = 1) -> UnderWay:
    """A round of two nodes, a middle and a client without a place."""
    made = plan(
        Snapshot(
            nodes=tuple(Node(name=f"node-{n}", capacity_updates=3) for n in range(2)),
            clients=(
                *(Client(key=f"key {n}", name=f"client-{n}") for n in range(5)),
                Client(key="far", pinned="node-9"),
            ),
            fan_in=2,
            epoch=3,
        )
    )
    return UnderWay(
        number=number, epoch=4, roster=(*(f"key {n}" for n in range(5)), "far"), plan=made,
        homes=made.homes(), started_at_s=1.5, lost={"node-7": 2}, is_moving=True,
        shut=("node-1",), deadline_at_s=2.5,
    )  # fmt: skip


def test_a_new_store_is_empty(open_store: Open) -> None:
    assert open_store().load() is None


def test_what_was_saved_is_there_for_the_next(open_store: Open) -> None:
    store = open_store()
    store.begin(Saved(job="{}", names={"key 0": "client-0"}))
    store.save(Change(round=under_way(1)))
    rows = {1: {"round": 1, "seconds": 0.25, "accuracy": None}}
    store.save(Change(round=under_way(2), rows=rows, model_at="node-1"))
    clock = Clock(elapsed_s=1.5, at_s=1e9)
    store.save(Change(checkpoint=Checkpoint(number=1, place="here", start=2), clock=clock))
    store.close()
    saved = open_store().load()
    assert saved is not None
    assert (saved.names, saved.start) == ({"key 0": "client-0"}, 1)
    assert (saved.rows, saved.published) == (rows, 1)
    assert saved.model_at == "node-1"
    assert saved.checkpoint == Checkpoint(number=1, place="here", start=2)
    assert saved.clock == clock
    assert not saved.complete


def test_a_plan_comes_back_as_it_was(open_store: Open) -> None:
    store, before = open_store(), under_way()
    store.begin(Saved(job="{}", round=before))
    saved = store.load()
    assert saved is not None
    after = saved.round
    assert after is not None
    assert (after.number, after.epoch, after.roster, after.homes, after.started_at_s) == (
        before.number, before.epoch, before.roster, before.homes, before.started_at_s,
    )  # fmt: skip
    assert (after.lost, after.is_moving, after.shut, after.deadline_at_s) == (
        before.lost, before.is_moving, before.shut, before.deadline_at_s,
    )  # fmt: skip
    assert (after.plan.top_node, after.plan.top) == (before.plan.top_node, before.plan.top)
    assert (after.plan.used, after.plan.unplaced) == (before.plan.used, before.plan.unplaced)
    for name, node in before.plan.nodes.items():
        same = after.plan.nodes[name]
        assert (same.roles, same.lanes, same.clients) == (node.roles, node.lanes, node.clients)


def test_beginning_again_forgets_the_rest(open_store: Open) -> None:
    store = open_store()
    store.begin(Saved(job="{}", round=under_way(), rows={1: {}, 2: {}}, model_at="node-0"))
    store.begin(Saved(job="{}", rows={1: {"round": 1}}, start=2))
    assert store.load() == Saved(job="{}", rows={1: {"round": 1}}, start=2)


def test_one_process_at_a_time(open_store: Open) -> None:
    """Where the kernel knows that one is there the next is kept out; else the first is fenced."""
    store = open_store()
    store.begin(Saved(job="{}"))
    if isinstance(store, ClusterStore):
        open_store()
        with pytest.raises(Busy, match="a later lease"):
            store.save(Change(rows={1: {"round": 1}}))
    else:
        with pytest.raises(Busy, match="in use by a run"):
            open_store()
        store.close()
    after = open_store().load()
    assert after is not None
    assert not after.rows


def test_a_killed_process_leaves_whole_changes(tmp_path: Path) -> None:
    """It says what it has saved; what was saved beyond that is whole, too."""
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    said = 0
    while said < 200:
        said = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    saved = SqliteStore(tmp_path / "job.sqlite").load()
    assert saved is not None
    assert saved.checkpoint is not None
    assert saved.published >= said
    assert saved.checkpoint.number == saved.published
    assert saved.rows == {n: {"round": n} for n in range(1, saved.published + 1)}


_WRITER = """
import sys
from pathlib import Path
from lifl.placement.store import Change, Checkpoint, Saved
from lifl.placement.store_sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]) / "job.sqlite")
store.begin(Saved(job="{}"))
for n in range(1, 100_000):
    store.save(Change(rows={n: {"round": n}}, checkpoint=Checkpoint(number=n, place="")))
    print(n, flush=True)
"""


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "job.sqlite").write_bytes(b"something else\n" * 100)
    with pytest.raises(InvalidJob, match="is not a job's store"):
        SqliteStore(tmp_path / "job.sqlite")


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "job.sqlite")
    store.begin(Saved(job="{}", rows={1: {}}))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "disk is full"
    with pytest.raises(NoSpace, match="make room"):
        store.save(Change(rows={n: {"filler": "x" * 1000} for n in range(2, 99)}))
    saved = store.load()
    assert saved is not None
    assert saved.rows == {1: {}}


# -- in a cluster ------------------------------------------------------------------------------
def test_an_older_lease_cannot_even_open() -> None:
    api = OneFLJob()
    ClusterStore(api, "fljob", epoch=3).begin(Saved(job="{}"))  # type: ignore[arg-type]
    with pytest.raises(Busy, match="a later lease"):
        ClusterStore(api, "fljob", epoch=2)  # type: ignore[arg-type]


def test_what_else_the_api_server_refuses_is_no_lease() -> None:
    """Also of a job whose name is what the lease's counter is called."""
    api = OneFLJob()
    store = ClusterStore(api, "fljobs/epoch", epoch=1)  # type: ignore[arg-type]
    api.refuses = "status.store.data: Too long"
    with pytest.raises(PermanentError, match="Too long"):
        store.begin(Saved(job="{}"))


def test_an_api_server_that_is_away_costs_no_save(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(store_cluster.time, "sleep", slept.append)
    api = OneFLJob()
    store = ClusterStore(api, "fljob", epoch=1)  # type: ignore[arg-type]
    store.begin(Saved(job="{}"))
    api.away = 5
    store.save(Change(rows={1: {"round": 1}}))
    assert len(slept) == 5
    saved = ClusterStore(api, "fljob", epoch=2).load()  # type: ignore[arg-type]
    assert saved is not None
    assert saved.rows == {1: {"round": 1}}


def test_a_save_is_one_write() -> None:
    api = OneFLJob()
    store = ClusterStore(api, "fljob", epoch=1)  # type: ignore[arg-type]
    store.begin(Saved(job="{}", names={f"key {n}": f"client-{n}" for n in range(5)}))
    before = api.writes
    store.save(Change(round=under_way(), rows={1: {"round": 1}}, model_at="node-0", complete=True))
    assert api.writes == before + 1


def test_a_state_that_an_object_cannot_hold_leaves_the_store_as_it_was() -> None:
    api = OneFLJob()
    store = ClusterStore(api, "fljob", epoch=1)  # type: ignore[arg-type]
    store.begin(Saved(job="{}", rows={1: {}}))
    with pytest.raises(NoSpace, match="an object of the API server holds"):
        store.save(Change(rows={2: {"filler": os.urandom(400_000).hex()}}))
    saved = store.load()
    assert saved is not None
    assert saved.rows == {1: {}}


def test_the_state_of_a_job_with_four_thousand_clients_fits() -> None:
    keys = [z85.encode(random.Random(n).randbytes(32)).decode() for n in range(4000)]
    nodes = tuple(Node(name=f"node-{n}", capacity_updates=500) for n in range(8))
    clients = tuple(Client(key=key, name=f"client-{n}") for n, key in enumerate(keys))
    made = plan(Snapshot(nodes=nodes, clients=clients, fan_in=64))
    row = {"round": 1, "seconds": 0.5, "clients": 4000, "metrics": {"loss": 0.25}}
    before = Saved(
        job="{}", names={key: f"client-{n}" for n, key in enumerate(keys)},
        round=UnderWay(number=1, epoch=1, roster=tuple(keys), plan=made, homes=made.homes()),
        rows={n: row | {"round": n} for n in range(1, 101)},
    )  # fmt: skip
    api = OneFLJob()
    ClusterStore(api, "fljob", epoch=1).begin(before)  # type: ignore[arg-type]
    after = ClusterStore(api, "fljob", epoch=2).load()  # type: ignore[arg-type]
    assert after is not None
    assert after.round is not None
    assert (after.names, after.round.roster, after.rows) == (
        before.names, tuple(keys), before.rows,
    )  # fmt: skip
