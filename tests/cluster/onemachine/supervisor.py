"""The first process of a unit: mounts what the unit sees, keeps its programs running.

Owns a process-id and a mount namespace, which are its own: when it ends, the kernel ends
everything in it and takes its mounts away, containers included.  A program that ends is started
again, as systemd would.  While a file of its name is in `halt/`, it is killed and stays away: so
tests take the API server or a kubelet down for as long as they like.  Started by `unit`, with a
folder that has `spec.json`; writes `state.json` and `logs/` there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

TICK_S: Final = 0.1
RESTART_S: Final = 0.5


@dataclass
class Running:
    """One program, and what became of it."""

    name: str
    argv: list[str]
    pid: int = 0
    starts: int = 0
    last_end: str = ""
    not_before: float = field(default=0.0, repr=False)

    def start(self, logs: Path) -> None:
        with (logs / f"{self.name}.log").open("ab") as log:
            self.pid = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            ).pid
        self.starts += 1

    def ended(self, status: int, now: float) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.last_end = f"signal {-code}" if code < 0 else f"status {code}"
        self.pid, self.not_before = 0, now + RESTART_S


class Supervisor:
    """The programs of one unit."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.halts = folder / "halt"
        self.programs = [Running(name, argv) for name, argv in spec["programs"].items()]
        self.written = ""

    def reap(self) -> None:
        """Everybody's orphans come here as well: containerd's shims, for one."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                for program in self.programs:
                    if program.pid == found[0]:
                        program.ended(found[1], time.monotonic())

    def step(self) -> None:
        halted = {entry.name for entry in self.halts.iterdir()}
        for program in self.programs:
            if program.name in halted:
                if program.pid:
                    os.kill(program.pid, signal.SIGKILL)
            elif not program.pid and time.monotonic() >= program.not_before:
                program.start(self.logs)
        self.write(halted)

    def write(self, halted: set[str]) -> None:
        text = json.dumps(
            {
                program.name: {
                    "running": bool(program.pid),
                    "halted": program.name in halted,
                    "starts": program.starts,
                    "last_end": program.last_end,
                }
                for program in self.programs
            },
            indent=1,
        )
        if text != self.written:
            partial = self.folder / "state.partial"
            partial.write_text(text)
            partial.replace(self.folder / "state.json")
            self.written = text


def main(where: str) -> None:
    folder = Path(where)
    spec = json.loads((folder / "spec.json").read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The mounts hide `folder`: it goes on by what is open, below /proc/self/fd.
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    supervisor = Supervisor(Path(f"/proc/self/fd/{at}"), spec)
    for words in spec["mounts"]:
        subprocess.run(words, check=True)
    while True:
        supervisor.reap()
        supervisor.step()
        signal.sigtimedwait({signal.SIGCHLD}, TICK_S)


if __name__ == "__main__":
    main(sys.argv[1])
