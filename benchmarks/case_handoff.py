"""Hand-off of a descriptor beside a unix seqpacket pair; bench_handoff.py says how."""

from __future__ import annotations

import os

from benchmarks.bench_handoff import ebpf, one_round, unix
from benchmarks.rows import Case, Figure, Found, Goal, Line, NotMeasured

ROUNDS = 7
HAND_OFFS = 20_000


def measure(*, turns: int = ROUNDS) -> Found:
    if os.geteuid() != 0:
        raise NotMeasured("eBPF needs CAP_BPF and CAP_NET_ADMIN: run it as root")
    allowed = sorted(os.sched_getaffinity(0))
    places = {"one": (allowed[0], allowed[0])}
    if len(allowed) > 1:
        places["two"] = (allowed[0], allowed[1])
    found: Found = {}
    for place, cpus in places.items():
        p50: dict[str, list[float]] = {"ebpf": [], "unix": []}
        for _ in range(turns):
            for name, way in (("ebpf", ebpf), ("unix", unix)):
                with way() as ends:
                    p50[name].append(one_round(ends, HAND_OFFS, cpus)[0])
        note = f"p50 of {HAND_OFFS:,} hand-offs by ping-pong, median of {turns} turns; pinned"
        found[place] = Figure.of_pairs(p50["ebpf"], p50["unix"], note=note)
    return found


REFERENCE = "unix seqpacket"
CASE = Case(
    name="handoff",
    lines={
        "one": Line(
            case="hand-off p50, same CPU", unit="µs", reference=REFERENCE,
            goal=Goal("ratio", "≤", 1.1),
        ),
        "two": Line(
            case="hand-off p50, across CPUs", unit="µs", reference=REFERENCE,
            goal=Goal("ratio", "≤", 1.1),
        ),
    },
    measure=measure,
)  # fmt: skip
