"""Nodes that come and go, without sockets: who is told where clients find a gateway."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

from lifl.placement.attendance import Attendance
from lifl.placement.presence import Presence
from tests.unit.test_course import Rig


def test_clients_start_without_a_node_that_was_lost_before_it_had_called(tmp_path: Path) -> None:
    rig = Rig(2)
    rig.members["node-0"].agent = rig.members["node-0"].gateway = None
    attendance = Attendance(
        rig.job, tmp_path, {}, course=rig.course, enrolment=MagicMock(),
        presence=Presence(rig.members.nodes, 30.0, 0.0), send=rig.send,
    )  # fmt: skip
    attendance.gateway(
        rig.members["node-1"], b"gateway of node-1", {"endpoint": "tcp://node-1"}
    )  # fmt: skip
    assert not rig.record.gateways.called
    attendance.lost("node-0", "silent for 30 s")
    (where,) = rig.record.gateways.call_args.args
    assert where == {"node-1": ["tcp://node-1", "node key 1"]}
