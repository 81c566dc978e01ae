"""Who a pod is, by its token."""

from __future__ import annotations

import select
from typing import Any

import pytest

from lifl.errors import Refused
from lifl.placement.cluster.desk import agent_rule
from lifl.placement.cluster.tokens import Doorman, Guest, Rule, guest_of

RULES = (
    Rule.of("gateway=lifl-system:lifl-gateway"), Rule.of("runtime=lifl-functions:lifl-function"),
)  # fmt: skip


def review(account: str = "lifl-functions:lifl-function", *, audience: str = "lifl-agent",
           authenticated: bool = True, **extra: str) -> dict[str, Any]:  # fmt: skip
    bound = {"pod-name": "fn-1", "pod-uid": "u-1"} | extra
    return {"status": {
        "authenticated": authenticated, "audiences": [audience],
        "user": {
            "username": f"system:serviceaccount:{account}",
            "extra": {f"authentication.kubernetes.io/{k}": [v] for k, v in bound.items() if v},
        },
    }}  # fmt: skip


def pod(*, node: str = "n1", uid: str = "u-1", **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"uid": uid, "labels": {f"lifl.dev/{k}": v for k, v in labels.items()}},
        "spec": {"nodeName": node},
    }


def test_a_function_joins_for_its_tenant() -> None:
    found = guest_of(review(), pod(tenant="team-a"), RULES, node="n1")
    assert found == Guest("runtime", "fn-1", "lifl-functions", "team-a")


def test_a_gateway_joins_for_nobody() -> None:
    found = guest_of(review("lifl-system:lifl-gateway"), pod(tenant="x"), RULES, node="n1")
    assert found == Guest("gateway", "fn-1", "lifl-system", "")


@pytest.mark.parametrize(
    ("said", "there", "why"),
    [
        (review(authenticated=False), pod(tenant="a"), "none for lifl-agent"),
        (review(audience="https://kubernetes.default.svc"), pod(tenant="a"), "none for lifl-agent"),
        (review(**{"pod-name": ""}), pod(tenant="a"), "bound to no pod"),
        (review("team-a:lifl-function"), pod(tenant="a"), "may not join"),
        (review("lifl-functions:default"), pod(tenant="a"), "may not join"),
        (review(), pod(tenant="a", uid="another"), "is gone"),
        (review(), None, "is gone"),
        (review(), pod(tenant="a", node="n2"), "not on node n1"),
        (review(), pod(), "no label"),
    ],
)
def test_nobody_else_joins(said: dict[str, Any], there: dict[str, Any] | None, why: str) -> None:
    with pytest.raises(Refused, match=why):
        guest_of(said, there, RULES, node="n1")


@pytest.mark.parametrize("text", ["runtime", "runtime=", "runtime=a", "agent=a:b", "=a:b"])
def test_a_rule_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not gateway=NAMESPACE:ACCOUNT"):
        Rule.of(text)


def see(said: dict[str, Any], there: dict[str, Any] | None) -> None:
    agent_rule(said, there, namespace="lifl-system", account="lifl-agent", node="n1")


def test_an_agent_speaks_for_its_own_node() -> None:
    own = review("lifl-system:lifl-agent", audience="lifl-operator")
    see(own, pod())
    for said, there in (
        (own, pod(node="n2")), (own, None), (review("lifl-system:lifl-agent"), pod()),
        (review("lifl-system:lifl-gateway", audience="lifl-operator"), pod()),
        (review("team-a:lifl-agent", audience="lifl-operator"), pod()),
        (review(authenticated=False), pod()),
    ):
        with pytest.raises(Refused):
            see(said, there)


def test_who_shows_no_token_is_not_asked_about() -> None:
    nobody: Any = None
    doorman = Doorman(nobody, RULES, "n1")
    doorman.ask("somebody", "")
    assert select.select([doorman.fileno()], [], [], 10)[0]
    [(about, said)] = doorman.answers()
    assert about == "somebody"
    assert isinstance(said, Refused)
    assert said.code == "bad-token"
