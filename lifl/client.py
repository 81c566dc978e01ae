"""The client library: a training loop takes part in a job.

    with lifl.Client.connect() as client:
        for round in client.rounds():
            model = round.model                      # dict of NumPy arrays, yours to change
            examples, loss = train(model)
            round.send(model, weight=examples, metrics={"loss": loss})

Owns rounds as a training loop sees them; what goes over the network is in exchange.py.  An update
is kept until its round is over.  Single-threaded; between calls nothing runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lifl.errors import InvalidJob, InvalidUpdate, Unreachable
from lifl.exchange import Address, Exchange, State
from lifl.functions.transfer import Upload
from lifl.functions.wire import LEAST_WEIGHT, MOST_WEIGHT, Keys, is_weight


@dataclass
class Round:
    """One round of this client.

    Attributes:
        number: 1 and up.
        model: the global model that the round starts from; the arrays are this client's own.
    """

    number: int
    model: State
    _client: Client = field(repr=False)

    def send(
        self, model: Mapping[str, Any], *, weight: float, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """Send the trained model and wait until a gateway has it.

        Args:
            model: the same names, dtypes and shapes as `self.model`.
            weight: of this update in the mean, usually the number of examples; from 2^-40 to 2^40.
            metrics: numbers to be averaged by weight over the round's clients.

        Returns:
            True when it counts, False when the round closed before it was there.

        Raises:
            InvalidUpdate: another layout, or a weight that is none.
            Unreachable: no gateway answered in time.
        """
        return self._client._send_update(self.number, model, weight, dict(metrics or {}))


class Client:
    """A participant of one job.

    Args:
        address: any gateway of the job; the platform says where else to go.
        job: name of the job.
        keys: this client's CURVE key pair, which is its identity.
        index, count: which of how many clients this is, for splitting data; 0 of 1 by default.
        timeout_s: how long to try when no gateway answers.
    """

    def __init__(
        self, address: Address, *, job: str, keys: Keys, index: int = 0, count: int = 1,
        timeout_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.job, self.index, self.count = job, index, count
        self._exchange = Exchange(address, job=job, keys=keys, timeout_s=timeout_s)
        self._kept: Upload | None = None

    @classmethod
    def connect(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """A client from what `lifl run` printed: LIFL_CLIENT names its file, mode 0600.

        The file of a client that was enrolled with `lifl keys` has no secret in it; LIFL_KEY names
        the file that `lifl keys new` made.

        Raises:
            Unreachable: the variable is not set or names no such file.
        """
        path = environment.get("LIFL_CLIENT", "")
        try:
            fields = json.loads(Path(path).read_text())
        except OSError as error:
            raise Unreachable(
                f"LIFL_CLIENT is {path!r}: set it to a client file of the run, for example "
                "runs/latest/clients/client-0.json"
            ) from error
        return cls(
            Address(fields["endpoint"], fields["server_key"]),
            job=fields["job"],
            keys=_keys(fields, environment),
            index=fields["index"],
            count=fields["count"],
        )

    @property
    def settings(self) -> dict[str, Any]:
        """`spec.trainer.args` of the job; waits until a gateway has said it.

        Raises:
            Unreachable: no gateway answered in time.
        """
        if self._exchange.layout is None:
            self._exchange.pending, _ = self._exchange.wait_for("round", "done")
        return self._exchange.settings

    # -- the two things to do ----------------------------------------------------------------
    def rounds(self) -> Iterator[Round]:
        """Every round for which this client is selected, until the job is done."""
        last = start = 0
        while True:
            message, _ = self._exchange.wait_for("round", "done")
            if message["t"] == "done":
                self._exchange.pending = message  # and so it stays
                return
            number = message["round"]
            if self._exchange.start != start:  # the run goes on from an earlier round
                last, start, self._kept = 0, self._exchange.start, None
            if not message["need"] or number < last:
                continue
            if number == last:  # the gateway lost it before it was sealed
                self._exchange.upload(self._kept) if self._kept else None
                continue
            model = self._exchange.fetch(number - 1)
            if model is not None:
                last = number
                self._kept = None
                yield Round(number, model, self)

    def _send_update(
        self, number: int, model: Mapping[str, Any], weight: float, metrics: dict[str, float]
    ) -> bool:
        if self._exchange.layout is None:
            raise InvalidUpdate("no round has begun")
        weight = float(weight) if isinstance(weight, int | float | np.number) else weight
        if not is_weight(weight):
            raise InvalidUpdate(
                f"weight is {weight!r}: it must be a number from {LEAST_WEIGHT:.1e} to "
                f"{MOST_WEIGHT:.1e}, usually that of this client's examples",
                code="bad-weight",
            )
        self._kept = None
        buffer = self._exchange.buffers.take(self._exchange.layout.update_bytes)
        self._exchange.layout.pack_into(model, buffer)
        put = {
            "t": "put", "kind": "update", "job": self.job, "round": number,
            "digest": self._exchange.layout.digest, "weight": float(weight),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }  # fmt: skip
        self._kept = Upload(put, buffer)
        return self._exchange.upload(self._kept)

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


def _keys(fields: Mapping[str, Any], environment: Mapping[str, str]) -> Keys:
    """The client's own keys: from its file, or from the one that the client has for itself."""
    if "secret_key" in fields:
        return Keys(fields["public_key"], fields["secret_key"])
    path = environment.get("LIFL_KEY", "")
    try:
        keys = Keys.load(Path(path))
    except (OSError, ValueError) as error:
        raise InvalidJob(
            f"LIFL_KEY is {path!r}: set it to the .key file that lifl keys new has made",
            code="bad-keys",
        ) from error
    if keys.public != fields["public_key"]:
        raise InvalidJob(
            f"LIFL_KEY is {path!r}, whose public key is {keys.public}; the client file is for "
            f"{fields['public_key']}",
            code="bad-keys",
        )
    return keys
