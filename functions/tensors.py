"""What a training loop holds its numbers in: NumPy arrays, scalars, torch tensors.

Owns reading one into the bytes that travel and writing one back.  torch is never imported here:
who hands in a tensor has imported it, and then it is in `sys.modules`.  Called by layout.py and
the client library.

    NumPy                       read where it lies, if it lies in one piece (`flat`)
    torch, on the CPU           the same; gradients do not matter
    anything else               copied into place, from the device if it is on one (`write`)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from lifl.errors import InvalidUpdate

Array = np.ndarray[Any, Any]
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def torch_of(value: object) -> Any:
    """The torch module when `value` is a tensor of it, else None."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return torch if tensor is not None and isinstance(value, tensor) else None


def kind(value: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of an array, scalar or tensor; no element is read.

    Raises:
        InvalidUpdate: a tensor that is not dense, or of a dtype that NumPy has no name for.
    """
    torch = torch_of(value)
    if torch is None:
        array = np.asarray(value)
        return array.dtype, tuple(array.shape)
    if value.layout is not torch.strided or value.is_quantized:
        raise InvalidUpdate(f"a tensor is {value.layout}, {value.dtype}: send a dense one",
                            code="wrong-dtype")  # fmt: skip
    name = str(value.dtype).removeprefix("torch.")
    try:
        dtype = _BFLOAT16 if name == "bfloat16" else np.dtype(name)
    except TypeError:
        raise InvalidUpdate(
            f"a tensor has dtype {value.dtype}, which cannot be averaged: convert it first",
            code="wrong-dtype",
        ) from None
    return dtype, tuple(value.shape)


def write(value: Any, target: Array) -> None:
    """Copy an array, scalar or tensor into `target`, which has its dtype and shape."""
    torch = torch_of(value)
    if torch is None:
        target[...] = value
    elif target.size:
        with torch.no_grad():
            _as_tensor(torch, target).copy_(value.detach())


def flat(value: Any) -> np.ndarray[tuple[int], np.dtype[np.uint8]] | None:
    """The bytes of an array or tensor where they lie, if they lie one after the other here."""
    torch = torch_of(value)
    if torch is not None:
        if value.device.type != "cpu" or not value.is_contiguous() or not value.numel():
            return None
        array: Array = value.detach().reshape(-1).view(torch.uint8).numpy()
        return array
    if type(value) is not np.ndarray or not value.flags.c_contiguous:  # a subclass may differ
        return None
    return value.reshape(-1).view(np.uint8)


def stays(value: Any) -> bool:
    """Whether memory is there for as long as somebody refers to this array or tensor.

    That of a shared memory or of a mapping goes when it is closed; it crashes who looks then.
    """
    while isinstance(value, np.ndarray | memoryview):
        if isinstance(value, np.ndarray) and value.flags.owndata:
            return True
        value = value.base if isinstance(value, np.ndarray) else value.obj
    return isinstance(value, bytes) or torch_of(value) is not None


def load_into(target: Any, model: Mapping[str, Array]) -> None:
    """Copy a model into a torch module or a state_dict, in place.

    Args:
        target: a module (anything with `state_dict()`), or a dict of torch tensors or NumPy
            arrays.  Devices, strides and `requires_grad` stay as they are.
        model: arrays by name, for example `round.model`.

    Raises:
        InvalidUpdate: names, dtypes or shapes differ; nothing was written then.
    """
    state: Mapping[str, Any] = target.state_dict() if hasattr(target, "state_dict") else target
    missing = [name for name in model if name not in state]
    unknown = [name for name in state if name not in model]
    if missing or unknown:
        has = f"has no {missing[0]!r}" if missing else f"has {unknown[0]!r} besides"
        raise InvalidUpdate(f"the job's model does not fit: what it is to be loaded into {has}")
    for name, array in model.items():
        there = kind(state[name])
        if there != (array.dtype, tuple(array.shape)):
            raise InvalidUpdate(
                f"tensor {name!r} is {there[0]}{list(there[1])}; the job's model has "
                f"{array.dtype}{list(array.shape)} there"
            )
    for name, array in model.items():
        value = state[name]
        torch = torch_of(value)
        if torch is None:
            value[...] = array
        elif array.size:
            with torch.no_grad():
                value.copy_(_as_tensor(torch, array))


def _as_tensor(torch: Any, array: Array) -> Any:
    """A tensor over an array's own memory; torch knows no NumPy array of bfloat16."""
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
