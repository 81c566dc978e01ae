"""The course of a job: one round after the other, each written down before anybody hears of it.

    plan ─► saved ─► agents ─► planned, ready ─► saved ─► gateways ─► accepted … ─► published

Owns which round is under way and when its nodes are told, also those that come back, and what a
coordinator that comes back goes on with.  When a round closes is rounds.py's matter, what nodes are
told telling.py's, the sockets are the coordinator's, which calls this.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.errors import Busy, PermanentError
from lifl.events import emit
from lifl.faults import fault
from lifl.functions.wire import Message, clients_of
from lifl.placement.crowd import Crowds
from lifl.placement.loss import Losses
from lifl.placement.membership import Known, Membership
from lifl.placement.planning import Planning, roles_of, selected
from lifl.placement.record import Recorder
from lifl.placement.rounds import Round
from lifl.placement.snapshot import Plan
from lifl.placement.store import Change, JobStore, Saved, UnderWay
from lifl.placement.telling import Send, Telling

LAST_METRICS_S: Final = 30.0
RECONNECT_S: Final = 5.0  # for clients whose gateway was replaced, or whose coordinator was


class Course:
    """Where a job is.

    Args:
        send: a message to a connection of a node, if there is one.
        put_model: takes the model that this start of the run begins with to a node; False: that
            was lost meanwhile, and what follows from it is done.
        offer: hears which node has the model of a round that is over.
        must_be_kept: raises ModelLost unless there is a checkpoint of this round.

    Attributes:
        first_needs: clients that the first round waits for, beside spec.clients.min.
        base: the round whose model this start of the run begins with; 0: the initial model.
        holding: nodes that may have memory of the job.
        slots: input slots of those, as their agents were told.
        deadline_at, done_at: monotonic times of the round's deadline and of the last patience.
        is_paused: no further round begins.
    """

    def __init__(
        self, job: FLJob, members: Membership, planning: Planning, record: Recorder,
        store: JobStore, *, send: Send,
        put_model: Callable[[Known, int], bool], offer: Callable[[int, Known], None],
        must_be_kept: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.job, self.members, self.planning = job, members, planning
        self.record, self.store = record, store
        self.put_model, self.offer, self.must_be_kept = put_model, offer, must_be_kept
        self.first_needs = 1
        self.plan: Plan | None = None
        self.roster: list[str] = []
        self.holding: set[str] = set()
        self.slots: dict[str, int] = {}
        self.epoch = self.base = 0
        self.round: Round | None = None
        self.deadline_at = math.inf
        self.done_at: float | None = None
        self.is_paused = False
        self._began = 0, 0  # the model that this start began with, and the start that made it
        self.started_at_s: float | None = None  # the round under way (Unix time)
        self.telling, self.losses, self.crowds = Telling(self, send), Losses(self), Crowds(self)
        self._has_said_who_is_late = False

    def go_on(self, saved: Saved) -> None:
        """Take up what the coordinator before this one had written down."""
        self.base, self._began = saved.base, (saved.base, saved.base_start)
        if saved.rows:
            self.record.go_on(saved)
        under_way = saved.round
        if under_way is None:
            if saved.published:
                self.round = Round(saved.published, {}, "", phase="published")
                self._end_if_last()
            return
        self.plan, self.epoch = under_way.plan, under_way.epoch
        self.base = max(self.base, under_way.base)
        self.roster, self.members.homes = list(under_way.roster), dict(under_way.homes)
        self.holding = {*self.plan.used, *self.members.homes.values()}
        self.slots = self.slots_now()
        gone_at = time.monotonic() + self.job.spec.clients.grace_s + RECONNECT_S
        for key in self.roster:  # who is not reported again by then has left meanwhile
            if key not in self.members.names:  # revoked meanwhile
                continue
            home = self.members.homes.get(key, "")  # of virtual clients none
            self.members.comes(key, home)
            if home:
                self.members.leaves(key, home, gone_at)
        self._set_round(under_way.number)
        assert self.round is not None
        if under_way.number <= saved.published:
            self.round.on_published()
            self._end_if_last()
        elif under_way.started_at_s is not None:
            self.started_at_s = under_way.started_at_s
            self.round.shut = set(under_way.shut)
            self._open(time.time() - under_way.started_at_s)
            if under_way.deadline_at_s is not None:
                self.deadline_at = time.monotonic() + under_way.deadline_at_s - time.time()
        for name, epoch in under_way.lost.items():
            self.members.lose(name, epoch, gone_at)
        is_lost = any(self.members[name].is_lost for name in self.plan.used)
        if (under_way.is_moving or is_lost) and self.round.phase == "open":
            self.losses.go_on()

    # -- plan --------------------------------------------------------------------------------
    def _needed(self) -> int:
        """Clients that must be connected before a round; for the first, all that will come."""
        return max(self.job.spec.clients.min, self.first_needs if self.plan is None else 1)

    def try_to_plan(self) -> None:
        """The next round, if none is under way and enough clients are there."""
        if not self.members.is_whole or self.done_at is not None or self.is_paused:
            return
        asking = self.planning.asking
        if self.round is not None and self.round.phase != "published":
            if not asking.has_asked:  # a coordinator that came back; the round is in need of it
                asking.may_plan(self._want(len(self.roster)))
            return
        needed, here = self._needed(), len(self.members.connected)
        if here < needed or self.plan is None:
            emit("waiting", clients=here, need=needed)
        if here < needed:
            asking.wants_nothing(self._want(0))
        elif asking.may_plan(self._want(self.planning.drawn(here))):
            self._next_round()

    def _want(self, clients: int) -> dict[str, Any]:
        return self.planning.want(self.members, clients, self.holding)

    def share_has_changed(self) -> None:
        """It holds for the next round; one that is planned and has not begun is planned anew."""
        if self.round is not None and self.round.phase == "planned":
            before = self.round.number - 1
            self.round = Round(before, {}, "", phase="published") if before > self.base else None
        if self.is_between and self.planning.asking.is_crowded_out and self.plan is not None:
            slots = dict.fromkeys(self.slots, 0)
            if slots != self.slots:  # those who have a share may have the memory of its slots
                self.slots = slots
                for node in self.members.here:
                    self.telling.plan(node)
        self.try_to_plan()

    def slots_now(self) -> dict[str, int]:
        """Input slots of each node that may have memory of the job; where it has roles, some."""
        return {name: self.slots_of(name) for name in sorted(self.holding)}

    def slots_of(self, node: str) -> int:
        assert self.plan is not None
        part = self.plan.nodes.get(node)
        return max(self.planning.slots(node), bool(part and part.roles))

    def _next_round(self) -> None:
        """Select, plan, and start as soon as everybody has what they need."""
        self._plan_round((self.round.number if self.round else self.base) + 1)

    def plan_again(self) -> None:
        """A node is lost before the round has begun."""
        if self.round is not None and self.round.phase == "planned":
            self._plan_round(self.round.number)

    def _plan_round(self, number: int) -> None:
        members, before = self.members, self.plan
        by_name = {members.names[key]: key for key in members.connected}
        self.roster = self.planning.draw(number, by_name)
        self.plan = self.planning.plan(members, self.roster, previous=before, epoch=self.epoch)
        if self.plan.oversubscribed and before is None and not members.shares:
            emit("warning", text=f"{len(self.plan.oversubscribed)} clients are placed beyond the "
                 "capacity of their nodes: they wait for a free input slot")  # fmt: skip
        if self.plan.top_node is None:
            raise Busy("no node can take a single update: lower the model's size or add nodes")
        homes = self.plan.homes()  # of virtual clients none: their workers talk to every node
        members.homes |= {key: homes[key] for key in homes if members.connected[key]}
        self.holding |= set(self.plan.used)
        self._set_round(number)
        same = all(roles_of(before, name) == roles_of(self.plan, name) for name in members.nodes)
        if not same or self.epoch != self.telling.told_epoch or self.slots_now() != self.slots:
            self.epoch += 1
            self.slots = self.slots_now()
            self.save()
            fault("coordinator_plan_saved", "coordinator")
            for node in members.here:  # those whose roles stay only learn the epoch
                self.telling.plan(node)
            fault("coordinator_plan_sent", "coordinator")
        self.try_to_start()

    @property
    def made_in(self) -> int:
        """The start of the run in which the model was made that the round starts from."""
        base, start = self._began
        is_first = self.round is not None and self.round.number == base + 1
        return start if is_first else self.planning.start

    def _set_round(self, number: int) -> None:
        self.started_at_s = None
        self.crowds.forget()
        assert self.plan is not None
        assert self.plan.top_node is not None
        minimum = self.job.spec.clients.min_updates
        self.round = Round(
            number, selected(self.plan, self.roster), self.plan.top_node, minimum=minimum,
            phase="planned", enough=self.planning.enough(len(self.roster)),
        )  # fmt: skip

    # -- nodes that come, or come back -------------------------------------------------------
    def agent_is_back(self, node: Known) -> None:
        """It hears the plan again, and what is still missing of earlier rounds."""
        if self.plan is not None:
            node.planned = -1
            self.telling.plan_again(node)

    def is_planned(self, node: Known, epoch: int) -> None:
        if epoch == self.epoch:
            node.planned = epoch
            self.try_to_start()
            self.losses.advance()
            self.crowds.is_planned(node)

    def catch_up(self, node: Known) -> None:
        """A gateway holds the arena, maybe again after a restart: it hears everything again."""
        if not node.ready or self.members.gateways is None:
            return
        if self.round is None or self.round.phase in ("planned", "published"):
            self.try_to_start()
        elif self.losses.stage:
            self.losses.is_back(node)
        elif self.members[self.round.top_node].model >= self.round.number:
            self.published(self.round.number)
        else:
            self.telling.round(node)
            self.telling.order(self.round.orders_for(node.name))

    # -- rounds ------------------------------------------------------------------------------
    def try_to_start(self) -> None:
        """Start the round once its nodes carry out the plan and hold the arena."""
        if self.round is None or self.plan is None or self.round.phase != "planned":
            return
        if self.is_paused:
            return
        used = [self.members[name] for name in self.plan.used]
        if any(not node.ready or node.planned != self.epoch for node in used):
            return
        is_first, top = self.round.number == self.base + 1, self.members[self.round.top_node]
        if is_first and not self.put_model(top, self.base):
            return  # the round is planned anew
        self.started_at_s = time.time()
        self.save()
        fault("coordinator_round_saved", "coordinator")
        self._open()
        for node in used:
            self.telling.round(node)
        fault("coordinator_round_sent", "coordinator")
        for node in self.members.here:
            self.telling.redirect(node)

    def _open(self, age_s: float = 0.0) -> None:
        """The round takes updates; it has done so for `age_s` already."""
        assert self.round is not None
        assert self.plan is not None
        self.round.phase = "open"
        self.record.start(self.round, self.plan, epoch=self.epoch, age_s=age_s)
        deadline_s = self.job.spec.deadline_s
        self.deadline_at = time.monotonic() + deadline_s - age_s if deadline_s else math.inf

    def save(self) -> None:
        """Write down the round that is about to be announced, and what is new since the last."""
        assert self.round is not None
        assert self.plan is not None
        self.store.save(
            Change(
                round=UnderWay(
                    number=self.round.number, epoch=self.epoch, roster=tuple(self.roster),
                    plan=self.plan, homes=self.members.homes, started_at_s=self.started_at_s,
                    base=self.base, is_moving=bool(self.losses.stage),
                    lost={node.name: node.epoch for node in self.members if node.is_lost},
                    shut=tuple(sorted(self.round.shut)), deadline_at_s=self._moved_deadline(),
                ),
                rows=self.record.take_unsaved(), model_at=self.record.published_by,
                clock=self.record.clock(),
            )
        )  # fmt: skip

    def _moved_deadline(self) -> float | None:
        """The round's deadline as Unix time, once it is open; before that it is `deadlineS`."""
        if self.deadline_at == math.inf:
            return None
        return time.time() + self.deadline_at - time.monotonic()

    def holder_of(self, number: int) -> Known | None:
        """A node that has the model of the last round; None: no node has it any more."""
        if self.round is None or self.plan is None:
            return None
        top = self.members[self.round.top_node]
        if not top.is_lost:
            return top
        return next((node for node in self.members.here if node.begun > number), None)

    def needs_model_of(self, number: int) -> None:
        """Between rounds the newest model is where the top was: see that it can be had.

        Raises:
            ModelLost: it cannot; the run can go on from an earlier round.
        """
        by = self.record.published_by
        if number == self.base or by is None or not self.members[by].is_lost:
            return
        if any(node.begun > number for node in self.members.here):
            return
        self.must_be_kept(number)
        self.base = number  # the next round's top is given it

    def bring_model(self, node: Known, number: int) -> bool:
        """No node has it any more: the model of a round goes from its checkpoint to a node.

        False: that node was lost meanwhile, and what follows from it is done.

        Raises:
            ModelLost: there is none of that round.
        """
        if number != self.base:
            self.must_be_kept(number)
        self.base = number
        return self.put_model(node, number)

    def new_deadline(self) -> None:
        """Who has to send again has as long for it as the round had."""
        if (deadline_s := self.job.spec.deadline_s) is not None:
            self.deadline_at = time.monotonic() + deadline_s

    def accepted(self, node: Known, message: Message) -> None:
        """A gateway says what it has accepted; of another round it is nothing new."""
        if self.round is None or message["round"] != self.round.number:
            return
        if message["begun"]:
            node.begun = max(node.begun, message["round"])
        self.record.taken(node.name, message)
        if self.round.phase in ("open", "closing", "closed"):  # else it is told again, for nothing
            rows = [row for row in message["metrics"] if row[2] in self.members.names]  # no sums
            self.record.arrived(node.name, self.round.number, len(rows))
            elapsed_s = self.record.elapsed_s(self.round.number)
            self.planning.accepted(self.round.number, elapsed_s, rows)
        clients, excused = clients_of(message["clients"]), clients_of(message["excused"])
        if message["cut"] and self._is_cut_now(message):
            self.round.on_cut(node.name)
        orders = self.round.on_accepted(node.name, clients, excused)
        fault("coordinator_accepted", "coordinator")
        self.telling.order(orders)
        self.record.progress(self.round)
        self._check_that_enough_send(self.round)

    def _is_cut_now(self, message: Message) -> bool:
        """It has heard of the round as it is now: a loss may have opened it again since."""
        assert self.plan is not None
        epoch: int = message.get("epoch", self.plan.epoch)  # a gateway of a release before
        return epoch >= self.plan.epoch

    def _check_that_enough_send(self, round_: Round) -> None:
        if round_.phase == "open" and round_.is_starved:
            raise PermanentError(
                f"all {round_.of_count} clients of round {round_.number} have answered, and "
                f"{round_.in_count} of them sent an update; the others reported or sat out: a "
                f"round needs {round_.minimum} (spec.clients.minUpdates)",
                code="too-few-updates",
            )

    def look_whether_to_stop(self) -> None:
        """A round under way is finished first: its clients are at work."""
        if self.record.stopped is None and self.done_at is None:
            self.record.stopped = self.record.watch.verdict()

    def closed(self, node: Known, message: Message) -> None:
        if self.round is not None and message["round"] == self.round.number:
            self.record.closed(node.name, message)
            self.telling.order(self.round.on_closed(node.name, clients_of(message["clients"])))

    def deadline(self) -> None:
        self.deadline_at = math.inf
        if self.round is None:
            return
        self.telling.order(self.round.on_deadline())
        if self.round.phase == "open":
            emit("warning", text=f"round {self.round.number}: the deadline has passed with "
                 f"{self.round.in_count} updates, and spec.clients.minUpdates is "
                 f"{self.round.minimum}: the round waits for more")  # fmt: skip

    def _let_go_of_the_away(self) -> None:
        """Who was away when the deadline passed would cost the next round its deadline, too.

        It is drawn again as soon as it is back.
        """
        assert self.round is not None
        if not self.round.overdue:
            return
        for bit, key in enumerate(self.roster):
            if self.round.missing >> bit & 1 and self.members.is_away(key):
                self.members.forget(key)
                name, number = self.members.names.get(key, key), self.round.number
                emit("warning", text=f"{name} has left: its connection had ended when the deadline "
                     f"of round {number} passed")  # fmt: skip

    def client_is_gone(self, key: str) -> None:
        if self.round and key in self.roster:
            self.telling.order(self.round.on_gone(1 << self.roster.index(key)))

    def client_is_back(self, key: str) -> None:
        if self.round and key in self.roster:
            self.round.on_back(1 << self.roster.index(key))

    def published(self, number: int) -> None:
        """The model of a round exists; the same news twice is harmless."""
        if self.round is None or number != self.round.number:
            return
        if self.round.phase in ("planned", "published") or self.losses.stage:
            return
        assert self.plan is not None
        holder = self.members[self.round.top_node]
        if holder.model < number:  # it says so itself; what is in it was told with `accepted`
            holder.model, holder.in_model = number, 0
        used = [self.members[name] for name in self.plan.used]
        if any(not node.ready for node in used if not node.is_lost):
            return  # to a coordinator that came back, some have not said yet what they took
        self.round.on_accepted(holder.name, holder.in_model)
        fault("coordinator_published", "coordinator")
        self.round.on_published()
        self.deadline_at = math.inf
        self.record.published(self.round)
        for name in self.plan.used:
            self.telling.report(self.members[name], number)
            if name != holder.name:  # which keeps its sum until here
                self.telling.over(self.members[name])
        self._leave_who_drains()
        self._end_if_last()
        self._let_go_of_the_away()
        self.try_to_plan()
        if self.record.unsaved:  # no next round has taken it along
            self.store.save(
                Change(
                    rows=self.record.take_unsaved(), model_at=self.record.published_by,
                    clock=self.record.clock(),
                )
            )  # fmt: skip
        if self.done_at is None:
            self.offer(number, holder)

    def _leave_who_drains(self) -> None:
        """A round is over without a node that drains: nobody needs anything of it any more."""
        assert self.plan is not None
        for name in self.holding - set(self.plan.used):
            if self.members[name].is_draining:
                self.telling.drop(self.members[name])

    def published_if_so(self) -> None:
        """A node that this round waited for at its end is lost."""
        if self.round is not None and self.members[self.round.top_node].model >= self.round.number:
            self.published(self.round.number)

    # -- the end -----------------------------------------------------------------------------
    def _end_if_last(self) -> None:
        assert self.round is not None
        self.look_whether_to_stop()
        if self.round.number >= self.job.spec.rounds or self.record.stopped is not None:
            self.record.last = self.round.number
            self.done_at = time.monotonic() + (LAST_METRICS_S if self.plan else 0)

    def wait_for_the_last_figures(self) -> None:
        """Whoever measures the last model has as long as it takes; that it does is said once.

        An evaluator that dies ends the run by itself.
        """
        if self.done_at is None or time.monotonic() < self.done_at:
            return
        if self.plan is not None and self.members.is_observed and self.record.is_unevaluated:
            if not self._has_said_who_is_late:
                emit("warning", text=f"the evaluator still measures the model of round "
                     f"{self.record.last}: the run ends when it has")  # fmt: skip
            self._has_said_who_is_late = True
            self.done_at = time.monotonic() + LAST_METRICS_S

    @property
    def is_between(self) -> bool:
        """No round is under way that somebody has sent an update for."""
        return self.round is None or self.round.phase in ("planned", "published")

    @property
    def is_over(self) -> bool:
        """Every round is published, and nothing is worth waiting for."""
        return self.done_at is not None and self.members.is_whole and (
            self.record.is_complete or time.monotonic() >= self.done_at
        )  # fmt: skip
