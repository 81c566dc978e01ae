"""Functions as plain Deployments, for clusters without Knative.

Owns making, scaling and removing them; objects.py has their content, scaling.py the numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from lifl.placement.cluster import names
from lifl.placement.cluster.api import Api, Missing, path_of
from lifl.placement.cluster.fleet import Fleet, replicas_by_place
from lifl.placement.cluster.objects import Install, functions_deployment

APPS: Final = "apps/v1"


class Deployments:
    """One Deployment for each (tenant, node)."""

    def __init__(self, api: Api, install: Install) -> None:
        self.api, self.install = api, install
        self.fleet = Fleet(api, install, "deployment")
        self._made: set[tuple[str, str]] = set()

    def _path(self, name: str = "", part: str = "") -> str:
        return path_of(APPS, "deployments", self.install.functions_namespace, name, part)

    async def there(self) -> dict[tuple[str, str], int]:
        found = await asyncio.to_thread(self.api.items, self._path(), self.fleet.labels)
        return replicas_by_place(found)

    async def pods(self, tenant: str, node: str) -> list[str]:
        return await asyncio.to_thread(self.fleet.pods, tenant, node)

    async def scale(self, tenant: str, node: str, number: int, first: Sequence[str]) -> None:
        await asyncio.to_thread(self._scale, tenant, node, number, first)

    def _scale(self, tenant: str, node: str, number: int, first: Sequence[str]) -> None:
        name = names.functions(tenant, node)
        if (tenant, node) not in self._made and number == 0 and not self.api.find(self._path(name)):
            return
        self.fleet.go_first(first)
        if (tenant, node) not in self._made or number == 0:
            self.api.apply(self._path(name), functions_deployment(
                tenant, node, number, self.install
            ))  # fmt: skip
            self._made.add((tenant, node))
            return
        try:
            self.api.merge(self._path(name, "scale"), {"spec": {"replicas": number}})
        except Missing:
            self._made.discard((tenant, node))
            self._scale(tenant, node, number, first)

    async def forget(self, tenant: str) -> None:
        await asyncio.to_thread(self._forget, tenant)

    def _forget(self, tenant: str) -> None:
        self._made = {place for place in self._made if place[0] != tenant}
        for each in self.api.items(self._path(), self.fleet.labels | {names.TENANT: tenant}):
            self.api.delete(self._path(each["metadata"]["name"]))
