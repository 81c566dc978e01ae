"""The global model where this process has to do with it: at the beginning, on disk, at the end.

    initial model, or a checkpoint ─► node of the top ─► round, round, … ─► the last one, here
                                                            └─► checkpoints

Owns what is moved when, and that a node which is lost meanwhile costs no more than itself.  How one
model is moved is models.py's, how it is written checkpoint.py's; models of rounds do not pass
through here.  Called by coordinator.py, and by course.py, which knows which node has what.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any, Final

import zmq

from lifl.api.job import FLJob
from lifl.errors import ModelLost, Unreachable
from lifl.events import emit
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download, Upload, Whole
from lifl.functions.waiting import readable
from lifl.functions.wire import Keys
from lifl.placement.checkpoint import Checkpoints, due_every, read_model
from lifl.placement.folder import Folder
from lifl.placement.membership import Known
from lifl.placement.models import NotServed, move
from lifl.placement.store import Change, Checkpoint, JobStore

LAST_S: Final = 30.0  # for a last checkpoint


class GlobalModel:
    """Of one job.

    Args:
        initial: makes the model that the job begins with.
        model_bytes: of a model slot: the model, then for fedavgm the velocity.
        last: round of the newest checkpoint.
        start: of the run, in which models are made from now on.
        meanwhile: called while a model is moved to or from a node, for what cannot wait; raises
            Unreachable if that node is lost.
        lost: called with the name of a node that was lost while a model was moved, and why.
    """

    def __init__(
        self, job: FLJob, folder: Folder, layout: Layout, model_bytes: int, *,
        initial: Callable[[], dict[str, Any]], last: int, start: int,
        store: JobStore,
        context: zmq.Context[zmq.Socket[bytes]], keys: Keys,
        meanwhile: Callable[[Known], None], lost: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self.job, self.name, self.folder = job, job.metadata.full_name, folder
        self.layout, self.model_bytes = layout, model_bytes
        self.store, self.start = store, start
        self._initial, self._context, self._keys = initial, context, keys
        self._meanwhile, self._lost = meanwhile, lost
        every, pause_s = due_every(job.spec.checkpoint.every, model_bytes)
        self.checkpoints = Checkpoints(
            folder, layout, model_bytes, job=self.name, keys=keys, every=every, pause_s=pause_s,
            keep=job.spec.checkpoint.keep, last=last,
        )  # fmt: skip

    # -- the first ---------------------------------------------------------------------------
    def first(self, base: int) -> memoryview:
        """What this start of the run begins with: the last checkpoint, or the initial model."""
        if base:
            return read_model(self.folder, base, self.layout, self.model_bytes)
        model = memoryview(bytearray(self.model_bytes))  # its velocity is zero
        self.layout.pack_into(self._initial(), model)
        return model

    def put(self, node: Known, base: int) -> bool:
        """The only model that passes through here: the first, to the node of the top.

        False: the node was lost meanwhile, and the job has gone on without it as far as it can.

        Raises:
            TransientError: ... and it was the last.
        """
        put = {"t": "put", "kind": "model", "job": self.name, "round": base}
        return self._move(node, Upload(put, Whole(self.first(base))))

    def _move(self, node: Known, work: Upload | Download) -> bool:
        try:
            move(
                self._context, self._keys, node, self.name, work,
                meanwhile=lambda: self._meanwhile(node),
            )  # fmt: skip
        except NotServed:
            raise
        except Unreachable as error:
            self._lost(node.name, error.sentence)
            return False
        return True

    # -- checkpoints -------------------------------------------------------------------------
    def take_outcome(self) -> None:
        """A checkpoint is there, or could not be written, which costs no round anything."""
        outcome = self.checkpoints.outcome()
        if outcome is None:
            return
        number = outcome.number
        if outcome.result == "written":
            place = self.checkpoints.place(number)
            written = Checkpoint(number=number, place=place, start=self.start)
            self.store.save(Change(checkpoint=written))
            emit("checkpoint", round=number, place=place)
        elif outcome.result == "failed" and self.checkpoints.counts["failed"] == 1:
            emit("warning", text=f"the checkpoint of round {number} cannot be written to "
                 f"{self.folder.where}: {outcome.text}; make room there or name another "
                 "spec.checkpoint.path; the rounds go on")  # fmt: skip

    def must_be_kept(self, number: int) -> None:
        """The model of a round is lost with its node, unless it is on disk.

        Raises:
            ModelLost: it is not.
        """
        self.take_outcome()  # one may have been written just now
        last = self.checkpoints.last
        if last != number and number:
            where = f"the checkpoint of round {last}" if last else "the beginning"
            raise ModelLost(
                f"the model of round {number} was on a node that is lost, and on no other: rounds "
                f"go on from {where}"
            )

    def checkpoint_now(self, number: int, node: Known) -> None:
        """Wait until the model of a round is on disk, or cannot be."""
        until = time.monotonic() + LAST_S
        self.checkpoints.every, self.checkpoints.pause_s = 1, 0.0
        while self.checkpoints.last < number and time.monotonic() < until:
            self.checkpoints.offer(number, node)
            readable([self.checkpoints], 1.0)
            self.take_outcome()
            if self.checkpoints.counts["failed"]:
                break

    # -- the last ----------------------------------------------------------------------------
    def last(self, number: int, holder_of: Callable[[int], Known | None]) -> memoryview:
        """From a node that has it; the checkpoint of that round where there is none.

        There is none where everything was killed after that checkpoint, or the node is lost.

        Args:
            holder_of: says which node has the model of a round.

        Raises:
            ModelLost: its node was lost just now, and there is no such checkpoint.
        """
        model = memoryview(bytearray(self.layout.update_bytes))
        while (holder := holder_of(number)) is not None:
            if self._move(holder, Download(self.name, number, model)):
                if self.job.spec.checkpoint.path is not None:  # a place of its own has it, too
                    self.checkpoint_now(number, holder)
                return model
        return self.first(number)

    def tidy(self) -> None:
        """In the run's directory checkpoints have served: model.safetensors is there."""
        self.checkpoints.close()
        with contextlib.suppress(OSError):
            if self.job.spec.checkpoint.path is None:
                shutil.rmtree(self.folder.where)
            else:
                self.checkpoints.prune()
