"""The client library: a training loop takes part in a job.

    with lifl.Client.connect() as client:
        for round in client.rounds():
            model = round.model                      # dict of NumPy arrays, yours to change
            examples, loss = train(model)
            round.send(model, weight=examples, metrics={"loss": loss})

Owns rounds as a training loop sees them; what goes over the network is in exchange.py, torch
tensors in functions/tensors.py, asyncio in aio.py.  What a round was answered with is held until it
is over; arrays that change meanwhile are seen, and their round is trained again (packing.py).
Single-threaded; between calls nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from lifl.buffers import own
from lifl.clientfile import read_client_file
from lifl.connection import Address
from lifl.errors import InvalidUpdate
from lifl.exchange import Exchange, Interrupted, State
from lifl.fastlane import round_of
from lifl.functions.layout import Layout
from lifl.functions.packing import Packing
from lifl.functions.tensors import load_into
from lifl.functions.transfer import Upload
from lifl.functions.wire import Keys, Message, weight_of

__all__ = ["Client", "Round", "load_into"]

Progress = Callable[[int, int], None]


class Sender(Protocol):
    """Who a round belongs to: a client, or a virtual one."""

    def send_update(
        self, number: int, model: Mapping[str, Any], weight: float,
        metrics: Mapping[str, float], progress: Progress | None,
    ) -> bool: ...  # fmt: skip

    def send_report(self, number: int, weight: float, metrics: Mapping[str, float]) -> bool: ...


@dataclass
class Round:
    """One round of this client.

    Attributes:
        number: 1 and up.
        model: the global model that the round starts from; the arrays are this client's own.
        settings: `trainer.args` of the job with the changes of `trainer.schedule` up to here.
    """

    number: int
    model: State
    settings: dict[str, Any]
    _sender: Sender = field(repr=False)

    def load_into(self, target: Any) -> None:
        """Copy the model into a torch module, or into a dict of tensors or arrays, in place.

        Raises:
            InvalidUpdate: names, dtypes or shapes differ; nothing was written then.
        """
        load_into(target, self.model)

    def send(
        self, model: Mapping[str, Any], *, weight: float,
        metrics: Mapping[str, float] | None = None, progress: Progress | None = None,
    ) -> bool:  # fmt: skip
        """Send the trained model and wait until a gateway has it.

        Args:
            model: the same names, dtypes and shapes as `self.model`: NumPy arrays, or torch
                tensors on any device, as `module.state_dict()` has them.  They may change once this
                has returned; this client refers to them until the round is over, and where they
                have changed and a gateway asks once more, the round comes again.
            weight: of this update in the mean, usually the number of examples; from 2^-40 to 2^40.
            metrics: numbers to be averaged by weight over the round's clients.
            progress: called with (bytes handed over, bytes in all), often; goes back to less
                when a gateway died and the update is sent again.

        Returns:
            True when it counts, False when the round closed before it was there.

        Raises:
            InvalidUpdate: another layout, or a weight that is none.
            Unreachable: no gateway answered in time.
        """
        return self._sender.send_update(self.number, model, weight, metrics or {}, progress)

    def report(self, *, weight: float = 1.0, metrics: Mapping[str, float] | None = None) -> bool:
        """Take part without an update: say what the model is worth here, or only sit out.

        Instead of `send`.  The round does not wait for this client, and the figures go into its
        mean as those of senders do.  A round needs one update at least.

        Args:
            weight: of the metrics in the mean; more than 0.
            metrics: of `self.model`, as this client's own data show it.

        Returns, Raises: as `send`.
        """
        return self._sender.send_report(self.number, weight, metrics or {})


class Client:
    """A participant of one job.

    Args:
        address: any gateway of the job; the platform says where else to go.
        job: name of the job.
        keys: this client's CURVE key pair, which is its identity.
        index, count: which of how many clients this is, for splitting data; 0 of 1 by default.
        timeout_s: how long to try when no gateway answers, or none is there any more.
        name: what errors call it, beside its key.
    """

    def __init__(
        self, address: Address, *, job: str, keys: Keys, index: int = 0, count: int = 1,
        timeout_s: float = 60.0, name: str = "",
    ) -> None:  # fmt: skip
        self.job, self.index, self.count = job, index, count
        self._exchange = Exchange(address, job=job, keys=keys, timeout_s=timeout_s, name=name)
        self._last = self._start = 0  # round that was given out last, in which start of the run
        self._made = 0  # start of the run in which the model of that round was made
        self._counted = 0, 0  # start and number of the round whose answer counts

    @classmethod
    def connect(
        cls, environment: Mapping[str, str] = os.environ, *, timeout_s: float = 60.0
    ) -> Self:
        """A client from what `lifl run` printed: LIFL_CLIENT names its file, mode 0600.

        The file of a client that was enrolled with `lifl keys` has no secret in it; LIFL_KEY names
        the file that `lifl keys new` made.

        Args:
            timeout_s: how long to try when no gateway answers, or none is there any more: a run
                that is started again with `--resume` meanwhile finds this client waiting.

        Raises:
            Unreachable: the variable is not set or names no such file, as before the run's start.
            InvalidJob: LIFL_KEY is not the client's.
        """
        found = read_client_file(environment)
        return cls(
            found.address, job=found.job, keys=found.keys, index=found.index, count=found.count,
            timeout_s=timeout_s, name=found.name,
        )  # fmt: skip

    @property
    def settings(self) -> dict[str, Any]:
        """`spec.trainer.args` of the job; waits until a gateway has said it.

        What a round changes of them is in `round.settings`.

        Raises:
            Unreachable: no gateway answered in time.
        """
        if self._exchange.layout is None:
            self._exchange.pending, _ = self._exchange.wait_for("round", "done")
        return self._exchange.settings

    @property
    def last_round(self) -> int:
        """Number of the round that was handed out last, 0 before the first."""
        return self._last

    @property
    def is_over(self) -> bool:
        """The job is done, as far as this client has heard."""
        pending = self._exchange.pending
        return pending is not None and pending["t"] == "done"

    # -- the two things to do ----------------------------------------------------------------
    def rounds(self) -> Iterator[Round]:
        """Every round for which this client is selected, until the job is done.

        A round comes when it comes, and may take others hours.  It may come twice: where a node or
        the run was lost with the update, and that cannot be sent again.

        Raises:
            Refused: the key was revoked, or another program takes part with it now ("displaced").
            Unreachable: the connection to the gateway ended and did not come back in time.
        """
        while (round_ := self.next_round()) is not None:
            yield round_

    def next_round(self) -> Round | None:
        """Wait for the next round; None when the job is done."""
        exchange = self._exchange
        while True:
            message, _ = exchange.wait_for("round", "done")
            if message["t"] == "done":
                exchange.pending = message  # and so it stays
                return None
            number = message["round"]
            if exchange.start != self._start:  # the run goes on from an earlier round
                if not self._is_repeated(message):
                    self._last, exchange.kept = 0, None
                self._start = exchange.start
            if not message["need"] or number < self._last:
                continue
            if number == self._last and self._has_lost_its_answer():
                self._last, exchange.kept, self._counted = number - 1, None, (0, 0)  # once more
            if number == self._last:  # the gateway lost it before it was in a sum, or all did
                self._answer_again(message)
                continue
            exchange.pending = message  # whoever is interrupted meanwhile finds it again
            exchange.kept = None  # its round has ended, and its memory is the model's
            model = exchange.fetch(number - 1)
            if exchange.pending is message:
                exchange.pending = None
            if model is not None and not exchange.is_behind(number):
                self._last, self._made = number, message["made"]
                return Round(number, model, dict(message["settings"]), self)

    def send_update(
        self, number: int, model: Mapping[str, Any], weight: float,
        metrics: Mapping[str, float], progress: Progress | None,
    ) -> bool:  # fmt: skip
        """What `Round.send` does."""
        if self._has_counted(number):
            return True
        exchange = self._exchange
        exchange.kept = None
        exchange.kept = update(
            exchange.layout, self.job, number, model, weight, metrics, progress,
            take=exchange.buffers.take,
        )  # fmt: skip
        return self._answer()

    def send_report(self, number: int, weight: float, metrics: Mapping[str, float]) -> bool:
        """What `Round.report` does."""
        if self._has_counted(number):
            return True
        self._exchange.kept = report(self.job, number, weight, metrics)
        return self._answer()

    def _has_lost_its_answer(self) -> bool:
        """What the last round was answered with has changed since, and there is no copy."""
        kept = self._exchange.kept
        return isinstance(kept, Upload) and not kept.source.recover()

    def _answer_again(self, message: Message) -> None:
        try:
            self._answer()
        except (Interrupted, KeyboardInterrupt):
            self._exchange.pending = self._exchange.pending or message  # who asks again finds it
            raise

    def _answer(self) -> bool:
        exchange, kept = self._exchange, self._exchange.kept
        if kept is None:
            return False
        while not (counts := answer(exchange, kept)):
            news = exchange.pending
            if exchange.start == self._start or news is None or not self._is_repeated(news):
                return False
            self._start, exchange.pending = exchange.start, None  # the new start is told, too
        self._counted = self._start, self._last
        return counts

    def _is_repeated(self, news: Message) -> bool:
        """A new start of the run asks for the round that was answered last, from the same model.

        A checkpoint has every bit of its model, so that what was trained from that is as good as
        it was.  A model that was made again may differ, since sums are made in another order.
        """
        kept = self._exchange.kept
        if kept is None or news["t"] != "round" or round_of(kept) != self._last:
            return False
        return (news["round"], news["made"]) == (self._last, self._made)

    def _has_counted(self, number: int) -> bool:
        """Whether this round has an answer already; who cancelled its sending may not know."""
        return self._counted == (self._start, number)

    def interrupt(self) -> None:
        """From another thread: whatever waits here raises `lifl.exchange.Interrupted`."""
        self._exchange.interrupt()

    def calm(self) -> None:
        """Forget an interruption that came too late to interrupt anything."""
        self._exchange.calm()

    def close(self) -> None:
        """Leave; an update that was acknowledged stays."""
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


# -- what a client answers a round with --------------------------------------------------------
def update(
    layout: Layout | None, job: str, number: int, model: Mapping[str, Any], weight: float,
    metrics: Mapping[str, float], progress: Progress | None, *,
    take: Callable[[int], memoryview] = own,
) -> Upload:  # fmt: skip
    """A trained model on its way.

    Args:
        take: gives memory of so many bytes, where it must be copied on the way.

    Raises:
        InvalidUpdate: another layout, or a weight that is none.
    """
    if layout is None:
        raise InvalidUpdate("no round has begun")
    put = {
        "t": "put", "kind": "update", "job": job, "round": number, "digest": layout.digest,
        "weight": _weight(weight), "metrics": _numbers(metrics),
    }  # fmt: skip
    packing = Packing(layout, model, partial(take, layout.update_bytes))
    return Upload(put, packing, progress=progress)


def report(job: str, number: int, weight: float, metrics: Mapping[str, float]) -> Message:
    """Figures without an update."""
    return {
        "t": "report", "job": job, "round": number, "weight": _weight(weight),
        "metrics": _numbers(metrics),
    }  # fmt: skip


def answer(exchange: Exchange, what: Upload | Message) -> bool:
    """Bring it to the gateway; True when it counts."""
    if not isinstance(what, Upload):
        return exchange.report(what)
    try:
        counts = exchange.upload(what)
    finally:
        what.source.settle()  # from now on the user's arrays may change
    if counts and what.progress is not None:
        what.progress(what.size, what.size)
    return counts


def _weight(weight: object) -> float:
    """Also of NumPy's numbers, which arrays have."""
    return weight_of(weight.item() if isinstance(weight, np.number) else weight)


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        raise InvalidUpdate(
            f"metrics are {metrics!r}: they must be numbers by name", code="bad-metrics"
        ) from error
