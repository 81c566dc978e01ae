"""Checkpoints: the global model of a round on disk, off the way of the rounds.

    published ─► offer ─► thread: get from the gateway ─► round-000012.safetensors ─► outcome

Owns the thread, its own connection to gateways and the names of files.  The round loop never waits
for it: a checkpoint that is due while one is being written is skipped and counted.  Where files go
is folder.py's matter; what a checkpoint means for a run is resume.py's.  Called by global_model.py.

A checkpoint is the model as a state_dict, and for fedavgm beside it the server's velocity in
`round-000012.server.safetensors`, which is written first.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import safetensors
import zmq

from lifl.errors import InvalidJob, Unreachable
from lifl.faults import fault
from lifl.functions.layout import Layout
from lifl.functions.transfer import Download
from lifl.functions.wire import Keys
from lifl.placement.folder import Chunk, Folder
from lifl.placement.membership import Known
from lifl.placement.models import move

EVERY_BYTES: Final = 64 << 20  # by default one more round between checkpoints for each of these
PAUSE_S: Final = 1.0  # ... and so long from one to the next: rounds may be much shorter
SHARE: Final = 20  # ... and so many times as long as the last one took: a twentieth of the time
_MODEL: Final = re.compile(r"round-(\d+)\.safetensors$")
_PIECE: Final = 8 << 20  # of one write, between which other threads run


@dataclass(frozen=True)
class Outcome:
    """What came of a checkpoint; `text` says why not, if it was not written."""

    number: int
    result: Literal["written", "skipped", "failed"]
    text: str = ""


def due_every(every: int | None, model_bytes: int) -> tuple[int, float]:
    """(rounds, seconds) between checkpoints: what the job says, else ⌈bytes / 64 MiB⌉ and 1 s."""
    return (every, 0.0) if every else (max(1, -(-model_bytes // EVERY_BYTES)), PAUSE_S)


class Checkpoints:
    """Writes checkpoints of one job.

    Args:
        model_bytes: of a model slot: the model, then for fedavgm the velocity.
        every, pause_s: rounds and seconds from one to the next, at least; where seconds are asked
            for, also SHARE times what the last one took.
        keep: how many stay.
    """

    def __init__(
        self, folder: Folder, layout: Layout, model_bytes: int, *, job: str, keys: Keys,
        every: int, pause_s: float, keep: int, last: int,
    ) -> None:  # fmt: skip
        self.folder, self.layout, self.model_bytes = folder, layout, model_bytes
        self.job, self.keys, self.every, self.keep = job, keys, every, keep
        self.last = last  # round of the newest one
        self.pause_s, self._begun_at = pause_s, -math.inf
        self.counts = {"written": 0, "skipped": 0, "failed": 0}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._outcome: Outcome | None = None
        self._thread: threading.Thread | None = None
        self._over = False
        self._buffer: memoryview | None = None  # fresh pages cost more than what is read into them

    def fileno(self) -> int:
        """Readable when there is an outcome."""
        return self._wake

    def offer(self, number: int, node: Known) -> None:
        """The model of a round can be had at `node`: write it, if one is due and none under way."""
        now = time.monotonic()
        if number - self.last < self.every or now - self._begun_at < self.pause_s:
            return
        if self._thread is not None:
            self.counts["skipped"] += 1
            return
        self._begun_at = now
        self._thread = threading.Thread(target=self._work, args=(number, node), daemon=True)
        self._thread.start()

    def outcome(self) -> Outcome | None:
        """What came of the one under way, once."""
        if self._outcome is None or self._thread is None:
            return None
        os.eventfd_read(self._wake)
        self._thread.join()
        outcome, self._outcome, self._thread = self._outcome, None, None
        self.counts[outcome.result] += 1
        if outcome.result == "written":
            self.last = outcome.number
        return outcome

    def place(self, number: int) -> str:
        return f"{self.folder.where}/{_name(number)}"

    def prune(self) -> None:
        """Remove all but the newest `keep`."""
        names = self.folder.names()
        numbers = sorted(int(found[1]) for name in names if (found := _MODEL.match(name)))
        for number in numbers[: -self.keep]:
            self.folder.remove(_name(number))
            if _name(number, "server") in names:
                self.folder.remove(_name(number, "server"))

    def close(self) -> None:
        """Give up the one under way."""
        self._over = True
        if self._thread is not None:
            self._thread.join(5.0)
        os.close(self._wake)

    # -- in the thread -----------------------------------------------------------------------
    def _work(self, number: int, node: Known) -> None:
        began = time.monotonic()
        try:
            buffer = self._fetch(number, node)
            if self.last:
                self.prune()  # now, and not after writing: the store knows the newest by now
            self._write(number, buffer)
            outcome = Outcome(number, "written")
            if self.pause_s:
                self.pause_s = max(PAUSE_S, SHARE * (time.monotonic() - began))
        except Unreachable as error:  # replaced before it was here
            outcome = Outcome(number, "skipped", str(error))
        except OSError as error:
            outcome = Outcome(number, "failed", error.strerror or str(error))
        self._outcome = outcome
        os.eventfd_write(self._wake, 1)

    def _fetch(self, number: int, node: Known) -> memoryview:
        if self._buffer is None:
            self._buffer = memoryview(bytearray(self.model_bytes))
        buffer = self._buffer
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        try:
            work = Download(self.job, number, buffer)
            move(context, self.keys, node, self.job, work, meanwhile=self._give_up_if_over)
        finally:
            context.destroy(linger=0)
        return buffer

    def _give_up_if_over(self) -> None:
        if self._over:
            raise Unreachable("the run is over")

    def _write(self, number: int, buffer: memoryview) -> None:
        words = {"job": self.job, "round": str(number)}
        if self.model_bytes > self.layout.update_bytes:
            velocity = buffer[self.layout.velocity_at :]
            self.folder.write(_name(number, "server"), _velocity_chunks(velocity, words))
        self.folder.write(_name(number), _model_chunks(self.layout, buffer, words))
        fault("checkpoint_written", "coordinator")


def read_model(folder: Folder, number: int, layout: Layout, model_bytes: int) -> memoryview:
    """The model of a checkpoint as it lies in a model slot, the velocity behind it.

    Raises:
        InvalidJob: it is not there, or not of this layout.
    """
    buffer = memoryview(bytearray(model_bytes))
    try:
        rows = dict(safetensors.deserialize(folder.read(_name(number))))  # type: ignore[no-untyped-call]
        for tensor, at in zip(layout.tensors, layout.offsets, strict=True):
            row = rows[tensor.name]
            if (row["dtype"], tuple(row["shape"])) != (tensor.code.name, tensor.shape):
                raise KeyError(tensor.name)
            buffer[at : at + len(row["data"])] = row["data"]
        if model_bytes > layout.update_bytes:
            ((_, row),) = safetensors.deserialize(folder.read(_name(number, "server")))  # type: ignore[no-untyped-call]
            buffer[layout.velocity_at :] = row["data"]
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise InvalidJob(
            f"the checkpoint {folder.where}/{_name(number)} cannot be read ({error!r}): put it "
            "back, or begin anew with lifl run JOB.yaml"
        ) from error
    return buffer


def _name(number: int, part: str = "") -> str:
    return f"round-{number:06}{part and '.'}{part}.safetensors"


def _model_chunks(layout: Layout, buffer: memoryview, words: dict[str, str]) -> Iterator[Chunk]:
    """A safetensors file, piece by piece.

    The library's writer copies each tensor while no other thread can run; the format is a length
    of 8 bytes, a JSON header and the tensors.
    """
    header: dict[str, object] = {"__metadata__": words}
    at = 0
    for tensor in layout.tensors:
        end = at + tensor.count * tensor.code.size_bytes
        header[tensor.name] = {
            "dtype": tensor.code.name, "shape": tensor.shape, "data_offsets": [at, end],
        }  # fmt: skip
        at = end
    yield _head(header)
    for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
        yield from _pieces(buffer[offset : offset + tensor.count * tensor.code.size_bytes])


def _velocity_chunks(velocity: memoryview, words: dict[str, str]) -> Iterator[Chunk]:
    size = len(velocity)
    yield _head({
        "__metadata__": words,
        "velocity": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
    })  # fmt: skip
    yield from _pieces(velocity)


def _head(header: dict[str, object]) -> bytes:
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(data), _PIECE):
        yield data[at : at + _PIECE]
        fault("checkpoint_partial", "coordinator")
