"""MC, the capacity of a node, from measured figures.

Owns the formula.  Does not measure (the agent does, when it starts) and does not place
(planner.py).  Called by the coordinator.

MC is the number of updates that a node can have in service at once, from the grant of an
input slot to the slot's release, without a queue that grows (the maximum service capacity
of LIFL, MLSys 2024, arXiv 2405.10968).  By Little's law (1961, L = λ·W) it is k'·T with k'
the largest arrival rate (1/s) that every stage keeps up with.  With B bytes in an update

    a stage that moves R bytes/s completes R / B updates per second, and so holds at most
    (R / B)·T updates if none is to stay longer than T;
    each update in service occupies one of S input slots.

    MC = max(1, ⌊ min( S,  (R_fold / B)·T,  (R_ingress / B)·T ) ⌋)      for S ≥ 1
    MC = 0                                                              for S = 0

k' is min(R_fold, R_ingress) / B; T is the time in service up to which an update counts as
served rather than queued.  One update at a time is always served, however slowly, hence
max(1, ·); a node whose arena cannot hold one (S = 0) serves none.

Example: B = 46.8 MB, R_fold = 10 GB/s, T = 1 s, S = 8.  Behind 10 Gbit/s the link takes
26.7 updates and the slots bind: MC = 8.  Behind 1 Gbit/s it takes 2.67: MC = 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Bound = Literal["slots", "fold", "ingress"]


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """MC and what limits it.

    Attributes:
        updates: MC.
        bound_by: the scarcest resource; slots before fold before ingress when equal.
    """

    updates: int
    bound_by: Bound


def capacity(
    *,
    update_bytes: int,
    fold_bytes_s: float,
    ingress_bytes_s: float,
    input_slots: int,
    service_s: float = 1.0,
) -> Capacity:
    """MC of a node for updates of one size; the formula is in the module's docstring.

    Args:
        update_bytes: B; 0 (a model without parameters) leaves only the slots to bind.
        fold_bytes_s: input bytes per second that all of the node's leaves fold together.
        ingress_bytes_s: bytes per second that the gateway takes in, all clients together.
        input_slots: S, input slots of the job's arena.
        service_s: T; the measured time in service of an unloaded node, once there is one.

    Raises:
        ValueError: a rate or time that is not positive, a negative size or number of slots.
    """
    if update_bytes < 0 or input_slots < 0:
        raise ValueError(f"negative size: {update_bytes} bytes, {input_slots} slots")
    if not all(figure > 0 for figure in (fold_bytes_s, ingress_bytes_s, service_s)):
        raise ValueError(
            "rates and times must be measured and positive: "
            f"fold {fold_bytes_s} B/s, ingress {ingress_bytes_s} B/s, service {service_s} s"
        )
    if input_slots == 0:
        return Capacity(updates=0, bound_by="slots")
    limits: dict[Bound, float] = {"slots": float(input_slots)}
    if update_bytes:
        limits["fold"] = fold_bytes_s / update_bytes * service_s
        limits["ingress"] = ingress_bytes_s / update_bytes * service_s
    bound_by = min(limits, key=lambda bound: limits[bound])
    return Capacity(updates=max(1, math.floor(limits[bound_by])), bound_by=bound_by)
