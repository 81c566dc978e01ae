"""Events on their way to an HTTP sink, by a thread of its own.

Owns a queue that is bounded and the tries to empty it: in order, each until the sink has it, with
pauses that grow.  Whoever puts something in never waits: where the queue is full, the oldest event
is dropped and counted.  What a sink refuses for good (4xx, redirects), and what cannot be
sent at all, counts as refused and is not tried again.  Knows
nothing of what is sent: cloudevents.py does.  Called by the keeper of a job and by the engine.
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from lifl.placement.cloudevents import CONTENT_TYPE

log = logging.getLogger("lifl.sink")

MOST: Final = 256  # events that wait for one sink
TIMEOUT_S: Final = 5.0  # of one try
FIRST_S: Final = 0.5  # the pause after the first failure, twice as long after each that follows
LONGEST_S: Final = 30.0
OUTCOMES: Final = ("delivered", "refused", "dropped")
LINGER_S: Final = 60.0  # for events of a job that is gone
LATER: Final = frozenset({408, 425, 429})  # of 4xx, those that mean "not now"


class Refused(Exception):
    """The sink does not want this event, now or later."""


class Counts:
    """How events ended: delivered, refused, dropped; and retries.  Of one sink or of several."""

    def __init__(self) -> None:
        self._lock, self._counts = threading.Lock(), Counter[str]()

    def add(self, outcome: str, number: int = 1) -> None:
        with self._lock:
            self._counts[outcome] += number

    def __getitem__(self, outcome: str) -> int:
        return self._counts[outcome]


class Sink:
    """The way to one URL.

    Args:
        counts: to add to; its own unless given.
    """

    def __init__(self, url: str, counts: Counts | None = None) -> None:
        self.url, self.counts = url, counts if counts is not None else Counts()
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._changed = threading.Condition()
        self._until = math.inf  # when to give up (monotonic seconds)
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._waiting)

    def put(self, event: Mapping[str, Any]) -> None:
        """Hand over an event in JSON's types; returns at once."""
        with self._changed:
            if self._until < math.inf:
                self.counts.add("dropped")
                return
            if len(self._waiting) == MOST:
                del self._waiting[1]  # the first is under way
                self.counts.add("dropped")
            self._waiting.append(event)
            self._changed.notify()

    def close(self, linger_s: float) -> None:
        """Take nothing more; what is there is tried for so long, in the background."""
        with self._changed:
            self._until = min(self._until, time.monotonic() + linger_s)
            self._changed.notify()

    def join(self, timeout_s: float) -> int:
        """Wait for the end that `close` has begun; how many events were not delivered."""
        self._thread.join(timeout_s)
        return len(self) + self.counts["dropped"] + self.counts["refused"]

    # -- the thread --------------------------------------------------------------------------
    def _run(self) -> None:
        failures = 0
        while (event := self._next()) is not None:
            try:
                post(self.url, event)
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                self.counts.add("retries")
                if failures == 1:
                    log.warning("%s does not take events, tried again: %s", self.url, error)
                self._pause(min(LONGEST_S, FIRST_S * 2 ** min(failures - 1, 16)))
                continue
            except Refused as error:
                self.counts.add("refused")
                log.warning("%s refuses %s: %s", self.url, event.get("id"), error)
            except Exception as error:  # a URL or an event that no try can send
                self.counts.add("refused")
                log.warning("%s cannot be sent to %s: %r", event.get("id"), self.url, error)
            else:
                self.counts.add("delivered")
            failures = 0
            with self._changed:
                self._waiting.popleft()

    def _next(self) -> Mapping[str, Any] | None:
        """The oldest event, when there is one; None: it is time to end."""
        with self._changed:
            while not self._waiting and self._until == math.inf:
                self._changed.wait()
            if self._waiting and time.monotonic() >= self._until:
                self.counts.add("dropped", len(self._waiting))
                self._waiting.clear()
            return self._waiting[0] if self._waiting else None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._changed:
            while (left := min(until, self._until) - time.monotonic()) > 0:
                self._changed.wait(left)


def post(url: str, event: Mapping[str, Any]) -> None:
    """One try.

    Raises:
        Refused: the sink answered that it never will.
        OSError, HTTPException: it is away, too slow or too busy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            "POST", path, json.dumps(event).encode(), {"Content-Type": CONTENT_TYPE}
        )
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 500 or status in LATER:
        raise OSError(f"it answers {status}")
    if status >= 300:
        raise Refused(f"it answers {status}")
