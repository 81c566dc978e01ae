"""What a coordinator says, in the status of its FLJob."""

from __future__ import annotations

from typing import Any

from lifl.api.status import Status
from lifl.placement.cluster.story import told
from tests.unit.clusterjobs import job

NOW = "2026-01-01T00:00:00Z"
STARTED = {
    "event": "round_started", "round": 2, "clients": 4, "epoch": 7, "unplaced": 1,
    "tree": {
        "n1": [{"role": "leaf", "clients": 2}, {"role": "top", "clients": 4}],
        "n2": [{"role": "leaf", "clients": 2}],
    },
}  # fmt: skip
CHECKPOINT = {"event": "checkpoint", "round": 2, "place": "/models/round-000002.safetensors"}
DONE = {"event": "done", "rounds": 3, "wall_s": 1.5, "evaluation": {}, "metrics": {"loss": 0.5}}


def after(*events: dict[str, Any], **spec: Any) -> Status:
    status, made = Status(), job(**spec)
    for event in events:
        status = told(status, event, made, now=NOW, generation=1)
    return status


def test_the_tree_is_that_of_the_plan() -> None:
    tree = after(STARTED).tree
    assert tree is not None
    assert (tree.epoch, tree.unplaced, tree.top_node) == (7, 1, "n1")
    assert [(node.name, node.clients, node.forward_to) for node in tree.nodes] == [
        ("n1", 2, None), ("n2", 2, "n1"),
    ]  # fmt: skip


def test_the_last_checkpoint_is_said_with_its_time() -> None:
    status = after(STARTED, CHECKPOINT, CHECKPOINT | {"round": 3, "place": "s3://models/3"})
    assert status.wire()["lastCheckpoint"] == {"round": 3, "place": "s3://models/3", "time": NOW}


def test_checkpoints_of_a_complete_job_are_there_if_it_named_a_place_for_them() -> None:
    """The coordinator removes the others: the model is there."""
    assert after(CHECKPOINT, DONE).last_checkpoint is None
    kept = after(CHECKPOINT, DONE, checkpoint={"path": "/models"}).last_checkpoint
    assert kept is not None
    assert kept.round == 2
