"""What a job names, tried out before anything is started: for `lifl validate`.

Owns the order, and whether the model fits `spec.memory.arenaBytes` at all.  What is wrong with a
name is said by lifl/api/named.py and record.py, to a run in the same words.
"""

from __future__ import annotations

from pathlib import Path

from lifl.api.job import FLJob
from lifl.api.named import at_field, evaluator_of, raised, trainer_of
from lifl.errors import InvalidJob
from lifl.functions.layout import Layout
from lifl.placement.planning import Planning
from lifl.placement.record import initial_model
from lifl.shm.arena import arena_bytes

LEAST_SUM_SLOTS = 5  # the node of the top has one, three slots, and a leaf, two


def try_out(job: FLJob, job_path: Path) -> list[str]:
    """Import the trainer, make the initial model, measure it.

    Returns:
        What may be a mistake and need not be one.

    Raises:
        InvalidJob: something cannot be used; names file, line and field.
    """
    spec = job.spec
    if spec.trainer is not None:
        trainer_of(job, job_path)
    model = initial_model(job, job_path)
    layout = Layout.of(model)
    if spec.memory.arena_bytes is not None:
        clients = max(spec.clients.min, spec.client_count)
        needed = arena_bytes(Planning(job, layout, clients, start=1).geometry, LEAST_SUM_SLOTS)
        if needed > spec.memory.arena_bytes:
            with at_field(job_path, "spec", "memory", "arenaBytes"):
                raise InvalidJob(
                    f"{spec.memory.arena_bytes} bytes are too few: this model and "
                    f"{spec.memory.input_slots} input slots need at least {needed} on a node; "
                    "raise it, or lower spec.memory.inputSlots"
                )
    if spec.evaluator is not None:
        figures, name = evaluator_of(job, job_path), spec.evaluator.entrypoint
        try:
            measured = figures(layout.arrays(model))
        except InvalidJob:
            raise
        except Exception as error:
            with at_field(job_path, "spec", "evaluator", "entrypoint"):
                raise raised(name, error, job_path.parent) from None
        if spec.stop is not None and spec.stop.metric not in measured:
            return [
                f"spec.stop.metric is {spec.stop.metric!r}, and {name} returns "
                f"{', '.join(sorted(measured)) or 'nothing'}: clients must report it, or the job "
                f"runs all its {spec.rounds} rounds"
            ]
    return []
