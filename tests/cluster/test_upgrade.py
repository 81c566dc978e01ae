"""Every pod of a release is replaced in mid-round, by upgrade and rollback: the model is right.

The coordinator stands still at a named point with round 3 open, so that the upgrade falls into it:
the updates of that round are in the nodes' memory, which only functions and gateways hold.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.cluster.installation import PATIENCE_S, ROOT, Installation, Run, check, digits

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COMPONENTS = ("operator", "agent", "gateway")


def pods(lifl: Installation) -> dict[str, set[str]]:
    """By component, without those that are on their way out."""
    return {
        each: {
            pod["metadata"]["uid"] for pod in lifl.pods(each)
            if "deletionTimestamp" not in pod["metadata"]
        }
        for each in COMPONENTS
    }  # fmt: skip


@pytest.mark.parametrize("how", ["upgrade", "rollback"])
def test_all_pods_are_replaced_in_mid_round(
    lifl: Installation, run: Run, expected: dict[str, np.ndarray], how: str
) -> None:
    wait = ["--wait", f"--timeout={PATIENCE_S}s"]
    cpu = {"upgrade": "90m", "rollback": "80m"}[how]
    values = [f"--set={each}={cpu}" for each in (
        "agent.cpu", "gateway.resources.requests.cpu", "operator.resources.requests.cpu",
    )]  # fmt: skip
    upgrade = ["upgrade", lifl.name, str(ROOT / "charts" / "lifl"), "--reuse-values", *values]
    if how == "rollback":
        lifl.helm(*upgrade, *wait)
    with lifl.armed(
        f"deployment/{lifl.name}-operator", "coordinator:coordinator_round_sent:stop:3"
    ):
        job = run(digits(5))
        job.wait("jsonpath={.status.round}=3")
        before = pods(lifl)
        lifl.helm(*(upgrade if how == "upgrade" else ["rollback", lifl.name]), *wait)
        after = pods(lifl)
        for each in COMPONENTS:
            assert before[each].isdisjoint(after[each]), f"{each} was not replaced"
        check(job, expected)
    rows = job.rows()
    assert [row["round"] for row in rows] == [1, 2, 3, 4, 5]
    assert {row["clients"] for row in rows} == {16}
