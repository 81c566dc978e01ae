"""When an upload loses its slot."""

from __future__ import annotations

from typing import Any, cast

from lifl.functions.intake import Grant, Intake
from lifl.functions.jobs import Asking, Job, Uploading
from lifl.shm.slots import Payload

ASKING = Asking(b"", "key", {}, Payload.UPDATE, 1, 1, 10_000, 1.0, 0)


def job(**settings: Any) -> Job:
    return Job("toy", 1, cast(Intake, None), (0, 0, 0), settings=settings)


def upload(*, written: int, moved_at: float) -> Uploading:
    grant = Grant(0, 1, 1, 1, 1, memoryview(bytearray(10_000)), written)
    return Uploading(ASKING, grant, 0.0, moved_at)


def test_one_that_stands_still() -> None:
    at = job(stall_s=5.0)
    assert at.too_slow(upload(written=10, moved_at=7.0), 12.0) is None
    assert at.too_slow(upload(written=10, moved_at=7.0), 12.1) == "no byte came for 5 s"


def test_one_that_drips_while_others_wait() -> None:
    """Below 100 bytes a second, the first 5 s aside."""
    at = job(stall_s=5.0, min_upload_rate=100)
    dripping = upload(written=999, moved_at=15.0)
    assert at.too_slow(dripping, 15.1) is None  # nobody wants its slot
    at.waiting[ASKING.key] = ASKING
    assert "fewer than 100 a second" in (at.too_slow(dripping, 15.1) or "")
    assert at.too_slow(upload(written=1010, moved_at=15.0), 15.1) is None
    assert at.too_slow(upload(written=0, moved_at=4.0), 4.9) is None


def test_without_a_least_rate() -> None:
    at = job(stall_s=5.0, min_upload_rate=0)
    at.waiting[ASKING.key] = ASKING
    assert at.too_slow(upload(written=1, moved_at=1000.0), 1001.0) is None
