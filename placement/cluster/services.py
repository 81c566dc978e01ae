"""Functions as Knative Services: LIFL's autoscaler class and ingress class at work.

    number of a (tenant, node) ─► Knative Service
    number, PodAutoscalers, ServerlessServices, Deployments, Ingresses ─► knative.py ─► API server

Owns the watches of the functions' namespace and carrying out what knative.py says; the rest is
Knative's own controllers'.  A change of anything of a (tenant, node) has all of it looked at again,
and what fails is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from lifl.errors import LiflError
from lifl.placement.cluster import knative, names
from lifl.placement.cluster.api import Api, Conflict, Missing, Object, path_of
from lifl.placement.cluster.fleet import Fleet, replicas_by_place
from lifl.placement.cluster.objects import Install
from lifl.placement.cluster.watching import Watched

log = logging.getLogger("lifl.operator")

AGAIN_S: Final = 1.0
Place = tuple[str, str]  # tenant, node


class Services:
    """One Knative Service for each (tenant, node).

    Args:
        gateway_of: endpoint of a node's gateway; empty while it is not there.
    """

    def __init__(self, api: Api, install: Install, gateway_of: Callable[[str], str]) -> None:
        self.api, self.install, self._gateway_of = api, install, gateway_of
        self.fleet = Fleet(api, install, "knative")
        self._wanted: dict[Place, int] = {}
        self._made: set[Place] = set()
        self._dirty: set[Place] = set()
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scalers = self._watched(knative.AUTOSCALING, "podautoscalers")
        self._backends = self._watched(knative.NETWORKING, "serverlessservices")
        self._ingresses = self._watched(knative.NETWORKING, "ingresses")
        self._deployments = self._watched("apps/v1", "deployments")

    def _watched(self, group: str, plural: str) -> Watched:
        return Watched(self.api, self._path(group, plural), self.fleet.labels, self._changes)

    def _path(self, group: str, plural: str, name: str = "", part: str = "") -> str:
        return path_of(group, plural, self.install.functions_namespace, name, part)

    # -- numbers, as scaling.py asks for them ------------------------------------------------
    async def there(self) -> dict[Place, int]:
        path = self._path("apps/v1", "deployments")
        return replicas_by_place(await asyncio.to_thread(self.api.items, path, self.fleet.labels))

    async def pods(self, tenant: str, node: str) -> list[str]:
        return await asyncio.to_thread(self.fleet.pods, tenant, node)

    async def scale(self, tenant: str, node: str, number: int, first: Sequence[str]) -> None:
        """Have so many there; the class carries it out as soon as Knative has its objects."""
        place = (tenant, node)
        path = self._path(knative.SERVING, "services", names.functions(tenant, node))
        is_new = place not in self._made
        if is_new and (number > 0 or await asyncio.to_thread(self.api.find, path) is not None):
            made = knative.functions_service(tenant, node, self.install)
            await asyncio.to_thread(self.api.apply, path, made)
            self._made.add(place)
        await asyncio.to_thread(self.fleet.go_first, first)
        self._wanted[place] = number
        self._soil(place)

    async def forget(self, tenant: str) -> None:
        """Knative's garbage goes with the Service: Revisions, Deployments, pods."""
        for place in [place for place in {*self._wanted, *self._made} if place[0] == tenant]:
            self._wanted.pop(place, None)
            self._made.discard(place)
        await asyncio.to_thread(self._delete, tenant)

    def _delete(self, tenant: str) -> None:
        path = self._path(knative.SERVING, "services")
        with contextlib.suppress(Missing):  # Knative has been taken away, and they with it
            for each in self.api.items(path, self.fleet.labels | {names.TENANT: tenant}):
                self.api.delete(f"{path}/{each['metadata']['name']}")

    # -- the classes -------------------------------------------------------------------------
    async def run(self) -> None:
        """Watch, and see to what has changed."""
        self._loop = asyncio.get_running_loop()
        for each in (self._deployments, self._backends, self._scalers, self._ingresses):
            each.start()
        while True:
            await self._changed.wait()
            self._changed.clear()
            places, self._dirty = self._dirty, set()
            for place in sorted(places):
                try:
                    await asyncio.to_thread(self.reconcile, place)
                except LiflError as error:
                    if not isinstance(error, Conflict | Missing):  # else a watch is behind
                        log.warning("functions of %s on %s: %s", *place, error)
                    self._loop.call_later(AGAIN_S, self._soil, place)

    def gateways_changed(self) -> None:
        """Some node has a gateway now, or at another address."""
        for ingress in self._ingresses.all():
            if knative.is_our_ingress(ingress):
                self._soil(knative.place_of(ingress))

    def _changes(self, thing: Object) -> None:
        """In the thread of a watch."""
        if {names.TENANT, names.NODE} <= thing["metadata"]["labels"].keys():
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._soil, knative.place_of(thing))

    def _soil(self, place: Place) -> None:
        self._dirty.add(place)
        self._changed.set()

    def reconcile(self, place: Place) -> None:
        """Make everything of a (tenant, node) what it is to be.

        Raises:
            LiflError: something could not be done yet.
        """
        scalers = {
            each["metadata"]["name"]: each for each in self._scalers.all()
            if knative.is_ours(each) and knative.place_of(each) == place
        }  # fmt: skip
        numbers = knative.shares(scalers.values(), self._wanted.get(place))
        for name, wanted in numbers.items():
            self._scale(scalers[name], wanted)
        for ingress in self._ingresses.all():
            if knative.is_our_ingress(ingress) and knative.place_of(ingress) == place:
                self._publish(ingress)

    def _scale(self, scaler: Object, wanted: int | None) -> None:
        name, target = scaler["metadata"]["name"], scaler["spec"]["scaleTargetRef"]["name"]
        deployment, backend = self._deployments.find(target), self._backends.find(name)
        if deployment is None:
            return  # the watch says when it is there
        if backend is None:
            path = self._path(knative.NETWORKING, "serverlessservices")
            with contextlib.suppress(Conflict):
                self.api.create(path, knative.serverless_service(scaler))
        verdict = knative.judge(scaler, deployment, backend, wanted, now=names.now())
        if verdict.replicas is not None:
            path = self._path("apps/v1", "deployments", target, "scale")
            self.api.merge(path, {"spec": {"replicas": verdict.replicas}})
        if verdict.status is not None:
            path = self._path(knative.AUTOSCALING, "podautoscalers", name, "status")
            self.api.merge(path, {"status": verdict.status})

    def _publish(self, ingress: Object) -> None:
        _, node = knative.place_of(ingress)
        status = knative.ingress_status(ingress, self._gateway_of(node), now=names.now())
        if status is not None:
            name = ingress["metadata"]["name"]
            path = self._path(knative.NETWORKING, "ingresses", name, "status")
            self.api.merge(path, {"status": status})


def why_not(api: Api, install: Install) -> str:
    """Why functions cannot be Knative Services here; empty: they can."""
    if not install.has_webhook:
        return (
            "functions.runtime is knative, but LIFL was installed without its webhook: have it "
            "installed with webhook.enabled: true, or write deployment"
        )
    for group in (knative.SERVING, knative.AUTOSCALING, knative.NETWORKING):
        if api.find(f"/apis/{group}") is None:
            return (
                f"functions.runtime is knative, but this cluster has no {group}: install Knative "
                "Serving, or write deployment"
            )
    return ""
