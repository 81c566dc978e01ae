"""The coordinator dies at every point of a round, and the next one finishes it.

Searches every order of events of one round on two nodes with the real `Round`: updates, a deadline,
messages under way, and crashes of the coordinator.  A crash takes with it the round's state and
every message in both directions; what stays is that the round is open, since that was written down
first.  Then the gateways say again what they have accepted.  (tests/model has the rest of the
protocol; there, what the coordinator has recorded survives.)
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

import pytest

from lifl.placement.rounds import Order, Round

TOP, OTHER = "node-0", "node-1"
HERE, THERE = 0b01, 0b10  # one client of each node


class State(NamedTuple):
    """Everything in one place; `told` and `orders` are messages under way, in order."""

    round: tuple[object, ...]
    accepted: tuple[int, int] = (0, 0)  # words of the two gateways: of the top's node, the other
    closed: tuple[bool, bool] = (False, False)
    cut: bool = False
    answers: tuple[str, str] = ("", "")
    sum_sent: bool = False
    told: tuple[tuple[str, str, int], ...] = ()
    orders: tuple[tuple[str, str], ...] = ()
    published: int = -1
    deadline: bool = True  # has still to come
    overdue: bool = False
    crashes: int = 2


def fresh() -> Round:
    return Round(1, {TOP: HERE, OTHER: THERE}, TOP)


def pack(r: Round) -> tuple[object, ...]:
    return (tuple(sorted(r.accepted.items())), tuple(sorted(r.closed.items())), r.phase, r.overdue)


def unpack(packed: tuple[object, ...]) -> Round:
    accepted, closed, phase, overdue = deepcopy(packed)
    r = fresh()
    r.accepted, r.closed = dict(accepted), dict(closed)  # type: ignore[call-overload]
    r.phase, r.overdue = phase, overdue  # type: ignore[assignment]
    return r


def after(s: State, r: Round, orders: list[Order]) -> State:
    sent = tuple((order.node, order.verb) for order in orders)
    return s._replace(round=pack(r), orders=s.orders + sent)


def steps(s: State, deadline_is_kept: bool) -> Iterator[tuple[str, State]]:
    top, other = s.accepted
    names = (TOP, OTHER)
    # clients and gateways
    for n, client in enumerate((HERE, THERE)):
        if s.answers[n]:
            continue
        late = s.closed[n] or (n == 0 and s.cut)
        answers = (*s.answers[:n], "late" if late else "acked", *s.answers[n + 1 :])
        changed = s._replace(answers=answers)
        if not late:
            accepted = (top | client, other) if n == 0 else (top, other | client)
            report = (names[n], "accepted", accepted[n])
            changed = changed._replace(accepted=accepted, told=(*s.told, report))
        yield f"client of {names[n]}", changed
    if s.closed[1] and other and not s.sum_sent and not s.closed[0]:
        report = (TOP, "accepted", top | other)
        yield "sum", s._replace(accepted=(top | other, other), sum_sent=True,
                                told=(*s.told, report))  # fmt: skip
    if s.closed[0] and s.published < 0:
        yield "publish", s._replace(published=top, told=(*s.told, (TOP, "published", top)))
    if s.orders:
        (node, verb), *rest = s.orders
        changed = s._replace(orders=tuple(rest))
        if verb == "cut":
            changed = changed._replace(cut=True)
        elif node == TOP:
            changed = changed._replace(closed=(True, s.closed[1]))
        else:
            report = (OTHER, "closed", other)
            changed = changed._replace(closed=(s.closed[0], True), told=(*s.told, report))
        yield f"{verb} {node}", changed
    # the coordinator
    r = unpack(s.round)
    if r.phase == "published":
        return
    if s.told:
        (node, what, clients), *rest = s.told
        heard = s._replace(told=tuple(rest))
        if what == "published":
            r.on_published()
            yield "hears", after(heard, r, [])
        else:
            orders = (r.on_accepted if what == "accepted" else r.on_closed)(node, clients)
            yield f"hears {what}", after(heard, r, orders)
    r = unpack(s.round)
    if s.deadline:
        yield "deadline", after(s._replace(deadline=False, overdue=True), r, r.on_deadline())
    if s.crashes:
        back = fresh()
        again = tuple(zip(names, ("accepted", "accepted"), s.accepted, strict=True))
        if s.published >= 0:
            again += ((TOP, "published", s.published),)
        yield "CRASH", s._replace(
            round=pack(back), orders=(), told=again, crashes=s.crashes - 1,
            deadline=(s.deadline or s.overdue) if deadline_is_kept else s.deadline,
        )  # fmt: skip


def check(s: State) -> None:
    """What was acked is in the model, and nothing else."""
    if s.published >= 0:
        acked = sum(
            client for n, client in enumerate((HERE, THERE)) if s.answers[n] == "acked"
        )
        assert s.published == acked, s


def search(*, deadline_is_kept: bool = True) -> tuple[int, list[State]]:
    """(states, those that nothing but a crash leads out of)."""
    start = State(round=pack(fresh()))
    seen, todo, ends = {start}, [start], []
    while todo:
        s = todo.pop()
        check(s)
        found = list(steps(s, deadline_is_kept))
        if all(label == "CRASH" for label, _ in found):
            ends.append(s)
        for _, after_ in found:
            if after_ not in seen:
                seen.add(after_)
                todo.append(after_)
    return len(seen), ends


def test_every_round_ends_whatever_dies_when() -> None:
    states, ends = search()
    assert states > 1000
    for s in ends:
        assert s.round[2] == "published" or "acked" not in s.answers, s
        assert all(s.answers)


def test_without_the_time_of_its_start_a_round_can_wait_for_ever() -> None:
    """The search sees it when the next coordinator does not know of the deadline that passed."""
    _, ends = search(deadline_is_kept=False)
    assert any(s.round[2] != "published" and "acked" in s.answers for s in ends)


def test_closing_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search sees it when the top's node closes before the other node's sum is there."""

    def on_closed(self: Round, node: str, clients: int) -> list[Order]:
        self.closed[node] = 0  # as if it had nothing
        return self._next()

    monkeypatch.setattr(Round, "on_closed", on_closed)
    with pytest.raises(AssertionError):
        search()
