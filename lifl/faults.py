"""Named points at which a process can be killed or stopped, for the crash tests.

Owns the list of points; each is a step of the crash protocol (docs/crash-protocol.md), and the
model in tests/model has the same list, which a test compares.  The coordinator's points are a list
of their own: tests/model/test_coordinator.py searches them.  A point is armed by the environment
and is otherwise one dictionary look-up.

    LIFL_FAULT=<who>:<point>:<kill|stop|lose>:<nth>   for example  leaf:fold_written:kill:1
    LIFL_FAULT_DIR=<directory>                   the nth hit over all processes fires, once

`who` is `gateway`, `agent`, `coordinator` or the role that hits the point (`leaf`, `middle`,
`top`), and may carry a node: `top@node-0`.  `lose` is the whole node at once, as when its machine
is gone: everybody on it is killed, and its agent is stopped, so that nobody starts them again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final

POINTS: Final = (
    # gateway, one update
    "gateway_writing", "gateway_payload_partial", "gateway_sealed", "gateway_accepted",
    "gateway_sent", "gateway_acked",
    # gateway, end of the round
    "gateway_closed", "gateway_flushed", "gateway_forwarded", "gateway_published",
    "gateway_model_released",
    # gateway, join
    "gateway_rebuilt",
    # aggregator in any role
    "role_locked", "role_registered", "role_scanned",
    "fold_writing", "fold_written", "fold_committed", "input_released", "release_sent",
    "sum_sealed", "sum_sent", "role_left",
    # agent
    "agent_saw_death", "agent_registered", "agent_poked", "agent_routed", "agent_restarted",
)  # fmt: skip

COORDINATOR_POINTS: Final = (
    "coordinator_plan_saved", "coordinator_plan_sent", "coordinator_round_saved",
    "coordinator_round_sent", "coordinator_accepted", "coordinator_all_in",
    "coordinator_close_sent", "coordinator_loss_saved", "coordinator_fenced",
    "coordinator_moved", "coordinator_settled", "coordinator_published", "coordinator_row_written",
    "checkpoint_partial", "checkpoint_written", "coordinator_files_written",
)  # fmt: skip

LOSS_POINTS: Final = (
    "gateway_reopened",  # in mid-round, when the top's node is lost
    "gateway_model_begun", "gateway_model_asked",  # the coordinator brings a model, or wants one
)  # fmt: skip

START_POINTS: Final = (
    "agent_gateway_started",  # and not written down yet
)

_KNOWN: Final = {*POINTS, *COORDINATOR_POINTS, *LOSS_POINTS, *START_POINTS}
ACTIONS: Final = ("kill", "stop", "lose")

_armed: dict[str, tuple[str, str, int]] = {}
_node = ""


def _arm() -> None:
    for entry in filter(None, os.environ.get("LIFL_FAULT", "").split(",")):
        who, point, action, nth = entry.split(":")
        if point not in _KNOWN or action not in ACTIONS:
            form = f"<who>:<point>:<{'|'.join(ACTIONS)}>:<nth>"
            raise ValueError(f"LIFL_FAULT: {entry!r} is not {form}")
        _armed[point] = (who, action, int(nth))


def at_node(name: str) -> None:
    """Tell the node of this process, so that a point can name one node's process alone."""
    global _node
    _node = name


def fault(point: str, who: str) -> None:
    """Kill or stop this process if this point is armed for `who` and its turn has come."""
    armed = _armed.get(point)
    if armed is not None:
        _fire(point, who, *armed)


def _fire(point: str, who: str, armed_for: str, action: str, nth: int) -> None:
    if armed_for not in (who, f"{who}@{_node}"):
        return
    directory = os.environ["LIFL_FAULT_DIR"]
    for hit in range(1, nth + 1):
        try:
            path = f"{directory}/{armed_for}:{point}:{hit}"
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            continue
        os.write(fd, str(os.getpid()).encode())
        os.close(fd)
        if hit == nth:
            if action == "kill" and os.getpid() == 1:
                os._exit(137)  # the first process of a container cannot kill itself
            if action == "lose":
                _lose_node()
            os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
        return


def _lose_node() -> None:
    """Stop this node's agent, then kill its gateway and aggregators, this process last."""
    socket = next((word for word in sys.argv if word.endswith("/agent.sock")), "")
    directory = os.path.dirname(socket) or sys.argv[sys.argv.index("--directory") + 1]
    for words, sign in (
        ({"lifl.placement.agent", directory}, signal.SIGSTOP),
        ({f"{directory}/agent.sock"}, signal.SIGKILL),
    ):
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words <= {*command} and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), sign)
    if socket:
        os.kill(os.getpid(), signal.SIGKILL)


_arm()
