"""The simulator: both engines against one another, rounds by hand, arrivals, and files."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifl.errors import InvalidJob
from lifl.placement.planner import plan
from lifl.placement.simulator.arrivals import read_trace, ready_times
from lifl.placement.simulator.assign import assign
from lifl.placement.simulator.rounds import simulate, total
from lifl.placement.simulator.scenario import Arrivals, Scenario, load_scenario
from lifl.placement.simulator.world import Site
from lifl.placement.snapshot import Client, Snapshot

POLICIES = ["bestfit", "firstfit", "worstfit", "least-connections", "random"]
reproducible = settings(derandomize=True, deadline=None, max_examples=150)


def scenario(**fields: Any) -> Scenario:
    fields = {"clients": 8, "nodes": [{"count": 2}]} | fields
    return Scenario.model_validate(fields)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Any small scenario, up to 60 clients on 6 nodes of two kinds."""
    kinds = [
        {
            "count": draw(st.integers(1, 3)), "cores": draw(st.integers(1, 4)),
            "linkBytesS": draw(st.sampled_from([10**7, 10**8, 10**9])),
            "foldBytesS": draw(st.sampled_from([10**8, 10**10])),
            "inputSlots": draw(st.integers(1, 5)),
            "capacity": draw(st.sampled_from([None, 1, 5, 20])),
        }
        for _ in range(draw(st.integers(1, 2)))
    ]  # fmt: skip
    kind = draw(st.sampled_from(["poisson", "diurnal", "flash"]))
    return Scenario.model_validate({
        "seed": draw(st.integers(0, 5)), "rounds": draw(st.integers(1, 4)),
        "clients": draw(st.integers(1, 60)), "fraction": draw(st.sampled_from([0.3, 1.0])),
        "updateBytes": draw(st.sampled_from([1000, 10**6, 10**8])), "nodes": kinds,
        "arrivals": {"kind": kind, "ratePerS": draw(st.sampled_from([0.5, 20.0, 1000.0]))},
        "pauseS": draw(st.sampled_from([0.0, 3.0])),
        "fanIn": draw(st.sampled_from([1, 2, 5, 64, "auto"])),
        "mode": draw(st.sampled_from(["eager", "lazy"])),
        "planned": draw(st.booleans()), "reuse": draw(st.booleans()),
        "leaves": draw(st.sampled_from(["roster", "queue"])),
        "keepAlive": draw(st.sampled_from(["learned", "fixed"])),
        "keepS": draw(st.sampled_from([0.0, 100.0])),
        "serviceS": draw(st.sampled_from([None, 0.5, 5.0])),
        "models": draw(st.booleans()), "sharedCores": draw(st.sampled_from([None, 2])),
        "costs": {
            "linkShare": draw(st.sampled_from([1.0, 0.9])),
            "sumBytesS": draw(st.sampled_from([None, 2 * 10**7])),
            "modelSpread": draw(st.sampled_from([0.0, 0.5])),
            "updateCpuS": draw(st.sampled_from([0.0, 0.01])),
            "roundS": draw(st.sampled_from([0.0, 0.05])),
        },
    })  # fmt: skip


# -- two engines, one model -------------------------------------------------------------------
@reproducible
@given(scenarios(), st.sampled_from(POLICIES))
def test_the_fast_engine_computes_what_happens_event_by_event(asked: Scenario, policy: str) -> None:
    slow = simulate(asked, policy, engine="exact")
    quick = simulate(asked, policy, engine="fast")
    for a, b in zip(slow, quick, strict=True):
        assert a.seconds == pytest.approx(b.seconds, rel=1e-12)
        assert a.cpu_s == pytest.approx(b.cpu_s, rel=1e-12)
        assert (a.nodes, a.starts, a.reuses, a.internode_bytes, a.clients, a.oversubscribed) == (
            b.nodes, b.starts, b.reuses, b.internode_bytes, b.clients, b.oversubscribed,
        )  # fmt: skip


def test_the_engines_agree_on_two_thousand_clients() -> None:
    asked = scenario(
        clients=2000,
        rounds=3,
        fraction=0.8,
        nodes=[{"count": 37}, {"count": 5, "cores": 2}],
        arrivals={"ratePerS": 50.0},
        fan_in=16,
        update_bytes=10**7,
    )
    for policy in POLICIES:
        slow, quick = (simulate(asked, policy, engine=engine) for engine in ("exact", "fast"))
        assert slow == [
            type(row)(**vars(row) | {"cpu_s": pytest.approx(row.cpu_s)}) for row in quick
        ]


@reproducible
@given(
    capacities=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    homes=st.lists(st.integers(-1, 5), min_size=1, max_size=40),
    policy=st.sampled_from(POLICIES),
    seed=st.integers(0, 3),
)
def test_clients_are_assigned_as_the_planner_places_them(
    *, capacities: list[int], homes: list[int], policy: str, seed: int
) -> None:
    site = Site.of(scenario(nodes=[{"count": len(capacities)}]))
    rooms = np.array(capacities)
    known = np.array([home if home < len(capacities) else -1 for home in homes])
    clients = tuple(
        Client(key=f"{at:03}", node=site.names[home] if home >= 0 else None)
        for at, home in enumerate(known.tolist())
    )
    nodes = site.nodes(rooms, [0] * len(site), [None] * len(site))
    made = plan(Snapshot(nodes=nodes, clients=clients, fan_in=4, policy=policy, seed=seed)).homes()
    found = assign(policy, site, rooms, known, seed=seed)
    assert [site.names[at] for at in found] == [made[client.key] for client in clients]


# -- by hand ----------------------------------------------------------------------------------
ONE = {
    "clients": 4, "rounds": 1, "updateBytes": 10**8, "fanIn": 4, "seed": 1,
    "nodes": [{"count": 1, "cores": 1, "linkBytesS": 10**9, "foldBytesS": 8 * 10**9}],
    "arrivals": {"kind": "flash", "flashShare": 1.0, "flashWidthS": 0.0},
    "costs": {"coldStartS": 0.0, "handoffS": 0.0},
}  # fmt: skip


def seconds(**changes: Any) -> float:
    (row,) = simulate(Scenario.model_validate(ONE | changes), "bestfit")
    return row.seconds


def test_four_updates_over_one_link() -> None:
    """0.1 s each; the last is folded in 0.02 s, the top folds 0.02 s and writes 0.01 s."""
    assert seconds() == pytest.approx(0.4 + 0.02 + 0.02 + 0.01)


def test_lazy_folds_all_at_the_end() -> None:
    assert seconds(mode="lazy") == pytest.approx(0.4 + 0.05 + 0.02 + 0.01)


def test_a_middle_costs_its_folds_where_one_core_does_it_all() -> None:
    assert seconds(fanIn=2, planned=False) == pytest.approx(0.4 + 0.02 + 0.02 + 0.02 + 0.01)


def test_one_slot_makes_uploads_wait_for_folds() -> None:
    nodes = [ONE["nodes"][0] | {"inputSlots": 1}]  # type: ignore[index]
    assert seconds(nodes=nodes) == pytest.approx(4 * 0.12 + 0.02 + 0.01)


def test_two_nodes_pay_a_crossing() -> None:
    nodes = [ONE["nodes"][0] | {"count": 2, "capacity": 2}]  # type: ignore[index]
    # 2 · 0.1 s, 0.02 s; the other's sum crosses in 0.1 s and is folded in 0.02 s
    assert seconds(nodes=nodes) == pytest.approx(0.22 + 0.1 + 0.02 + 0.01)


def test_models_come_before_updates() -> None:
    """To 2 clients and a node over the top's link, then to the other's 2; then as without."""
    nodes = [ONE["nodes"][0] | {"count": 2, "capacity": 2}]  # type: ignore[index]
    without = seconds(nodes=nodes)
    assert seconds(nodes=nodes, models=True) == pytest.approx(0.3 + 0.2 + without)
    # one after the other: the first is sent back while the second comes
    costs = {"coldStartS": 0.0, "handoffS": 0.0, "modelSpread": 1.0}
    assert seconds(nodes=nodes, costs=costs, models=True) == pytest.approx(0.3 + 0.1 + without)


def test_what_calibration_finds_makes_crossings_longer() -> None:
    """Half of a link for payload, another bound between gateways, and a round's own time."""
    nodes = [ONE["nodes"][0] | {"count": 2, "capacity": 2}]  # type: ignore[index]
    costs = {"coldStartS": 0.0, "handoffS": 0.0, "linkShare": 0.5, "sumBytesS": 10**8,
             "roundS": 0.25}  # fmt: skip
    assert seconds(nodes=nodes, costs=costs) == pytest.approx(
        2 * 0.2 + 0.02 + 1.0 + 0.02 + 0.01 + 0.25
    )
    # 3 models leave the top's node in 0.6 s, that for the other one in 1 s; 2 · 0.2 s to its own
    assert seconds(nodes=nodes, costs=costs, models=True) == pytest.approx(
        1.0 + 2 * 0.2 + 2 * 0.2 + 0.02 + 1.0 + 0.02 + 0.01 + 0.25
    )


def test_one_machine_works_for_all_nodes() -> None:
    """A crossing keeps a core 0.05 s and 0.2 s for its bytes, at both ends; two nodes, one core."""
    nodes = [ONE["nodes"][0] | {"count": 2, "capacity": 2}]  # type: ignore[index]
    costs = {"coldStartS": 0.0, "handoffS": 0.0, "updateCpuS": 0.05, "ingestBytesS": 10**9}
    assert seconds(nodes=nodes, costs=costs, sharedCores=1) == pytest.approx(
        2 * 0.5 + 0.02 + 0.1 + 0.02 + 0.01
    )
    assert seconds(nodes=nodes, costs=costs) == seconds(nodes=nodes)


def test_starts_cascade_where_nothing_is_planned() -> None:
    costs = {"coldStartS": 1.0, "handoffS": 0.0}
    planned = seconds(costs=costs)
    assert planned == pytest.approx(1.0 + 4 * 0.02 + 0.02 + 0.01)  # all wait for the process
    reactive = seconds(costs=costs, planned=False, reuse=False)
    assert reactive == pytest.approx(0.1 + 1.0 + 4 * 0.02 + 1.0 + 0.02 + 0.01)


def test_warm_runtimes_of_the_round_before_start_nothing() -> None:
    rows = simulate(Scenario.model_validate(ONE | {"rounds": 3}), "bestfit")
    assert [row.starts for row in rows] == [1, 0, 0]
    without = simulate(Scenario.model_validate(ONE | {"rounds": 3, "reuse": False}), "bestfit")
    assert [row.starts for row in without] == [2, 2, 2]  # leaf and top, each round


def test_runtimes_that_are_not_kept_start_again() -> None:
    fields = ONE | {"rounds": 3, "pauseS": 50.0, "keepAlive": "fixed", "keepS": 10.0}
    assert [row.starts for row in simulate(Scenario.model_validate(fields), "bestfit")] == [1, 1, 1]
    learned = Scenario.model_validate(fields | {"keepAlive": "learned", "rounds": 8})
    assert [row.starts for row in simulate(learned, "bestfit")] == [1] + [0] * 7


def test_leaves_for_a_queue_are_fewer_than_for_a_roster_that_comes_slowly() -> None:
    fields = {
        "clients": 16, "rounds": 4, "updateBytes": 10**8, "fanIn": 2, "reuse": False,
        "nodes": [{"count": 1, "linkBytesS": 10**9, "capacity": 16}],
        "arrivals": {"ratePerS": 2.0},
    }  # fmt: skip
    roster, queue = (
        simulate(Scenario.model_validate(fields | {"leaves": leaves}), "bestfit")
        for leaves in ("roster", "queue")
    )
    assert [row.starts for row in roster] == [10] * 4  # 8 leaves, as many as cores, and two more
    assert queue[0].starts == 10  # nothing is known of its queue yet
    assert all(row.starts == 2 for row in queue[1:])  # one update at a time: a leaf and the top


def test_bestfit_uses_fewer_nodes_and_moves_fewer_bytes() -> None:
    asked = scenario(clients=40, rounds=2, nodes=[{"count": 5, "capacity": 20}])
    best, worst = (total(simulate(asked, policy)) for policy in ("bestfit", "worstfit"))
    assert (best.nodes, worst.nodes) == (2.0, 5.0)
    assert best.internode_bytes == 2 * 46_800_000
    assert worst.internode_bytes == 2 * 4 * 46_800_000


# -- arrivals ---------------------------------------------------------------------------------
def times(count: int, **fields: Any) -> np.ndarray:
    arrivals = Arrivals.model_validate(fields)
    return np.sort(ready_times(arrivals, count, began_s=0.0, number=1, seed=3, trace=[]))


def test_poisson_has_its_rate_and_depends_on_seed_and_round_alone() -> None:
    found = times(20_000, ratePerS=50.0)
    assert found[-1] == pytest.approx(400, rel=0.03)
    gaps = np.diff(found)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # as exponential gaps have it
    assert (found == times(20_000, ratePerS=50.0)).all()


def test_diurnal_follows_its_sine() -> None:
    found = times(40_000, kind="diurnal", ratePerS=40.0, amplitude=0.8, periodS=1000.0)
    crest, trough = ((found > 150) & (found < 350)).sum(), ((found > 650) & (found < 850)).sum()
    assert found[-1] == pytest.approx(1000, rel=0.03)
    # ∫ of 40·(1 ± 0.8·sin) over a fifth of the period around crest and trough
    swing = 0.8 * 1000 / (2 * np.pi) * 2 * np.cos(2 * np.pi * 0.15)
    assert crest == pytest.approx(40 * (200 + swing), rel=0.05)
    assert trough == pytest.approx(40 * (200 - swing), rel=0.05)


def test_a_flash_crowd_comes_at_once() -> None:
    found = times(1000, kind="flash", ratePerS=10.0, flashAtS=5.0, flashShare=0.6, flashWidthS=0.5)
    assert ((found >= 5.0) & (found <= 5.5)).sum() >= 600


def test_a_trace_is_played_as_recorded(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"round": 1, "accepted_s": {"n0": [9.0]}},  # a coordinator that was killed thereafter
        {"round": 1, "accepted_s": {"n0": [0.25, 0.5], "n1": [1.5]}},
        {"round": 2, "accepted_s": {"n0": [0.125, 0.5, 0.75]}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = scenario(
        clients=3, rounds=3, arrivals={"kind": "trace", "file": path.name}, update_bytes=1000
    )
    made = simulate(asked, "bestfit", folder=tmp_path)
    last = [row.seconds - row.aggregate_s for row in made]
    assert last == pytest.approx([1.5, 0.75, 1.5])
    assert len(simulate(scenario(clients=9, rounds=1, arrivals=asked.arrivals), "bestfit",
                        folder=tmp_path)) == 1  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "no json", '{"round": 1}', '{"round": 1, "accepted_s": {"n": []}}', "[1]"]
)
def test_what_is_no_trace_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(InvalidJob, match=r"no trace|no round with an update"):
        read_trace(tmp_path / "t")
    with pytest.raises(InvalidJob, match="cannot be read"):
        read_trace(tmp_path / "absent")


# -- files ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clients: 5\n", "line 1: nodes is missing: Groups of equal nodes"),
        ("clients: 0\nnodes: [{count: 1}]\n", "line 1: clients is 0: it must be at least 1"),
        (
            "clients: 5\nnodes:\n  - count: 1\n    corse: 3\n",
            "line 4: nodes.0.corse: there is no such field; did you mean 'cores'?",
        ),
        (
            "clients: 5\nnodes: [{count: 1}]\npolicies: [bestfit, worsfit]\n",
            "line 3: policies.1 is 'worsfit': it must be one of bestfit, firstfit, worstfit, "
            "least-connections, random; did you mean 'worstfit'?",
        ),
        (
            "clients: 5\nnodes: [{count: 1}]\narrivals: {kind: trace}\n",
            "line 3: arrivals: kind is trace: file goes with trace",
        ),
        ("clients: 5\nnodes: [{count: 1, linkBytesS: 1GB}]\n", "has the unit 'GB'"),
        ("clients: 5\nnodes: [{count: 9000}, {count: 9000}]\n", "nodes has 18000 nodes"),
        ("[1, 2]\n", "is no scenario"),
    ],
)
def test_a_wrong_scenario(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InvalidJob) as caught:
        load_scenario(path)
    assert sentence in str(caught.value)


def test_the_page_of_fields_is_up_to_date() -> None:
    root = Path(__file__).parents[2]
    page = runpy.run_path(str(root / "scripts" / "docs_scenario.py"))["page"]()
    assert (root / "docs" / "scenario.md").read_text() == page, (
        "run: .venv/bin/python scripts/docs_scenario.py"
    )
