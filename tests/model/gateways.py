"""Steps of a gateway: its loop, the end of a round, joining.

Owns what a node's gateway does next; uploads.py and forwards.py have two parts of it.  Between
the last look at the words and the accepted bit it does nothing else (one thread): the program
counters payload, bit, send, ack are that stretch.  Called by control.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.forwards import Forwards
from tests.model.uploads import name_of
from tests.model.world import (
    SEALED,
    Coordinator,
    Gateway,
    Step,
    Violation,
    World,
    put,
)  # fmt: skip


class Gateways(Forwards):
    def gateway_steps(self, w: World, n: int) -> Iterator[Step]:
        g, on = w.gateways[n], self.on
        s = w.slots[g.cur]
        if g.pc == "join":
            yield self._rebuild(w, n, g)
        elif g.pc == "loop":
            yield from self._loop_steps(w, n, g)
        elif g.pc == "payload":
            yield self._payload(w, n, g)
        elif g.pc == "bit":
            if on["seal_before_accepted"]:
                yield self._bit(w, n, g, "send")
            else:
                yield self._seal_input(w, n, g, "send")
        elif g.pc == "send":
            sender = (self.roles + g.key if isinstance(g.key, int)
                      else self.roles + self.clients + g.key.node)  # fmt: skip
            yield self._gw(self.send(w, sender, g.cur), n, f"send slot {g.cur}",
                           self._after_send(w, n, sender)._replace(pc="ack"),
                           "gateway_sent")  # fmt: skip
        elif g.pc == "ack":
            g2 = g._replace(pc="loop", cur=-1, key=None)
            yield self._gw(self._reply(w, n, g.key, "acked"), n, f"ack {name_of(g.key)}", g2,
                           "gateway_acked")  # fmt: skip
        elif g.pc == "flush":
            w2 = self.poke(w, self.members[n] & ~(1 << self.gateway_id(n)))
            if not on["flush_is_state"]:
                w2 = w2._replace(procs=tuple(p._replace(told=p.poked) for p in w2.procs))
            yield self._gw(w2, n, "FLUSH", g._replace(pc="loop"), "gateway_flushed")
        elif g.pc == "clear":
            w2 = w
            if on["fresh_accepted"]:
                w2 = w._replace(accepted=self.set_accepted(
                    w, n, w.models[n][0] + (2 if on["clear_before_publish"] else 1), 0))
            pc = "publish" if on["clear_before_publish"] else "loop"
            yield self._gw(w2, n, "empty the next round's accepted set", g._replace(pc=pc))
        elif g.pc == "publish":
            yield self._publish(w, n, g)
        elif g.pc == "release":
            w2 = w._replace(slots=put(w.slots, g.cur, s._replace(released=s.gen)))
            yield self._gw(w2, n, f"release slot {g.cur}", g._replace(pc="wake"),
                           "gateway_model_released")  # fmt: skip
        elif g.pc == "wake":
            w2 = self.poke(w, 1 << self.allocator(g.cur)) if on["wake_on_release"] else w
            yield self._gw(w2, n, f"RELEASE to {self.allocator(g.cur)}",
                           g._replace(pc="loop", cur=-1, wake=True))  # fmt: skip

    def _after_send(self, w: World, n: int, sender: int) -> Gateway:
        g = w.gateways[n]
        return g._replace(wake=True) if w.route[sender] == self.gateway_id(n) else g

    def _rebuild(self, w: World, n: int, g: Gateway) -> Step:
        round_ = self.round_of(w, n)
        accepted = self.accepted(w, n, round_) if self.on["accepted_in_arena"] else 0
        for i in self.inputs(n):
            s = w.slots[i]
            current = s.round == round_ or not self.on["rebuild_this_round"]
            if s.phase == SEALED and current and self.on["rebuild_accepted"]:
                accepted |= s.clients
        epoch = w.coordinator.epoch if self.on["epoch_at_join"] else 0
        w2 = w._replace(accepted=self.set_accepted(w, n, round_, accepted))
        return self._gw(w2, n, "join: rebuild", g._replace(pc="loop", wake=True, epoch=epoch),
                        "gateway_rebuilt")  # fmt: skip

    # -- loop --------------------------------------------------------------------------------
    def _loop_steps(self, w: World, n: int, g: Gateway) -> Iterator[Step]:
        round_ = self.round_of(w, n)
        closed = self.is_closed(w, n, round_)
        for i, key in g.writing:
            yield self._upload_ends(w, n, g, i, key)
        if n and g.held and w.models[0][0] >= w.slots[g.held[0]].round:
            yield self._gw(w, n, "hear that the round is over", g._replace(
                pc="release", cur=g.held[0], held=()))  # fmt: skip
        if g.wake:
            yield self._look(w, n, g, round_)
        if (not closed and not g.wake and w.models[n][0] < round_
                and self._may_close(w, n, round_)):  # fmt: skip
            yield self._gw(self._closed(w, n, round_), n, "close", g._replace(pc="flush"),
                           "gateway_closed")  # fmt: skip
        if n == 0 and w.models[0][0] + 1 < self.c.rounds and (w.aborts or w.coordinator.give_up):
            w2 = self._closed(w, n, round_)._replace(
                aborts=w.aborts - (not w.coordinator.give_up),
                coordinator=w.coordinator._replace(give_up=True))  # fmt: skip
            yield self._gw(w2, n, "give the round up", self._opens(g._replace(cur=-2)))
        if n and (closed or not self.on["report_after_close"]) and self._may_report(w, n):
            yield self._report(w, n, g, round_)
        if n and w.models[n][0] < w.models[0][0] and w.models[0][0] < self.c.rounds:
            yield self._gw(w, n, "hear of a new round", self._opens(g._replace(cur=-2)))
        yield from self._requests(w, n, g)
        yield from self._messages(w, n, g, round_)

    def _closed(self, w: World, n: int, round_: int) -> World:
        return w._replace(closed=put(w.closed, n, put(w.closed[n], round_ & 1, round_)))

    def _opens(self, g: Gateway) -> Gateway:
        return g._replace(pc="clear" if self.on["clear_before_publish"] else "publish",
                          forward=(), held=())  # fmt: skip

    def _look(self, w: World, n: int, g: Gateway, round_: int) -> Step:
        """Read what woke the gateway: a sum or model that names it, or a free slot."""
        open_ = w.models[n][0] < round_
        for i in range(len(w.slots)):
            if not self.is_mine(w, self.gateway_id(n), i) or i == w.models[n][1]:
                continue
            s = w.slots[i]
            this = (s.round == round_ and open_) or not self.on["publish_this_round"]
            if n == 0 and this:
                return self._gw(w, n, f"read the model in slot {i}", self._opens(
                    g._replace(cur=i)))  # fmt: skip
            if n and s.round == w.models[n][0] + 1:
                if g.forward or g.held == (i, s.gen):
                    continue
                if not self.on["forward_until_ack"]:
                    return self._gw(self._forward(w, n, i, g), n, f"forward slot {i}",
                                    g._replace(pc="release", cur=i))  # fmt: skip
                return self._gw(self._forward(w, n, i, g), n, f"forward slot {i}",
                                g._replace(forward=(i, s.gen)))  # fmt: skip
            return self._gw(w, n, f"slot {i} is of an older round",
                            g._replace(pc="release", cur=i))  # fmt: skip
        for c, state in enumerate(w.clients):
            if state == (n, "asking") and (step := self._serve(w, n, g, c)):
                return step
        return self._gw(w, n, "nothing to do", g._replace(wake=False))

    # -- end of a round ----------------------------------------------------------------------
    def _may_close(self, w: World, n: int, round_: int) -> bool:
        co, mine = w.coordinator, self.accepted(w, n, round_)
        answered = all(s in ("acked", "late") for node, s in w.clients if node == n)
        if not answered and not (self.c.deadline and mine):
            return False
        if n or not self.on["wait_for_nodes"]:
            return True
        if co.phase in (1, 2):
            return False
        return all(
            (m == self.c.lose and co.phase == 3)
            or (co.reports[m] >= 0 and not co.reports[m] & ~mine)
            for m in range(1, self.nodes)
        )

    def _may_report(self, w: World, n: int) -> bool:
        return w.coordinator.reports[n] < 0 and w.models[n][0] == w.models[0][0]

    def _report(self, w: World, n: int, g: Gateway, round_: int) -> Step:
        reports = put(w.coordinator.reports, n, self.accepted(w, n, round_))
        return self._gw(w._replace(coordinator=w.coordinator._replace(reports=reports)), n,
                        "report the accepted set", g)  # fmt: skip

    def _publish(self, w: World, n: int, g: Gateway) -> Step:
        """The model word moves: this ends a round and opens the next."""
        round_, old = w.models[n][0] + 1, w.models[n][1]
        slot = old if g.cur == -2 else g.cur
        g2 = g._replace(pc="loop", cur=-1, wake=True)
        if g.cur >= 0:
            self._check_model(w, round_, g.cur)
            w = w._replace(published=w.slots[g.cur].clients)
            keep = self.on["keep_model_until_next"]
            if not keep or old >= 0:
                g2 = g2._replace(pc="release", cur=old if keep else slot)
            s = w.slots[old]
            if old >= 0 and not self.on["publish_before_release"] and s.released != s.gen:
                w = w._replace(slots=put(w.slots, old, s._replace(released=s.gen)))
                return self._gw(self.poke(w, 1 << self.top), n, "release the old model", g)
        if not self.on["clear_before_publish"]:
            g2 = g2._replace(pc="clear")
        if n:
            g2 = g2._replace(epoch=w.coordinator.epoch)
        w = w._replace(models=put(w.models, n, (round_, slot)))
        if round_ < self.c.rounds:
            co, clients = w.coordinator, w.clients
            for c, (node, state) in enumerate(clients):
                if node != n:
                    continue
                back = "new" if state in ("acked", "late") else state
                clients = put(clients, c, (self.home[c], back if self.home[c] == n else "late"))
            if n == 0:
                co = Coordinator(4 if co.phase else 0, co.epoch, reports=(-1,) * self.nodes)
            lanes = slice(self.roles, self.roles + self.clients)
            hops = w.plan[: lanes.start] + self.c.lanes + w.plan[lanes.stop :]
            w = w._replace(clients=clients, coordinator=co)
            if self.c.lose >= 0:
                w = w._replace(plan=hops, route=hops)
        return self._gw(w, n, f"publish round {round_}", g2, "gateway_published")

    def _check_model(self, w: World, round_: int, index: int) -> None:
        s = w.slots[index]
        want = self.truth(s.clients, round_)
        if s.payload != want or s.divided != 1 or s.round != round_:
            raise Violation(f"S1: published {s.payload:x}, its clients are {want:x}, "
                            f"divided {s.divided} times")  # fmt: skip
        if s.clients != self.accepted(w, 0, round_):
            raise Violation("S1: the published clients are not the accepted ones")
        for c, (_, state) in enumerate(w.clients):
            if state == "acked" and not s.clients >> c & 1:
                raise Violation(f"S1: client {c} was acked and is not in the model")
            if state == "late" and s.clients >> c & 1:
                raise Violation(f"S1: client {c} was late and is in the model")
