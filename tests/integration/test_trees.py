"""Sums over whole trees, in one process: real memory, real steps, no network.

Descriptors are hints, so a tree must come to the same sum without a single one of them: here
every role is only asked, in any order, what it would do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.functions.intake import Intake
from lifl.functions.kernels import Optimiser, choose
from lifl.functions.kernels.bound import bound
from lifl.functions.layout import Layout
from lifl.functions.round import Role
from lifl.functions.steps import Aggregator
from lifl.proxy_ebpf.descriptor import Descriptor
from lifl.shm.arena import ArenaFiles, map_arena
from lifl.shm.geometry import Geometry
from lifl.shm.slots import SUMS_BIT, Payload

State = dict[str, np.ndarray[Any, Any]]
FEDAVG = Optimiser()
BF16 = np.dtype(ml_dtypes.bfloat16)


class Deaf:
    """A port on which every descriptor is lost."""

    def send(self, *descriptors: Descriptor) -> None: ...

    def receive(self) -> list[Descriptor]:
        return []


class Tree:
    """One node with a tree of `levels` levels, each role of the lowest with `fan_in` clients."""

    def __init__(
        self, files: ArenaFiles, layout: Layout, clients: int, fan_in: int, levels: int,
        kernels: str, lazy: bool, optimiser: Optimiser,
    ) -> None:  # fmt: skip
        geometry = files.geometry
        parts = [list(range(at, min(at + fan_in, clients))) for at in range(0, clients, fan_in)]
        roles: list[tuple[str, int, int]] = []  # kind, parent, expected
        self.lanes: dict[int, int] = {}
        if levels == 1:
            roles = [("top", 0, clients)]
            self.lanes = dict.fromkeys(range(clients), 1)
        else:
            top = len(parts) + (2 if levels == 3 else 1)
            for number, part in enumerate(parts, start=1):
                parent = len(parts) + 1  # the middle, or the top where there is none
                roles.append(("leaf", parent, len(part)))
                self.lanes |= dict.fromkeys(part, number)
            if levels == 3:
                roles.append(("middle", top, clients))
            roles.append(("top", 0, clients))
        self.intake = Intake(
            map_arena(geometry, files.inputs, files.sums, write_inputs=True),
            {endpoint: Deaf() for endpoint in range(1, len(roles) + 1)},  # type: ignore[misc]
        )
        self.roles = []
        slot = 0
        for endpoint, (kind, parent, expected) in enumerate(roles, start=1):
            count = 3 if kind == "top" else 2
            slots = tuple(SUMS_BIT | s for s in range(slot, slot + count))
            slot += count
            self.roles.append(
                Aggregator(
                    role=Role(endpoint, kind, parent, expected, slots, lazy),  # type: ignore[arg-type]
                    arena=map_arena(geometry, files.inputs, files.sums, write_inputs=False),
                    port=Deaf(),  # type: ignore[arg-type]
                    kernels=choose(kernels),  # type: ignore[arg-type]
                    sections=layout.sections,
                    update_bytes=layout.update_bytes,
                    sum_bytes=layout.sum_bytes,
                    velocity_at=layout.velocity_at,
                    optimiser=optimiser,
                )
            )
        self.layout = layout

    def round(self, updates: Sequence[State], weights: Sequence[float], order: list[int]) -> State:
        """Bring updates in as slots allow, in this order; the model that is published."""
        number, waiting = self.intake.round, list(order)
        buffer = bytearray(self.layout.update_bytes)
        for _ in range(40 * len(order) + 40):
            while waiting:
                client = waiting[0]
                grant = self.intake.begin(1 << client, self.lanes[client], len(buffer))
                if grant is None:
                    break
                self.layout.pack_into(updates[client], memoryview(buffer))
                self.intake.write(grant, 0, memoryview(buffer))
                verdict = self.intake.finish(
                    grant, payload=Payload.UPDATE, weight=weights[client]
                )
                assert verdict == "accepted"
                waiting.pop(0)
            moved = [role.advance() for role in self.roles]
            if not waiting and not self.intake.arena.is_closed(number):
                self.intake.close(number)
                moved.append(True)
            for slot, header in self.intake.sealed():
                assert header.payload is Payload.MODEL
                assert header.clients == (1 << len(updates)) - 1
                assert header.weight == pytest.approx(sum(weights))
                self.intake.publish(slot, header)
                view = self.intake.arena.payload(slot, self.layout.update_bytes)
                return {k: v.copy() for k, v in self.layout.views(view).items()}
            assert any(moved) or waiting
        raise AssertionError("the tree does not come to an end")

    def in_use(self) -> int:
        """Slots that are neither free nor the current model."""
        arena = self.intake.arena
        held = sum(arena.is_unreleased(slot) for slot in range(arena.geometry.model_slot))
        for slot in range(arena.geometry.sums):
            held += arena.is_unreleased(slot | SUMS_BIT)
        return held - 1


@contextmanager
def tree(
    state: State, *, clients: int, fan_in: int, levels: int, slots: int = 3,
    kernels: str = "native", lazy: bool = False, optimiser: Optimiser = FEDAVG,
) -> Iterator[Tree]:  # fmt: skip
    layout = Layout.of(state)
    model = layout.velocity_at + layout.sum_bytes
    size = max(layout.update_bytes, layout.sum_bytes, model)
    roles = -(-clients // fan_in) + 2
    files = ArenaFiles.make("test", Geometry(slots + 1, 2 * roles + 1, size, size, 64))
    try:
        made = Tree(files, layout, clients, fan_in, levels, kernels, lazy, optimiser)
        layout.pack_into(state, made.intake.begin_model(layout.update_bytes))
        made.intake.finish_model(0, layout.update_bytes)
        yield made
    finally:
        files.close()


def values(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype)


def check(model: State, updates: Sequence[State], weights: Sequence[float], levels: int) -> None:
    """Against float64, by the elementwise bound and half a unit of the model's own dtype."""
    for name, value in model.items():
        inputs = [np.asarray(u[name]).astype(np.float64) for u in updates]
        exact = sum(w * x for w, x in zip(weights, inputs, strict=True)) / sum(weights)
        narrow = value.dtype in (np.float32, np.float16, BF16)
        far = bound(
            weights, inputs, dtype=np.float32 if narrow else np.float64, extra_roundings=2 * levels
        )
        if value.dtype.kind == "b":
            clear = np.abs(exact - 0.5) > far
            assert (value == (exact >= 0.5))[clear].all(), name
            continue
        if value.dtype.kind in "iu":
            far = far + 0.5
        elif value.dtype != np.float64:
            unit = {np.dtype(np.float16): 2.0**-11, BF16: 2.0**-8}.get(value.dtype, 2.0**-24)
            far = far + np.abs(exact) * unit * (1 + 1e-9) + 2.0**-25
        assert (np.abs(value.astype(np.float64) - exact) <= far).all(), name


DTYPES = [np.dtype(t) for t in ("f2", "f4", "f8", "i8", "i4", "u1", "?")] + [BF16]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    size=st.sampled_from([1, 1023, 4097]),
    fan_in=st.integers(1, 16),
    clients=st.integers(1, 20),
    levels=st.integers(1, 3),
    slots=st.integers(1, 5),
    lazy=st.booleans(),
    kernels=st.sampled_from(["native", "reference"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_tree_is_fedavg(
    size: int, fan_in: int, clients: int, levels: int, slots: int, lazy: bool, kernels: str,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    shapes = {f"{dtype}": (size,) for dtype in DTYPES} | {"scalar": (), "empty": (0, 3), "ü": (2,)}
    kinds = {f"{dtype}": dtype for dtype in DTYPES} | dict.fromkeys(shapes, np.dtype("f4"))
    kinds |= {f"{dtype}": dtype for dtype in DTYPES}
    state = {name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()}
    with tree(
        state, clients=clients, fan_in=fan_in, levels=levels, slots=slots, lazy=lazy,
        kernels=kernels,
    ) as made:  # fmt: skip
        for _ in range(2):
            updates = [
                {name: values(rng, kinds[name], shape) for name, shape in shapes.items()}
                for _ in range(clients)
            ]
            weights = [float(w) for w in rng.integers(1, 1000, clients)]
            model = made.round(updates, weights, [int(i) for i in rng.permutation(clients)])
            check(model, updates, weights, levels)
        assert made.in_use() == 0


def test_a_large_model_of_62_tensors() -> None:
    """46.8 MB, as a ResNet's state_dict is."""
    rng = np.random.default_rng(5)
    sizes = [int(s) for s in rng.integers(1, 190_000, 61)]
    sizes.append(11_700_000 - sum(sizes))
    state = {f"layer{i}": np.zeros(size, np.float32) for i, size in enumerate(sizes)}
    assert Layout.of(state).update_bytes == pytest.approx(46.8e6, abs=64)
    with tree(state, clients=4, fan_in=2, levels=3) as made:
        base = {name: rng.standard_normal(v.shape).astype("f4") for name, v in state.items()}
        updates = [{n: v * np.float32(1 + i) for n, v in base.items()} for i in range(4)]
        model = made.round(updates, [1.0, 2.0, 3.0, 4.0], [2, 0, 3, 1])
        check(model, updates, [1.0, 2.0, 3.0, 4.0], 3)


def test_momentum_on_the_server() -> None:
    """v ← βv + (base − mean), model ← base − ηv (Hsu, Qi, Brown 2019), over three rounds."""
    rng = np.random.default_rng(1)
    optimiser = Optimiser("fedavgm", learning_rate=0.7, momentum=0.9)
    state = {"w": rng.standard_normal(100).astype("f4"), "n": np.zeros((), np.int64)}
    base, velocity = state["w"].astype(np.float64), np.zeros(100)
    with tree(state, clients=3, fan_in=2, levels=3, optimiser=optimiser) as made:
        for number in range(3):
            updates = [
                {"w": rng.standard_normal(100).astype("f4"), "n": np.asarray(10 * number + i)}
                for i in range(3)
            ]
            model = made.round(updates, [1.0, 1.0, 2.0], [0, 1, 2])
            mean = (updates[0]["w"] + updates[1]["w"] + 2.0 * updates[2]["w"]) / 4
            velocity = 0.9 * velocity + (base - mean)
            base = base - 0.7 * velocity
            np.testing.assert_allclose(model["w"], base, rtol=1e-5, atol=1e-5)
            assert model["n"] == round(10 * number + 5 / 4)
