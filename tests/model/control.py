"""Steps of agent, coordinator and network, crashes, and what must hold at the end.

Owns the whole transition relation: `Model.steps` asks every process for its next steps and
leaves out those that the reduction makes needless.  Called by search.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tests.model.gateways import Gateways
from tests.model.roles import Roles
from tests.model.world import (
    FREE,
    OPEN,
    SEALED,
    Agent,
    Gateway,
    Proc,
    Step,
    Violation,
    World,
    bits,
    put,
)  # fmt: skip


class Model(Roles, Gateways):
    # -- agent -------------------------------------------------------------------------------
    def agent_steps(self, w: World, nodes: Collection[int]) -> Iterator[Step]:
        a = w.agent
        if not a.up:
            pokes = sum(self.members) if self.on["poke_on_agent_restart"] else 0
            if not self.c.pins:  # new sockets: what was queued is gone
                w = w._replace(procs=tuple(p._replace(queue=()) for p in w.procs))
            yield self._agent(w._replace(route=w.plan), "restart", Agent(pokes=pokes),
                              "agent_restarted")  # fmt: skip
            return
        for at, p in enumerate(w.procs[: self.roles]):
            if p.pc == "dead" and self.node_of[at] in nodes:
                if self.c.agent_crashes and not a.saw >> at & 1:
                    yield self._agent(w, f"see role {at} dead", a._replace(saw=a.saw | 1 << at),
                                      "agent_saw_death")  # fmt: skip
                else:
                    yield self._start(w, a, at)
        for n, g in enumerate(w.gateways):
            if g.pc == "dead" and n in nodes:
                w2 = self.joined(w._replace(gateways=put(w.gateways, n, Gateway("join"))), n)
                yield Step(f"agent: new gateway {n}", w2, (("agent", "agent_registered"),))
        if a.pokes:
            yield self._agent(self.poke(w, a.pokes), "poke", a._replace(pokes=0), "agent_poked")
        if a.reroute:
            w2 = w._replace(agent=a._replace(reroute=False), route=w.plan)
            yield Step("agent: route", self.joined(w2, 0), (("agent", "agent_routed"),))
        if w.replans and not self.is_closed(w, 0, self.round_of(w, 0)):
            plan = put(w.plan, *self.c.replan)
            yield Step("agent: plan", w._replace(plan=plan, replans=0,
                                                 agent=a._replace(reroute=True)))  # fmt: skip

    def _agent(self, w: World, label: str, a: Agent, point: str) -> Step:
        return Step(f"agent: {label}", w._replace(agent=a), (("agent", point),))

    def _start(self, w: World, a: Agent, at: int) -> Step:
        for i in self.own[at] if not self.on["pair_outlives_process"] else ():
            w = self.overwrite(w, i, phase=FREE, clients=0, payload=0)
        point = () if self.c.agent_crashes else (("agent", "agent_saw_death"),)
        return Step(f"agent: new process for role {at}", w._replace(
            procs=put(w.procs, at, Proc(at, "start")),
            agent=a._replace(saw=a.saw & ~(1 << at))), point)  # fmt: skip

    # -- coordinator and network -------------------------------------------------------------
    def coordinator_steps(self, w: World) -> Iterator[Step]:
        co, lost = w.coordinator, self.c.lose
        if lost < 0 or w.models[0][0] > 0:
            return
        if co.phase == 0 and not self.is_closed(w, 0, 1) and self._time_to_lose(w, lost):
            w2 = w._replace(coordinator=co._replace(phase=1, epoch=1))
            if not self.c.alive:
                w2 = w2._replace(
                    procs=tuple(Proc(p.role, "gone") if self.node_of[p.role] == lost else p
                                for p in w2.procs),
                    gateways=put(w2.gateways, lost, Gateway("gone")),
                    net=tuple(m for m in w2.net if m.kind == "sum" or m.node != lost))  # fmt: skip
            yield Step(f"coordinator: node {lost} is lost", w2)
        g = w.gateways[0]
        ordered = self.on["fence_before_move"]
        if g.pc == "loop" and co.phase == (1 if ordered else 2):
            co2 = co._replace(phase=2 if ordered else 3, snapshot=self.accepted(w, 0, 1))
            yield self._gw(w._replace(coordinator=co2), 0, f"fence node {lost}",
                           g._replace(epoch=co.epoch))  # fmt: skip
        if co.phase == (2 if ordered else 1):
            have = co.snapshot if ordered else self.accepted(w, 0, 1)
            yield self._move_clients(w._replace(coordinator=co._replace(phase=co.phase + 1)), have)

    def _time_to_lose(self, w: World, lost: int) -> bool:
        """Some searches look only at losses at a certain stage of the lost node's sum."""
        root = next(r for r in range(self.roles) if self.parent[r] == self.gateway_id(lost))
        return {
            "": True,
            "sealed": any(self.is_mine(w, self.gateway_id(lost), i) for i in self.own[root]),
            "under way": any(m.kind == "sum" for m in w.net),
            "written": any(not isinstance(key, int) for _, key in w.gateways[0].writing),
            "accepted": any(self.accepted(w, 0, 1) >> c & 1
                            for c, node in enumerate(self.home) if node == lost),
        }[self.c.lose_when]  # fmt: skip

    def _move_clients(self, w: World, have: int) -> Step:
        """Clients that the top's node does not have go to a node that is still open."""
        to, lost = self.c.move_to, self.c.lose
        if self.is_closed(w, to, 1):
            to = 0
        leaf = next(r for r in range(self.roles) if self.node_of[r] == to)
        clients, plan = w.clients, w.plan
        for c, (node, _) in enumerate(clients):
            if node != lost:
                continue
            if have >> c & 1 and self.on["move_only_missing"]:
                clients = put(clients, c, (0, "acked"))
            else:
                clients = put(clients, c, (to, "new"))
                plan = put(plan, self.roles + c, leaf)
        return Step(f"coordinator: clients of node {lost} move", w._replace(
            clients=clients, plan=plan, route=plan))  # fmt: skip

    def network_steps(self, w: World) -> Iterator[Step]:
        if w.losses:
            for at, m in enumerate(w.net):
                yield Step(f"network: loses {m.kind} of node {m.node}", w._replace(
                    net=w.net[:at] + w.net[at + 1 :], losses=w.losses - 1))  # fmt: skip

    # -- crashes -----------------------------------------------------------------------------
    def _may_die(self, kind: str, at: int) -> bool:
        return kind in self.c.victims or f"{kind} {at}" in self.c.victims

    def crash_steps(self, w: World) -> Iterator[tuple[object, Step]]:
        """(process, its crash)."""
        if w.agent_crashes and w.agent.up:
            yield "agent", Step("CRASH agent", w._replace(
                agent=Agent(up=False), agent_crashes=w.agent_crashes - 1))  # fmt: skip
        if not w.crashes:
            return
        w = w._replace(crashes=w.crashes - 1)
        for n, g in enumerate(w.gateways):
            if g.pc not in ("dead", "gone") and self._may_die("gateway", n):
                clients = tuple((n, "new") if c in ((n, "asking"), (n, "upload")) else c
                                for c in w.clients)  # fmt: skip
                net = tuple(m for m in w.net if m.kind == "sum" or m.node != n)
                yield f"gateway {n}", Step(f"CRASH gateway {n} at {g.pc}", w._replace(
                    gateways=put(w.gateways, n, Gateway("dead")), clients=clients, net=net))
        for at, p in enumerate(w.procs[: self.roles]):
            if p.pc in ("dead", "gone") or not self._may_die("role", at):
                continue
            if self.c.crash_at not in ("", p.pc):
                continue
            yield at, Step(f"CRASH role {at} at {p.pc}", w._replace(
                procs=put(w.procs, at, Proc(at))))  # fmt: skip
            if not self.on["fence"] and len(w.procs) == self.roles:
                old = p._replace(queue=(), poked=False)  # cut off, but still running
                yield at, Step(f"DISCONNECT role {at} at {p.pc}", w._replace(
                    procs=(*put(w.procs, at, Proc(at)), old)))  # fmt: skip

    # -- all of it ---------------------------------------------------------------------------
    def _private(self, w: World) -> tuple[object, Iterator[Step]] | None:
        """A process whose next step nobody else can see, hinder or be hindered by.

        Only its step and its crash are followed then (partial-order reduction).
        """
        for n, g in enumerate(w.gateways):
            if g.pc in ("payload", "bit") or (g.pc == "ack" and isinstance(g.key, int)):
                return f"gateway {n}", self.gateway_steps(w, n)
        for at, p in enumerate(w.procs):
            idle = p.pc == "notify" and all(self._is_idle(w, i) for i in bits(p.cur))
            if idle or p.pc in ("fold", "commit", "start"):
                return at, self.role_steps(w, at)
            if (p.pc in ("loop", "sleep") and p.queue and self.c.credit > 8
                    and self.is_mine(w, p.role, p.queue[0][0])):  # fmt: skip
                return at, self.role_steps(w, at)
        return None

    def _alone(self, w: World, n: int) -> bool:
        """Until a node without the top has closed and forwards, nobody else touches its words.

        Then its steps may go first, whatever the other nodes could do meanwhile.
        """
        return (self.c.lose < 0 and not w.gateways[n].forward and not w.agent.pokes
                and w.coordinator.reports[n] < 0 and w.models[n][0] == w.models[0][0]
                and all(m.node != n for m in w.net))  # fmt: skip

    def _node_steps(self, w: World, nodes: Collection[int]) -> list[Step]:
        live: list[Step] = []
        for n, g in enumerate(w.gateways):
            if n in nodes and g.pc not in ("dead", "gone"):
                live += self.gateway_steps(w, n)
        for at, p in enumerate(w.procs):
            if self.node_of[p.role] in nodes and p.pc not in ("dead", "gone", "left"):
                live += self.role_steps(w, at)
        live += self.agent_steps(w, nodes)
        return live

    def steps(self, w: World) -> tuple[list[Step], list[tuple[object, Step]]]:
        """(steps that a fair run takes, crashes)."""
        crashes = list(self.crash_steps(w))
        if self.c.reduce and (found := self._private(w)):
            return list(found[1]), [x for x in crashes if x[0] == found[0]]
        for n in range(1, self.nodes if self.c.reduce else 0):
            if self._alone(w, n):
                mine = self._node_steps(w, (n,))
                if mine and all(s.world.net == w.net and s.world.coordinator == w.coordinator
                                for s in mine):  # fmt: skip
                    return mine, [x for x in crashes if x[0] == f"gateway {n}" or (
                        isinstance(x[0], int) and self.node_of[x[0]] == n)]  # fmt: skip
        live = self._node_steps(w, range(self.nodes))
        if self.nodes > 1:
            live += self.coordinator_steps(w)
            live += self.network_steps(w)
        return live, crashes

    def check_end(self, w: World) -> None:
        """L1 and S4, in a state that only a crash could still change."""
        last = self.c.rounds
        if w.models[0][0] != last:
            raise Violation(f"L1: deadlock, round {w.models[0][0] + 1} is not published")
        if any(state not in ("acked", "late") for _, state in w.clients):
            raise Violation(f"L1: clients without an answer: {w.clients}")
        for c, (_, state) in enumerate(w.clients):
            if (state == "acked") != bool(w.published >> c & 1):
                raise Violation(f"S1: client {c} is {state}, published {list(bits(w.published))}")
        if self.c.leave >= 0 and not w.replans and w.procs[self.c.leave].pc != "left":
            raise Violation(f"L1: role {self.c.leave} never leaves")
        lost = self.c.lose if w.coordinator.phase == 3 else -1
        for i, s in enumerate(w.slots):
            by = self.allocator(i)
            node = self.node_of[by] if by < self.roles else by - self.roles
            if node == lost or i == w.models[0][1]:
                continue
            unread = s.phase == SEALED and s.released != s.gen
            pending = (s.phase == OPEN and by < self.roles and i == self.newest(w, by)
                       and s.round == last)  # fmt: skip
            if unread or pending:
                raise Violation(f"S4: slot {i} is not free at the end")
