"""Reading and storing the shared words, sending descriptors.

Owns what every process of the model does in the same way, and the checks that a store does not
destroy what somebody reads (S2, S3).  Decides no step.
"""

from __future__ import annotations

from tests.model.rules import RULES
from tests.model.world import (
    GATEWAY,
    OPEN,
    SEALED,
    Agent,
    Config,
    Coordinator,
    Gateway,
    Proc,
    Slot,
    Violation,
    World,
    bits,
    put,
)  # fmt: skip

DEAF = ("dead", "start", "register", "scanned", "left", "gone")


class Words:
    """One configuration, and the words of its worlds."""

    def __init__(self, config: Config) -> None:
        self.c = c = config
        self.on = {rule: rule not in c.off for rule in RULES}
        self.roles = len(c.tree)
        self.node_of = c.nodes or (0,) * self.roles
        self.nodes = max(self.node_of) + 1
        self.clients = len(c.lanes)
        self.parent = tuple(self.gateway_id(self.node_of[role]) if to == GATEWAY else to
                            for role, to in enumerate(c.tree))  # fmt: skip
        self.top = next(r for r in range(self.roles)
                        if c.tree[r] == GATEWAY and self.node_of[r] == 0)  # fmt: skip
        self.own: list[range] = []  # sum slots of each role
        at = c.inputs * self.nodes
        for role in range(self.roles):
            count = 3 if role == self.top and self.on["third_slot"] else 2
            self.own.append(range(at, at + count))
            at += count
        self.slots = at
        # leaves under one parent differ in nothing but their number, unless something names one
        self.alike = not c.replan and c.victims == ("gateway", "role")
        self.home = tuple(self.node_of[leaf] for leaf in c.lanes)
        self.members = tuple(
            sum(1 << r for r in range(self.roles) if self.node_of[r] == n) | 1 << self.roles + n
            for n in range(self.nodes)
        )

    def start(self) -> World:
        c, n = self.c, self.nodes
        hops = self.parent + c.lanes + (self.top,) * n
        return World(
            slots=(Slot(),) * self.slots,
            procs=tuple(Proc(r, "sleep", to=self.parent[r]) for r in range(self.roles)),
            gateways=(Gateway(),) * n, agent=Agent(), coordinator=Coordinator(reports=(-1,) * n),
            clients=tuple((node, "new") for node in self.home), accepted=((0, 0),) * n,
            closed=((0, 0),) * n, models=((0, -1),) * n, plan=hops, route=hops,
            crashes=c.crashes, agent_crashes=c.agent_crashes, early=c.early, retries=c.retries,
            replans=bool(c.replan), aborts=c.aborts, losses=c.losses, repeats=c.repeats,
        )  # fmt: skip

    # -- names -------------------------------------------------------------------------------
    def gateway_id(self, node: int) -> int:
        return self.roles + node

    def inputs(self, node: int) -> range:
        return range(node * self.c.inputs, (node + 1) * self.c.inputs)

    def allocator(self, index: int) -> int:
        for role, own in enumerate(self.own):
            if index in own:
                return role
        return self.gateway_id(index // self.c.inputs)

    def truth(self, clients: int, round_: int) -> int:
        """The payload in which every one of these clients is once."""
        return sum(1 << 4 * ((round_ - 1) * self.clients + c) for c in bits(clients))

    # -- words -------------------------------------------------------------------------------
    def consumer(self, w: World, index: int) -> int:
        if self.on["consumer_in_word"]:
            return w.slots[index].consumer
        by = self.allocator(index)
        return w.plan[by if by < self.roles else
                      self.roles + w.slots[index].clients.bit_length() - 1]  # fmt: skip

    def is_mine(self, w: World, who: int, index: int) -> bool:
        s = w.slots[index]
        return s.phase == SEALED and s.released != s.gen and self.consumer(w, index) == who

    def is_closed(self, w: World, node: int, round_: int) -> bool:
        word = w.closed[node][round_ & 1]
        return word == round_ if self.on["closed_by_number"] else word > 0

    def accepted(self, w: World, node: int, round_: int) -> int:
        return w.accepted[node][round_ & 1]

    def set_accepted(self, w: World, node: int, round_: int, clients: int) -> tuple:
        return put(w.accepted, node, put(w.accepted[node], round_ & 1, clients))

    def round_of(self, w: World, node: int) -> int:
        """The round that a gateway serves: the one after its model's."""
        return min(w.models[node][0] + 1, self.c.rounds)

    def newest(self, w: World, role: int) -> int:
        """Slot of the newest commit of a role, or -1."""
        found, gen = -1, -1
        for i in self.own[role]:
            s = w.slots[i]
            if s.phase >= OPEN and s.gen > gen:
                found, gen = i, s.gen
        return found

    def free_sum(self, w: World, role: int, newest: int) -> int:
        """Slot that the next fold of a role may write, or -1."""
        for i in self.own[role]:
            s = w.slots[i]
            unread = s.phase == SEALED and s.released != s.gen
            if i != newest and not (unread and self.on["wait_for_parent"]):
                return i
        return -1

    def free_input(self, w: World, node: int) -> int:
        busy = {i for i, _ in w.gateways[node].writing}
        for i in self.inputs(node):
            s = w.slots[i]
            if i not in busy and (s.phase != SEALED or s.released == s.gen):
                return i
        return -1

    def overwrite(self, w: World, index: int, **new: object) -> World:
        """A store to a slot whose content is given up by it."""
        s, name = w.slots[index], "S2" if index < self.c.inputs * self.nodes else "S3"
        for p in w.procs:
            if p.ready >> index & 1:  # from its admission to the commit that contains it
                raise Violation(f"{name}: slot {index} is overwritten while role {p.role} reads it")
        if s.phase == SEALED and s.released != s.gen and "phase" in new:
            raise Violation(f"{name}: slot {index} is overwritten before its release")
        if any(slot == index for _, slot in w.models):
            raise Violation(f"S3: slot {index} is overwritten, it is the global model")
        return w._replace(slots=put(w.slots, index, s._replace(**new)))

    # -- descriptors -------------------------------------------------------------------------
    def send(self, w: World, sender: int, index: int) -> World:
        """The kernel forwards a descriptor by the route of its sender."""
        to = w.route[sender]
        if to >= self.roles:
            return self.poke(w, 1 << to)
        p = w.procs[to]
        if p.pc in DEAF:
            return w  # who joins there reads the words
        if len(p.queue) >= self.c.credit:
            return self.tell_agent(w, 1 << to)
        p = p._replace(queue=(*p.queue, (index, w.slots[index].gen)))
        return w._replace(procs=put(w.procs, to, p))

    def poke(self, w: World, mask: int) -> World:
        procs, gateways = w.procs, w.gateways
        for to in bits(mask):
            if to >= self.roles:
                g = gateways[to - self.roles]
                if g.pc not in ("dead", "gone"):
                    gateways = put(gateways, to - self.roles, g._replace(wake=True))
            elif procs[to].pc not in DEAF and (
                procs[to].pc != "join" or self.on["poke_while_joining"]
            ):
                procs = put(procs, to, procs[to]._replace(poked=True))
        return w._replace(procs=procs, gateways=gateways)

    def tell_agent(self, w: World, mask: int) -> World:
        if not w.agent.up:
            return w  # its restart pokes everybody
        return w._replace(agent=w.agent._replace(pokes=w.agent.pokes | mask))

    def joined(self, w: World, node: int, who: int = -1) -> World:
        """The agent owes all others a poke; at once where it cannot die in between."""
        if not self.on["poke_on_join"]:
            return w
        others = self.members[node] & ~(1 << who if who >= 0 else 0)
        return (self.tell_agent if self.c.agent_crashes else self.poke)(w, others)
