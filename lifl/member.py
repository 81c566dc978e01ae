"""A pod of a job's own code: trainers, the evaluator, the initial model.

    Secret ─► /var/run/lifl/member.json ─► trainer.py, as `lifl run` starts it
                                       └─► the initial model ─► operator

Owns what is particular about a pod: where its files are, and that the folder of the job's modules
is the container's working directory, which may be read-only.  Started by the operator's objects:

    python -m lifl.member trainer|evaluator|initial
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click
import zmq

from lifl.api.load import load_job
from lifl.errors import LiflError, Unreachable
from lifl.functions.ending import end_on_sigterm
from lifl.functions.layout import Layout
from lifl.functions.wire import Keys, dealer, decode, encode
from lifl.placement.cluster import names
from lifl.placement.record import initial_model
from lifl.trainer import run

CHUNK: Final = 1 << 20
ANSWER_S: Final = 60.0


def folder_of_job(working: Path, job: dict[str, Any]) -> Path:
    """A job file in a folder that has all that the working directory has."""
    folder = Path(tempfile.mkdtemp(prefix="lifl-job-"))
    for each in working.iterdir():
        (folder / each.name).symlink_to(each)
    path = folder / "job.json"
    if path.is_symlink():
        path.unlink()
    path.write_text(json.dumps(job))
    return path


def config_of(member: dict[str, Any], job_path: Path) -> dict[str, Any]:
    """What trainer.py is to run: all clients of this pod, without which it fails."""
    files = []
    for name, content in member["clients"].items():
        path = job_path.parent / f"{name}.client.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))
        files.append(str(path))
    return {
        "job": str(job_path), "name": member["name"], "gateways": member["gateways"],
        "observer": member["observer"], "client_files": files, "workers": member["workers"],
        "client_count": member["client_count"], "needed": len(files),
    }  # fmt: skip


def bring(member: dict[str, Any], job_path: Path) -> None:
    """Compute the initial model and bring it to the operator.

    Raises:
        InvalidJob: it is no model.
        Unreachable: the operator does not answer.
    """
    state = initial_model(load_job(job_path), job_path)
    layout = Layout.of(state)
    model = memoryview(bytearray(layout.update_bytes))
    layout.pack_into(state, model)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    endpoint, key = member["operator"]
    line = dealer(context, Keys(*member["initial"]), endpoint, key)
    wire: Any = layout.to_wire()
    try:
        for at in range(0, max(1, len(model)), CHUNK):
            header = {"t": "initial", "job": member["name"], "at": at, "of": len(model)}
            line.send_multipart(
                [encode(header | {"layout": wire}), model[at : at + CHUNK]], copy=False
            )
            wire = None  # said once
            if not line.poll(int(ANSWER_S * 1000)):
                raise Unreachable(f"the operator at {endpoint} does not answer")
            answer = decode(line.recv())
            if answer["t"] != "more":
                raise Unreachable(f"the operator does not take the model: {answer.get('text')}")
    finally:
        line.close(linger=0)
        context.term()


@click.command()
@click.argument("kind", type=click.Choice(["trainer", "evaluator", "initial"]))
@click.option("--file", type=click.Path(path_type=Path), default=names.MEMBER_FILE)
def main(kind: str, file: Path) -> None:
    """Run one pod of a job's own code."""
    end_on_sigterm()
    member = json.loads(file.read_text())
    job_path = folder_of_job(Path.cwd(), member["job"])
    try:
        if kind == "initial":
            bring(member, job_path)
        else:
            run(config_of(member, job_path))
    except LiflError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
