"""What kernels refuse, how they are chosen, their layout and their bound; see test_kernels.py."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest

from lifl.errors import Unsupported
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

REFERENCE = choose("reference")
NATIVE = [choose("native", isa=isa) for isa in isas()]
needs_native = pytest.mark.skipif(not NATIVE, reason="the extension _fold is not built")
every_kernel = pytest.mark.parametrize(
    "kernels", [pytest.param(kernels, id=kernels.isa) for kernels in (REFERENCE, *NATIVE)]
)


def view(array: np.ndarray[Any, Any]) -> memoryview:
    return array.view(np.uint8).data


# --- what is refused ----------------------------------------------------------------------------

SMALL = lay_out([(Code.F32, 32)])  # 128 bytes in both layouts


def good_fold() -> dict[str, Any]:
    update = np.ones(128, np.uint8)
    return {
        "out": view(np.full(128, 0xA5, np.uint8)),
        "acc": view(np.zeros(128, np.uint8)),
        "inputs": [Input(view(update), 1.0, False)],
        "sections": SMALL,
    }


def _overlapping() -> dict[str, Any]:
    arena = view(np.zeros(192, np.uint8))
    return {"out": arena[:128], "inputs": [Input(arena[64:], 1.0, False)]}


def _weight(weight: float) -> dict[str, Any]:
    return {"inputs": [Input(view(np.ones(128, np.uint8)), weight, False)]}


BAD_FOLDS: dict[str, dict[str, Any]] = {
    "out has 127 bytes; the sections need 128": {"out": view(np.zeros(127, np.uint8))},
    "acc has 5 bytes": {"acc": view(np.zeros(5, np.uint8))},
    "inputs.0. has 0 bytes": {"inputs": [Input(memoryview(b""), 1.0, False)]},
    "out is read only": {"out": memoryview(bytes(128))},
    "acc is not C-contiguous": {"acc": view(np.zeros(256, np.uint8))[::2]},
    "out overlaps inputs.0.": _overlapping(),
    "weight of inputs.0. is nan": _weight(float("nan")),
    "weight of inputs.0. is inf": _weight(float("inf")),
    "weight of inputs.0. is 1e.39": _weight(1e39),
    "weight of inputs.0. is 1e-40": _weight(1e-40),
    "sections.0. and sections.1. overlap in the update layout": {
        "sections": (SMALL[0], Section(Code.F32, 1, 64, 128))
    },
}


@every_kernel
@pytest.mark.parametrize("message", BAD_FOLDS)
def test_a_bad_fold_is_refused_by_name_and_writes_nothing(kernels: Kernels, message: str) -> None:
    call = good_fold()
    out = call["out"]
    kernels.fold(**call)
    written = bytes(out)
    call.update(BAD_FOLDS[message])
    with pytest.raises(ValueError, match=message):
        kernels.fold(**call)
    assert bytes(out) == written


@every_kernel
def test_out_may_not_be_the_accumulator(kernels: Kernels) -> None:
    call = good_fold()
    with pytest.raises(ValueError, match="out overlaps acc; kernels work out of place"):
        kernels.fold(**{**call, "acc": call["out"]})


@every_kernel
@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("total_weight is 0", {"total_weight": 0}),
        ("total_weight is nan", {"total_weight": float("nan")}),
        ("total has 1 bytes", {"total": memoryview(b"x")}),
        ("total is None and there are no inputs", {"total": None}),
        ("inputs.0. has 0 bytes", {"inputs": [Input(memoryview(b""), 1.0, False)]}),
        ("weight of inputs.0. is nan", _weight(float("nan"))),
        ("base is None; fedavgm needs", {"base": None}),
        ("velocity_out is None; fedavgm needs", {"velocity_out": None}),
        ("velocity_in has 1 bytes", {"velocity_in": memoryview(b"x")}),
        ("velocity_out is read only", {"velocity_out": memoryview(bytes(128))}),
        ("velocity_out overlaps velocity_in", {"velocity_out": "velocity_in"}),
        ("velocity_out overlaps out", {"velocity_out": "out"}),
        ("out overlaps base", {"out": "base"}),
        ("out overlaps total", {"out": "total"}),
    ],
)
def test_a_bad_finish_is_refused_by_name(
    kernels: Kernels, message: str, change: dict[str, Any]
) -> None:
    names = ("out", "total", "base", "velocity_in", "velocity_out")
    call: dict[str, Any] = {name: view(np.zeros(128, np.uint8)) for name in names}
    call |= {"total_weight": 1.0, "sections": SMALL, "optimiser": Optimiser("fedavgm")}
    kernels.finish(**call)
    call |= {key: call[v] if isinstance(v, str) else v for key, v in change.items()}
    with pytest.raises(ValueError, match=message):
        kernels.finish(**call)


@needs_native
def test_the_extension_keeps_memory_safe_by_itself() -> None:
    fold = importlib.import_module("lifl.functions.kernels._fold")
    isa = isas()[0]
    table = np.array([[1, 32, 0, 0]], np.int64)
    out, short = bytearray(128), bytearray(127)
    inputs = ((bytes(128), 1.0, False),)
    fold.fold(isa, out, None, inputs, table)
    for bad in (
        (isa, short, None, inputs, table),
        (isa, out, short, inputs, table),
        (isa, out, None, ((short, 1.0, False),), table),
        (isa, out, None, ((short, 1.0, True),), table),
        (isa, out, None, inputs, np.array([[13, 1, 0, 0]])),
        (isa, out, None, inputs, np.array([[1, 2**62, 0, 0]])),
        (isa, out, None, inputs, np.array([[1, 1, -64, 0]])),
        (isa, out, None, inputs, b"1234567"),
        ("mmx", out, None, inputs, table),
    ):
        with pytest.raises(ValueError, match=r"bytes|section|isa"):
            fold.fold(*bad)
    with pytest.raises(BufferError):
        fold.fold(isa, bytes(128), None, inputs, table)


# --- contract, choice, bound ----------------------------------------------------------------------


def test_values_on_the_wire_do_not_change() -> None:
    names = " ".join(code.name for code in Code)
    assert names == "F64 F32 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 BOOL"
    assert [int(code) for code in Code] == list(range(13))


def test_layout_puts_sections_at_multiples_of_64() -> None:
    sections = lay_out([(Code.BOOL, 65), (Code.F16, 0), (Code.BF16, 1), (Code.F64, 2)])
    assert [s.update_offset for s in sections] == [0, 128, 128, 192]
    assert [s.sum_offset for s in sections] == [0, 576, 576, 640]
    assert (update_bytes(sections), sum_bytes(sections)) == (208, 656)
    assert (update_bytes(()), sum_bytes(())) == (0, 0)


def test_sections_and_optimisers_refuse_numbers_outside_their_range() -> None:
    for count, offset, message in ((-1, 0, "count"), (1, 8, "multiple of 64"), (1, -64, "-64")):
        with pytest.raises(ValueError, match=message):
            Section(Code.F32, count, offset, 0)
    for options, message in (
        ({"name": "adam"}, "adam"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            Optimiser(**options)


def test_kernels_are_chosen_by_name() -> None:
    assert (REFERENCE.name, REFERENCE.isa) == ("reference", "numpy")
    assert choose("auto").name == ("native" if NATIVE else "reference")
    with pytest.raises(Unsupported, match="mmx"):
        choose("native", isa="mmx")
    with pytest.raises(Unsupported, match="'avx2' is not available for kernels 'reference'"):
        choose("reference", isa="avx2")
    with pytest.raises(ValueError, match="torch"):
        choose("torch")  # type: ignore[arg-type]


def test_without_the_extension_native_is_refused_and_auto_is_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = importlib.import_module("lifl.functions.kernels")
    for module in ("native", "_fold"):
        monkeypatch.delattr(package, module, raising=False)
    monkeypatch.delitem(sys.modules, "lifl.functions.kernels.native", raising=False)
    monkeypatch.setitem(sys.modules, "lifl.functions.kernels._fold", None)
    with pytest.raises(Unsupported, match="not built"):
        choose("native")
    assert choose("auto").name == "reference"


def test_the_bound_is_the_formula() -> None:
    u = 2.0**-24
    assert error_bound(10) == pytest.approx(10 * u / (1 - 10 * u))
    assert error_bound(10, np.float64) == pytest.approx(10 * 2.0**-53)
    with pytest.raises(ValueError, match="void"):
        error_bound(2**24)
    with pytest.raises(ValueError, match="2 weights for 1 inputs"):
        bound([1.0, 2.0], [np.ones(3)])
    got = bound([1.0, 3.0], [np.array([1.0, -2.0]), np.array([-1.0, 2.0])])
    np.testing.assert_allclose(got, error_bound(5) * np.array([1.0, 2.0]), rtol=1e-6)
