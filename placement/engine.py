"""The local engine: what kubelets do in a cluster, for a run on one machine.

    lifl run ──lifeline──► engine ─► coordinator of each job
                             │  └──► trainers of each job
                             └─────► agent of each node ─► gateway, aggregators

Owns the processes of a run: starts them in order (children.py has them and what they say), starts
an agent or a coordinator again that was killed, and ends everything when all jobs are done, when
`lifl run` is gone (its end of the lifeline closes, however it died) or when something cannot be
mended.  What it knows of one job is in localjob.py; whose the nodes are where there are several,
arbiter.py says.  Started by local.py:

    python -m lifl.placement.engine --config FILE
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from lifl.errors import LiflError
from lifl.events import emit, keep_stdout, say
from lifl.fates import FIRST_WAITS
from lifl.functions.wire import Keys
from lifl.placement import resume
from lifl.placement.anew import Anew
from lifl.placement.arbiter import Arbiter, Share, Want
from lifl.placement.children import Child, Children
from lifl.placement.fabric import Fabric
from lifl.placement.limits import oom_kills
from lifl.placement.localjob import LocalJob
from lifl.placement.monitoring import end_of_metrics
from lifl.placement.processes import (
    adopt_orphans,
    end_descendants,
    end_those_with,
    private_bpffs,
    unmount,
)
from lifl.placement.record import write_whole

LAST_WORDS_S: Final = 3.0  # for trainers that are busy when the job is done
RESTARTS: Final = 10  # of one process in a run; more is not a crash but a defect


class Over(Exception):
    """The run has ended; the message is empty or says what went wrong."""

    def __init__(self, why: str = "", *, code: str = "defect") -> None:
        super().__init__(why)
        self.code = code


class Engine:
    """One run.

    Attributes:
        config: of the first job; nodes and what concerns all processes is the same in every job's.
        jobs: by full name.
    """

    def __init__(self, directory: Path, configs: list[dict[str, Any]]) -> None:
        self.config = configs[0]
        self.directory = directory
        self.is_shared = len(configs) > 1
        jobs = [
            LocalJob(config, directory, number, is_shared=self.is_shared)
            for number, config in enumerate(configs, 1)
        ]
        self.jobs = {job.name: job for job in jobs}
        self.arbiter = Arbiter(self._tell_share)
        self.restarts: Counter[str] = Counter()
        self.selector = selectors.DefaultSelector()
        self.fabric: Fabric | None = None
        self.delay: subprocess.Popen[bytes] | None = None  # of frames between nodes
        self.children = Children(self.selector, self._on_event)
        self.pins = ""
        self.given_up: set[str] = set()  # nodes whose agent cannot be kept up
        self.anew = Anew(directory)
        self.oom_kills = oom_kills()
        self.over_at = math.inf  # when those who have not ended by themselves are ended

    def run(self) -> None:
        """Until the job is done or the lifeline is cut."""
        adopt_orphans()
        os.set_inheritable(0, False)
        why_not = private_bpffs(self.directory / "bpf") if self.config["pins"] else "not asked"
        self.pins = "" if why_not else str(self.directory / "bpf")
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminated)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and so do agents until they listen
        self.selector.register(0, selectors.EVENT_READ, "lifeline")
        self.selector.register(wake, selectors.EVENT_READ, "wake")
        self._make_network()
        self._post_jobs()
        for job in self.jobs.values():
            self._start_coordinator(job)
        while True:
            left_s = self.over_at - time.monotonic()
            ready = self.selector.select(None if left_s == math.inf else max(0, left_s))
            if left_s <= 0:
                raise Over
            for key, _ in ready:
                if key.data == "lifeline":
                    raise Over
                if key.data == "wake":
                    os.read(wake, 4096)
                    self._reap()
                else:
                    self.children.read(key.fd)

    def _make_network(self) -> None:
        """Namespaces, where the run has some, and where coordinators listen."""
        if network := self.config["network"]:
            self.fabric = Fabric(
                [*self.config["nodes"]], network["link_bit_s"], network.get("delay_s", 0.0)
            )
            self._start_delay()
        for job in self.jobs.values():
            job.listen(self.fabric)

    def _start_delay(self) -> None:
        """The process that holds frames back, where links have a delay; again where it died."""
        assert self.fabric is not None
        self.delay = self.fabric.delay()
        if self.delay is not None:
            self.delay.returncode = 0  # reaped in _reap

    def _terminated(self, *_: object) -> None:
        raise Over("the engine was told to end")

    # -- children ----------------------------------------------------------------------------
    def _start_coordinator(self, job: LocalJob) -> None:
        """The first, or one that takes up what the last one left: same keys, same endpoint."""
        path = job.write_coordinators()
        self.children.start(
            job.named("coordinator"), "lifl.placement.coordinator", "--config", str(path), job=job,
            pass_fds=[job.listener.fileno()], listens=self.is_shared,
        )  # fmt: skip

    def _post_jobs(self) -> None:
        """Say to agents, of which there may be none yet, which jobs there are, if several."""
        if not self.is_shared:
            return
        posted = [job.posted() for job in self.jobs.values() if not job.is_over]
        write_whole(self.directory / "jobs.json", json.dumps(posted).encode(), mode=0o600)
        for agent in self.children.of(None):
            agent.send(signal.SIGHUP)

    def _start_agent(self, name: str) -> None:
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        keys = directory / "keys"
        if not keys.exists():
            Keys(*self.config["nodes"][name]).save(keys)
        arguments = [
            "--node", name, "--directory", str(directory), "--keys", str(keys),
            "--proxy", self.config["proxy"], "--kernels", self.config["kernels"],
            "--arena-budget-bytes", str(self.config["arena_bytes"]),
            "--liveness-s", str(self.config["liveness_s"]),
            "--metrics-port", str(self._metrics_port(name)),
            "--listen", self._listened_at(name) or f"tcp://{self._host(name)}:*",
        ]  # fmt: skip
        if self.is_shared:
            arguments += ["--jobs", str(self.directory / "jobs.json")]
        else:
            (only,) = self.jobs.values()
            arguments += ["--coordinator", only.endpoint, "--coordinator-key", only.key]
        if self.fabric:
            rate = self.config["network"]["link_bit_s"] // 8
            arguments += ["--netns", self.fabric.path(name), "--link-bytes-s", str(rate)]
        if self.pins:
            arguments += ["--pins", f"{self.pins}/{name}"]
        self.children.start(name, "lifl.placement.agent", *arguments)

    def _listened_at(self, name: str) -> str | None:
        """Where the node's gateway was in the run that goes on, if that is free.

        Clients from outside still call there.
        """
        endpoint = self.config["gateways"].get(name, [""])[0]
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if host:
            with contextlib.suppress(OSError), (
                self.fabric.listen(name, port=int(port)) if self.fabric
                else socket.create_server((host, int(port)))
            ):  # fmt: skip
                return str(endpoint)
        return None

    def _host(self, node: str) -> str:
        """Where the gateway of a node listens."""
        return self.fabric.address(node) if self.fabric else str(self.config["host"])

    def _metrics_port(self, name: str) -> int:
        """Coordinators have the first ones, nodes those after them in their order."""
        first: int = self.config["metrics_port"]
        return first + len(self.jobs) + list(self.config["nodes"]).index(name) if first else 0

    def _start_trainers(self, job: LocalJob) -> None:
        path = job.write_trainers()
        self.children.start(job.named("trainers"), "lifl.trainer", "--config", str(path), job=job)

    def _reap(self) -> None:
        """Collect the dead: orphans in silence, children with consequences."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                child = self.children.ended(pid)
                if child is not None:
                    self._ended(child, os.waitstatus_to_exitcode(status))
                elif self.delay is not None and pid == self.delay.pid and not self.are_over:
                    self.restarts["delay"] += 1
                    if self.restarts["delay"] > RESTARTS:
                        raise Over("what delays links ends again and again: no --link-delay then")
                    emit("restart", what="delay of links")
                    self._start_delay()

    def _ended(self, child: Child, code: int) -> None:
        job = child.job
        if self.are_over or (job is not None and job.is_over):
            self._withdraw(job)  # trainers hear that it is done, too, and end by themselves
            if self.are_over and self.children.are_agents:
                raise Over
            return
        if code == -signal.SIGKILL:
            self._see_memory(child.what)
        left = (each.number for each in self.jobs.values() if not each.is_over)
        if job is None and self.anew.agent_ended(child.what, left):
            emit("restart", what=f"agent of {child.what}")
            self._start_agent(child.what)
            return
        self.restarts[child.what] += 1
        is_crash = code <= 0 and self.restarts[child.what] <= RESTARTS
        if job is None:
            if not is_crash:
                self._give_up(child.what, child.ending("the agent", code))
                return
            emit("restart", what=f"agent of {child.what}")
            self._start_agent(child.what)
        elif child.what != job.named("coordinator"):
            if code:
                why = child.ending("the process of the trainers", code)
                self._fails(job, Over(why, code="trainer-failed"))
        elif code == resume.REWIND:
            self._rewind(job)
        elif is_crash and code < 0:
            job.say("restart", what="coordinator")
            self._start_coordinator(job)
        else:
            self._fails(job, Over(child.ending("the coordinator", code)))

    @property
    def are_over(self) -> bool:
        """All jobs are done, or have failed."""
        return all(job.is_over for job in self.jobs.values())

    def _fails(self, job: LocalJob, over: Over) -> None:
        """A job has failed, which ends the run unless there are others."""
        if not self.is_shared:
            raise over
        if str(over):
            job.say("failed", error=str(over), code=over.code)
        self._is_over(job)
        for child in self.children.of(job):
            child.send(signal.SIGTERM)
        self._withdraw(job)
        if self.are_over and self.children.are_agents:
            raise Over

    def _is_over(self, job: LocalJob) -> None:
        job.is_over = True
        self.arbiter.leave(job.name)
        if self.are_over:
            self.over_at = time.monotonic() + LAST_WORDS_S

    def _withdraw(self, job: LocalJob | None) -> None:
        """Once the coordinator of a job that is over is gone, agents drop what is left of it."""
        if job is None or job.is_withdrawn:
            return
        if self.children.named(job.named("coordinator")) is None:
            job.is_withdrawn = True
            job.close()
            self._post_jobs()

    def _tell_share(self, name: str, share: Share) -> None:
        self.jobs[name].tell(share.wire())
        self.jobs[name].say("share", **share.wire())

    def _give_up(self, node: str, why: str) -> None:
        """The agent of a node cannot be kept up; the others go on, if there are any.

        Before the first round nothing is lost by an end, and what is in the way can be mended.
        """
        self.given_up.add(node)
        has_begun = any(job.has_begun for job in self.jobs.values())
        if not has_begun or self.given_up >= set(self.config["nodes"]):
            raise Over(f"{node}: {why}")
        emit("warning", text=f"{node} is given up: {why}")
        end_those_with(self.directory / node)

    def _begin_anew(self, node: str, job: LocalJob) -> None:
        """A node is lost: its agent first, which starts others; then what is left of it (anew.py).

        One that is given up has no agent, and stays as it is.
        """
        agent = self.children.named(node)
        if agent is not None and self.anew.begins(node, job.number):
            agent.send(signal.SIGKILL)  # and another is started
            end_those_with(self.directory / node)

    def _rewind(self, job: LocalJob) -> None:
        """The newest model is lost: what `lifl run --resume` does, without ending clients.

        All nodes begin with nothing, which no other job has deserved.
        """
        self.restarts["rewind"] += 1
        if self.restarts["rewind"] > RESTARTS:
            raise Over(f"the run went back to its last checkpoint {RESTARTS} times")
        if self.is_shared:
            way = f"lifl run --resume {job.run_dir} goes on from its last checkpoint"
            self._fails(job, Over(f"the newest model was on a node that is lost: {way}"))
            return
        job.config["start"] += 1
        resume.keep(job.config)
        for node in self.config["nodes"]:
            self._begin_anew(node, job)
        self._start_coordinator(job)

    def _see_memory(self, what: str) -> None:
        """A memory limit that has killed one process would kill the next: the run ends."""
        if oom_kills() > self.oom_kills:
            raise Over(
                f"the kernel killed a process of this run ({what}), whose memory limit was "
                "reached: lower spec.memory.inputSlots, start fewer clients, or raise the limit",
                code="no-memory",
            )

    # -- events ------------------------------------------------------------------------------
    def _on_event(self, job: LocalJob, event: dict[str, Any]) -> None:
        if job.is_over and event["event"] == "failed":
            return
        match event["event"]:
            case "listening":
                self.arbiter.again(job.name)
                for name in self.config["nodes"]:
                    if self.children.named(name) is None:
                        self._start_agent(name)
                return
            case "gateways":
                if job.take_gateways(event["gateways"]):
                    self._start_trainers(job)
                return
            case "missed":
                if not job.has_begun:
                    over = Over(f"{event['text']}, {FIRST_WAITS}", code="trainer-failed")
                    self._fails(job, over)
                return
            case "ask" if not job.is_over:
                self.arbiter.ask(Want(**{k: v for k, v in event.items() if k != "event"}))
                return
            case "round_started":
                job.has_begun = True
            case "restart":
                self._see_memory(event["what"])
            case "node_lost":
                self._begin_anew(event["node"], job)
            case "done":
                job.done = True
                self._is_over(job)
        job.say(**event)
        if event["event"] == "published":
            self.arbiter.round_done(job.name)
        if event["event"] == "failed":
            self._fails(job, Over())

    def tell(self, event: dict[str, Any]) -> None:
        """Of the run as a whole: `lifl run`, and the sinks of those jobs that it ends."""
        left = [job for job in self.jobs.values() if not job.is_over]
        for job in left:
            job.say(**event)
        if not left:
            emit(**event)

    def _last_events(self) -> None:
        """Sinks that are there have everything by now, or soon."""
        for job in self.jobs.values():
            job.close_sink(LAST_WORDS_S)

    # -- the end -----------------------------------------------------------------------------
    def end(self) -> None:
        """Agents first, so that they undo what is theirs in the kernel; then all the rest."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        agents = self.children.of(None)
        for agent in agents:
            agent.send(signal.SIGTERM)
        for agent in agents:
            with contextlib.suppress(ChildProcessError, OSError):
                pidfd = os.pidfd_open(agent.pid)
                with selectors.DefaultSelector() as selector:
                    selector.register(pidfd, selectors.EVENT_READ)
                    selector.select(2.0)
                os.close(pidfd)
        end_descendants()
        with contextlib.suppress(BrokenPipeError):
            self._last_events()
            self.children.hear_the_last()
        if self.pins:
            unmount(self.directory / "bpf")
        if self.fabric:
            self.fabric.close()
        for job in self.jobs.values():
            end_of_metrics(job.run_dir)
        shutil.rmtree(self.directory, ignore_errors=True)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Run the processes of one job, or of several; standard input is the lifeline."""
    keep_stdout()
    engine = Engine(config.parent, json.loads(config.read_text()))
    try:
        engine.run()
    except Over as over:
        if str(over):
            with contextlib.suppress(BrokenPipeError):
                engine.tell({"event": "failed", "error": str(over), "code": over.code})
    except LiflError as error:
        engine.tell({"event": "failed", "error": str(error), "code": error.code})
    except BrokenPipeError:  # nobody reads: `lifl run` is gone or going
        pass
    except Exception as error:
        for line in traceback.format_exc().splitlines():
            say("engine", line)
        text = f"the engine failed: {type(error).__name__}: {error}"
        engine.tell({"event": "failed", "error": text, "code": "defect"})
    finally:
        engine.end()
    sys.exit(0 if all(job.done for job in engine.jobs.values()) else 1)


if __name__ == "__main__":
    main()
