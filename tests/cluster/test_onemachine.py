"""`make cluster-up` and `-down`: done twice it changes nothing, broken off it leaves nothing.

These make small clusters of their own, of one node each, beside the one that the other tests use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from onemachine import cgroups, down, layout

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
NAME = "broken"


class Make:
    """`python -m onemachine`, for a cluster of this test's own."""

    def __init__(self) -> None:
        self.env = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "LIFL_CLUSTER_NAME": NAME,
            "LIFL_CLUSTER_NODES": "1",
        }
        self.cluster = layout.from_environment(self.env)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "onemachine", *words],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *words: str) -> tuple[int, str]:
        running = self.start(*words)
        said, _ = running.communicate(timeout=500)
        return running.returncode, said

    def up_until(self, word: str) -> subprocess.Popen[str]:
        """`up`, as far as the line that has this word."""
        running = self.start("up")
        assert running.stdout is not None
        for line in running.stdout:
            if word in line:
                return running
        raise AssertionError(f"up ended without saying {word!r}")

    def everything(self) -> dict[str, list[str]]:
        """What there is of the cluster, looked for in other ways than `down` does."""
        home = str(self.cluster.home)
        held = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    groups = (entry / "cgroup").read_text()
                except OSError:
                    continue
                if home in command or self.cluster.cgroup in groups:
                    held.append(f"{entry.name}: {command}")
        mounts = Path("/proc/mounts").read_text().splitlines()
        namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        found = subprocess.run(
            ["find", "/sys/fs/cgroup", "-type", "d", "-path", f"*/{self.cluster.cgroup}*"],
            capture_output=True,
            text=True,
        ).stdout
        return {
            "processes": held,
            "mounts": [line for line in mounts if home in line],
            "namespaces": [line for line in namespaces.splitlines() if line.startswith(f"{NAME}-")],
            "links": [
                link for link in os.listdir("/sys/class/net") if link not in self.links_before
            ],
            "cgroups": found.splitlines(),
            "files": [str(path) for path in self.cluster.home.glob("*")],
        }

    links_before = os.listdir("/sys/class/net")


NOTHING: dict[str, list[str]] = {
    "processes": [], "mounts": [], "namespaces": [], "links": [], "cgroups": [], "files": [],
}  # fmt: skip


@pytest.fixture
def make() -> Iterator[Make]:
    if os.geteuid() != 0:
        pytest.skip("a cluster of its own needs root")
    make = Make()
    if not any(make.cluster.cache.glob("kubernetes-*")):
        pytest.skip("no binaries are built: these tests come with a cluster made on this machine")
    down.down(make.cluster)
    yield make
    down.down(make.cluster)


def test_up_twice_changes_nothing_a_break_is_named_and_down_leaves_nothing(make: Make) -> None:
    status, said = make("up")
    assert status == 0, said
    before = cgroups.processes(make.cluster)
    status, said = make("up")
    assert (status, "is up already" in said) == (0, True), said
    assert set(before) <= set(cgroups.processes(make.cluster))
    status, said = make("status")
    assert status == 0, said

    status, said = make("halt", "control", "scheduler")
    assert status == 0, said
    status, said = make("status")
    assert (status, "scheduler is halted" in said) == (1, True), said
    status, said = make("resume", "control", "scheduler")
    assert status == 0, said

    # A node loses power: everything on it is gone, and what is not whole is made again.
    assert make("kill", "n1")[0] == 0
    status, said = make("status")
    assert (status, "n1 is not running" in said) == (1, True), said
    again = make.up_until("making it again")
    again.kill()
    again.wait()

    assert make("down")[0] == 0
    assert make.everything() == NOTHING
    assert make("down")[0] == 0, "what is down can be taken down"
    status, said = make("status")
    assert (status, "there is no cluster" in said) == (1, True), said


@pytest.mark.parametrize("word", ["network", "API server ready", "nodes ready", "images in"])
def test_down_removes_what_a_killed_up_has_left(word: str, make: Make) -> None:
    running = make.up_until(word)
    running.kill()
    running.wait()
    assert make.everything()["namespaces"], "killed before there was anything"
    assert make("down")[0] == 0
    assert make.everything() == NOTHING


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_takes_itself_down(number: signal.Signals, make: Make) -> None:
    running = make.up_until("API server ready")
    running.send_signal(number)
    said, _ = running.communicate(timeout=60)
    assert running.returncode != 0, said
    assert make.everything() == NOTHING
