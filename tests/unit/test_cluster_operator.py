"""The operator's process: what it says of itself before and after it has begun."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lifl.placement import operator as operator_module
from lifl.placement.cluster.desk import NodeHere
from lifl.placement.cluster.draining import Drains
from lifl.placement.cluster.objects import Install
from lifl.placement.operator import Operator, Settings

SETTINGS = Settings(
    identity="operator-1", address="127.0.0.1", lease="lifl-operator", port=0, metrics_port=0,
    directory=Path(), agent_account="lifl-agent", functions_idle_s=30,
)  # fmt: skip


def operator(api: Any = None) -> Operator:
    return Operator(api, Install(namespace="lifl-system", image="lifl:1"), SETTINGS, epoch=1)


def test_it_has_figures_from_the_moment_on_that_it_leads() -> None:
    """The probe's thread may ask before kopf's loop has begun, or while there is no FLJob yet."""
    made = operator()
    urls, own = made.figures()
    assert urls == {}
    names = ("leads", "nodes", "fljobs")
    assert [own.get(f"lifl_operator_{name}") for name in names] == [1, 0, 0]
    desk: Any = SimpleNamespace(nodes={"n1": None, "n2": None})
    made.desk = desk
    assert made.figures()[1].get("lifl_operator_nodes") == 2


def test_the_label_of_who_leads_is_his_alone() -> None:
    labels: dict[str, str | None] = {"old": "true", "new": None}

    class Pods:
        def items(self, path: str, chosen: dict[str, str]) -> list[Any]:
            return [{"metadata": {"name": name}} for name, leads in labels.items() if leads]

        def merge(self, path: str, patch: Any) -> None:
            labels[path.rpartition("/")[2]] = patch["metadata"]["labels"]["lifl.dev/leader"]

    pods: Any = Pods()
    operator_module._lead(pods, "lifl-system", "new")
    assert labels == {"old": None, "new": "true"}


def test_the_charts_service_selects_that_label() -> None:
    chart = Path(__file__).resolve().parents[2] / "charts" / "lifl" / "templates"
    service = (chart / "operator-service.yaml").read_text()
    assert f'{operator_module.names.LEADER}: "true"' in service


def test_options_that_the_chart_gives_are_there() -> None:
    chart = Path(__file__).resolve().parents[2] / "charts" / "lifl" / "templates"
    deployment = (chart / "operator-deployment.yaml").read_text()
    known = {name for option in operator_module.main.params for name in option.opts}
    given = {
        word.partition("=")[0] for line in deployment.splitlines()
        for word in line.replace('"', " ").split() if word.startswith("--")
    }  # fmt: skip
    assert given <= known
    assert len(given) > 10


class Numbers:
    """A scaler that only hears."""

    def __init__(self) -> None:
        self.drains = Drains(lambda _: None)
        self.heard: dict[str, dict[str, int]] = {}
        self.forgotten: list[str] = []

    def want(self, node: str, by_tenant: dict[str, int]) -> None:
        self.heard[node] = dict(by_tenant)

    async def forget(self, tenant: str) -> None:
        self.forgotten.append(tenant)


@pytest.fixture
def two() -> tuple[Operator, Numbers, Numbers]:
    made, plain, knative = operator(), Numbers(), Numbers()
    scalers: Any = {"deployment": plain, "knative": knative}
    made.scalers = scalers
    for at, (tenant, runtime) in enumerate(
        [("a", "deployment"), ("a", "knative"), ("a", "knative"), ("b", "deployment")]
    ):
        keeper: Any = SimpleNamespace(
            namespace=tenant, full_name=f"{tenant}/job-{at}", runtime=runtime, end=nothing,
            metrics_at="",
        )  # fmt: skip
        made.keepers[str(at)] = keeper
    return made, plain, knative


async def nothing() -> None:
    pass


def test_each_jobs_functions_run_as_it_says(two: tuple[Operator, Numbers, Numbers]) -> None:
    made, plain, knative = two
    demand = {"a/job-0": 2, "a/job-1": 3, "a/job-2": 4, "b/job-3": 5, "a/unknown": 9}
    made._on_demand(NodeHere("n1", "key", b"", demand=demand))
    assert plain.heard == {"n1": {"a": 2, "b": 5}}
    assert knative.heard == {"n1": {"a": 7}}


def test_a_tenants_last_job_of_a_kind_takes_its_functions_along(
    two: tuple[Operator, Numbers, Numbers],
) -> None:
    made, plain, knative = two

    def body(uid: str) -> Any:
        return {"metadata": {"uid": uid, "namespace": "b" if uid == "3" else "a"}}

    async def main() -> None:
        await made.deleted(body("1"))
        assert (plain.forgotten, knative.forgotten) == ([], [])
        await made.deleted(body("2"))
        assert (plain.forgotten, knative.forgotten) == ([], ["a"])
        await made.deleted(body("3"))
        assert (plain.forgotten, knative.forgotten) == (["b"], ["a", "b"])

    asyncio.run(main())


def test_an_agent_that_began_anew_is_told_again_which_pods_are_to_go(
    two: tuple[Operator, Numbers, Numbers],
) -> None:
    made, plain, knative = two
    told: list[tuple[str, list[str]]] = []
    desk: Any = SimpleNamespace(drain=lambda node, pods: told.append((node, pods)))
    made.desk = desk
    plain.drains.step(("a", "n1"), ("p1",), 0, 0.0)
    knative.drains.step(("a", "n1"), ("k1", "k2"), 1, 0.0)
    made._on_demand(NodeHere("n1", "key", b"", draining=("p1", "k1")))
    assert told == []
    made._on_demand(NodeHere("n1", "key", b""))
    assert told == [("n1", ["k1", "p1"])]
