"""Virtual clients: thousands in one process, each as if it were alone.

    gateways ─ work: these of yours ─► queue ─► fit(client, round) ─► update, as client i ─► gateway

Owns a worker: it has one connection to every gateway, hears from each which of its clients the
round has drawn there, and runs them one after the other.  The global model is fetched once a
round; every client gets a copy of its own.  A client that is not drawn costs nothing: it has no
socket, no key pair and no memory.  Called by trainer.py.

What users write is `fit(client, round)`: it answers with `round.send` or `round.report`; a client
that does neither sits the round out.  Client i always runs in process i modulo workers, so that
state kept in a dict by `client.index` is found again in its next round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from lifl.client import Progress, Round, answer, report, update
from lifl.connection import Address
from lifl.exchange import AGAIN_MS, Away, Exchange, State
from lifl.functions.polling import Sources
from lifl.functions.transfer import Upload
from lifl.functions.wire import Keys, Message

TIMEOUT_S: Final = 60.0  # without a gateway


@dataclass
class VirtualClient:
    """What `fit` sees of a client: as `lifl.Client`, without rounds of its own.

    Attributes:
        job: name of the job.
        index, count: which of how many clients this is.
        settings: `spec.trainer.args` of the job.
    """

    job: str
    index: int
    count: int
    settings: dict[str, Any]
    _exchange: Exchange = field(repr=False)
    has_answered: bool = field(default=False, repr=False)
    reported: Message | None = field(default=None, repr=False)

    def send_update(
        self, number: int, model: Mapping[str, Any], weight: float,
        metrics: Mapping[str, float], progress: Progress | None,
    ) -> bool:  # fmt: skip
        """What `Round.send` does."""
        upload = update(self._exchange.layout, self.job, number, model, weight, metrics, progress)
        upload.put["as"] = self.index
        return self._say(upload)

    def send_report(self, number: int, weight: float, metrics: Mapping[str, float]) -> bool:
        """What `Round.report` does."""
        self.reported = report(self.job, number, weight, metrics) | {"as": self.index}
        return self._say(self.reported)

    def report_again(self, exchange: Exchange) -> None:
        """To a gateway that was restarted: unlike an update it was nowhere but in its mind."""
        self._exchange = exchange
        if self.reported is not None:
            self._say(self.reported)

    def _say(self, what: Upload | Message) -> bool:
        self.has_answered = True
        self._exchange.speaks_for = self.index
        try:
            return answer(self._exchange, what)
        except Away:  # another gateway asks for it, or this one when it is back
            return False
        finally:
            self._exchange.speaks_for = None
            for message in self._exchange.work:  # said before this answer was heard
                message["clients"] = [n for n in message["clients"] if n != self.index]


@dataclass
class _Due:
    """A client that a round has drawn."""

    exchange: Exchange
    round: int
    index: int
    settings: dict[str, Any]


class Worker:
    """One process's share of the virtual clients.

    Args:
        addresses: every gateway of the job.
        keys: the worker's own, with which it speaks for its clients and for no others.
        count: clients of the job, all workers' together.
    """

    def __init__(self, addresses: list[Address], *, job: str, keys: Keys, count: int) -> None:
        self.job, self.count = job, count
        self._open = partial(
            Exchange, job=job, keys=keys, timeout_s=TIMEOUT_S, may_bulk=False, moves=False
        )
        self._exchanges = {address: self._open(address) for address in addresses}
        self.round = 0  # the newest that was heard of
        self.running: int | None = None  # the client whose function is running
        self._queue: deque[_Due] = deque()
        self._begun: dict[int, VirtualClient] = {}  # of this round
        self._model: tuple[int, State] = (-1, {})
        self._polled = Sources()

    def run(self, fit: Callable[[Any, Round], None]) -> None:
        """Until the job is done."""
        while self._listen():
            if self._queue:
                self._train(fit, self._queue.popleft())
            else:
                self._wait()

    def close(self) -> None:
        for exchange in [*self._exchanges.values()]:
            exchange.close()

    # -- what is to be done ------------------------------------------------------------------
    def _listen(self) -> bool:
        """Take in what gateways say; False when the job is done."""
        for exchange in [*self._exchanges.values()]:
            exchange.listen()
            if exchange.pending is not None and exchange.pending["t"] == "done":
                return False
            while exchange.work:
                self._hear(exchange, exchange.work.popleft())
            for address in exchange.elsewhere:  # a node that has joined
                if address not in self._exchanges:
                    self._exchanges[address] = self._open(address)
        return True

    def _hear(self, exchange: Exchange, message: Message) -> None:
        number = message["round"]
        if number > self.round:
            self.round = number
            self._queue.clear()
            self._begun.clear()
        if number < self.round:
            return
        queued = {due.index: due for due in self._queue}
        for index in message["clients"]:
            begun = self._begun.get(index)
            if begun is not None and begun.reported is not None:
                begun.report_again(exchange)
            elif index in queued:
                queued[index].exchange = exchange  # the node that asked before may be lost
            else:  # or its update went with a node: train it again
                self._queue.append(_Due(exchange, number, index, message["settings"]))

    def _wait(self) -> None:
        exchanges = [*self._exchanges.values()]
        self._polled.ready([source for each in exchanges for source in each.sources], AGAIN_MS)

    # -- one client --------------------------------------------------------------------------
    def _train(self, fit: Callable[[Any, Round], None], due: _Due) -> None:
        model = self._fetch(due)
        if model is None:
            return
        client = VirtualClient(self.job, due.index, self.count, due.exchange.settings, due.exchange)
        self._begun[due.index] = client
        own = {name: array.copy() for name, array in model.items()}
        round_ = Round(due.round, own, dict(due.settings), client)
        self.running = due.index
        fit(client, round_)
        self.running = None
        if not client.has_answered:
            round_.report()

    def _fetch(self, due: _Due) -> State | None:
        """The model that a round starts from; None when that round is over."""
        if self._model[0] != due.round - 1:
            try:
                model = due.exchange.fetch(due.round - 1)
            except Away:
                return None
            if model is None:
                return None
            self._model = due.round - 1, model
        return self._model[1]
