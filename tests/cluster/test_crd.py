"""The CRD on a real API server: it refuses what Python refuses, with the same reason.

CEL is evaluated by API servers alone, so that this is the only place where its rules are tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit import verdicts

if TYPE_CHECKING:
    from tests.cluster.conftest import Kubectl

pytestmark = pytest.mark.cluster

CRD = Path(__file__).resolve().parents[2] / "charts" / "lifl" / "files" / "fljobs.yaml"
NAME = "customresourcedefinition/fljobs.fl.lifl.dev"


@pytest.fixture(scope="module")
def known(cluster: Kubectl) -> Iterator[None]:
    """The API server knows FLJobs; it forgets them afterwards, unless it did before."""
    before = cluster("get", NAME, "--ignore-not-found", "--output=name")
    cluster("apply", "--server-side", "--force-conflicts", f"--filename={CRD}")
    cluster.wait(NAME, "condition=Established")
    yield
    if not before:
        cluster("delete", NAME, "--wait=true")


@pytest.fixture
def job(kubectl: Kubectl, known: None) -> dict[str, Any]:
    """JOB, made."""
    kubectl("create", "--filename=-", stdin=json.dumps(verdicts.JOB))
    return verdicts.JOB


def dry(
    kubectl: Kubectl, verb: str, edits: verdicts.Edits, *, wrong: bool, **options: Any
) -> str:
    text = json.dumps(verdicts.edited(edits), ensure_ascii=False)
    words = [verb, "--filename=-", "--dry-run=server", "--validate=strict", "--output=json"]
    return kubectl(*words, stdin=text, fails=wrong, **options)


def test_right_jobs_are_taken(kubectl: Kubectl, known: None) -> None:
    for edits in verdicts.RIGHT.values():
        dry(kubectl, "create", edits, wrong=False)


def test_wrong_jobs_are_refused_with_the_reason(kubectl: Kubectl, known: None) -> None:
    for name, (edits, words) in verdicts.WRONG.items():
        said = dry(kubectl, "create", edits, wrong=True)
        assert words in said, name
        assert "forbidden" not in said.lower(), name  # by who asks, not by what is asked


def test_changes(kubectl: Kubectl, job: dict[str, Any]) -> None:
    for name, (edits, may) in verdicts.CHANGES.items():
        said = dry(kubectl, "replace", edits, wrong=not may)
        assert may or "cannot" in said, name


def test_changes_after_the_end(kubectl: Kubectl, job: dict[str, Any]) -> None:
    for phase in ("Complete", "Failed"):
        write_status(kubectl, {"phase": phase})
        for edits, may in verdicts.ENDED.values():
            said = dry(kubectl, "replace", edits, wrong=not may)
            assert may or "the job has ended" in said


def test_a_coordinator_whose_lease_is_over_cannot_write(
    kubectl: Kubectl, job: dict[str, Any]
) -> None:
    write_status(kubectl, {"epoch": 3, "round": 5})
    write_status(kubectl, {"epoch": 3, "round": 6})
    write_status(kubectl, {"epoch": 4, "round": 6})
    said = write_status(kubectl, {"epoch": 3, "round": 7}, fails=True)
    assert "a coordinator with a later lease has written" in said
    assert kubectl.get("fljob/digits")["status"] == {"epoch": 4, "round": 6}


def test_what_people_see(kubectl: Kubectl, job: dict[str, Any]) -> None:
    write_status(
        kubectl,
        {
            "phase": "Running", "progress": "12/30", "clients": {"connected": 16},
            "figures": {"accuracy": 0.9622},
        },
    )  # fmt: skip
    head, line = kubectl("get", "fljobs").splitlines()
    assert head.split() == ["NAME", "PHASE", "ROUND", "CLIENTS", "ACCURACY", "AGE"]
    assert line.split()[:-1] == ["digits", "Running", "12/30", "16", "0.9622"]
    assert "fljob.fl.lifl.dev/digits" in kubectl("get", "lifl", "--output=name")
    said = kubectl("explain", "fljob.spec.clients.fraction")
    assert "Share of the connected clients that a round draws." in " ".join(said.split())


def test_a_namespace_has_as_many_jobs_as_its_quota(
    kubectl: Kubectl, job: dict[str, Any]
) -> None:
    kubectl("create", "quota", "jobs", "--hard=count/fljobs.fl.lifl.dev=1")
    kubectl.wait("quota/jobs", "jsonpath={.status.used.count/fljobs\\.fl\\.lifl\\.dev}=1")
    said = kubectl(
        "create", "--filename=-", fails=True,
        stdin=json.dumps(verdicts.edited({"metadata.name": "another"})),
    )  # fmt: skip
    assert "exceeded quota: jobs" in said


def write_status(kubectl: Kubectl, status: dict[str, Any], *, fails: bool = False) -> str:
    patch = json.dumps({"status": status})
    return kubectl(
        "patch", "fljob/digits", "--subresource=status", "--type=merge", f"--patch={patch}",
        fails=fails,
    )  # fmt: skip
