"""How far a correct sum or mean may be from the exact one; for tests.

Recursive summation of n rounded terms errs by at most γₙ·Σ|wᵢxᵢ| in each element, with
γₙ = n·u/(1 − n·u) and u the unit roundoff (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., lemma 3.1 and section 4.2). A bound relative to |Σ wᵢxᵢ| is false: where
terms cancel it asks for more than any order of summation can give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDINGS_PER_TERM = 2
"""Of each term beside the additions: the weight to float32, and the product."""


def error_bound(terms: int, dtype: npt.DTypeLike = np.float32) -> float:
    """γₙ for n roundings in the accumulator's dtype (float32: u = 2⁻²⁴, float64: u = 2⁻⁵³).

    Raises:
        ValueError: n is negative, or n·u is 1 or more, where nothing can be said.
    """
    if terms < 0:
        raise ValueError(f"terms is {terms}; it must be 0 or more")
    nu = terms * _unit_roundoff(dtype)
    if nu >= 1:
        raise ValueError(f"terms is {terms}: too many for {np.dtype(dtype)}, the bound is void")
    return nu / (1 - nu)


def _unit_roundoff(dtype: npt.DTypeLike) -> float:
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def bound(
    weights: Sequence[float],
    inputs: Sequence[npt.ArrayLike],
    *,
    dtype: npt.DTypeLike = np.float32,
    extra_roundings: int = 0,
) -> npt.NDArray[np.float64]:
    """Elementwise bound on |computed mean − exact mean|: γₙ·Σ|wᵢxᵢ| / Σwᵢ, shape of one input.

    n counts the roundings that a term can meet: two of its own, one per addition, and the
    division by Σwᵢ. What underflows adds at most one subnormal per operation, and is included.
    Rounding to an output narrower than the accumulator is not: half a ulp of it comes on top.

    Args:
        weights: wᵢ, as float64; their sum must be more than 0.
        inputs: xᵢ of one shape, any dtype that float64 holds.
        dtype: of the accumulator, float32 or float64.
        extra_roundings: of a tree (one per sum folded into a parent), of an optimiser.

    Raises:
        ValueError: no inputs, as many weights as inputs not given, or a sum of weights ≤ 0.
    """
    if not inputs or len(weights) != len(inputs):
        raise ValueError(f"{len(weights)} weights for {len(inputs)} inputs; give one for each")
    total = float(np.sum(np.asarray(weights, dtype=np.float64)))
    if not total > 0:
        raise ValueError(f"the weights sum to {total}; they must sum to more than 0")
    magnitude: npt.NDArray[Any] = np.zeros(np.shape(inputs[0]), dtype=np.float64)
    for weight, x in zip(weights, inputs, strict=True):
        magnitude = magnitude + abs(weight) * np.abs(np.asarray(x).astype(np.float64))
    roundings = len(inputs) + ROUNDINGS_PER_TERM + 1 + extra_roundings
    gamma = error_bound(roundings, dtype)
    subnormal = float(np.finfo(np.dtype(dtype)).smallest_subnormal)
    result = (gamma * magnitude + roundings * subnormal) / total + subnormal
    return np.asarray(result, dtype=np.float64)
