"""The JobStore of a cluster: the FLJob's own status.

Owns how a job's state lies in `status.store`: msgpack, packed, in base64, written with the epoch of
the lease in one request, so that a save is there whole or not at all.  Whose lease is over has a
lower epoch than the status, and the API server refuses what it writes (CEL: status.epoch never
falls); that is how one process at a time has the store.  Called by the coordinator.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import lzma
import time
from typing import Any, Final

import msgpack

from lifl.api.status import FENCED, STORE_MAX
from lifl.errors import Busy, InvalidJob, NoSpace, PermanentError, TransientError
from lifl.placement.cluster.api import Api
from lifl.placement.store import (
    Change,
    Checkpoint,
    Clock,
    Saved,
    round_from_wire,
    round_to_wire,
)

VERSION: Final = 1
AGAIN_S: Final = 0.5


class ClusterStore:
    """The store of the FLJob at `path` (its status, at the API server).

    Args:
        epoch: of the lease under which this process writes.

    Raises:
        Busy: somebody with a later lease has written already.
    """

    def __init__(self, api: Api, path: str, *, epoch: int) -> None:
        self._api, self._path, self._epoch = api, path, epoch
        self._saved: Saved | None = None
        status = self._read().get("status", {})
        if status.get("epoch", 0) > epoch:
            raise Busy(f"{path} is in use under a later lease ({status['epoch']} after {epoch})")
        store = status.get("store")
        if store and store.get("data"):
            self._saved = unpacked(store)
        self._write({})  # from here on who had it before is refused

    # -- the contract ------------------------------------------------------------------------
    def load(self) -> Saved | None:
        return self._saved

    def begin(self, saved: Saved) -> None:
        self._keep(saved)

    def save(self, change: Change) -> None:
        if self._saved is None:
            raise PermanentError(f"{self._path}: nothing was begun", code="defect")
        self._keep(changed(self._saved, change))

    def close(self) -> None:
        pass

    # -- the API server ----------------------------------------------------------------------
    def _keep(self, saved: Saved) -> None:
        data = packed(saved)
        if len(data) > STORE_MAX:
            raise NoSpace(
                f"the state of the job is {len(data)} characters, and an object of the API "
                f"server holds {STORE_MAX} of it: fewer rounds, or fewer clients that are "
                "processes of their own (trainer.workers)"
            )
        self._write({"store": {"version": VERSION, "data": data}})
        self._saved = saved

    def _read(self) -> dict[str, Any]:
        while True:
            try:
                return self._api.get(self._path)
            except TransientError:
                time.sleep(AGAIN_S)

    def _write(self, fields: dict[str, Any]) -> None:
        """Until it is there: an API server that is away costs time and nothing else."""
        body = {"status": {"epoch": self._epoch, **fields}}
        while True:
            try:
                self._api.merge(f"{self._path}/status", body)
                return
            except TransientError:
                time.sleep(AGAIN_S)
            except PermanentError as error:
                if FENCED in error.sentence:
                    raise Busy(f"{self._path} is in use under a later lease: {error}") from error
                raise


def changed(saved: Saved, change: Change) -> Saved:
    """What is known after a change."""
    return dataclasses.replace(
        saved,
        round=change.round or saved.round,
        rows={**saved.rows, **change.rows},
        model_at=change.model_at if change.model_at is not None else saved.model_at,
        checkpoint=change.checkpoint or saved.checkpoint,
        complete=change.complete or saved.complete,
        clock=change.clock or saved.clock,
    )


def packed(saved: Saved) -> str:
    """Keys stand in it once: everything else says their place."""
    keys = list(saved.names)
    place = {key: index for index, key in enumerate(keys)}
    wire = {
        "job": saved.job, "names": [[key, saved.names[key]] for key in keys],
        "layout": saved.layout, "start": saved.start, "base": saved.base,
        "round": _replaced(round_to_wire(saved.round), place) if saved.round else None,
        "rows": {str(number): json.dumps(row) for number, row in saved.rows.items()},
        "model_at": saved.model_at,
        "checkpoint": dataclasses.astuple(saved.checkpoint) if saved.checkpoint else None,
        "complete": saved.complete, "clock": [saved.clock.elapsed_s, saved.clock.at_s],
    }  # fmt: skip
    data = lzma.compress(msgpack.packb(wire), preset=0)
    return base64.b64encode(data).decode()


def unpacked(store: dict[str, Any]) -> Saved:
    """The other way round.

    Raises:
        InvalidJob: of another version.
    """
    if store["version"] != VERSION:
        raise InvalidJob(
            f"the state of the job has version {store['version']}; this is a LIFL for {VERSION}: "
            "go on with the LIFL that began the job"
        )
    wire = msgpack.unpackb(lzma.decompress(base64.b64decode(store["data"])), strict_map_key=False)
    keys = [key for key, _ in wire["names"]]
    checkpoint = wire["checkpoint"]
    return Saved(
        job=wire["job"], names=dict(wire["names"]), layout=wire["layout"], start=wire["start"],
        base=wire["base"],
        round=round_from_wire(_restored(wire["round"], keys)) if wire["round"] else None,
        rows={int(number): json.loads(row) for number, row in wire["rows"].items()},
        model_at=wire["model_at"],
        checkpoint=Checkpoint(*checkpoint) if checkpoint else None,
        complete=wire["complete"],
        clock=Clock(elapsed_s=wire["clock"][0], at_s=wire["clock"][1]),
    )  # fmt: skip


_PLACE: Final = "#"


def _replaced(value: Any, place: dict[str, int]) -> Any:
    """The same with [_PLACE, n] in the place of keys that are known."""
    if isinstance(value, str):
        return [_PLACE, place[value]] if value in place else value
    if isinstance(value, list | tuple):
        return [_replaced(each, place) for each in value]
    if isinstance(value, dict):
        return [[_PLACE], [[_replaced(k, place), v] for k, v in value.items()]]
    return value


def _restored(value: Any, keys: list[str]) -> Any:
    if isinstance(value, list):
        if len(value) == 2 and value[0] == _PLACE:
            return keys[value[1]]
        if len(value) == 2 and value[0] == [_PLACE]:
            return {_restored(k, keys): v for k, v in value[1]}
        return [_restored(each, keys) for each in value]
    return value
