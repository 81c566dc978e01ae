"""What coordinators order a gateway: who may call it, where the round stands, when it is over.

    enrol ─► rights      job, round ─► announced to clients      cut, close, fence, over, end

Owns who has which rights by whose word, and that what needs the job's memory waits until it is
here.  What the gateway says by itself is reports.py's, errands to other gateways are errands.py's,
clients clients.py's.  Called by gateway.py with every word of a coordinator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from lifl.errors import Late
from lifl.functions.clients import Clients
from lifl.functions.errands import Errands
from lifl.functions.jobs import Job
from lifl.functions.layout import Layout
from lifl.functions.lines import EVERYTHING, Lines
from lifl.functions.reports import Reports
from lifl.functions.rights import Enrolment
from lifl.functions.wire import Doorkeeper, Message, bits
from lifl.shm.slots import Payload

log = logging.getLogger("lifl.gateway")


class Orders:
    """Of the coordinators of one gateway's jobs.

    Args:
        jobs: the gateway's jobs by name.
        serve: looks at a job's words, when a slot may have become free.

    Attributes:
        enrolled: by line: who has which rights in its job.
        early: by job: coordinators' words before its memory is here.
    """

    def __init__(
        self, jobs: dict[str, Job], *, lines: Lines, door: Doorkeeper, clients: Clients,
        errands: Errands, reports: Reports, serve: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self._jobs, self._lines, self._door, self._clients = jobs, lines, door, clients
        self._errands, self._reports, self._serve = errands, reports, serve
        self.enrolled: dict[str, Message] = {}
        self.early: dict[str, list[Message]] = {}
        self._silent = set(lines)  # whose coordinator has not said who takes part

    # -- coordinators that come and go -------------------------------------------------------
    def coordinators(self, where: dict[str, tuple[str, str]]) -> None:
        """The agent says which jobs there are; one that is gone takes its clients' rights along."""
        new = self._lines.lead_to(where)
        self._silent = (self._silent | set(new)) & where.keys()
        for name in new:
            self._clients.over.discard(name)  # of a job before it, of the same name
            self._reports.everything(name)
        gone = self.enrolled.keys() - where.keys()
        for name in gone:
            del self.enrolled[name]
        if gone:
            self._enrol()
        for name in self.early.keys() - where.keys():
            del self.early[name]
        self._clients.keep_only(set(where))
        self._tell_door()

    def _enrol(self) -> None:
        """Each coordinator says who takes part in its own job."""
        enrolled = {}
        for line, told in self.enrolled.items():
            keys = told["keys"] | {self._lines.key(line): "coordinator"}
            for name in told["jobs"] if line == EVERYTHING else [line]:
                enrolled[name] = Enrolment(keys, told["ports"])
        self._clients.enrol(enrolled)
        self._tell_door()

    def _tell_door(self) -> None:
        """A key that nobody has named is refused once every coordinator has said who takes part.

        Until then it waits: of its jobs a gateway that starts again hears one by one.
        """
        self._door.hear(self._clients.rights.keys, are_all=not self._silent)

    # -- what they say -----------------------------------------------------------------------
    def obey(self, line: str, message: Message) -> None:
        """Do as a coordinator says; of a job that is not its own it has nothing to say."""
        if line not in (EVERYTHING, message.get("job", line)):
            log.warning("%s says %r of job %r", line, message["t"], message["job"])
            return
        match message["t"]:
            case "enrol":
                self.enrolled[line] = message
                self._silent.discard(line)
                self._enrol()
                self._lines.send({"t": "enrolled", "look": message["look"]}, line)
            case "ask":
                self._lines.send({"t": "here"}, line)
            case "who":  # this node was lost for a while
                self._reports.hello(line)
            case "elsewhere":
                self._clients.tell_elsewhere(
                    message["job"], message["gateways"], message["outside"]
                )
            case "redirect":
                for key, endpoint, server_key in message["clients"]:
                    self._clients.redirect(message["job"], key, endpoint, server_key)
            case _:
                job = self._jobs.get(message["job"])
                if job is not None and job.intake.ports:
                    self._obey_of_job(job, message)
                else:
                    early = self.early.setdefault(message["job"], [])
                    early[:] = [m for m in early if m["t"] != message["t"]]  # newest of each kind
                    early.append(message)
                    if message["t"] == "job":
                        layout = Layout.from_wire(message["layout"])
                        self._clients.comes(message["job"], layout, message["settings"])

    def catch_up(self, job: Job) -> None:
        """Memory and lanes of a job are here: do what was asked for meanwhile."""
        for early in sorted(self.early.pop(job.name, []), key=lambda each: each["t"] != "job"):
            self.obey(job.name, early)  # a round needs the layout, which may have come again since

    def _obey_of_job(self, job: Job, message: Message) -> None:
        """What needs the job's memory."""
        match message["t"]:
            case "job":
                job.layout = Layout.from_wire(message["layout"])
                job.settings = message["settings"]
                for key, peer in job.everybody.items():
                    self._clients.welcome(job, key, peer)
            case "round":
                before = job.forward
                job.start_round(message)
                self._errands.top_is_elsewhere(job, before)
                self._start_round(job)
            case "fence" if message["round"] == job.intake.round:
                self._fence(job, message)
            case "over":
                for slot, header in job.intake.sealed():
                    if header.round <= message["round"] and header.payload is Payload.SUM:
                        job.intake.release(slot, job.intake.arena.state(slot), header)
            case "cut" if message["round"] == job.round:
                job.cut = True
            case "close" if message["round"] == job.round:
                self._close_round(job)
            case "end":
                job.ended = True
                self._clients.over.add(job.name)
                self._clients.ends(job)
                done = {"t": "done", "job": job.name, "round": message["round"]}
                for peer in job.everybody.values():
                    self._clients.send(peer, done)

    # -- rounds ------------------------------------------------------------------------------
    def _start_round(self, job: Job) -> None:
        if job.intake.round > job.round:
            return  # published while the order was on its way, and reported
        if not job.has_model:
            self._errands.fetch_model(job, self._has_model)
            return
        job.dirty = True  # what a gateway before this one accepted is told, too
        for key, peer in job.clients.items():
            if key not in job.announced:
                self._clients.downlink.announce(job, key, peer)
        for key, peer in job.workers.items():
            self._clients.downlink.hand_out(job, key, peer)
        self._serve(job)

    def _has_model(self, job: Job) -> None:
        self._start_round(job)
        if job.cut:  # the round was closed meanwhile
            self._close_round(job)

    def _fence(self, job: Job, message: Message) -> None:
        """Nodes are lost: no sum of theirs is taken any more, and what was taken is told.

        Where the top's node is among them, the top comes here, and this node takes updates again.
        """
        job.nodes |= message["nodes"]
        for key in message["nodes"]:
            job.waiting.pop(key, None)
            if (upload := job.uploads.get(key)) is not None:
                self._clients.uploads.drop(job, upload)
        round_ = message["round"]
        if message["open"]:
            job.intake.reopen(round_)
        self._lines.send({
            "t": "fenced", "job": job.name, "round": round_, "epoch": message["epoch"],
            "clients": bits(job.intake.arena.accepted(round_)),
        })  # fmt: skip
        self._serve(job)

    def _close_round(self, job: Job) -> None:
        job.cut = True
        if not job.has_model:
            return
        if not job.intake.arena.is_closed(job.round):
            job.intake.close(job.round)
        accepted = job.intake.arena.accepted(job.round)
        self._lines.send({
            "t": "closed", "job": job.name, "round": job.round, "clients": bits(accepted),
            **job.intake.tally.of_round(),
        })  # fmt: skip
        for upload in list(job.uploads.values()):
            if upload.asking.payload is Payload.UPDATE:
                late = Late(f"round {job.round} closed", job=job.name)
                self._clients.uploads.abandon(job, upload, late)
        self._serve(job)
