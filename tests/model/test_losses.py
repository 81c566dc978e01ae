"""A node is lost at any moment of a round, the top's too, and the round ends right.

Searches every order of events of one round with the real `Round`: updates, sums under way, orders,
a deadline, the loss of any node, of two nodes where there are three, and the death of the
coordinator.  A lost node takes with it what it held and every message to and from it, but for sums
under way, which may arrive late.  A coordinator that dies takes every message to and from itself,
and all that it knows of the round but for what it has recorded.  What is checked: the model has
every update exactly once that a client has been told it has, and no other; without a deadline it
has every client's, also of those who have to send again; and every round ends.

What a role does on a node is the rest of tests/model; here a node holds updates, and its sum is all
of them.  The steps of the coordinator are those of placement/loss.py, the steps of a gateway
those of docs/crash-protocol.md.  Without any of `RULES`, or where the coordinator dies, of
`OF_RESTARTS`, the search finds a run that goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lifl.faults import LOSS_POINTS
from lifl.placement.rounds import Order, Round

RULES = ("keep_sum", "reopen", "epoch_fence", "hand_over", "hold")
OF_RESTARTS = ("record_shut", "cut_in_epoch")


class Sum(NamedTuple):
    """On its way from one node to the one that had the top when it left."""

    node: int
    to: int
    clients: int
    counts: tuple[int, ...]


class State(NamedTuple):
    """Everything in one place; client i begins on node i."""

    round: tuple[Any, ...]
    accepted: tuple[int, ...]  # words of the gateways
    held: tuple[tuple[int, ...], ...]  # by node: how often it has each client's update
    closed: tuple[bool, ...]
    has_top: tuple[bool, ...]  # as the gateway has been told
    clients: tuple[tuple[int, str], ...]  # where it belongs; new, acked, late
    cut: int = 0  # nodes that take no more updates
    sums: tuple[Sum, ...] = ()
    arrived: int = 0  # nodes whose sum has been answered: it is not sent again
    orders: tuple[tuple[int, str], ...] = ()
    told: tuple[tuple[int, str, int, int], ...] = ()  # with the epoch of the round that it knows
    lost: int = 0
    fenced: int = 0  # nodes whose sums the top's gateway refuses
    heard: tuple[int, ...] = (0, 0, 0)  # by node: which were when it heard of the round
    stage: str = ""
    losses: int = 1
    deadline: bool = False
    crashes: int = 0
    has_deadline: bool = False
    published: tuple[int, ...] | None = None


def put(row: tuple[Any, ...], at: int, value: object) -> tuple[Any, ...]:
    return (*row[:at], value, *row[at + 1 :])


def pack(r: Round) -> tuple[Any, ...]:
    return (tuple(sorted(r.selected.items())), r.top_node, tuple(sorted(r.accepted.items())),
            tuple(sorted(r.closed.items())), r.phase, r.overdue, r.is_held, r.is_decided,
            tuple(sorted(r.shut)))  # fmt: skip


def unpack(packed: tuple[Any, ...]) -> Round:
    selected, top, accepted, closed, phase, overdue, held, decided, shut = deepcopy(packed)
    return Round(1, dict(selected), top, accepted=dict(accepted), closed=dict(closed), phase=phase,
                 overdue=overdue, is_held=held, is_decided=decided, shut=set(shut))  # fmt: skip


def start(nodes: int, **budgets: Any) -> State:
    r = Round(1, {str(n): 1 << n for n in range(nodes)}, "0")
    return State(
        round=pack(r), accepted=(0,) * nodes, held=((0,) * nodes,) * nodes,
        closed=(False,) * nodes, has_top=(True, *(False,) * (nodes - 1)),
        clients=tuple((n, "new") for n in range(nodes)),
        has_deadline=budgets.get("deadline", False), **budgets,
    )  # fmt: skip


class Search:
    """All states that are reached from a first one, without the rules in `off`."""

    def __init__(self, off: str = "") -> None:
        self.on = {rule: rule != off for rule in (*RULES, *OF_RESTARTS)}

    def after(self, s: State, r: Round, orders: list[Order]) -> State:
        sent = tuple((int(order.node), order.verb) for order in orders)
        return s._replace(round=pack(r), orders=s.orders + sent)

    def steps(self, s: State) -> Iterator[tuple[str, State]]:
        if s.published is not None:
            return
        for n in range(len(s.closed)):
            if not s.lost >> n & 1:
                yield from self.gateway(s, n)
        if s.orders:
            yield self.obey(s)
        yield from self.coordinator(s)
        if s.losses:
            for n in range(len(s.closed)):
                if not s.lost >> n & 1 and s.lost.bit_count() < len(s.closed) - 1:
                    yield f"LOSE {n}", self.lose(s, n)

    # -- gateways ----------------------------------------------------------------------------
    def gateway(self, s: State, n: int) -> Iterator[tuple[str, State]]:
        for c, (at, state) in enumerate(s.clients):
            if at != n or state != "new":
                continue
            known = s.accepted[n] >> c & 1
            if known or not (s.closed[n] or s.cut >> n & 1):
                s2 = s if known else self.take(s, n, 1 << c, tuple(
                    int(i == c) for i in range(len(s.clients))
                ))  # fmt: skip
                yield f"client {c}", s2._replace(clients=put(s2.clients, c, (n, "acked")))
            else:
                yield f"client {c} late", s._replace(clients=put(s.clients, c, (n, "late")))
        if s.closed[n] and not s.has_top[n] and s.accepted[n] and not s.arrived >> n & 1:
            to = s.has_top.index(True)
            sum_ = Sum(n, to, s.accepted[n], s.held[n])
            if sum_ not in s.sums:
                yield f"forward {n}", s._replace(sums=(*s.sums, sum_))
        for at, sum_ in enumerate(s.sums):
            if sum_.to == n and s.has_top[n]:
                rest = s._replace(sums=s.sums[:at] + s.sums[at + 1 :])
                yield f"sum of {sum_.node}", self.sum_arrives(rest, n, sum_)
        if s.closed[n] and s.has_top[n]:
            yield "publish", s._replace(published=s.held[n])

    def take(self, s: State, n: int, clients: int, counts: tuple[int, ...]) -> State:
        held = tuple(a + b for a, b in zip(s.held[n], counts, strict=True))
        accepted = s.accepted[n] | clients
        return s._replace(accepted=put(s.accepted, n, accepted), held=put(s.held, n, held),
                          told=(*s.told, self.report(s, n, accepted)))  # fmt: skip

    def report(
        self, s: State, n: int, accepted: int, what: str = "accepted"
    ) -> tuple[int, str, int, int]:
        cut = ", and cut" if s.closed[n] or s.cut >> n & 1 else ""
        return (n, what + cut, accepted, s.heard[n])

    def sum_arrives(self, s: State, n: int, sum_: Sum) -> State:
        if s.fenced >> sum_.node & 1 and self.on["epoch_fence"]:
            return s
        if sum_.clients & ~s.accepted[n]:
            assert not sum_.clients & s.accepted[n], "a sum that overlaps in part"
            if s.closed[n]:
                return s
            s = self.take(s, n, sum_.clients, sum_.counts)
        if not s.lost >> sum_.node & 1:  # the answer
            s = s._replace(arrived=s.arrived | 1 << sum_.node)
            if not self.on["keep_sum"]:
                s = s._replace(held=put(s.held, sum_.node, (0,) * len(s.clients)))
        return s

    def obey(self, s: State) -> tuple[str, State]:
        (n, verb), *rest = s.orders
        s = s._replace(orders=tuple(rest))
        if verb == "cut":
            return f"cut {n}", s._replace(cut=s.cut | 1 << n)
        if verb == "round":
            clients = s.clients if s.closed[n] else tuple(
                (at, "new" if at == n and state == "late" else state) for at, state in s.clients
            )  # fmt: skip
            heard = put(s.heard, n, s.fenced)
            s = s._replace(cut=s.cut & ~(1 << n), clients=clients, heard=heard)
            return f"round {n}", s._replace(told=(*s.told, self.report(s, n, s.accepted[n])))
        s = s._replace(closed=put(s.closed, n, True))
        if not s.has_top[n]:
            s = s._replace(told=(*s.told, (n, "closed", s.accepted[n], s.heard[n])))
        return f"close {n}", s

    # -- the coordinator ---------------------------------------------------------------------
    def coordinator(self, s: State) -> Iterator[tuple[str, State]]:
        r = unpack(s.round)
        if s.told:
            (n, what, clients, epoch), *rest = s.told
            heard = s._replace(told=tuple(rest))
            is_now = epoch == s.fenced or not self.on["cut_in_epoch"]
            if what.endswith("cut") and is_now:
                r.on_cut(str(n))
            orders = (r.on_closed if what == "closed" else r.on_accepted)(str(n), clients)
            yield f"hears {what} of {n}", self.after(heard, r, orders)
        r = unpack(s.round)
        if s.deadline:
            yield "deadline", self.after(s._replace(deadline=False), r, r.on_deadline())
        is_back = all(not what.startswith("back") for _, what, _, _ in s.told)
        if s.stage == "fence" and not s.orders and is_back:  # orders came before the question
            yield self.fence(s)
        if s.crashes:
            yield "CRASH", self.crash(s)

    def crash(self, s: State) -> State:
        """The next coordinator begins with what was recorded, and with what gateways say again."""
        before = unpack(s.round)
        r = Round(1, before.selected, before.top_node, is_held=s.stage == "fence")
        r.shut = before.shut if self.on["record_shut"] else set()
        here = [n for n in range(len(s.closed)) if not s.lost >> n & 1]
        told = tuple(self.report(s, n, s.accepted[n], "back") for n in here)
        missed = [n for n in here if s.heard[n] != s.fenced]  # hear of the round as it is now
        return s._replace(
            round=pack(r), orders=tuple((n, "round") for n in missed), told=told,
            crashes=s.crashes - 1, deadline=s.deadline or before.overdue,
        )  # fmt: skip

    def lose(self, s: State, n: int) -> State:
        r = unpack(s.round)
        s = s._replace(
            lost=s.lost | 1 << n, losses=s.losses - 1,
            orders=tuple(order for order in s.orders if order[0] != n),
            told=tuple(told for told in s.told if told[0] != n),
            sums=tuple(sum_ for sum_ in s.sums if sum_.to != n),
        )  # fmt: skip
        if r.may_go_on and str(n) != r.top_node:
            return s
        r.on_lost(str(n))
        r.is_held = self.on["hold"]
        return s._replace(round=pack(r), stage="fence")

    def fence(self, s: State) -> tuple[str, State]:
        """The top's gateway answers, and everybody hears of the round as it is then."""
        r = unpack(s.round)
        before = int(r.top_node)
        top = next(n for n in (before, *range(len(s.closed))) if not s.lost >> n & 1)
        r.top_node = str(top)
        have = s.accepted[top]
        takers = r.takers(str(n) for n in range(len(s.closed)) if not s.lost >> n & 1)
        clients, selected = s.clients, dict.fromkeys(r.selected, 0)
        again = 0
        for c, (at, state) in enumerate(clients):
            if s.lost >> at & 1:
                is_done = have >> c & 1
                again |= 0 if is_done else 1 << c
                at, state = (top, "acked") if is_done else (int(max(takers)), "new")
            clients = put(clients, c, (at, state))
            selected[str(at)] |= 1 << c
        selected = {n: x for n, x in selected.items() if not s.lost >> int(n) & 1}
        r.accepted[str(top)] = r.accepted.get(str(top), 0) | have
        rounds = tuple((int(n), "round") for n in selected)
        s = s._replace(stage="", fenced=s.lost, clients=clients, orders=rounds)
        if top != before:
            closed = put(s.closed, top, s.closed[top] and not self.on["reopen"])
            s = s._replace(closed=closed, has_top=put((False,) * len(closed), top, True), arrived=0)
            if not self.on["hand_over"] and not closed[top]:
                s = s._replace(held=put(s.held, top, (0,) * len(clients)))
        was_overdue = r.overdue
        orders = r.on_moved(selected, str(top), again=again)
        s = s._replace(deadline=s.deadline or (was_overdue and not r.overdue))
        return f"move the top to {top}", self.after(s, r, orders)

    # -- all of it ---------------------------------------------------------------------------
    def run(self, first: State) -> int:
        """How many states there are; AssertionError where one is wrong."""
        seen, todo = {first}, [first]
        while todo:
            s = todo.pop()
            if s.published is not None:
                check(s)
                continue
            found = list(self.steps(s))
            assert any(not label.startswith(("LOSE", "CRASH")) for label, _ in found), f"L1: {s}"
            for _, after in found:
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        return len(seen)


def check(s: State) -> None:
    """S1: what was acked by a node that is there is in the model once, and nothing else."""
    assert s.published is not None
    assert max(s.published) <= 1, f"S1: twice: {s}"
    assert s.has_deadline or min(s.published) == 1, f"L1: left out without a deadline: {s}"
    for c, (at, state) in enumerate(s.clients):
        if not s.lost >> at & 1:
            assert (state == "acked") <= bool(s.published[c]), f"S1: acked and not in it: {s}"
            assert state != "late" or not s.published[c], f"S1: late and in it: {s}"


@pytest.mark.parametrize(
    ("nodes", "budgets"),
    [
        (2, {}), (2, {"deadline": True}), (3, {}), (3, {"losses": 2}),
        (2, {"deadline": True, "crashes": 2}), (3, {"crashes": 1}),
    ],
    ids=[
        "2 nodes", "a deadline", "3 nodes", "two of 3 nodes",
        "the coordinator, twice, and a deadline", "3 nodes and the coordinator",
    ],
)  # fmt: skip
def test_every_round_ends_right_whatever_is_lost_when(nodes: int, budgets: dict[str, Any]) -> None:
    assert Search().run(start(nodes, **budgets)) > 100


@pytest.mark.parametrize("rule", RULES)
def test_without_the_rule_something_goes_wrong(rule: str) -> None:
    with pytest.raises(AssertionError, match=r"S1|L1|overlaps"):
        Search(off=rule).run(start(3, losses=2))


@pytest.mark.parametrize("rule", OF_RESTARTS)
def test_without_the_record_the_next_coordinator_goes_wrong(rule: str) -> None:
    with pytest.raises(AssertionError, match=r"S1|L1|overlaps"):
        Search(off=rule).run(start(3, crashes=1))


def test_every_point_of_a_loss_is_killed_somewhere() -> None:
    """Where the others are is in test_crashes.py and test_coordinator.py."""
    text = (Path(__file__).parents[1] / "integration" / "test_losses.py").read_text()
    assert all(point.removeprefix("gateway_") in text for point in LOSS_POINTS)
