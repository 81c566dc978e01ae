"""LIFL's classes at work on an API server in memory, and the watches that tell them of it."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lifl.errors import LiflError, Unreachable
from lifl.placement.cluster import knative, names
from lifl.placement.cluster.api import Conflict, Missing, _events
from lifl.placement.cluster.objects import Install
from lifl.placement.cluster.services import Services, why_not
from lifl.placement.cluster.watching import Watched

pytestmark = pytest.mark.timeout(30)
INSTALL = Install(
    namespace="lifl-system", image="lifl:1", functions_namespace="fl", has_webhook=True
)
PLACE = ("team-a", "n1")
NAME = names.functions(*PLACE)
REVISION = f"{NAME}-00001"
SERVICE = f"/apis/serving.knative.dev/v1/namespaces/fl/services/{NAME}"
SCALER = f"/apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/fl/podautoscalers/{REVISION}"
BACKEND = "/apis/networking.internal.knative.dev/v1alpha1/namespaces/fl/serverlessservices"
INGRESS = f"/apis/networking.internal.knative.dev/v1alpha1/namespaces/fl/ingresses/{NAME}"
DEPLOYMENT = f"/apis/apps/v1/namespaces/fl/deployments/{REVISION}-deployment"


class Server:
    """What is written, by path."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.writes: list[tuple[str, str]] = []

    def find(self, path: str) -> Any:
        return self.there.get(path)

    def apply(self, path: str, body: Any) -> Any:
        self.writes.append(("apply", path))
        self.there[path] = body
        return body

    def create(self, path: str, body: Any) -> Any:
        self.writes.append(("create", path))
        self.there[f"{path}/{body['metadata']['name']}"] = body
        return body

    def merge(self, path: str, body: Any) -> Any:
        self.writes.append(("merge", path))
        thing = self.there[path.removesuffix("/status").removesuffix("/scale")]
        for name, value in body.items():
            thing[name] = thing.get(name, {}) | copy.deepcopy(value)
        return thing

    def items(self, path: str, labels: dict[str, str] | None = None) -> list[Any]:
        if path.endswith("/services") and not any(
            each.startswith("/apis/serving") for each in self.there
        ):
            raise Missing(path)
        return [each for at, each in self.there.items() if at.rpartition("/")[0] == path]

    def delete(self, path: str) -> None:
        del self.there[path]

    def knative_makes_its_own(self) -> None:
        """What stock controllers make of the Service."""
        service = self.there[SERVICE]
        template = service["spec"]["template"]
        labels = template["metadata"]["labels"] | {knative.SERVICE: NAME, knative.GENERATION: "1"}
        self.there[SCALER] = {
            "apiVersion": knative.AUTOSCALING, "kind": "PodAutoscaler",
            "metadata": {"name": REVISION, "namespace": "fl", "uid": "u", "generation": 1,
                         "labels": labels, "annotations": template["metadata"]["annotations"]},
            "spec": {"scaleTargetRef": {"name": f"{REVISION}-deployment"},
                     "protocolType": "http1"},
        }  # fmt: skip
        self.there[DEPLOYMENT] = {
            "metadata": {"name": f"{REVISION}-deployment", "labels": labels},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "function"}]}}},
        }
        self.there[INGRESS] = {
            "metadata": {"name": NAME, "generation": 1, "labels": service["metadata"]["labels"],
                         "annotations": service["metadata"]["annotations"]},
        }  # fmt: skip


class Here:
    """Services on such a server; their watches are up to date when `look` has been called."""

    def __init__(self) -> None:
        self.server = Server()
        self.gateways = {"n1": ""}
        api: Any = self.server
        self.services = Services(api, INSTALL, lambda node: self.gateways[node])

    def look(self) -> None:
        for watched in (
            self.services._scalers, self.services._backends, self.services._ingresses,
            self.services._deployments,
        ):  # fmt: skip
            watched._objects = {
                path.rpartition("/")[2]: copy.deepcopy(each)
                for path, each in self.server.there.items()
                if path.rpartition("/")[0] == watched._path
            }

    def reconcile(self) -> list[str]:
        """What is written to in a turn, by its last part."""
        self.look()
        self.server.writes = []
        self.services.reconcile(PLACE)
        return [path.removeprefix(INGRESS).rpartition("/")[2] or "ingress"
                for _, path in self.server.writes]  # fmt: skip


@pytest.fixture
def here() -> Here:
    return Here()


def test_a_service_is_made_once_and_scaled_by_the_class(here: Here) -> None:
    server = here.server

    async def main() -> None:
        await here.services.scale(*PLACE, 0, ())
        assert server.writes == []  # nothing is made to be at zero
        await here.services.scale(*PLACE, 2, ())
        await here.services.scale(*PLACE, 3, ())
        assert server.writes == [("apply", SERVICE)]

    asyncio.run(main())
    server.knative_makes_its_own()
    assert here.reconcile() == ["serverlessservices", "scale", "status", "status"]
    assert server.there[DEPLOYMENT]["spec"]["replicas"] == 3
    assert server.there[SCALER]["status"]["desiredScale"] == 3
    assert f"{BACKEND}/{REVISION}" in server.there
    waiting = server.there[INGRESS]["status"]["conditions"]
    assert {each["status"] for each in waiting} == {"True", "Unknown"}

    here.gateways["n1"] = "tcp://10.0.0.1:7710"
    assert here.reconcile() == ["status", "status"]  # the ServerlessService is there now, too
    published = server.there[INGRESS]["status"]["privateLoadBalancer"]
    assert published == {"ingress": [{"ip": "10.0.0.1"}]}
    assert here.reconcile() == []


def test_before_anybody_says_how_many_the_deployment_stays(here: Here) -> None:
    """A new operator: agents have still to say what they want."""
    here.server.apply(SERVICE, knative.functions_service(*PLACE, INSTALL))
    here.server.knative_makes_its_own()
    here.server.there[DEPLOYMENT]["spec"]["replicas"] = 4
    assert "scale" not in here.reconcile()
    here.look()

    async def main() -> None:
        assert await here.services.there() == {PLACE: 4}

    asyncio.run(main())


def test_what_is_forgotten_goes_with_its_service(here: Here) -> None:
    async def main() -> None:
        await here.services.forget("team-a")  # there is no Knative any more: nothing to do
        await here.services.scale(*PLACE, 2, ())
        await here.services.forget("team-a")
        assert SERVICE not in here.server.there
        await here.services.scale(*PLACE, 1, ())
        assert SERVICE in here.server.there

    asyncio.run(main())


def test_without_webhook_or_knative_it_says_which() -> None:
    server: Any = Server()
    assert "webhook.enabled: true" in why_not(server, Install(namespace="a", image="b"))
    said = why_not(server, INSTALL)
    assert "no serving.knative.dev/v1: install Knative Serving, or write deployment" in said
    for group in (knative.SERVING, knative.AUTOSCALING, knative.NETWORKING):
        assert why_not(server, INSTALL)
        server.there[f"/apis/{group}"] = {"kind": "APIResourceList"}
    assert why_not(server, INSTALL) == ""


# -- watches -------------------------------------------------------------------------------------
def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class Stream:
    """Lists, then events or errors, as a script has them."""

    def __init__(self, lists: list[list[str]], watches: list[Any]) -> None:
        self.lists, self.watches = lists, watches
        self.since: list[str] = []

    def listed(self, path: str, labels: dict[str, str]) -> dict[str, Any]:
        if not self.lists:
            raise Unreachable("the script is over")
        there = self.lists.pop(0)
        return {"metadata": {"resourceVersion": f"list-{len(self.lists)}"},
                "items": [thing(name, 1) for name in there]}  # fmt: skip

    def watch(self, path: str, version: str, labels: dict[str, str]) -> Iterator[Any]:
        self.since.append(version)
        script = self.watches.pop(0)
        if isinstance(script, LiflError):
            raise script
        yield from script


def test_a_watch_goes_on_where_it_ended_and_lists_again_where_it_cannot() -> None:
    stream: Any = Stream(
        [["a", "b"], ["b", "d"]],
        [
            [{"type": "ADDED", "object": thing("c", 7)},
             {"type": "BOOKMARK", "object": thing("", 8)}],
            [{"type": "DELETED", "object": thing("a", 9)}],
            Conflict("too old resource version"),
            Unreachable("gone"),
        ],
    )  # fmt: skip
    changed: list[str] = []
    watched = Watched(stream, "/p", {}, lambda each: changed.append(each["metadata"]["name"]))
    watched.follow()
    assert stream.since == ["list-1", "8", "9"]
    assert changed == ["a", "b", "c", "a"]
    assert watched.find("a") is None
    with pytest.raises(Unreachable):
        watched.follow()
    assert sorted(changed[4:]) == ["b", "c", "d"]  # c was deleted meanwhile
    assert {each["metadata"]["name"] for each in watched.all()} == {"b", "d"}


def test_events_come_in_whatever_pieces_the_network_makes() -> None:
    events = [{"type": "ADDED", "object": thing(name, 1)} for name in "abc"]
    data = "".join(json.dumps(each) + "\n" for each in events).encode()
    for size in (1, 7, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert list(_events(pieces, "/p")) == events
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    with pytest.raises(Conflict, match="too old"):
        list(_events([json.dumps(gone).encode() + b"\n"], "/p"))
