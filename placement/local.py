"""`lifl run`: a job on this machine, or several on the same nodes, from file to files.

Owns the run directory, the keys of a local run and the lifeline to the engine.  Does not run
anything itself: the engine does, in a session of its own, so that Ctrl-C reaches this process
alone and everything else ends in order.  Called by lifl/cli.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lifl.api.job import FLJob
from lifl.errors import InvalidJob, LiflError
from lifl.functions.orphaned import is_held
from lifl.functions.wire import Keys, virtual_key
from lifl.placement import resume
from lifl.placement.fabric import check_network, link_text
from lifl.placement.host import LOOPBACK, check_host, warning_of
from lifl.placement.keyring import Keyring, check_is_there
from lifl.placement.latest import Latest, folder_of, latest_beside, make_run_dir
from lifl.placement.limits import full_disk_says
from lifl.placement.monitoring import end_of_metrics
from lifl.placement.processes import adopt_orphans, end_descendants

SEVERAL = "jobs"  # name of a run of several
PREFIX = "lifl-"  # of directories of runs; `lifl doctor` looks for those that were left

Handle = Callable[[dict[str, Any]], None]


def run(
    jobs: Sequence[tuple[FLJob, Path]],
    *,
    handle: Handle,
    nodes: int | None = None,
    out: Path | None = None,
    proxy: str | None = None,
    kernels: str | None = None,
    liveness_s: float = 10.0,
    metrics_port: int = 0,
    keys_dir: Path | None = None,
    host: str | None = None,
    arena_bytes: int = 0,
    link_bit_s: int = 0,
    link_delay_s: float = 0.0,
    resumed: Sequence[dict[str, Any]] = (),
) -> int:
    """Run jobs to their end; every event goes to `handle`, with `job` where there are several.

    Args:
        jobs: and their files.
        resumed: what `resume.find` says of each where a run goes on; `nodes` and `out` are its own.
        nodes: agents to start, the highest `spec.nodes` unless given.
        out: where run directories go, `runs` unless given.
        proxy, kernels: override the job's.
        keys_dir: key directory with clients from outside; the run's own unless given.
        host: where gateways listen and clients call; 127.0.0.1, or the resumed run's, unless given.
        link_bit_s: of each node's link, with a network namespace for each; 0: all share this
            machine's, and its loopback interface.
        link_delay_s: of each node's link, each way.
        liveness_s: a process that holds a role and does not answer for so long is replaced.
        metrics_port: of the first coordinator's metrics; those of others, and then nodes, have the
            ports after it.  0: any.
        arena_bytes: most shared memory of all jobs on a node; 0: no limit.

    Returns:
        0 when all jobs completed, 1 when one failed, 2 when what a job names cannot be used, 130
        after Ctrl-C, SIGTERM or SIGHUP.
    """
    stop = Stop()
    with stop.heard():
        # The name comes first, so that there is no moment at which it is there and not known.
        directory = Path(short_lived() or tempfile.gettempdir(), PREFIX + secrets.token_hex(4))
        lock, held = -1, list[int]()
        configs: list[dict[str, Any]] = []
        latest: Latest | None = None
        has_begun = False

        def noting(event: dict[str, Any]) -> None:
            nonlocal has_begun
            has_begun |= event["event"] == "round_started"
            handle(event)

        def give_back() -> None:
            if latest is not None and (run := latest.give_back()):
                handle({"event": "latest", "run": str(run), "link": str(latest.link)})

        try:
            host = host or (resumed[0].get("host") if resumed else None) or LOOPBACK
            check_host(host)
            network = {"link_bit_s": link_bit_s, "delay_s": link_delay_s} if link_bit_s else None
            if resumed:
                network = resumed[0].get("network")
            if network is not None:
                check_network(delays=network.get("delay_s", 0.0) > 0)
            if link_bit_s and any(_has_outsiders(job, keys_dir) for job, _ in jobs):
                raise InvalidJob(
                    "--network netns: clients from outside cannot reach its nodes: give the job a "
                    "trainer, and leave out --keys and a spec.clients.max beyond its clients"
                )
            if keys_dir is not None:
                check_is_there(keys_dir)
            check_together(jobs)
            if resumed:
                configs = list(resumed)
                latest = latest_beside(Path(configs[0]["run_dir"]))
            else:
                name = jobs[0][0].metadata.name if len(jobs) == 1 else SEVERAL
                latest = make_run_dir(out or Path("runs"), name)
                configs = _configure_all(jobs, latest.run, nodes, keys_dir)
            if latest is not None:
                latest.take()
            for (job, _), fields in zip(jobs, configs, strict=True):
                run_dir = Path(fields["run_dir"])
                held.append(_lock(run_dir))  # which tells `lifl top` that it lives
                fields["proxy"] = proxy or fields["proxy"]
                fields["kernels"] = kernels or fields["kernels"]
                if host != fields.get("host", LOOPBACK):
                    fields["gateways"] = {}  # where they listened in a run that goes on
                fields |= {
                    "liveness_s": liveness_s, "metrics_port": metrics_port, "host": host,
                    "arena_bytes": arena_bytes or fields.get("arena_bytes", 0),
                    "network": network,
                }  # fmt: skip
                whose = {"job": fields["name"]} if len(jobs) > 1 else {}
                handle({
                    "event": "starting", "run_dir": fields["run_dir"],
                    "nodes": len(fields["nodes"]),
                    **({"link": link} if (link := link_text(fields["network"])) else {}),
                    **({"goes_on": fields.pop("goes_on")} if resumed else {}), **whose,
                })  # fmt: skip
                if warning := warning_of(host, is_insecure=job.spec.insecure):
                    handle({"event": "warning", "text": warning})
                if keys_dir is not None and (warning := _too_few(job, fields, keys_dir)):
                    handle({"event": "warning", "text": warning, **whose})
                resume.keep(fields)
            directory.mkdir(mode=0o700)
            lock = _lock(directory)
            config = directory / "engine.json"
            config.touch(mode=0o600)
            config.write_text(json.dumps(configs))
            code = _supervise(config, noting, stop)
            if code and not has_begun:
                give_back()
            return code
        except LiflError:
            give_back()
            raise
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # where it is shown may be gone, too
                handle({"event": "stopped", "by": stop.by})
            return 130
        finally:
            stop.clears_up = True
            end_descendants()
            if lock >= 0:
                for fields in configs:
                    Keyring(Path(fields["keyring"])).sweep()
                    end_of_metrics(Path(fields["run_dir"]))  # of an engine that was killed
            shutil.rmtree(directory, ignore_errors=True)
            for fd in (lock, *held):
                if fd >= 0:
                    os.close(fd)


def check_together(jobs: Sequence[tuple[FLJob, Path]]) -> None:
    """See that jobs can share nodes.

    Raises:
        InvalidJob: two have one name, or one that is not encrypted is not alone.
    """
    files: dict[str, Path] = {}
    for job, path in jobs:
        name = job.metadata.full_name
        if name in files:
            raise InvalidJob(
                f"{files[name]} and {path} are both named {name}: jobs that run together have "
                "names of their own; change metadata.name in one of them"
            )
        files[name] = path
        if job.spec.insecure and len(jobs) > 1:
            raise InvalidJob(
                f"{path}: insecure: true is for a job that runs alone, since clients are only told "
                "apart by names that they give themselves; leave it out, or run it by itself"
            )


def _configure_all(
    jobs: Sequence[tuple[FLJob, Path]], run: Path, nodes: int | None, keys_dir: Path | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Folders and keys of a new run: of several jobs each has its own folder in the run's."""
    count = nodes or max(job.spec.nodes for job, _ in jobs)
    configs: list[dict[str, Any]] = []
    for job, path in jobs:
        run_dir = run / folder_of(job.metadata.full_name) if len(jobs) > 1 else run
        run_dir.mkdir(exist_ok=True)
        with full_disk_says(run_dir / "keys"):
            configs.append(_configure(job, path, run_dir, count, keys_dir))
        configs[-1]["nodes"] = configs[0]["nodes"]
    return configs


class Stop:
    """Ctrl-C, SIGTERM or SIGHUP: the first interrupts, later ones do not interrupt clearing up.

    SIGHUP, of a terminal that is closed, stays ignored where it was, as nohup wants it.
    """

    def __init__(self) -> None:
        self.by = ""
        self.clears_up = False  # for another reason, as when nothing can be shown any more
        self.engine: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        signs = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signs.append(signal.SIGHUP)
        before = {sign: signal.signal(sign, self._hear) for sign in signs}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    def _hear(self, sign: int, _: object) -> None:
        if not self.by:
            self.by = "Ctrl-C" if sign == signal.SIGINT else signal.Signals(sign).name
            if not self.clears_up:
                raise KeyboardInterrupt
        elif self.engine is not None and self.engine.returncode is None:
            self.engine.kill()  # not in order then, but at once


def _lock(directory: Path) -> int:
    """Says that the directory's run lives; the kernel takes it back, however this process ends."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def is_under_way(run_dir: Path) -> bool:
    """A `lifl run` has this directory, whether or not its job has begun."""
    try:
        return is_held(run_dir)
    except OSError:
        return False


def short_lived() -> str | None:
    """XDG_RUNTIME_DIR or /run: socket paths are short, and nothing there outlives a boot."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), "/run"):
        if folder and os.access(folder, os.W_OK):
            return folder
    return None


def _configure(
    job: FLJob, job_path: Path, run_dir: Path, nodes: int, keys_dir: Path | None
) -> dict[str, Any]:
    """Make the keys of this run; everything that the engine must know."""

    spec = job.spec

    def pair(name: str) -> list[str]:
        keys = Keys.named(name) if spec.insecure else Keys.new()
        return [keys.public, keys.secret]

    trainer = spec.trainer
    count = spec.client_count if keys_dir is None else trainer.clients if trainer else 0
    made = trainer.workers or 0 if trainer else 0
    workers = [pair(f"worker-{index}") for index in range(made)]
    virtual = trainer.clients if trainer and workers else 0  # the first ones
    clients = [pair(f"client-{index}") for index in range(virtual, count)]
    own = [*virtual_keys([keys[0] for keys in workers], virtual), *(keys[0] for keys in clients)]
    names = {key: f"client-{index}" for index, key in enumerate(own)}
    ring = Keyring(keys_dir or run_dir / "keys")
    ring.make()
    if keys_dir is None:
        ring.enroll({names[keys[0]]: keys[0] for keys in clients}, own=True)
    folder = run_dir / "clients"
    folder.mkdir(mode=0o700)
    return {
        "name": job.metadata.full_name,
        "job": str(job_path.resolve()),
        "run_dir": str(run_dir),
        "coordinator": pair("coordinator"),
        "nodes": {name: pair(name) for name in (f"node-{index}" for index in range(nodes))},
        "client_keys": clients,
        "clients": names,
        "keyring": str(ring.directory.resolve()),
        "client_files": [str(folder / f"client-{index}.json") for index in range(virtual, count)],
        "first_file": virtual,
        "client_count": count,
        "workers": workers,
        "observer": pair("observer"),
        "event_sink": spec.event_sink,
        "outside": _has_outsiders(job, keys_dir),
        "trainers": trainer.clients - virtual if trainer else 0,
        "proxy": spec.aggregation.proxy,
        "kernels": spec.aggregation.kernels,
        "pins": os.geteuid() == 0,
        "arena_bytes": 0,
        "start": 1,
        "gateways": {},
    }


def _has_outsiders(job: FLJob, keys_dir: Path | None) -> bool:
    """Clients may come that the run does not start."""
    trainer = job.spec.trainer
    return keys_dir is not None or job.spec.client_count > (trainer.clients if trainer else 0)


def _too_few(job: FLJob, fields: dict[str, Any], keys_dir: Path) -> str | None:
    """What is said where those who may take part are fewer than the first round waits for."""
    own, needed = len(fields["clients"]), job.spec.clients.min
    there = sum(entry.revoked_at is None for entry in Keyring(keys_dir).entries)
    if own + there >= needed:
        return None
    own_too = f", and {own} of the job's trainer" if own else ""
    return (
        f"the first round waits for {needed} clients (spec.clients.min), and {there} may take part "
        f"from {keys_dir}{own_too}: lifl keys enroll KEY.pub --name NAME --keys {keys_dir} lets "
        "more in, also while the run waits"
    )


def virtual_keys(workers: list[str], clients: int) -> list[str]:
    """Identities of virtual clients: client i belongs to worker i modulo their number."""
    return [virtual_key(workers[index % len(workers)], index) for index in range(clients)]


def _supervise(config: Path, handle: Handle, stop: Stop) -> int:
    """Start the engine, pass its events on, and cut the lifeline when asked to stop."""
    adopt_orphans()
    engine = stop.engine = subprocess.Popen(
        [sys.executable, "-m", "lifl.placement.engine", "--config", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert engine.stdout is not None
    assert engine.stdin is not None
    outcome = 1
    failures: set[int] = set()
    try:
        for line in _lines(engine):
            event = json.loads(line)
            handle(event)
            if event["event"] == "done":
                outcome = 0
            elif event["event"] == "failed":
                failures.add(2 if event.get("code") == InvalidJob.code else 1)
        if engine.wait() < 0:
            name = signal.Signals(-engine.returncode).name
            handle({"event": "failed", "error": f"the engine was killed by {name}"})
            failures.add(1)
    except (KeyboardInterrupt, OSError):  # or what happens can no longer be shown
        stop.clears_up = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.stdin.close()
            engine.stdout.close()  # so that it does not wait for a reader
            engine.wait(10)
        raise
    finally:
        with contextlib.suppress(OSError):
            engine.stdin.close()
        if engine.poll() is None:
            engine.kill()
            engine.wait()
    return max(failures, default=outcome)


def _lines(engine: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What the engine says, until it is dead: its children hold the same pipe and say nothing."""
    assert engine.stdout is not None
    out, pidfd = engine.stdout.fileno(), os.pidfd_open(engine.pid)
    os.set_blocking(out, False)
    buffer, alive = b"", True
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        selector.register(pidfd, selectors.EVENT_READ)
        try:
            while alive:
                alive = pidfd not in {key.fd for key, _ in selector.select()}
                data = b"".join(iter(lambda: _read(out), b""))
                *lines, buffer = (buffer + data).split(b"\n")
                yield from lines
        finally:
            os.close(pidfd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""
