"""The torch example, as it is."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import HERE, PROXY, Runner

from lifl.placement.record import load_model

pytest.importorskip("torch", reason="torch is not installed; see `make test-torch`")
pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]  # eight processes use torch at once

EXAMPLE = HERE.parent.parent / "examples" / "02-torch"


def test_the_torch_example(runner: Runner) -> None:
    run = runner.finish(runner.start(EXAMPLE / "job.yaml", "--proxy", PROXY), limit_s=240)
    assert run.status == 0, (run.events[-3:], run.stderr)
    assert run.summary["accuracy"] > 0.95
    assert {row["clients"] for row in run.rows} == {8}
    assert run.rows[-1]["metrics"]["accuracy_before"] > run.rows[0]["metrics"]["accuracy_before"]
    model = load_model(run.run_dir / "model.safetensors")
    counter = model["1.num_batches_tracked"]
    assert (counter.dtype, counter.shape) == (np.int64, ())
    # an eighth of 1,438 images in batches of 32 are 6 steps, two epochs of them a round
    assert counter == 12 * len(run.rows)
