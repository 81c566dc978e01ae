"""runs/latest: whose it is, and that a run that never began has it no longer."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from lifl.errors import InvalidJob
from lifl.placement.latest import Latest, folder_of, latest_beside, make_run_dir
from lifl.placement.resume import find_all, jobs_of


def begin(folder: Path, name: str) -> Latest:
    latest = make_run_dir(folder, name)
    latest.take()
    return latest


def test_it_names_the_last_run_that_was_started(tmp_path: Path) -> None:
    first, second = (make_run_dir(tmp_path / "runs", "toy") for _ in range(2))
    assert first.run != second.run
    first.take()
    second.take()
    assert first.link.resolve() == second.run
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        first.run.name, second.run.name, "latest",
    }  # fmt: skip


def test_it_goes_back_to_the_run_before(tmp_path: Path) -> None:
    first, second = begin(tmp_path, "toy"), begin(tmp_path, "toy")
    assert second.give_back() == first.run
    assert second.link.resolve() == first.run
    assert second.give_back() is None
    assert first.give_back() is None  # there is no other
    assert second.link.resolve() == first.run


def test_it_stays_with_a_newer_run_and_where_the_one_before_was_removed(tmp_path: Path) -> None:
    first = make_run_dir(tmp_path, "toy")
    first.take()
    second = make_run_dir(tmp_path, "toy")
    second.take()
    third = make_run_dir(tmp_path, "toy")
    third.take()
    assert second.give_back() is None
    shutil.rmtree(second.run)
    assert third.give_back() is None
    assert third.link.resolve() == third.run


def test_it_goes_back_over_those_that_have_failed_meanwhile(tmp_path: Path) -> None:
    """Two that overlap fail before a round, the first of them first; it may go on later."""
    good, first, second = (begin(tmp_path, name) for name in ("good", "a", "b"))
    assert first.give_back() is None  # it is the second's
    assert second.give_back() == good.run
    assert good.link.resolve() == good.run
    first.take()
    assert begin(tmp_path, "c").give_back() == first.run


def test_it_stays_where_only_failed_ones_came_before(tmp_path: Path) -> None:
    first, second = begin(tmp_path, "a"), begin(tmp_path, "b")
    assert (first.give_back(), second.give_back()) == (None, None)
    assert second.link.resolve() == second.run


def test_a_link_that_cannot_be_given_back_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has failed already, and nothing else is to be said."""
    begin(tmp_path, "a")
    second = begin(tmp_path, "b")

    def full(*_: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        assert second.give_back() is None
    assert second.link.resolve() == second.run
    assert {path.name for path in tmp_path.iterdir() if path.is_symlink()} == {"latest"}


def test_a_run_that_goes_on_takes_it_also_where_one_of_its_jobs_does(tmp_path: Path) -> None:
    several = make_run_dir(tmp_path, "jobs")
    several.take()
    newer = make_run_dir(tmp_path, "toy")
    newer.take()
    for folder in (several.run, several.run / "toy"):
        found = latest_beside(folder)
        assert found is not None
        newer.take()
        found.take()
        assert newer.link.resolve() == several.run
    assert latest_beside(tmp_path / "elsewhere" / "deep" / "run") is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InvalidJob, match=r"--out .*; name a folder that can be written"):
        make_run_dir(tmp_path / "runs", "toy")


def test_a_folder_of_runs_is_no_run_of_several_jobs(tmp_path: Path) -> None:
    """Nor is the run that `latest` points to a job of it."""
    for name, job in (("a-20261127-010203", "a"), ("b-20261127-010204", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"name": job}))
    (tmp_path / "latest").symlink_to("b-20261127-010204")
    assert jobs_of(tmp_path) == []
    with pytest.raises(InvalidJob, match="is not the directory of a run"):
        find_all(tmp_path)
    several = tmp_path / "jobs-20261127-010205"
    for job in ("team/b", "a"):
        at = several / folder_of(job)
        at.mkdir(parents=True)
        (at / "run.json").write_text(json.dumps({"name": job}))
    assert jobs_of(several) == [several / "a", several / "team.b"]
