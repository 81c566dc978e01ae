"""Going on with a run after all of its processes are gone.

Owns what a run's directory must hold for that, and what is thrown away: everything after the last
checkpoint.  A coordinator that alone was killed needs none of it, since the rest of the run still
has the round.  Called by local.py, before anything is started, and by the coordinator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lifl.api.job import FLJob
from lifl.api.load import load_job
from lifl.errors import InvalidJob
from lifl.placement.folder import Folder, Local, folder
from lifl.placement.latest import folder_of
from lifl.placement.limits import full_disk_says
from lifl.placement.record import write_whole
from lifl.placement.rows import cut_to_whole_lines, rows_of
from lifl.placement.store import Saved
from lifl.placement.store_sqlite import SqliteStore

STORE: Final = "job.sqlite"
REWIND: Final = 3  # exit status of a coordinator: the run is to go on from its last checkpoint
RUN: Final = "run.json"  # what the engine was started with: nodes, keys, back ends; mode 0600


def find(run: Path) -> tuple[FLJob, dict[str, Any]]:
    """The job of a run that can go on, and what its engine is to be started with.

    With `goes_on`: the first round to come, and how many that were done are done again.

    Raises:
        InvalidJob: no run's directory, a complete run, or another job than it began with.
        Busy: the run has not ended.
    """
    run = run.resolve()
    config = _config(run)
    job = load_job(config["job"])
    store = SqliteStore(run / STORE)
    try:
        saved = store.load()
    finally:
        store.close()
    if saved is not None and saved.complete:
        raise InvalidJob(
            f"{run} is complete: its model is {run / 'model.safetensors'}; start a new run with "
            f"lifl run {config['job']}"
        )
    if saved is not None and (now := as_text(job)) != saved.job:
        changes = "; ".join(_differences(json.loads(saved.job), json.loads(now)))
        raise InvalidJob(
            f"{config['job']} has changed since the run began ({changes}): put it back, or start "
            "a new run without --resume"
        )
    checkpoint = saved.checkpoint.number if saved is not None and saved.checkpoint else 0
    done = max(saved.rows, default=0) if saved is not None else 0
    clients = [str(run / "clients" / Path(name).name) for name in config["client_files"]]
    own_keys = Path(config["keyring"]).parent == Path(config["run_dir"])
    return job, config | ({"keyring": str(run / "keys")} if own_keys else {}) | {
        "run_dir": str(run), "client_files": clients, "start": config["start"] + 1,
        "network": config.get("network"),
        "goes_on": {"round": checkpoint + 1, "again": max(0, done - checkpoint)},
    }  # fmt: skip


def _config(run: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((run / RUN).read_text())
    except (OSError, ValueError) as error:
        raise InvalidJob(
            f"{run} is not the directory of a run: it has no readable {RUN}; name one such as "
            "runs/latest"
        ) from error
    return config


def names_of_nodes(run: Path) -> list[str]:
    """Of a run.

    Raises:
        InvalidJob: no run's directory.
    """
    return [*_config(run)["nodes"]]


def find_all(run: Path) -> list[tuple[FLJob, dict[str, Any]]]:
    """The same of a run of several jobs: of those that are not complete; else of the one there is.

    Raises:
        InvalidJob: as `find`, or all of them are complete.
        Busy: the run has not ended.
    """
    folders = jobs_of(run)
    if not folders:
        return [find(run)]
    unfinished = [folder for folder in folders if not is_complete(folder)]
    if not unfinished:
        raise InvalidJob(f"all jobs of {run.resolve()} are complete: start a new run")
    return [find(folder) for folder in unfinished]


def jobs_of(run: Path) -> list[Path]:
    """The folders of the jobs of a run of several, by name; of another run none.

    Each has its job's name, as the directories of runs do not, so that a folder of runs is no run.
    """
    if (run / RUN).exists():
        return []
    folders = sorted(path.parent for path in run.resolve().glob(f"*/{RUN}"))
    return [at for at in folders if folder_of(_config(at).get("name", "")) == at.name]


def is_complete(run: Path) -> bool:
    """A run of one job has done all of its rounds."""
    if not (run / STORE).exists():
        return False
    store = SqliteStore(run / STORE)
    try:
        saved = store.load()
    finally:
        store.close()
    return saved is not None and saved.complete


def one_of(run: Path) -> Path:
    """The folder of a run of one job.

    Raises:
        InvalidJob: it has several; says which.
    """
    if folders := jobs_of(run):
        names = ", ".join(str(run / folder.name) for folder in folders)
        raise InvalidJob(f"{run} has several jobs: name one of {names}")
    return run


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from _differences(before.get(name), now.get(name), f"{path}.{name}".lstrip("."))
    elif before != now:
        yield f"{path} was {json.dumps(before)} and is {json.dumps(now)}"


def keep(config: dict[str, Any]) -> None:
    """Write down what the engine is started with, for the next start.

    Raises:
        NoSpace: it cannot be written; what was there stays.
    """
    path = Path(config["run_dir"]) / RUN
    with full_disk_says(path):
        write_whole(path, json.dumps(config).encode(), mode=0o600)


def as_text(job: FLJob) -> str:
    """The job, to be compared with what its file says later."""
    return job.model_dump_json(by_alias=True, exclude={"status"})


def checkpoint_folder(job: FLJob, job_file: Path, run_dir: Path) -> Folder:
    """Where the checkpoints of this run are."""
    path = job.spec.checkpoint.path
    if path is None:
        return Local(run_dir / "checkpoints")
    return folder(path, run_dir.name, beside=job_file.parent)


def rewound(saved: Saved, run_dir: Path, *, start: int) -> Saved:
    """The store of a run that goes on from its last checkpoint; rounds.jsonl is cut to match."""
    number = saved.checkpoint.number if saved.checkpoint else 0
    path = run_dir / "rounds.jsonl"
    cut_to_whole_lines(path)
    kept = [json.dumps(row) + "\n" for row in rows_of(path) if row["round"] <= number]
    write_whole(path, "".join(kept).encode())
    return Saved(
        job=saved.job, names=saved.names, layout=saved.layout, start=start, base=number,
        rows={n: row for n, row in saved.rows.items() if n <= number},
        checkpoint=saved.checkpoint, clock=saved.clock,
    )  # fmt: skip
