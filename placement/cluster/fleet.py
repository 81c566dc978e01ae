"""The pods of functions, whatever they run as.

Owns who of them goes first when there are to be fewer.  Called by deployments.py and services.py,
which have the numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

from lifl.placement.cluster import names
from lifl.placement.cluster.api import Api, Missing, Object, path_of
from lifl.placement.cluster.objects import FunctionsRuntime, Install

COST: Final = "controller.kubernetes.io/pod-deletion-cost"


class Fleet:
    """Pods of functions of one runtime, which go with the Deployments that made them."""

    def __init__(self, api: Api, install: Install, runtime: FunctionsRuntime) -> None:
        self._api, self._namespace, self._runtime = api, install.functions_namespace, runtime

    @property
    def labels(self) -> dict[str, str]:
        return {names.COMPONENT: "function", names.RUNTIME: self._runtime}

    def pods(self, tenant: str, node: str) -> list[str]:
        """Those of a tenant on a node that are not ending."""
        chosen = self.labels | {names.TENANT: tenant, names.NODE: node}
        found = self._api.items(path_of("", "pods", self._namespace), chosen)
        return sorted(
            pod["metadata"]["name"] for pod in found
            if not pod["metadata"].get("deletionTimestamp")
            and pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
        )  # fmt: skip

    def go_first(self, pods: Sequence[str]) -> None:
        """These are to be ended, when some are."""
        for pod in pods:
            with contextlib.suppress(Missing):
                self._api.merge(
                    path_of("", "pods", self._namespace, pod),
                    {"metadata": {"annotations": {COST: "-1"}}},
                )


def replicas_by_place(deployments: Iterable[Object]) -> dict[tuple[str, str], int]:
    """Replicas of each (tenant, node); those without are left out."""
    found: dict[tuple[str, str], int] = {}
    for each in deployments:
        labels, number = each["metadata"]["labels"], int(each["spec"].get("replicas", 1))
        if number and {names.TENANT, names.NODE} <= labels.keys():
            place = (labels[names.TENANT], labels[names.NODE])
            found[place] = found.get(place, 0) + number
    return found
