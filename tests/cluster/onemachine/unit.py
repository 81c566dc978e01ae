"""Starts a unit: a supervisor in namespaces and a control group of its own.

Owns the command line that makes the namespaces, and what is written for and read from a
supervisor.  Called by `up`, `down`, `status` and the tests' kills.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import cgroups
from .layout import Cluster
from .network import NETNS
from .shell import Failed, run

PATIENCE_S: Final = 20.0
PACKAGE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Unit:
    """What a supervisor is told: its programs by name, and mounts as commands."""

    name: str
    programs: Mapping[str, Sequence[str]]
    netns: str = ""
    hostname: str = ""
    mounts: Sequence[Sequence[str]] = ()


def start(cluster: Cluster, unit: Unit) -> None:
    """Start it; it goes on by itself.  Its programs are running when `state` says so."""
    folder = cluster.unit(unit.name)
    for part in ("logs", "halt"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    spec = {"programs": dict(unit.programs), "mounts": list(unit.mounts)}
    (folder / "spec.json").write_text(json.dumps(spec, indent=1))
    group = cgroups.make(cluster, unit.name) / "cgroup.procs"
    words = [
        *([] if not unit.netns else ["nsenter", f"--net={NETNS / unit.netns}", "--"]),
        "unshare", "--mount", "--propagation=private", "--uts", "--pid", "--mount-proc", "--fork",
        "--kill-child=KILL", "--",
        "sh", "-c", 'hostname "$1" && shift && exec "$@"', "sh",
        unit.hostname or os.uname().nodename,
        str(Path(sys.executable).resolve()), "-m", f"{PACKAGE.name}.supervisor", str(folder),
    ]  # fmt: skip
    with (folder / "logs/supervisor.log").open("ab") as log:
        subprocess.Popen(
            ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            start_new_session=True,
        )


def first_process(cluster: Cluster, name: str) -> int:
    """The supervisor's id here, where it has another than in its own namespace; 0 if none runs."""
    depth = len(_ids("self"))
    for pid in cgroups.processes(cluster, name):
        ids = _ids(str(pid))
        if len(ids) == depth + 1 and ids[-1] == "1":
            return pid
    return 0


def _ids(pid: str) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return next(line.split()[1:] for line in lines if line.startswith("NSpid:"))


def state(cluster: Cluster, name: str) -> dict[str, Any]:
    """By program: running, halted, how often started, and how it ended last."""
    try:
        found: dict[str, Any] = json.loads((cluster.unit(name) / "state.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def enter(cluster: Cluster, name: str) -> list[str]:
    """The beginning of a command that runs inside the unit."""
    pid = first_process(cluster, name)
    if not pid:
        raise Failed(f"{name} is not running: `make cluster-status` says more")
    return ["nsenter", f"--target={pid}", "--mount", "--pid", "--net", "--uts", "--"]


def halt(cluster: Cluster, name: str, program: str) -> None:
    """Kill a program and keep it away, until `resume`."""
    _known(cluster, name, program)
    (cluster.unit(name) / "halt" / program).touch()
    _until(cluster, name, program, running=False)


def resume(cluster: Cluster, name: str, program: str) -> None:
    _known(cluster, name, program)
    (cluster.unit(name) / "halt" / program).unlink(missing_ok=True)
    _until(cluster, name, program, running=True)


def _known(cluster: Cluster, name: str, program: str) -> None:
    if program not in (known := state(cluster, name)):
        raise Failed(f"{name} has no program {program}; it has {', '.join(known) or 'none'}")


def _until(cluster: Cluster, name: str, program: str, *, running: bool) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while state(cluster, name)[program]["running"] is not running:
        if time.monotonic() > deadline:
            raise Failed(f"{name}'s {program} did not {'start' if running else 'end'}")
        time.sleep(0.05)


def log_tail(cluster: Cluster, name: str, program: str, lines: int = 15) -> str:
    try:
        text = (cluster.unit(name) / f"logs/{program}.log").read_text(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def kill(cluster: Cluster, name: str) -> None:
    """As if its power were cut: a node with everything on it, at once."""
    if pid := first_process(cluster, name):
        run(["kill", "-KILL", str(pid)])
