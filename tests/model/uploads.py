"""A gateway takes in updates of clients and sums of other nodes.

Owns the steps from a request to the accepted bit, which are the same for both.  Called by
gateways.py, forwards.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.words import Words
from tests.model.world import (
    SEALED,
    WRITING,
    Gateway,
    Message,
    Step,
    Violation,
    World,
    bits,
    put,
)


class Uploads(Words):
    def _gw(self, w: World, n: int, label: str, g: Gateway, point: str = "") -> Step:
        return Step(f"gateway {n}: {label}", w._replace(gateways=put(w.gateways, n, g)),
                    ((f"gateway {n}", point),) if point else ())  # fmt: skip

    def answer(self, w: World, n: int, c: int, state: str) -> World:
        """A client hears the node that it was told to use, no other."""
        if w.clients[c][0] != n:
            return w
        return w._replace(clients=put(w.clients, c, (n, state)))

    # -- updates and sums --------------------------------------------------------------------
    def _requests(self, w: World, n: int, g: Gateway) -> Iterator[Step]:
        first = set()
        for c, (node, state) in enumerate(w.clients):
            if node != n:
                continue
            again = state == "upload" and w.retries
            lane = w.plan[self.roles + c]
            if self.alike:
                lane = self.parent[lane]
            if (state == "new" and len(g.writing) < self.c.uploads and lane not in first) or again:
                w2 = w._replace(retries=w.retries - 1) if again else w
                yield self._serve(w2, n, g, c) or self._gw(
                    self.answer(w2, n, c, "asking"), n, f"client {c} waits", g)
            if state == "new":
                first.add(lane)  # clients that are alike come in order

    def _serve(self, w: World, n: int, g: Gateway, c: int) -> Step | None:
        """Answer a client or begin its upload; None if no slot is free."""
        round_ = self.round_of(w, n)
        if self.accepted(w, n, round_) >> c & 1:
            return self._gw(self.answer(w, n, c, "acked"), n, f"ack client {c} again", g)
        if self.is_closed(w, n, round_):
            return self._gw(self.answer(w, n, c, "late"), n, f"client {c} is late", g)
        i = self.free_input(w, n)
        if i < 0:
            return None
        return self._begin(self.answer(w, n, c, "upload"), n, g, i, c)

    def _begin(self, w: World, n: int, g: Gateway, i: int, key: int | Message) -> Step:
        if self.on["writing_phase"]:
            sender = self.roles + (key if isinstance(key, int) else self.clients + key.node)
            w = self.overwrite(w, i, gen=w.slots[i].gen + 1, phase=WRITING,
                               consumer=w.plan[sender])  # fmt: skip
        return self._gw(w, n, f"{name_of(key)} gets slot {i}", g._replace(
            pc="payload", cur=i, key=key, writing=(*g.writing, (i, key))),
            "gateway_writing")  # fmt: skip

    def _payload(self, w: World, n: int, g: Gateway) -> Step:
        key, round_ = g.key, self.round_of(w, n)
        if isinstance(key, int):
            header = {"round": round_, "epoch": g.epoch, "clients": 1 << key,
                          "payload": self.truth(1 << key, round_)}  # fmt: skip
        else:
            header = {"round": key.round, "epoch": g.epoch, "clients": key.clients,
                          "payload": key.payload}  # fmt: skip
        w2 = self.overwrite(w, g.cur, **header)
        return self._gw(w2, n, "header and payload", g._replace(pc="loop", cur=-1, key=None),
                        "gateway_payload_partial")  # fmt: skip

    def _upload_ends(self, w: World, n: int, g: Gateway, i: int, key: int | Message) -> Step:
        """The last look at the words, then the seal, in one go."""
        g2 = g._replace(writing=tuple(x for x in g.writing if x != (i, key)), wake=True)
        s, round_ = w.slots[i], self.round_of(w, n)
        overlap = s.clients & self.accepted(w, n, round_)
        check = "accepted_at_seal" if isinstance(key, int) else "sum_seal_check"
        stale = (isinstance(key, Message) and self.on["epoch_fence"] and self.on["epoch_at_seal"]
                 and key.epoch != self.epoch_of(g, key.node))  # fmt: skip
        if s.round != round_ or stale:
            verdict = "new" if isinstance(key, int) else "stale"
            return self._gw(self._reply(w, n, key, verdict), n, f"drop {name_of(key)}: stale", g2)
        if overlap and self.on[check]:
            if overlap != s.clients:
                raise Violation(f"S1: gateway {n} must refuse {name_of(key)}: overlap in part")
            return self._gw(self._reply(w, n, key, "acked"), n, f"drop {name_of(key)}: twice", g2)
        if self.is_closed(w, n, round_):
            return self._gw(self._reply(w, n, key, "late"), n, f"drop {name_of(key)}: late", g2)
        g2 = g2._replace(cur=i, key=key)
        if self.on["seal_before_accepted"]:
            return self._seal_input(w, n, g2, "bit")
        return self._bit(w, n, g2, "bit")

    def _seal_input(self, w: World, n: int, g: Gateway, pc: str) -> Step:
        s = w.slots[g.cur]._replace(phase=SEALED)
        if not self.on["writing_phase"]:
            s = s._replace(gen=s.gen + 1, consumer=w.plan[self.roles + g.key])
        return self._gw(w._replace(slots=put(w.slots, g.cur, s)), n, f"seal slot {g.cur}",
                        g._replace(pc=pc), "gateway_sealed")  # fmt: skip

    def _bit(self, w: World, n: int, g: Gateway, pc: str) -> Step:
        """One word of the set at a time; here, one client at a time."""
        s, before = w.slots[g.cur], self.accepted(w, n, w.slots[g.cur].round)
        missing = list(bits(s.clients & ~before))
        if len(missing) > 1:
            pc = "bit"
        w2 = w._replace(accepted=self.set_accepted(
            w, n, s.round, before | 1 << missing[0] if missing else before))
        return self._gw(w2, n, f"accepted bit {missing[:1]}", g._replace(pc=pc),
                        "gateway_accepted")  # fmt: skip

    def _reply(self, w: World, n: int, key: int | Message, verdict: str) -> World:
        if isinstance(key, int):
            return self.answer(w, n, key, verdict)
        kind = "ack" if verdict == "acked" else "stale"
        return w._replace(net=tuple(sorted((*w.net, Message(kind, key.node, key.slot, key.gen)))))

    def epoch_of(self, g: Gateway, node: int) -> int:
        return g.epoch if node == self.c.lose else 0


def name_of(key: object) -> str:
    if isinstance(key, Message):
        return f"the sum {list(bits(key.clients))} of node {key.node}"
    return f"client {key}"
