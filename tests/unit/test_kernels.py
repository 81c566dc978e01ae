"""Kernels against exact arithmetic, and against each other bit for bit.

Every kernel that this machine can run is tested: the reference, and native once per instruction
set that the CPU has. The elementwise bound γₙ·Σ|wᵢxᵢ| is `lifl.functions.kernels.bound`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lifl.functions.kernels import (
    Code,
    Input,
    Kernels,
    Optimiser,
    Section,
    bound,
    choose,
    error_bound,
    lay_out,
    sum_bytes,
    update_bytes,
)
from lifl.functions.kernels.choice import isas

Array = np.ndarray[Any, np.dtype[Any]]

settings.register_profile("kernels", derandomize=True, deadline=None, max_examples=40)
SETTINGS = settings.get_profile("kernels")

REFERENCE = choose("reference")
NATIVE = [choose("native", isa=isa) for isa in isas()]
KERNELS = [pytest.param(kernels, id=kernels.isa) for kernels in (REFERENCE, *NATIVE)]
needs_native = pytest.mark.skipif(not NATIVE, reason="the extension _fold is not built")
every_kernel = pytest.mark.parametrize("kernels", KERNELS)

# The tensors of ResNet-18: 62 of them, 11,689,512 elements, 46.8 MB of float32.
BLOCKS = [(64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
RESNET18 = [9408, 64, 64] + [
    count
    for inner, outer in BLOCKS
    for count in (
        *(9 * inner * outer, outer, outer, 9 * outer * outer, outer, outer),
        *((inner * outer, outer, outer) if inner != outer else ()),
    )
]
RESNET18 += [512_000, 1000]

SIZES = st.sampled_from([1, 2, 31, 32, 1023, 4097])


def view(array: Array) -> memoryview:
    return array.view(np.uint8).data


def elements(buffer: Array, section: Section) -> Array:
    """A section of an update buffer; BF16 as ml_dtypes.bfloat16, so that it has values."""
    dtype = ml_dtypes.bfloat16 if section.code is Code.BF16 else section.code.dtype
    return np.frombuffer(buffer, dtype, section.count, section.update_offset)


def sums(buffer: Array, section: Section) -> Array:
    return np.frombuffer(buffer, section.sum_dtype, section.count, section.sum_offset)


def same(a: Array, b: Array) -> bool:
    """Equal bits, but any NaN equals any NaN."""
    if a.dtype.kind in "fV":
        nan = np.isnan(a) & np.isnan(b)
        bits = np.dtype(f"u{a.dtype.itemsize}")
        return bool(np.all(nan | (a.view(bits) == b.view(bits))))
    return np.array_equal(a, b)


def values(rng: np.random.Generator, code: Code, count: int) -> Array:
    """Ordinary values: integers over their whole range, floats over six decades."""
    if code is Code.BOOL:
        return rng.integers(0, 2, count).astype(np.bool_)
    if not code.is_float:
        info = np.iinfo(code.dtype)
        return rng.integers(info.min, info.max, count, code.dtype, endpoint=True)
    x = rng.standard_normal(count) * 10 ** rng.uniform(-3, 3, count)
    return x.astype(ml_dtypes.bfloat16 if code is Code.BF16 else code.dtype)


def update_of(parts: Sequence[npt.ArrayLike], sections: tuple[Section, ...]) -> Array:
    buffer = np.zeros(update_bytes(sections), np.uint8)
    for part, section in zip(parts, sections, strict=True):
        elements(buffer, section)[:] = part
    return buffer


def folded(
    kernels: Kernels,
    inputs: list[Input],
    sections: tuple[Section, ...],
    acc: Array | None = None,
) -> Array:
    out = np.full(sum_bytes(sections), 0xA5, np.uint8)
    kernels.fold(view(out), None if acc is None else view(acc), inputs, sections)
    return out


def finished(
    kernels: Kernels, total: Array, weight: float, sections: tuple[Section, ...]
) -> list[Array]:
    """The model of FedAvg, one array per section."""
    out = np.zeros(update_bytes(sections), np.uint8)
    kernels.finish(view(out), view(total), weight, sections, optimiser=Optimiser())
    return [elements(out, section) for section in sections]


# --- fold -------------------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("code", Code)
@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    count=SIZES,
    k=st.integers(1, 16),
    with_acc=st.booleans(),
    sums_among=st.booleans(),
)
def test_fold_is_within_the_bound_of_the_exact_sum(
    kernels: Kernels,
    code: Code,
    seed: int,
    count: int,
    k: int,
    with_acc: bool,
    sums_among: bool,
) -> None:
    rng = np.random.default_rng(seed)
    sections = lay_out([(code, count)])
    weights, terms, inputs = [], [], []
    for j in range(k + with_acc):
        is_acc = j == k
        is_sum = is_acc or (sums_among and j % 3 == 2)
        x = values(rng, code, count)
        weight = 1.0 if is_sum else float(rng.uniform(0.01, 5000))
        if is_sum:
            x = (x.astype(np.float64) * 100).astype(code.sum_dtype)
        data = np.zeros(sum_bytes(sections) if is_sum else update_bytes(sections), np.uint8)
        (sums if is_sum else elements)(data, sections[0])[:] = x
        weights.append(weight)
        terms.append(x)
        inputs.append(Input(view(data), 0.0 if is_sum else weight, is_sum))
        acc = data if is_acc else None
    out = folded(kernels, inputs[:k], sections, acc)
    exact = sum(
        np.longdouble(w) * x.astype(np.longdouble) for w, x in zip(weights, terms, strict=True)
    )
    error = np.abs(sums(out, sections[0]) - exact)
    # One more rounding than a mean's: a 64-bit integer to float64.
    allowed = bound(weights, terms, dtype=code.sum_dtype, extra_roundings=1) * sum(weights)
    assert np.all(error <= allowed * 1.000001)


@needs_native
@pytest.mark.parametrize("kernels", [pytest.param(n, id=n.isa) for n in NATIVE])
@pytest.mark.parametrize("code", Code)
@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 200) | SIZES,
    kinds=st.lists(st.booleans(), max_size=20),
    with_acc=st.booleans(),
    shift=st.sampled_from([0, 1, 8, 64]),
)
def test_native_gives_the_bits_of_the_reference(
    kernels: Kernels,
    code: Code,
    seed: int,
    count: int,
    kinds: list[bool],
    with_acc: bool,
    shift: int,
) -> None:
    """Any bits go in: NaN, infinities, subnormals, bytes of BOOL; and at any address."""
    rng = np.random.default_rng(seed)
    sections = (Section(code, count, 64, 128),)
    update, total = update_bytes(sections), sum_bytes(sections)

    def noise(size: int) -> memoryview:
        return memoryview(rng.bytes(shift + size))[shift:]

    inputs = [
        Input(noise(total if is_sum else update), float(rng.uniform(0.1, 99)), is_sum)
        for is_sum in kinds
    ]
    acc = noise(total) if with_acc else None
    base, velocity_in = noise(update), noise(total)
    found = []
    for each in (REFERENCE, kernels):
        out, model, velocity = (
            np.full(shift + size + 3, 0xA5, np.uint8) for size in (total, update, total)
        )
        each.fold(view(out)[shift:], acc, inputs, sections)
        each.finish(
            view(model)[shift:],
            view(out)[shift:],
            3.7,
            sections,
            base=base,
            velocity_in=velocity_in if with_acc else None,
            velocity_out=view(velocity)[shift:],
            optimiser=Optimiser("fedavgm", learning_rate=0.3, momentum=0.8),
        )
        for buffer, start, size in (
            *(
                (out, 128, total),
                (model, 64, update),
                (velocity, 128, total if code.is_float else 0),
            ),
        ):
            assert np.all(buffer[: shift + min(start, size)] == 0xA5)  # nothing before
            assert np.all(buffer[shift + size :] == 0xA5)  # nor after
        found.append(
            (
                sums(out[shift:].copy(), sections[0]),
                elements(model[shift:].copy(), sections[0]),
                sums(velocity[shift:].copy(), sections[0]),
            )
        )
    for a, b in zip(*found, strict=True):
        assert same(a, b)


@every_kernel
@pytest.mark.parametrize("k", [1, 9])
def test_a_model_of_62_tensors(kernels: Kernels, k: int) -> None:
    """46.8 MB, which the first fold writes past the caches; then folds into that."""
    assert (len(RESNET18), sum(RESNET18)) == (62, 11_689_512)
    sections = lay_out([(Code.F32, count) for count in RESNET18])
    rng = np.random.default_rng(k)
    update = update_of([rng.standard_normal(n, np.float32) for n in RESNET18], sections)
    inputs = [Input(view(update), 1.0 + j, False) for j in range(k)]
    first = folded(kernels, inputs, sections)
    second = folded(kernels, inputs[:1], sections, first)
    total = sum(1.0 + j for j in range(k)) + 1
    for section in sections:
        x = elements(update, section)
        error = np.abs(sums(second, section) / total - x.astype(np.float64))
        assert np.all(error <= error_bound(k + 5) * np.abs(x))


@every_kernel
@pytest.mark.parametrize("code", [Code.I8, Code.F64, Code.BF16])
def test_a_first_fold_past_the_caches_of_every_accumulator(kernels: Kernels, code: Code) -> None:
    count = (4 << 20) // code.sum_dtype.itemsize + 5
    sections = lay_out([(code, count)])
    update = update_of([values(np.random.default_rng(0), code, count)], sections)
    out = folded(kernels, [Input(view(update), 2.0, False)], sections)
    expected = 2.0 * elements(update, sections[0]).astype(code.sum_dtype)
    assert np.array_equal(sums(out, sections[0]), expected)


@every_kernel
def test_sections_of_every_dtype_and_of_no_elements(kernels: Kernels) -> None:
    fields = [(code, count) for code in Code for count in (1, 0, 5)]
    sections = lay_out(fields)
    parts = [np.full(count, code is Code.BOOL or 3) for code, count in fields]
    update = update_of(parts, sections)
    total = folded(kernels, [Input(view(update), 2.0, False)] * 3, sections)
    for part, got in zip(parts, finished(kernels, total, 6.0, sections), strict=True):
        assert np.array_equal(got.astype(np.float64), part.astype(np.float64))


@every_kernel
def test_nothing_to_fold(kernels: Kernels) -> None:
    sections = lay_out([(Code.F32, 3), (Code.I64, 2)])
    assert not np.any(folded(kernels, [], sections)[:12])
    acc = np.frombuffer(np.random.default_rng(0).bytes(sum_bytes(sections)), np.uint8)
    out = folded(kernels, [], sections, acc)
    for section in sections:
        assert same(sums(out, section), sums(acc, section))
    empty = np.zeros(0, np.uint8)
    kernels.fold(view(empty), None, [Input(view(empty), 1.0, False)], ())
    finished(kernels, empty, 1.0, ())


@every_kernel
@pytest.mark.parametrize("code", [Code.F64, Code.F32, Code.F16, Code.BF16])
def test_infinities_and_nan_follow_ieee(kernels: Kernels, code: Code) -> None:
    inf, nan = np.inf, np.nan
    rows = [[inf, inf, nan, inf, -inf, 1, 0], [1, -inf, 1, inf, 1, nan, inf]] * 10
    sections = lay_out([(code, 70)])
    updates = [update_of([np.tile(np.array(row), 10)], sections) for row in rows]
    weights = [1.0, 2.0] * 9 + [1.0, 0.0]
    inputs = [Input(view(u), w, False) for u, w in zip(updates, weights, strict=True)]
    out = sums(folded(kernels, inputs[:2], sections), sections[0])
    assert same(out, np.tile(np.array([inf, nan, nan, inf, -inf, nan, inf], out.dtype), 10))
    by_zero = sums(folded(kernels, inputs[-1:], sections), sections[0])
    assert same(by_zero, np.tile(np.array([0, nan, 0, nan, 0, nan, nan], out.dtype), 10))


@every_kernel
def test_terms_that_cancel_meet_the_elementwise_bound_and_no_relative_one(
    kernels: Kernels,
) -> None:
    terms = [np.full(40, x, np.float32) for x in (1e8, 1.0, -1e8, 0.25)]
    sections = lay_out([(Code.F32, 40)])
    inputs = [Input(view(x), 1.0, False) for x in terms]
    error = np.abs(sums(folded(kernels, inputs, sections), sections[0]) / 4 - 1.25 / 4)
    assert np.all(error <= bound([1.0] * 4, terms))
    assert np.all(error > error_bound(7) * 1.25)  # what a relative bound would allow


@every_kernel
@pytest.mark.parametrize("copies", [2, 4, 8])
def test_equal_updates_have_themselves_as_mean_up_a_tree(kernels: Kernels, copies: int) -> None:
    sections = lay_out([(Code.F32, 65), (Code.I32, 3)])
    update = update_of([np.ones(65), np.array([1, 2, -3])], sections)
    leaf = folded(kernels, [Input(view(update), 1.0, False)] * copies, sections)
    top = folded(kernels, [Input(view(leaf), 7.0, True)] * 2, sections, leaf)
    mean = finished(kernels, top, 3.0 * copies, sections)
    assert np.array_equal(mean[0], np.ones(65))
    assert mean[1].tolist() == [1, 2, -3]


@every_kernel
def test_integers_are_exact_below_two_to_the_53(kernels: Kernels) -> None:
    sections = lay_out([(Code.I64, 2), (Code.U64, 2)])
    update = update_of([[2**50 + 1, -(2**50) - 3], [2**51 + 1, 2**51 - 1]], sections)
    total = folded(kernels, [Input(view(update), 3.0, False)], sections)
    signed, unsigned = finished(kernels, total, 3.0, sections)
    assert signed.tolist() == [2**50 + 1, -(2**50) - 3]
    assert unsigned.tolist() == [2**51 + 1, 2**51 - 1]


# --- finish -----------------------------------------------------------------------------------


def finish_one(kernels: Kernels, code: Code, totals: list[float], weight: float = 1.0) -> Array:
    """Repeated over more than a vector, since tails take another path."""
    sections = lay_out([(code, 9 * len(totals))])
    total = np.tile(np.array(totals, code.sum_dtype), 9)
    rows: Array = finished(kernels, total, weight, sections)[0].reshape(9, -1)
    assert all(same(row, rows[0]) for row in rows)
    first: Array = rows[0]
    return first.copy()


@every_kernel
@pytest.mark.parametrize("code", [c for c in Code if not c.is_float and c is not Code.BOOL])
def test_integers_round_half_to_even_and_clip(kernels: Kernels, code: Code) -> None:
    info = np.iinfo(code.dtype)
    halves = [0.5, 1.5, 2.5, 3.5, 2.4999999, 126.5, -0.5, -1.5, -2.5, -0.7]
    expected = [0, 2, 2, 4, 2, 126, 0, -2, -2, -1]
    got = finish_one(kernels, code, [2 * h for h in halves], 2.0)
    assert got.tolist() == [max(int(info.min), e) for e in expected]
    far = finish_one(kernels, code, [1e30, -1e30, np.inf, -np.inf, np.nan, 2.0**64, -(2.0**63)])
    low, high = int(info.min), int(info.max)
    assert far.tolist() == [high, low, high, low, 0, high, low]
    if info.bits <= 32:
        assert finish_one(kernels, code, [high + 0.5, high - 0.5]).tolist() == [high, high - 1]


@every_kernel
def test_bool_is_true_from_a_half(kernels: Kernels) -> None:
    got = finish_one(kernels, Code.BOOL, [0.0, 1.4999, 1.5, 1.6, 3.0, np.nan, -1.0], 3.0)
    assert got.tolist() == [False, False, True, True, True, False, False]


@every_kernel
def test_float16_rounds_to_nearest_even_and_overflows_to_infinity(kernels: Kernels) -> None:
    largest = 65504.0
    got = finish_one(kernels, Code.F16, [65519.99, 65520.0, -7e4, 1e-8, 2.0**-25, 2.0**-24 * 1.5])
    assert got.tolist() == [largest, np.inf, -np.inf, 0.0, 0.0, 2.0**-23]


@every_kernel
@pytest.mark.parametrize("code", [Code.F16, Code.BF16])
def test_half_precision_agrees_with_its_definition(kernels: Kernels, code: Code) -> None:
    """All 65,536 patterns through a fold; all midpoints and their neighbours through a finish."""
    dtype: Any = ml_dtypes.bfloat16 if code is Code.BF16 else np.float16
    patterns = np.arange(65536, dtype=np.uint16)
    sections = lay_out([(code, patterns.size)])
    total = folded(kernels, [Input(view(patterns), 1.0, False)], sections)
    widened = patterns.view(dtype).astype(np.float32)
    assert same(sums(total, sections[0]), np.where(widened == 0, np.float32(0), widened))
    shift = 16 if code is Code.BF16 else 13
    around = widened.view(np.uint32)[:, None] + np.array(
        [(1 << shift - 1) + d for d in (-1, 0, 1)], np.uint32
    )
    totals = around.ravel().view(np.float32)
    got = finished(kernels, totals, 1.0, lay_out([(code, totals.size)]))[0]
    with np.errstate(over="ignore", invalid="ignore"):
        assert same(got, totals.astype(dtype))


@every_kernel
@pytest.mark.parametrize("code", Code)
@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    count=SIZES,
    k=st.integers(0, 10),
    with_total=st.booleans(),
    momentum=st.booleans(),
)
def test_a_finish_of_queued_inputs_is_a_fold_and_a_finish(
    kernels: Kernels, code: Code, seed: int, count: int, k: int, with_total: bool, momentum: bool
) -> None:
    """Bit for bit, velocity included, whatever is queued; a second section shifts the offsets."""
    assume(k or with_total)
    rng = np.random.default_rng(seed)
    sections = lay_out([(code, count), (Code.F32, 7)])

    def update() -> Array:
        return update_of([values(rng, c, n) for c, n in ((code, count), (Code.F32, 7))], sections)

    def total() -> Array:
        return folded(kernels, [Input(view(update()), 2.0, False)], sections)

    acc = total() if with_total else None
    inputs = [
        Input(view(total()), 1.0, True) if i % 3 == 2 else Input(view(update()), 1.5 + i, False)
        for i in range(k)
    ]
    base, before = update(), total()
    optimiser = Optimiser("fedavgm" if momentum else "fedavg", learning_rate=0.5, momentum=0.9)

    def finish(total: Array | None, inputs: list[Input]) -> tuple[Array, Array]:
        out, after = np.zeros_like(base), np.zeros_like(before)
        kernels.finish(
            view(out), None if total is None else view(total), 3.25, sections, inputs=inputs,
            base=view(base), velocity_in=view(before), velocity_out=view(after),
            optimiser=optimiser,
        )  # fmt: skip
        return out, after

    at_once, apart = finish(acc, inputs), finish(folded(kernels, inputs, sections, acc), [])
    for section in sections:
        assert same(elements(at_once[0], section), elements(apart[0], section))
        assert same(sums(at_once[1], section), sums(apart[1], section))


@every_kernel
@SETTINGS
@given(
    seed=st.integers(0, 2**32 - 1),
    count=SIZES,
    beta=st.sampled_from([0.0, 0.5, 0.9]),
    rate=st.sampled_from([1.0, 0.1]),
)
def test_fedavgm_follows_its_formula(
    kernels: Kernels, seed: int, count: int, beta: float, rate: float
) -> None:
    """Three rounds beside float64; integers take the mean and leave the velocity alone."""
    rng = np.random.default_rng(seed)
    sections = lay_out([(Code.F32, count), (Code.I16, count)])
    optimiser = Optimiser("fedavgm", learning_rate=rate, momentum=beta)
    model = update_of([rng.standard_normal(count), np.zeros(count)], sections)
    exact, exact_velocity = elements(model, sections[0]).astype(np.float64), np.zeros(count)
    velocity: Array | None = None
    for _ in range(3):
        means = [rng.standard_normal(count), rng.integers(-9, 9, count)]
        total = np.zeros(sum_bytes(sections), np.uint8)
        for mean, section in zip(means, sections, strict=True):
            sums(total, section)[:] = 4 * mean
        out, after = np.zeros_like(model), np.full_like(total, 0xA5)
        kernels.finish(
            view(out),
            view(total),
            4.0,
            sections,
            base=view(model),
            velocity_in=None if velocity is None else view(velocity),
            velocity_out=view(after),
            optimiser=optimiser,
        )
        exact_velocity = beta * exact_velocity + (exact - means[0])
        exact = exact - rate * exact_velocity
        model, velocity = out, after
        np.testing.assert_allclose(elements(model, sections[0]), exact, rtol=0, atol=2e-5)
        assert np.array_equal(elements(model, sections[1]), means[1])
        assert np.all(after[sections[1].sum_offset :] == 0xA5)
