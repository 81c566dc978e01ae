"""The operator's process: what it says of itself before and after it has begun."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lifl.placement import operator as operator_module
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
    not_yet = {"--webhook-port", "--tls"}  # rendered with webhook.enabled, which is refused
    assert given - not_yet <= known
    assert len(given) > 10
