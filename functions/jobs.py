"""What a gateway knows of one job: its round, its roster, who uploads, who waits.

Owns the checks that an update must pass before a byte of it reaches a slot.  Knows no socket;
clients.py and uploads.py carry out what is returned.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifl.errors import Busy, InvalidUpdate, Late, LiflError, Refused
from lifl.functions.intake import Grant, Intake
from lifl.functions.kernels.finite import FiniteCheck
from lifl.functions.layout import Layout
from lifl.functions.sealing import EARLY
from lifl.functions.wire import (
    MOST_METRICS,
    Message,
    clients_of,
    encode,
    takes_bulk_port,
    weight_of,
    worker_and_number,
)
from lifl.shm.slots import Payload

if TYPE_CHECKING:
    from lifl.functions.bulk_state import Connection

STALL_S = 15.0

Forward = tuple[str, str]  # endpoint and server key of another gateway


@dataclass(slots=True)
class Asking:
    """A put that was checked: what is to be written, and where it goes."""

    peer: bytes  # routing id of the connection
    key: str
    message: Message
    payload: Payload
    clients: int
    consumer: int
    length: int
    weight: float
    asked_at: float = field(default_factory=time.monotonic)
    is_told: bool = False  # that it has to wait
    came_on: Connection | None = None  # the bulk connection; None: the control channel
    is_bulk: bool = field(init=False)  # the payload comes over the bulk port, not with the put

    def __post_init__(self) -> None:  # slots know no cached properties
        self.is_bulk = takes_bulk_port(self.message.get("lane"), self.length)

    @property
    def early(self) -> int:
        """Number of the transfer that follows the put unasked; 0: it waits for its `go`."""
        transfer = self.message.get("transfer")
        if self.came_on is None or not self.is_bulk or not isinstance(transfer, int):
            return 0
        return transfer if transfer // EARLY == 1 else 0


@dataclass(slots=True)
class Uploading:
    """An update on its way into its slot.

    Args:
        began_at, moved_at: when it got the slot, and when its last byte came.
        check: looks at its floats as they come; None where that is not asked for.
        connection, transfer: of the bulk port; None and 0 where it comes over ZeroMQ.
        seen: bytes that had come when somebody last looked.
    """

    asking: Asking
    grant: Grant
    began_at: float
    moved_at: float
    check: FiniteCheck | None = None
    connection: Connection | None = None
    transfer: int = 0
    seen: int = 0

    def is_repeated(self, asking: Asking) -> bool:
        """It is asked for again although its bytes may be on their way over the bulk port."""
        before = self.asking
        same = before.message["round"] == asking.message["round"]
        same = same and before.clients == asking.clients  # a node may have another sum meanwhile
        same = same and not asking.early  # which begins anew
        return self.connection is not None and asking.is_bulk and same

    @property
    def received(self) -> int:
        """Bytes that have come, those of a chunk that is not complete included."""
        connection = self.connection
        is_coming = connection is not None and connection.upload is self
        return self.grant.written + (connection.filled if connection and is_coming else 0)


@dataclass
class Job:
    """One job at one gateway."""

    name: str
    number: int
    intake: Intake
    fds: tuple[int, int, int]
    layout: Layout | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    round: int = 0  # announced by the coordinator; 0 before
    epoch: int = 0
    round_settings: dict[str, Any] = field(default_factory=dict)  # what clients are told
    made: int = 0  # in which start of the run, the model that the round starts from
    roster: list[str] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    lanes: dict[int, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)  # node key -> oldest epoch it may use
    top: int = 0  # endpoint of the top role, 0 when it is on another node
    forward: Forward | None = None
    model_from: Forward | None = None
    cut: bool = False
    fetching: Forward | None = None  # where the model of the round comes from just now
    model_upload: memoryview | None = None  # the first model, on its way here
    ended: bool = False
    leave_by: float = 0.0  # when clients that have not left are not waited for (monotonic s)
    end_is_reported: bool = False
    dirty: bool = False
    bytes_in: int = 0  # of the updates that the round has, without other nodes' sums
    metrics: list[tuple[float, dict[str, float], str]] = field(default_factory=list)
    told: tuple[int, int] = (0, 0)  # how much of the two the coordinator has heard
    told_at: float = 0.0  # when (monotonic seconds)
    evaluation: Message = field(default_factory=dict)  # the last that an observer reported
    clients: dict[str, bytes] = field(default_factory=dict)
    observers: dict[str, bytes] = field(default_factory=dict)
    workers: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, dict[int, int]] = field(default_factory=dict)  # worker -> number -> bit
    excused: int = 0  # clients of this round that take part without an update
    uploads: dict[str, Uploading] = field(default_factory=dict)
    waiting: OrderedDict[str, Asking] = field(default_factory=OrderedDict)  # first come, first
    looked_at: float = 0.0  # at who waits (monotonic seconds)
    forwarding: set[tuple[int, int]] = field(default_factory=set)
    crowd_at: int | None = None  # the queue of which the coordinator wants to hear
    withholding: int | None = None  # number of the agent's last limit, while slots are in use
    announced: set[str] = field(default_factory=set)  # who has heard of the round here
    _encoded: bytes = field(default=b"", init=False)  # what `news_with_model` made

    @property
    def everybody(self) -> dict[str, bytes]:
        """Clients, workers and observers that are here: key -> connection."""
        return self.clients | self.workers | self.observers

    def in_service(self) -> int:
        """Updates that wait for a slot, come in, or wait to be folded."""
        return self.intake.in_use() + len(self.waiting)

    def note_queue(self) -> None:
        """Count how long the queue is now, where somebody asked for it."""
        if self.intake.tally.queue is not None:
            self.intake.tally.queue_is(self.in_service())

    def start_round(self, message: Message) -> None:
        """Take over what the coordinator says of a round; the same message twice is harmless.

        In mid-round it says who is here now, and where the top is, when a node was lost.
        """
        is_again = message["round"] == self.round
        if not is_again:
            self.bytes_in, self.metrics, self.told, self.excused = 0, [], (0, 0), 0
        if not is_again or self.cut:  # who was told that it is late hears it too
            self.announced.clear()
        if not is_again or _forward(message["forward"]) != self.forward:
            self.forwarding.clear()
        self.excused |= clients_of(message["excused"])
        self.round, self.epoch = message["round"], message["epoch"]
        self.round_settings, self.made = message["settings"], message["made"]
        self._encoded = b""
        self.roster = message["roster"]
        self.index = {key: bit for bit, key in enumerate(self.roster)}
        self.lanes = {int(bit): role for bit, role in message["lanes"].items()}
        self.nodes = message["nodes"]
        self.top = message["top"]
        self.forward = _forward(message["forward"])
        self.model_from = _forward(message["model_from"])
        self.cut, self.crowd_at = False, message.get("crowd_at")
        if is_again:
            self._move_who_waits()
        self.intake.tally.start_round(self.round, message["elapsed_s"])
        self.shares = {}
        for bit in self.lanes:
            if (virtual := worker_and_number(self.roster[bit])) is not None:
                self.shares.setdefault(virtual[0], {})[virtual[1]] = bit

    def news(self, *, need: bool) -> Message:
        """The round, as a client of it hears it; `need`: its update is still missing."""
        return {
            "t": "round", "job": self.name, "round": self.round, "need": need,
            "settings": self.round_settings, "made": self.made,
        }  # fmt: skip

    def news_with_model(self) -> bytes:
        """The same, encoded once for all to whom the round's model comes unasked."""
        self._encoded = self._encoded or encode(self.news(need=True) | {"model": True})
        return self._encoded

    def _move_who_waits(self) -> None:
        """Lanes may lead to other leaves now: whose slot is still to be given has the new one."""
        for asking in self.waiting.values():
            bit = asking.clients.bit_length() - 1
            if asking.payload is Payload.UPDATE and bit in self.lanes:
                asking.consumer = self.lanes[bit]

    def crowd(self) -> int | None:
        """How long the queue is, once it is as long as the coordinator wants to hear of."""
        if self.crowd_at is None or (length := self.in_service()) < self.crowd_at:
            return None
        self.crowd_at = None
        return length

    def uploading(self, asking: Asking, grant: Grant, now_s: float) -> Uploading:
        """An upload that begins; its floats are looked at unless the job takes them as they are."""
        check = None
        if (
            asking.payload is Payload.UPDATE
            and self.layout is not None
            and self.settings.get("non_finite") != "accept"
        ):
            check = FiniteCheck(self.layout.sections)
        return Uploading(asking, grant, now_s, now_s, check)

    def too_slow(self, upload: Uploading, now_s: float) -> str | None:
        """Why an upload loses its slot, if it does: it stands still, or keeps others waiting."""
        stall_s = self.settings.get("stall_s", STALL_S)
        if now_s - upload.moved_at > stall_s:
            return f"no byte came for {stall_s:g} s"
        least, took_s = self.settings.get("min_upload_rate", 0), now_s - upload.began_at
        if self.waiting and upload.received < (took_s - stall_s) * least:
            return (
                f"{upload.received} bytes in {took_s:.1f} s are fewer than {least} a second, "
                "and others wait for the slot"
            )
        return None

    @property
    def has_model(self) -> bool:
        """The model that this round starts from is here."""
        return self.round > 0 and self.intake.round == self.round and bool(self.intake.model())

    @property
    def answered(self) -> int:
        """Clients of this round from which nothing more is needed."""
        return self.intake.arena.accepted(self.round) | self.excused

    def bit(self, key: str) -> int | None:
        """Of a client that was selected and belongs to this node."""
        bit = self.index.get(key)
        return bit if bit in self.lanes else None

    def bit_of(self, key: str, message: Message) -> int:
        """Of a client that has something for the round under way.

        Raises:
            InvalidUpdate, Late, Refused: permanent; Busy: the round has not reached this node, or
                has this client elsewhere.
        """
        round_ = message.get("round")
        if not isinstance(round_, int):
            raise InvalidUpdate(f"round is {round_!r}: it must be an integer", code="malformed")
        self._must_be_open(round_)
        return self._selected(key)

    def _must_be_open(self, round_: int) -> None:
        """The round under way, whose model is here."""
        if round_ < self.round or (round_ == self.round and self.intake.round > round_):
            raise Late(
                f"round {round_} is over: go on with the next one",
                code="past-round", job=self.name, round=round_,
            )  # fmt: skip
        if round_ > self.round or not self.has_model or self.layout is None:
            raise Busy(
                f"round {round_} has not started here", code="not-started", job=self.name
            )

    def _selected(self, key: str) -> int:
        """The bit of a client that takes part here."""
        bit = self.bit(key)
        if bit is None and key in self.index:  # its node may be lost, and it is here too early
            raise Busy(
                f"round {self.round} has this client on another node: wait until it says `round`",
                code="not-started", job=self.name,
            )  # fmt: skip
        if bit is None:
            raise Refused(
                f"not selected for round {self.round} at this node: wait until it says `round`",
                code="not-selected", job=self.name,
            )  # fmt: skip
        return bit

    def check(self, peer: bytes, key: str, right: str, message: Message) -> Asking:
        """Everything about a put that can be known before its payload.

        Raises:
            InvalidUpdate, Late, Refused: permanent; Busy: the round has not reached this node.
        """
        kind, round_ = message.get("kind"), message.get("round")
        length, weight = message.get("length"), message.get("weight", 1.0)
        if not isinstance(round_, int) or not isinstance(length, int):
            raise InvalidUpdate(
                f"round {round_!r} and length {length!r} must be integers", code="malformed"
            )
        if kind == "update":
            weight = weight_of(weight)
        _check_metrics(message.get("metrics"))
        self._must_be_open(round_)
        if kind == "update":
            return self._client(peer, key, message, weight)
        if kind == "sum" and right == "node":
            return self._node(peer, key, message, float(weight))
        raise Refused(f"a {right} may not send a {kind!r}", code="not-allowed")

    def _client(self, peer: bytes, key: str, message: Message, weight: float) -> Asking:
        assert self.layout is not None
        bit, length = self._selected(key), message["length"]
        if message.get("digest") != self.layout.digest:
            raise InvalidUpdate(
                f"the update's layout is {_hex(message.get('digest'))}; this job's is "
                f"{_hex(self.layout.digest)}: its tensors, shapes or dtypes differ",
                code="wrong-layout",
            )
        if length != self.layout.update_bytes:
            raise InvalidUpdate(
                f"the update has {length} bytes; this job's have {self.layout.update_bytes}",
                code="wrong-length",
            )
        return Asking(
            peer, key, message, Payload.UPDATE, 1 << bit, self.lanes[bit], length, weight
        )

    def _node(self, peer: bytes, key: str, message: Message, weight: float) -> Asking:
        assert self.layout is not None
        epoch, length = message.get("epoch", 0), message["length"]
        clients = clients_of(message.get("clients", b""))
        if not self.top:
            raise Busy(  # or not yet: it comes here with a node's loss, and the round says so
                "the top of this job is not on this node", code="not-started", job=self.name
            )
        if key not in self.nodes or epoch < self.nodes[key]:
            raise Late(
                f"a sum of epoch {epoch}: its node was given up", code="fenced", job=self.name
            )
        if length != self.layout.sum_bytes or not 0 < clients < 1 << len(self.roster):
            raise InvalidUpdate(
                f"a sum of {length} bytes over clients {clients:#x}; this job's sums have "
                f"{self.layout.sum_bytes} over {len(self.roster)} clients",
                code="wrong-length",
            )
        return Asking(
            peer, key, message, Payload.SUM, clients, self.top, length, weight
        )


def measured(message: Message) -> dict[str, float]:
    """The figures that a client reports; NaN and infinity have no place in a mean.

    Raises:
        InvalidUpdate: too many, or no numbers by name.
    """
    given = message.get("metrics")
    _check_metrics(given)
    return {name: float(value) for name, value in (given or {}).items() if math.isfinite(value)}


def evaluation(job: str, message: Message) -> Message:
    """What an observer says of the model of a round, as the coordinator takes it.

    Raises:
        InvalidUpdate: it is no round, or no numbers by name.
    """
    round_, metrics = message.get("round"), message.get("metrics")
    if not isinstance(round_, int) or not isinstance(metrics, dict):
        raise InvalidUpdate(
            f"round is {round_!r:.40} and metrics are {metrics!r:.40}: they must be an integer and "
            "a dict of numbers by name", code="bad-metrics",
        )  # fmt: skip
    _check_figures(metrics)
    return {"t": "metrics", "job": job, "round": round_, "metrics": metrics}


def rejection(job: str, message: Message, error: LiflError) -> Message:
    """What the sender is told: a code, a sentence, and whether to try again."""
    return {
        "t": "reject", "of": _plain(message.get("t")), "job": job,
        "round": _plain(message.get("round")),
        "code": error.code,
        "text": error.sentence, "retry": error.retryable,
        **({"as": message["as"]} if "as" in message else {}),
    }  # fmt: skip


def _plain(value: object) -> str | int | None:
    """What may be sent back of what came from outside."""
    if isinstance(value, str):
        return value[:20]
    return value if isinstance(value, int) and abs(value) < 1 << 53 else None


def _check_metrics(metrics: object) -> None:
    """Few, named and numeric: they go to the coordinator as they are."""
    if metrics is None:
        return
    if not isinstance(metrics, dict) or len(metrics) > MOST_METRICS:
        raise InvalidUpdate(
            f"metrics must be a dict of at most {MOST_METRICS} numbers by name", code="bad-metrics"
        )
    _check_figures(metrics)


def _check_figures(metrics: dict[object, object]) -> None:
    for name, value in metrics.items():
        if not isinstance(name, str) or len(name) > 100 or not isinstance(value, int | float):
            raise InvalidUpdate(
                f"metric {name!r:.120} is {value!r:.40}: name it with up to 100 characters and "
                "give it a number",
                code="bad-metrics",
            )


def _hex(digest: object) -> str:
    return digest.hex() if isinstance(digest, bytes) else repr(digest)


def _forward(value: list[str] | None) -> Forward | None:
    return (value[0], value[1]) if value else None
