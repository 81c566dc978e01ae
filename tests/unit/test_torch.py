"""torch tensors in and out of the bytes that travel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lifl.errors import InvalidUpdate
from lifl.functions.layout import Layout
from lifl.functions.tensors import load_into

torch: Any = pytest.importorskip("torch", reason="torch is not installed; see `make test-torch`")
pytestmark = pytest.mark.torch

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool"]  # fmt: skip


def there_and_back(state: dict[str, Any]) -> dict[str, np.ndarray]:
    layout = Layout.of(state)
    buffer = memoryview(bytearray(layout.update_bytes))
    layout.pack_into(state, buffer)
    return layout.views(buffer)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_bit_by_bit(name: str) -> None:
    dtype = getattr(torch, name)
    tensor = (torch.randn(3, 5) * 100).to(dtype)
    target = {"t": torch.zeros(3, 5, dtype=dtype)}
    load_into(target, there_and_back({"t": tensor}))
    assert target["t"].dtype == dtype
    assert torch.equal(target["t"], tensor)


def test_what_a_state_dict_may_hold() -> None:
    strided = torch.arange(24.0).reshape(4, 6).t()[1:, ::2]
    state = {
        "strided": strided,
        "strided bfloat16": strided.to(torch.bfloat16).t(),
        "grad": torch.ones(3, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.full((2,), 5.0)),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
    }
    arrays = there_and_back(state)
    assert arrays["scalar"].shape == ()
    assert arrays["scalar"].dtype == np.int64
    for name, tensor in state.items():
        assert np.array_equal(arrays[name].astype("f8"), tensor.detach().double().numpy()), name


def test_a_module_with_batch_normalisation() -> None:
    def network() -> Any:
        return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))

    trained, fresh = network(), network()
    trained(torch.randn(4, 1, 8, 8))
    before = [parameter.data_ptr() for parameter in fresh.parameters()]
    load_into(fresh, there_and_back(trained.state_dict()))
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    assert fresh.state_dict()["1.num_batches_tracked"] == 1
    assert [parameter.data_ptr() for parameter in fresh.parameters()] == before
    assert all(parameter.requires_grad for parameter in fresh.parameters())


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_from_and_to_a_device(device: str) -> None:
    there = torch.cuda if device == "cuda" else torch.backends.mps
    if not there.is_available():
        pytest.skip(f"no {device} device here")
    tensor = torch.randn(5, 7).to(torch.bfloat16).to(device).t()
    target = {"t": torch.zeros(7, 5, dtype=torch.bfloat16, device=device)}
    load_into(target, there_and_back({"t": tensor}))
    assert torch.equal(target["t"], tensor)


def test_what_cannot_be_averaged() -> None:
    for tensor in (torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse()):
        with pytest.raises(InvalidUpdate):
            Layout.of({"t": tensor})
    with pytest.raises(InvalidUpdate, match="dtype"):
        Layout.of({"t": torch.zeros(2).to(torch.float8_e4m3fn)})
