"""Gateways of different nodes talk: a sum goes up, an ack or a refusal comes back.

Owns forwarding, repeating, taking and answering; the network in between may lose and repeat.
Called by gateways.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.uploads import Uploads, name_of
from tests.model.world import (
    Gateway,
    Message,
    Step,
    Violation,
    World,
)


class Forwards(Uploads):
    # -- other nodes -------------------------------------------------------------------------
    def _forward(self, w: World, n: int, i: int, g: Gateway) -> World:
        s = w.slots[i]
        epoch = s.epoch if self.on["epoch_in_header"] else g.epoch
        if n != self.c.lose:
            epoch = 0
        message = Message("sum", n, i, s.gen, epoch, s.round, s.clients, s.payload)
        return w._replace(net=tuple(sorted((*w.net, message))))

    def _messages(self, w: World, n: int, g: Gateway, round_: int) -> Iterator[Step]:
        for at, m in enumerate(w.net):
            if (n == 0) != (m.kind == "sum") or (n and m.node != n):
                continue
            if at and w.net[at - 1] == m:
                continue
            rest = w._replace(net=w.net[:at] + w.net[at + 1 :])
            step = (self._answer(rest, n, g, m) if n else self._take(rest, g, m, round_))
            if step:
                yield step
                if w.repeats and m.kind != "stale":
                    net = tuple(sorted((*step.world.net, m)))
                    yield Step(step.label + ", a copy follows", step.world._replace(
                        net=net, repeats=w.repeats - 1), step.points)  # fmt: skip
        if g.forward and not self._under_way(w, n, g.forward):
            w2 = self._forward(w, n, g.forward[0], g)
            yield self._gw(w2, n, f"forward slot {g.forward[0]} again", g)

    def _under_way(self, w: World, n: int, forward: tuple) -> bool:
        held = [key for _, key in w.gateways[0].writing] + [w.gateways[0].key]
        return any(isinstance(m, Message) and (m.node, m.slot, m.gen) == (n, *forward)
                   for m in (*w.net, *held))  # fmt: skip

    def _answer(self, w: World, n: int, g: Gateway, m: Message) -> Step:
        """An ack or a refusal reaches the gateway that forwarded."""
        if g.forward and (g.forward == (m.slot, m.gen) or not self.on["ack_names_sum"]):
            point = "gateway_forwarded" if m.kind == "ack" else ""
            return self._gw(w, n, f"{m.kind} for slot {m.slot}", g._replace(
                held=g.forward, forward=()), point)  # fmt: skip
        return self._gw(w, n, f"old {m.kind}", g)

    def _take(self, w: World, g: Gateway, m: Message, round_: int) -> Step | None:
        """The top's gateway reads a sum; None: it leaves it in the socket, no slot is free."""
        accepted = self.accepted(w, 0, round_)
        overlap = m.clients & accepted
        if m.round != w.models[0][0] + 1 or (
                self.on["epoch_fence"] and m.epoch != self.epoch_of(g, m.node)):
            return self._gw(self._reply(w, 0, m, "stale"), 0, f"{name_of(m)} is stale", g)
        if overlap and self.on["forward_set_check"]:
            if overlap != m.clients:
                raise Violation(f"S1: gateway 0 must refuse {name_of(m)}: overlap in part")
            return self._gw(self._reply(w, 0, m, "acked"), 0, f"{name_of(m)} is in already", g)
        if self.is_closed(w, 0, round_):
            return self._gw(self._reply(w, 0, m, "late"), 0, f"{name_of(m)} is late", g)
        i = self.free_input(w, 0)
        if i < 0 or len(g.writing) >= self.c.uploads:
            return None
        return self._begin(w, 0, g, i, m)
