"""Where each tensor of a model lies in the bytes that travel.

Owns the mapping between a `state_dict` (names, dtypes, shapes) and one flat buffer: tensors of
one dtype lie together, so that a fold runs over a few long sections instead of many short ones.
Does no arithmetic.  Called by the client (pack, unpack), the coordinator (makes the job's
layout) and the gateway (compares hashes).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import ml_dtypes
import msgpack
import numpy as np

from lifl.errors import InvalidUpdate
from lifl.functions.kernels.contract import Code, Section, lay_out, sum_bytes, update_bytes
from lifl.functions.tensors import kind, write

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CODES = {code.dtype: code for code in Code if code is not Code.BF16} | {_BFLOAT16: Code.BF16}


@dataclass(frozen=True)
class Tensor:
    """One entry of a state_dict."""

    name: str
    code: Code
    shape: tuple[int, ...]

    @cached_property
    def count(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def size_bytes(self) -> int:
        return self.count * self.code.size_bytes

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """As the user sees it: bfloat16 is ml_dtypes' own."""
        return _BFLOAT16 if self.code is Code.BF16 else self.code.dtype


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in the order of its state_dict.

    Two layouts are equal when names, dtypes, shapes and order are; `digest` says so over the
    wire.
    """

    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """The layout of a state_dict of NumPy arrays, scalars or torch tensors.

        Raises:
            InvalidUpdate: a dtype that cannot be averaged (complex, object, strings).
        """
        tensors = []
        for name, value in state.items():
            dtype, shape = kind(value)
            code = _CODES.get(dtype.newbyteorder("="))
            if code is None:
                raise InvalidUpdate(
                    f"tensor {name!r} has dtype {dtype}: use one of "
                    f"{', '.join(sorted(str(dtype) for dtype in _CODES))}",
                    code="wrong-dtype",
                )
            tensors.append(Tensor(str(name), code, shape))
        return cls(tuple(tensors))

    @cached_property
    def _groups(self) -> tuple[tuple[Code, tuple[int, ...]], ...]:
        found: dict[Code, list[int]] = {}
        for index, tensor in enumerate(self.tensors):
            found.setdefault(tensor.code, []).append(index)
        return tuple((code, tuple(found[code])) for code in sorted(found))

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """One section a dtype: what the kernels fold."""
        return lay_out(
            (code, sum(self.tensors[i].count for i in members)) for code, members in self._groups
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Bytes from the start of an update to each tensor."""
        offsets = [0] * len(self.tensors)
        for section, (code, members) in zip(self.sections, self._groups, strict=True):
            at = section.update_offset
            for index in members:
                offsets[index] = at
                at += self.tensors[index].count * code.size_bytes
        return tuple(offsets)

    @cached_property
    def by_offset(self) -> tuple[tuple[int, Tensor], ...]:
        """Tensors that have elements, and where they lie, from the first byte of an update on."""
        rows = zip(self.offsets, self.tensors, strict=True)
        return tuple(sorted(row for row in rows if row[1].count))

    @cached_property
    def update_bytes(self) -> int:
        """Length of an update or a model, at least 1."""
        return max(1, update_bytes(self.sections))

    @cached_property
    def sum_bytes(self) -> int:
        """Length of a sum in accumulator dtypes, at least 1."""
        return max(1, sum_bytes(self.sections))

    @property
    def velocity_at(self) -> int:
        """Offset of the velocity in a model slot, which follows the model (bytes)."""
        return -(-self.update_bytes // 64) * 64

    @cached_property
    def digest(self) -> bytes:
        """16 bytes of SHA-256 over the wire form."""
        return hashlib.sha256(msgpack.packb(self.to_wire())).digest()[:16]

    def name_at(self, offset: int) -> str:
        """The tensor that has this byte of an update, and which element of it."""
        *_, (start, tensor) = (row for row in self.by_offset if row[0] <= offset)
        return f"tensor {tensor.name!r}, element {(offset - start) // tensor.code.size_bytes}"

    def to_wire(self) -> list[Any]:
        return [[t.name, int(t.code), list(t.shape)] for t in self.tensors]

    @classmethod
    def from_wire(cls, rows: list[Any]) -> Self:
        return cls(tuple(Tensor(name, Code(code), tuple(shape)) for name, code, shape in rows))

    def check(self, state: Mapping[str, Any]) -> None:
        """Look whether a state_dict has this layout.

        Raises:
            InvalidUpdate: a tensor is missing, unknown, or has another shape or dtype.
        """
        unknown = state.keys() - {tensor.name for tensor in self.tensors}
        if unknown:
            name = next(name for name in state if name in unknown)
            raise InvalidUpdate(
                f"tensor {name!r} is not part of this job's model: send what round.model has",
                code="wrong-names",
            )
        for tensor in self.tensors:
            if tensor.name not in state:
                raise InvalidUpdate(
                    f"tensor {tensor.name!r} of this job's model is missing: send all of them",
                    code="wrong-names",
                )
            dtype, shape = kind(state[tensor.name])
            if shape != tensor.shape:
                raise InvalidUpdate(
                    f"tensor {tensor.name!r} has the shape {list(shape)}; this job's model "
                    f"has {list(tensor.shape)} there",
                    code="wrong-shape",
                )
            if dtype != tensor.dtype:
                raise InvalidUpdate(
                    f"tensor {tensor.name!r} is {dtype}; this job's model has "
                    f"{tensor.dtype} there: cast it with astype",
                    code="wrong-dtype",
                )

    def pack_into(self, state: Mapping[str, Any], buffer: memoryview) -> None:
        """Write a state_dict into `buffer` (at least `update_bytes` long).

        Raises:
            InvalidUpdate: a tensor is missing, unknown, or has another shape or dtype.
        """
        self.check(state)
        for tensor, offset in zip(self.tensors, self.offsets, strict=True):
            if tensor.count:
                target = np.frombuffer(buffer, tensor.dtype, tensor.count, offset)
                write(state[tensor.name], target.reshape(tensor.shape))

    def arrays(self, state: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """A state_dict, maybe of torch tensors, as clients and evaluators get it: a copy in NumPy.

        Raises:
            InvalidUpdate: a tensor is missing, unknown, or has another shape or dtype.
        """
        buffer = memoryview(bytearray(self.update_bytes))
        self.pack_into(state, buffer)
        return self.views(buffer)

    def views(self, buffer: memoryview) -> dict[str, np.ndarray[Any, Any]]:
        """The state_dict as views over `buffer`; nothing is copied."""
        return {
            t.name: (
                np.frombuffer(buffer, t.dtype, t.count, offset).reshape(t.shape)
                if t.count
                else np.empty(t.shape, t.dtype)
            )
            for t, offset in zip(self.tensors, self.offsets, strict=True)
        }
