"""Steps of an aggregator, whichever role it has.

Owns joining, admission, folding, finishing, sealing, sending, leaving.  A step stores one shared
word or sends once; a scan is one step, since a word that names its reader stays until that
reader changes it.  Called by control.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.words import Words
from tests.model.world import (
    FREE,
    OPEN,
    SEALED,
    WRITING,
    Proc,
    Slot,
    Step,
    Violation,
    World,
    bits,
    put,
)  # fmt: skip

EMPTY = Slot()


class Roles(Words):
    # -- admission ---------------------------------------------------------------------------
    def admit(self, w: World, p: Proc, index: int) -> Proc:
        """Sort a slot: into the next fold, to be released only, or not ours."""
        bit, s = 1 << index, w.slots[index]
        if (p.ready | p.todo) & bit:
            return p
        if self.on["state_check"] and not self.is_mine(w, p.role, index):
            return p
        newest = self.newest(w, p.role)
        acc = w.slots[newest] if newest >= 0 else EMPTY
        if self.on["round_in_header"]:
            rounds = [w.slots[i].round for i in bits(p.ready)]
            if s.round < max([acc.round, *rounds]):
                return p._replace(todo=p.todo | bit)
            if rounds and s.round > rounds[0]:
                p = p._replace(ready=0, todo=p.todo | p.ready)
            if acc.round != s.round:
                acc = EMPTY
        taken = 0
        if acc.phase == OPEN or (acc.phase == SEALED and self.on["release_before_seal"]):
            taken = acc.clients
        for i in bits(p.ready):
            taken |= w.slots[i].clients
        overlap = s.clients & taken
        if overlap and self.on["set_check"]:
            if overlap != s.clients:
                raise Violation(f"S1: role {p.role} must refuse slot {index}: overlap in part")
            return p._replace(todo=p.todo | bit)
        return p._replace(ready=p.ready | bit)

    def scan(self, w: World, p: Proc) -> Proc:
        for index in range(len(w.slots)):
            if self.is_mine(w, p.role, index):
                p = self.admit(w, p, index)
        return p

    # -- steps -------------------------------------------------------------------------------
    def role_steps(self, w: World, at: int) -> Iterator[Step]:
        """Steps of one process; it sleeps as soon as nothing is left to do."""
        for label, new, points in self._steps(w, at):
            p = new.procs[at]
            if p.pc == "release" and not p.todo:
                p = p._replace(pc="loop")
            if (p.pc == "loop" and not p.queue and not p.poked
                    and not any(True for _ in self._loop(new, at, p))):  # fmt: skip
                p = p._replace(pc="sleep")
            if p is not new.procs[at]:
                new = new._replace(procs=put(new.procs, at, p))
            yield Step(label, new, points)

    def _move(self, w: World, at: int, label: str, p: Proc, *points: str) -> Step:
        old = " (old process)" if at >= self.roles else ""
        return Step(f"role {p.role}{old}: {label}", w._replace(procs=put(w.procs, at, p)),
                    tuple((at, point) for point in points))  # fmt: skip

    def _steps(self, w: World, at: int) -> Iterator[Step]:
        p, on = w.procs[at], self.on
        if p.pc == "start":
            pc = "register" if on["register_before_scan"] else "early scan"
            yield self._move(w, at, "lock", p._replace(pc=pc), "role_locked")
        elif p.pc == "early scan":
            yield self._move(w, at, "scan", self.scan(w, p)._replace(pc="scanned"))
        elif p.pc in ("register", "scanned"):
            if w.agent.up:
                pc = "join" if p.pc == "register" else "release"
                q = p._replace(pc=pc, to=w.plan[p.role])
                step = self._move(w, at, "register", q, "role_registered")
                new = self.joined(step.world, self.node_of[p.role], p.role)
                points = (*step.points, ("agent", "agent_registered"))
                yield step._replace(world=new, points=points)
        elif p.pc == "join":
            q = self.scan(w, p) if on["scan_on_join"] else p
            yield self._move(w, at, "scan", q._replace(pc="release"), "role_scanned")
        elif p.pc in ("loop", "sleep"):
            if p.queue or p.poked or p.pc == "loop":
                yield from self._loop(w, at, p)
            newest = self.newest(w, p.role)
            if (p.pc == "sleep" and w.early and at < self.roles and w.slots[newest].phase == OPEN
                    and newest >= 0 and p.role != self.top
                    and (p.to < self.roles or not on["root_seals_complete"])):  # fmt: skip
                yield self._seal(w._replace(early=w.early - 1), at, newest)
            if self.c.leave == p.role == at and not w.replans and self.may_leave(w, p):
                yield self._leave(w, at)
        elif p.pc in ("fold", "finish"):
            yield self._write(w, at, p)
        elif p.pc in ("commit", "torn"):
            yield self._commit(w, at, p)
        elif p.pc == "early":  # without release_before_seal
            yield self._seal(w, at, self.newest(w, p.role))
        elif p.pc == "release":
            i = next(bits(p.todo))
            s = w.slots[i]
            w2 = w._replace(slots=put(w.slots, i, s._replace(released=s.gen)))
            q = p._replace(todo=p.todo & ~(1 << i), cur=max(p.cur, 0) | 1 << i)
            q = q._replace(pc="release" if q.todo else "notify")
            yield self._move(w2, at, f"release slot {i}", q, "input_released")
        elif p.pc == "notify":  # each allocator once
            i = next(bits(p.cur))
            to = self.allocator(i)
            w2 = w
            if on["wake_on_release"] and not self._is_idle(w, i):
                w2 = self.poke(w, 1 << to)
            left = sum(1 << other for other in bits(p.cur) if self.allocator(other) != to)
            q = w2.procs[at]._replace(pc="notify", cur=left)
            if not left:
                q = q._replace(pc="release", cur=-1)
            yield self._move(w2, at, f"RELEASE to {to}", q, "release_sent")
        elif p.pc == "send":
            w2 = w
            if on["seal_before_send"]:
                w2 = self.send(w, p.role, p.cur)
            else:
                w2 = self._seal(w, at, p.cur).world
            yield self._move(w2, at, f"send slot {p.cur}", w2.procs[at]._replace(
                pc="loop", cur=-1), "sum_sent")  # fmt: skip

    def _loop(self, w: World, at: int, p: Proc) -> Iterator[Step]:
        on, newest = self.on, self.newest(w, p.role)
        acc = w.slots[newest] if newest >= 0 else EMPTY
        if p.queue:
            (i, gen), w2 = p.queue[0], w
            s = w.slots[i]
            live = (s.phase == SEALED and s.released != s.gen
                    and (s.gen == gen or not on["generation_check"]))  # fmt: skip
            to = self.consumer(w, i)
            if live and to != p.role and on["return_misrouted"]:
                w2 = self.tell_agent(w, 1 << to)
            q = p._replace(pc="loop", queue=p.queue[1:])
            if (live and to == p.role) or not on["state_check"]:
                q = self.admit(w, q, i)
            yield self._move(w2, at, f"take the descriptor of slot {i}", q)
        elif p.poked:
            q = p._replace(pc="loop", poked=False, to=w.plan[p.role])
            yield self._move(w, at, "poked: scan", self.scan(w, q))
        elif p.todo:
            yield self._move(w, at, "only release", p._replace(pc="release"))
        elif p.ready:
            yield from self._fold(w, at, p, newest, acc, finish=self._at_once(w, p, acc))
        elif acc.phase == OPEN:
            complete = self._is_complete(w, p, acc.round, acc.clients)
            leaving = self.c.leave == p.role and not w.replans
            if complete and p.role == self.top and not acc.is_model:
                yield from self._fold(w, at, p, newest, acc, finish=True)
            elif complete or acc.is_model or (leaving and p.poked is False):
                yield self._seal(w, at, newest)

    def _is_complete(self, w: World, p: Proc, round_: int, clients: int) -> bool:
        node = self.node_of[p.role]
        closed = self.is_closed(w, node, round_) if self.on["flush_is_state"] else p.told
        root = p.to >= self.roles
        return closed and (not root or clients == self.accepted(w, node, round_))

    def _at_once(self, w: World, p: Proc, acc: Slot) -> bool:
        """What is admitted completes the round: the model is made of it without a fold before."""
        first = w.slots[next(bits(p.ready))]
        if p.role != self.top or (acc.phase == OPEN and acc.is_model):
            return False
        if not self.on["finish_out_of_place"] or not self.on["out_of_place"]:
            return False  # in place there is nothing but a fold and then a finish
        clients = acc.clients if acc.phase == OPEN and acc.round == first.round else 0
        for i in bits(p.ready):
            clients |= w.slots[i].clients
        return self._is_complete(w, p, first.round, clients)

    def _fold(
        self, w: World, at: int, p: Proc, newest: int, acc: Slot, *, finish: bool
    ) -> Iterator[Step]:
        """Take a slot for what is admitted, or for the finished model."""
        rule = "out_of_place" if p.ready else "finish_out_of_place"
        if acc.phase == OPEN and not self.on[rule]:
            changed = {"payload": acc.payload + sum(w.slots[i].payload for i in bits(p.ready)),
                           "divided": acc.divided + (not p.ready)}  # fmt: skip
            w2 = w._replace(slots=put(w.slots, newest, acc._replace(**changed)))
            yield self._move(w2, at, f"fold in place, slot {newest}",
                             p._replace(pc="commit", cur=newest), "fold_writing")  # fmt: skip
            return
        to = self.free_sum(w, p.role, newest)
        if to < 0:
            return  # the consumer's RELEASE wakes us
        gen = max(w.slots[i].gen for i in self.own[p.role]) + 1
        w2 = self.overwrite(w, to, gen=gen, phase=WRITING, consumer=-1)
        if not self.on["commit_before_release"] and p.ready:
            for i in bits(p.ready):
                s = w2.slots[i]
                w2 = w2._replace(slots=put(w2.slots, i, s._replace(released=s.gen)))
            w2 = self.poke(w2, self.members[self.node_of[p.role]] & ~(1 << p.role))
        what = "finish" if finish else "fold"
        yield self._move(w2, at, f"{what} {list(bits(p.ready))} into slot {to}",
                         w2.procs[at]._replace(pc=what, cur=to), "fold_writing")  # fmt: skip

    def _content(self, w: World, p: Proc) -> tuple[Slot, int]:
        """Header and payload after the fold, and the accumulator's own client set."""
        newest = self.newest(w, p.role)
        acc = w.slots[newest] if newest >= 0 else EMPTY
        if acc.phase != OPEN:
            acc = EMPTY
        s = w.slots[p.cur]
        if not p.ready:
            return s._replace(
                payload=acc.payload, clients=acc.clients, round=acc.round, epoch=acc.epoch,
                divided=acc.divided + 1, is_model=True,
            ), acc.clients  # fmt: skip
        first = w.slots[next(bits(p.ready))]
        if self.on["round_in_header"] and acc.round != first.round:
            acc = EMPTY
        payload, clients = acc.payload, acc.clients
        for i in bits(p.ready):
            payload += w.slots[i].payload
            clients |= w.slots[i].clients
        finish = p.pc == "finish"
        return s._replace(payload=payload, clients=clients, round=first.round, epoch=first.epoch,
                          divided=int(finish), is_model=finish), acc.clients  # fmt: skip

    def _write(self, w: World, at: int, p: Proc) -> Step:
        s, before = self._content(w, p)
        if not self.on["commit_in_one_word"]:
            s = s._replace(clients=before)
        w2 = w._replace(slots=put(w.slots, p.cur, s))
        return self._move(w2, at, "payload and header", p._replace(pc="commit"), "fold_written")

    def _commit(self, w: World, at: int, p: Proc) -> Step:
        """The one store after which the fold has happened."""
        s, torn = w.slots[p.cur], p.pc == "torn"
        q = p._replace(pc="release", todo=p.ready, ready=0, cur=-1)
        if not self.on["commit_before_release"]:
            q = q._replace(todo=0)
        if not self.on["release_before_seal"] and p.ready:
            q = q._replace(pc="early")
        if s.phase == OPEN:  # in place, or the client set in a store of its own
            for i in bits(p.ready):
                s = s._replace(clients=s.clients | w.slots[i].clients)
            s = s._replace(is_model=not p.ready)
        elif not self.on["commit_in_one_word"] and p.ready and not torn:
            q = p._replace(pc="torn")
        w2 = w._replace(slots=put(w.slots, p.cur, s._replace(phase=OPEN)))
        return self._move(w2, at, "commit", q, "fold_committed")

    def _seal(self, w: World, at: int, index: int) -> Step:
        p = w.procs[at]
        s = w.slots[index]._replace(phase=SEALED, consumer=p.to)
        if not self.on["seal_before_send"] and p.pc != "send":
            w = self.send(w, p.role, index)  # the wrong order: the seal is the next step
            return self._move(w, at, f"send slot {index}", w.procs[at]._replace(
                pc="send", cur=index))  # fmt: skip
        w = w._replace(slots=put(w.slots, index, s))
        return self._move(w, at, f"seal slot {index} to {p.to}",
                          p._replace(pc="send", cur=index), "sum_sealed")  # fmt: skip

    def _is_idle(self, w: World, index: int) -> bool:
        """The slot's allocator is a gateway that waits for no slot: it need not be told."""
        to = self.allocator(index)
        return to >= self.roles and (to - self.roles, "asking") not in w.clients

    # -- leaving the tree --------------------------------------------------------------------
    def may_leave(self, w: World, p: Proc) -> bool:
        if p.queue or p.poked or p.ready or p.todo:
            return False
        if self.on["leave_after_ack"] and any(
                q.to == p.role and q.pc not in ("dead", "start", "register", "left")
                for q in w.procs):  # fmt: skip
            return False
        if self.on["leave_when_unnamed"] and any(
                self.is_mine(w, p.role, i) for i in range(len(w.slots))):
            return False
        newest = self.newest(w, p.role)
        return not self.on["leave_when_free"] or (
            (newest < 0 or w.slots[newest].phase != OPEN)
            and not any(w.slots[i].phase == SEALED and w.slots[i].released != w.slots[i].gen
                        for i in self.own[p.role]))  # fmt: skip

    def _leave(self, w: World, at: int) -> Step:
        """Its slots are given back to the arena."""
        for i in self.own[at]:
            w = self.overwrite(w, i, phase=FREE, clients=0, payload=0)
        return self._move(w, at, "leave the tree", Proc(at, "left"), "role_left")
