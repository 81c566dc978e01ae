"""The local engine: what kubelets do in a cluster, for a run on one machine.

    lifl run ──lifeline──► engine ─► coordinator
                             │  └──► trainers
                             └─────► agent of each node ─► gateway, aggregators

Owns the processes of a run: starts them in order, passes on what they print (output.py), starts
an agent or the coordinator again that was killed, and ends everything when the job is done, when
`lifl run` is gone (its end of the lifeline closes, however it died) or when something cannot be
mended.  Started by local.py:

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from lifl.errors import LiflError
from lifl.events import emit, keep_stdout, say
from lifl.fates import FIRST_WAITS
from lifl.functions.wire import Keys
from lifl.placement import clientfiles, cloudevents, resume
from lifl.placement.cloudevents import About
from lifl.placement.fabric import CLIENTS, CONTROL, Fabric
from lifl.placement.host import LOOPBACK
from lifl.placement.keyring import Keyring
from lifl.placement.limits import full_disk_says, oom_kills
from lifl.placement.monitoring import end_of_metrics
from lifl.placement.output import Outputs, Speaker
from lifl.placement.processes import (
    adopt_orphans,
    end_descendants,
    end_those_with,
    private_bpffs,
    unmount,
)
from lifl.placement.sink import TIMEOUT_S, Sink

LAST_WORDS_S: Final = 3.0  # for trainers that are busy when the job is done
RESTARTS: Final = 10  # of one process in a run; more is not a crash but a defect
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Over(Exception):
    """The run has ended; the message is empty or says what went wrong."""

    def __init__(self, why: str = "", *, code: str = "defect") -> None:
        super().__init__(why)
        self.code = code


@dataclass
class Child:
    """A process that the engine itself started."""

    what: str
    pid: int
    speaker: Speaker
    events: int = -1  # pipe of its events, of those that have some


class Engine:
    """One run."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.directory = Path(config["directory"])
        self.children: dict[int, Child] = {}
        self.restarts: Counter[str] = Counter()
        self.selector = selectors.DefaultSelector()
        self.fabric: Fabric | None = None
        self.listener: socket.socket
        self.coordinator_at = ""
        self.outputs = Outputs(self.selector)
        self.gateways: dict[str, list[str]] = {}
        self.pins = ""
        self.has_begun = self.done = False
        self.given_up: set[str] = set()  # nodes whose agent cannot be kept up
        self.oom_kills = oom_kills()
        self.over_at = math.inf  # when those who have not ended by themselves are ended
        self.unread: dict[int, bytes] = {}  # what each child has begun to say
        url, run = config["event_sink"], Path(config["run_dir"]).name
        self.sink = Sink(url) if url else None
        self.about = About(config["name"], f"urn:lifl:run:{run}", f"{run}/{config['start']}")

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
        self.selector.register(0, selectors.EVENT_READ, "lifeline")
        self.selector.register(wake, selectors.EVENT_READ, "wake")
        self._make_network()
        self._start_coordinator()
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
                elif key.fd in self.outputs:
                    self.outputs.read(key.fd)
                elif key.fd in self.unread:  # not closed since, with its process
                    self._read_events(key.fd)

    def _make_network(self) -> None:
        """Namespaces, where the run has some, and where the coordinator listens."""
        if network := self.config["network"]:
            self.fabric = Fabric([*self.config["nodes"]], network["link_bit_s"])
            self.listener = self.fabric.listen(CONTROL, backlog=1024)
        else:
            self.listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self.coordinator_at = "tcp://{}:{}".format(*self.listener.getsockname())

    def _terminated(self, *_: object) -> None:
        raise Over("the engine was told to end")

    # -- children ----------------------------------------------------------------------------
    def _spawn(
        self, what: str, module: str, *arguments: str, events: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> Child:  # fmt: skip
        """Start a process; what it prints comes here, and so do its events if it has any."""
        printed, output = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if events else output,
            stderr=output,
            env=os.environ | _ONE_THREAD,
            pass_fds=pass_fds,
        )
        os.close(output)
        process.returncode = 0  # reaped in _reap
        child = Child(what, process.pid, Speaker(what, say))
        self.children[child.pid] = child
        self.outputs.listen(printed, child.speaker)
        if process.stdout is not None:
            child.events = os.dup(process.stdout.fileno())
            process.stdout.close()
            os.set_blocking(child.events, False)
            self.unread[child.events] = b""
            self.selector.register(child.events, selectors.EVENT_READ, "events")
        return child

    def _start_coordinator(self) -> None:
        """The first, or one that takes up what the last one left: same keys, same endpoint.

        The listening socket is the engine's, so that nobody else gets its port and those who call
        meanwhile wait in its backlog.
        """
        path = self._write("coordinator", {
            "job": self.config["job"], "run_dir": self.config["run_dir"],
            "nodes": {name: keys[0] for name, keys in self.config["nodes"].items()},
            "keys": self.config["coordinator"], "listen": self.coordinator_at,
            "listen_fd": self.listener.fileno(), "start": self.config["start"],
            "clients": self.config["clients"], "keyring": self.config["keyring"],
            "observers": [self.config["observer"][0]],
            "workers": [keys[0] for keys in self.config["workers"]],
            "metrics_port": self.config["metrics_port"], "netns": self._netns(CONTROL),
        })  # fmt: skip
        self._spawn(
            "coordinator", "lifl.placement.coordinator", "--config", str(path), events=True,
            pass_fds=[self.listener.fileno()],
        )  # fmt: skip

    def _start_agent(self, name: str) -> None:
        directory = self.directory / name
        directory.mkdir(mode=0o700, exist_ok=True)
        keys = directory / "keys"
        if not keys.exists():
            Keys(*self.config["nodes"][name]).save(keys)
        arguments = [
            "--node", name, "--directory", str(directory), "--coordinator", self.coordinator_at,
            "--coordinator-key", self.config["coordinator"][0], "--keys", str(keys),
            "--proxy", self.config["proxy"], "--kernels", self.config["kernels"],
            "--arena-budget-bytes", str(self.config["arena_bytes"]),
            "--liveness-s", str(self.config["liveness_s"]),
            "--metrics-port", str(self._metrics_port(name)),
            "--listen", self._listened_at(name) or f"tcp://{self._host(name)}:*",
        ]  # fmt: skip
        if self.fabric:
            rate = self.config["network"]["link_bit_s"] // 8
            arguments += ["--netns", self.fabric.path(name), "--link-bytes-s", str(rate)]
        if self.pins:
            arguments += ["--pins", f"{self.pins}/{name}"]
        self._spawn(name, "lifl.placement.agent", *arguments)

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

    def _netns(self, name: str) -> str | None:
        """The network namespace that a process moves into; None: it stays where it is."""
        return self.fabric.path(name) if self.fabric else None

    def _metrics_port(self, name: str) -> int:
        """The coordinator has the first one, nodes those after it in their order."""
        first: int = self.config["metrics_port"]
        return first + 1 + list(self.config["nodes"]).index(name) if first else 0

    def _start_trainers(self) -> None:
        """All but those whose rights were taken away before the run went on."""
        keys = [public for public, _ in self.config["client_keys"]]
        files = [*zip(keys, self.config["client_files"], strict=True)][: self.config["trainers"]]
        entries = Keyring(Path(self.config["keyring"])).entries
        revoked = {entry.public_key: entry.name for entry in entries if entry.revoked_at}
        for key, _ in files:
            if key in revoked:
                emit("warning", text=f"{revoked[key]} is revoked: its trainer is not started")
        path = self._write("trainers", {
            "job": self.config["job"], "name": self.config["name"], "gateways": self.gateways,
            "observer": self.config["observer"],
            "client_files": [file for key, file in files if key not in revoked],
            "workers": self.config["workers"], "client_count": self.config["client_count"],
            "others": self.config["outside"], "is_new": self.config["start"] == 1,
            "netns": self._netns(CLIENTS), "observer_netns": self._netns(CONTROL),
        })  # fmt: skip
        self._spawn("trainers", "lifl.trainer", "--config", str(path), events=True)

    def _write(self, name: str, fields: dict[str, Any]) -> Path:
        path = self.directory / f"{name}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(fields))
        return path

    def _reap(self) -> None:
        """Collect the dead: orphans in silence, children with consequences."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                child = self.children.pop(pid, None)
                if child is not None:
                    self._hear_out(child)
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _hear_out(self, child: Child) -> None:
        """All that a dead child has said: it may be the reason."""
        self.outputs.drain(child.speaker)
        while child.events in self.unread and self._read_events(child.events):
            pass

    def _ended(self, child: Child, code: int) -> None:
        if self.done:  # the trainers hear it, too, and end by themselves
            if {other.what for other in self.children.values()} <= set(self.config["nodes"]):
                raise Over
            return
        if code == -signal.SIGKILL:
            self._see_memory(child.what)
        self.restarts[child.what] += 1
        is_crash = code <= 0 and self.restarts[child.what] <= RESTARTS
        if child.what in self.config["nodes"]:
            if not is_crash:
                self._give_up(child.what, _ending("the agent", code, child.speaker.last))
                return
            emit("restart", what=f"agent of {child.what}")
            self._start_agent(child.what)
        elif child.what == "coordinator" and is_crash and code < 0:
            emit("restart", what="coordinator")
            self._start_coordinator()
        elif child.what == "coordinator" and code == resume.REWIND:
            self._rewind()
        elif child.what == "coordinator":
            raise Over(_ending("the coordinator", code, child.speaker.last))
        elif code:
            why = _ending("the process of the trainers", code, child.speaker.last)
            raise Over(why, code="trainer-failed")

    def _give_up(self, node: str, why: str) -> None:
        """The agent of a node cannot be kept up; the others go on, if there are any."""
        self.given_up.add(node)
        if self.given_up >= set(self.config["nodes"]):
            raise Over(f"{node}: {why}")
        emit("warning", text=f"{node} is given up: {why}")
        end_those_with(self.directory / node)

    def _begin_anew(self, node: str) -> None:
        """A node is lost: what is left of it goes, and an agent begins with nothing."""
        agent = next((child for child in self.children.values() if child.what == node), None)
        end_those_with(self.directory / node)
        for path in (self.directory / node).glob("*"):
            if path.name == "processes.json" or path.name.startswith("job-"):
                path.unlink(missing_ok=True)
        if agent is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.pid, signal.SIGKILL)  # and another is started

    def _rewind(self) -> None:
        """The newest model is lost: what `lifl run --resume` does, without ending clients."""
        self.config["start"] += 1
        self.restarts["rewind"] += 1
        if self.restarts["rewind"] > RESTARTS:
            raise Over(f"the run went back to its last checkpoint {RESTARTS} times")
        resume.keep({k: v for k, v in self.config.items() if k != "directory"})
        for node in self.config["nodes"]:
            self._begin_anew(node)
        self._start_coordinator()

    def _see_memory(self, what: str) -> None:
        """A memory limit that has killed one process would kill the next: the run ends."""
        if oom_kills() > self.oom_kills:
            raise Over(
                f"the kernel killed a process of this run ({what}), whose memory limit was "
                "reached: lower spec.memory.inputSlots, start fewer clients, or raise the limit",
                code="no-memory",
            )

    # -- events ------------------------------------------------------------------------------
    def _read_events(self, fd: int) -> bool:
        """What is there now; False where there was nothing, or will be nothing any more."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self.selector.unregister(fd)
            os.close(fd)
            del self.unread[fd]
            return False
        *lines, self.unread[fd] = (self.unread[fd] + data).split(b"\n")
        for line in lines:
            self._on_event(json.loads(line))
        return True

    def _on_event(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "listening":
                for name in self.config["nodes"]:
                    if not any(child.what == name for child in self.children.values()):
                        self._start_agent(name)
                return
            case "gateways":
                if not self.gateways:
                    self.gateways = self.config["gateways"] = event["gateways"]
                    resume.keep({k: v for k, v in self.config.items() if k != "directory"})
                    with full_disk_says(Path(self.config["run_dir"]) / "clients"):
                        self._write_client_files()
                    self._start_trainers()
                return
            case "missed":
                if not self.has_begun:
                    raise Over(f"{event['text']}, {FIRST_WAITS}", code="trainer-failed")
                return
            case "round_started":
                self.has_begun = True
            case "restart":
                self._see_memory(event["what"])
            case "node_lost":
                self._begin_anew(event["node"])
            case "done":
                self.done = True
                self.over_at = time.monotonic() + LAST_WORDS_S
        self.tell(event)
        if event["event"] == "failed":
            raise Over("")

    def tell(self, event: dict[str, Any]) -> None:
        """`lifl run`, and the sink of the job's events if it names one."""
        place = str(Path(self.config["run_dir"]) / "model.safetensors")
        known = event | ({"place": place} if event["event"] == "done" else {})
        if self.sink is not None and (made := cloudevents.of(known, self.about)) is not None:
            self.sink.put(made)
        emit(**event)

    def _last_events(self) -> None:
        """A sink that is there has everything by now, or soon."""
        if self.sink is not None:
            self.sink.close(LAST_WORDS_S)
            if lost := self.sink.join(LAST_WORDS_S + TIMEOUT_S):
                emit("warning", text=f"{lost} events were not taken by spec.eventSink, "
                     f"{self.sink.url}: see whether it is there")  # fmt: skip

    def _write_client_files(self) -> None:
        """One file a client: all that it needs to take part."""
        where, job = list(self.gateways.values()), self.config["name"]
        folder = Path(self.config["run_dir"]) / "clients"
        for index, file in enumerate(map(Path, self.config["client_files"])):
            public, secret = self.config["client_keys"][index]
            clientfiles.write(
                folder, file.stem, job=job, where=where[index % len(where)], public_key=public,
                secret_key=secret, index=self.config["first_file"] + index,
                count=self.config["client_count"],
            )  # fmt: skip
        enrolled = clientfiles.write_outside(
            folder, Keyring(Path(self.config["keyring"])).entries, job=job,
            gateways=self.gateways, own=len(self.config["clients"]),
        )  # fmt: skip
        if self.config["outside"]:
            others = self.config["client_files"][self.config["trainers"] :]  # for other terminals
            emit("endpoint", endpoint=where[0][0], files=str(folder), enrolled=[*enrolled],
                 outsiders=[Path(file).stem for file in others],
                 keys=self.config["keyring"])  # fmt: skip

    # -- the end -----------------------------------------------------------------------------
    def end(self) -> None:
        """Agents first, so that they undo what is theirs in the kernel; then all the rest."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        agents = [child.pid for child in self.children.values()
                  if child.what in self.config["nodes"]]  # fmt: skip
        for pid in agents:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in agents:
            with contextlib.suppress(ChildProcessError, OSError):
                pidfd = os.pidfd_open(pid)
                with selectors.DefaultSelector() as selector:
                    selector.register(pidfd, selectors.EVENT_READ)
                    selector.select(2.0)
                os.close(pidfd)
        end_descendants()
        with contextlib.suppress(BrokenPipeError):
            self._last_events()
            self.outputs.drain_all()
            self.outputs.close_all()
        if self.pins:
            unmount(self.directory / "bpf")
        if self.fabric:
            self.fabric.close()
        end_of_metrics(Path(self.config["run_dir"]))
        shutil.rmtree(self.directory, ignore_errors=True)


def _ending(what: str, code: int, last: str) -> str:
    """Why a process that a run cannot do without has ended, in its own words where it had some."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"{what} {how}" + (f": {last}" if last and code > 0 else "")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), required=True)
def main(config: Path) -> None:
    """Run the processes of one job; standard input is the lifeline."""
    keep_stdout()
    engine = Engine(json.loads(config.read_text()))
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
    sys.exit(0 if engine.done else 1)


if __name__ == "__main__":
    main()
