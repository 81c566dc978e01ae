"""The client library for asyncio.

    async with lifl.AsyncClient.connect() as client:
        async for round in client.rounds():
            model, examples = await train(round.model)
            await round.send(model, weight=examples)

Owns nothing of the protocol: each call is one of `Client`'s, in the one thread that an
AsyncClient has until it is closed.  A call that is cancelled is interrupted where it waits, the
thread is idle again before CancelledError goes on, and the same can be asked once more: a round
that arrived meanwhile is handed out then, and an update that was under way is sent again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from lifl.client import Client, Progress, Round

T = TypeVar("T")


class AsyncRound:
    """One round of this client; attributes as `Round` has them."""

    def __init__(self, round_: Round, client: AsyncClient) -> None:
        self._round, self._client = round_, client
        self.number, self.model, self.settings = round_.number, round_.model, round_.settings
        self.load_into = round_.load_into

    async def send(
        self, model: Mapping[str, Any], *, weight: float,
        metrics: Mapping[str, float] | None = None, progress: Progress | None = None,
    ) -> bool:  # fmt: skip
        """As `Round.send`; `progress` is called in the event loop."""
        told: Progress | None = None
        if progress is not None:
            loop = asyncio.get_running_loop()

            def told(sent: int, total: int) -> None:
                loop.call_soon_threadsafe(progress, sent, total)

        return await self._client.run(
            lambda: self._round.send(model, weight=weight, metrics=metrics, progress=told)
        )

    async def report(
        self, *, weight: float = 1.0, metrics: Mapping[str, float] | None = None
    ) -> bool:
        """As `Round.report`."""
        return await self._client.run(lambda: self._round.report(weight=weight, metrics=metrics))


class AsyncRounds:
    """Every round of a client; unlike a generator it survives a cancelled `__anext__`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._arrived: list[Round | None] = []  # at the very moment of a cancellation

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncRound:
        if not self._arrived:
            await self._client.run(lambda: self._arrived.append(self._client.client.next_round()))
        round_ = self._arrived.pop()
        if round_ is None:
            raise StopAsyncIteration
        return AsyncRound(round_, self._client)


class AsyncClient:
    """A participant of one job, for asyncio; one call at a time."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.job, self.index, self.count = client.job, client.index, client.count
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lifl-client")
        self._turn = asyncio.Lock()
        self._rounds = AsyncRounds(self)

    @classmethod
    def connect(
        cls, environment: Mapping[str, str] = os.environ, *, timeout_s: float = 60.0
    ) -> Self:
        """As `Client.connect`, which waits for nobody."""
        return cls(Client.connect(environment, timeout_s=timeout_s))

    def rounds(self) -> AsyncRounds:
        """Every round for which this client is selected, until the job is done."""
        return self._rounds

    async def settings(self) -> dict[str, Any]:
        """`spec.trainer.args` of the job, as soon as a gateway has said it."""
        return await self.run(lambda: self.client.settings)

    async def run(self, work: Callable[[], T]) -> T:
        """Do `work` in the client's thread; cancelled, end its wait and see it ended."""
        async with self._turn:
            done = asyncio.wrap_future(self._thread.submit(work))
            cancelled: asyncio.CancelledError | None = None
            while not done.done():
                try:
                    await asyncio.shield(done)
                except asyncio.CancelledError as error:
                    cancelled = error
                    self.client.interrupt()
                except Exception:
                    break  # of the work; done
            self.client.calm()
            if cancelled is not None:
                done.exception()  # looked at, whatever it is
                raise cancelled
            return done.result()

    async def close(self) -> None:
        """Leave, and end the thread; an update that was acknowledged stays."""
        async with self._turn:
            self._thread.shutdown()
            self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.close()
