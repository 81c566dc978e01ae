"""What LIFL has on a node, as annotations of the Node: `kubectl describe node` shows them.

    agents' news ─► annotations ─► Node, through its status

Owns their names and that they say what is so.  Annotations and no extended resource: a kubelet
that starts again sets resources that it does not know to 0, and no pod is to ask for them.  The
status of a Node takes annotations, so that no right to its spec is needed.  Called by the operator.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

from lifl.errors import LiflError
from lifl.placement.cluster.api import Api, Missing, Object, path_of
from lifl.placement.cluster.desk import NodeHere

log = logging.getLogger("lifl.operator")

GATEWAY: Final = "lifl.dev/gateway"  # where clients in the cluster call; not there while it is away
ARENA_MEMORY: Final = "lifl.dev/arena-memory"  # bytes for all jobs together
CORES: Final = "lifl.dev/cores"
FOLD: Final = "lifl.dev/fold-bytes-per-second"  # one aggregator, measured when the agent started
INGRESS: Final = "lifl.dev/ingress-bytes-per-second"  # one connection, measured as well
ALL: Final = (GATEWAY, ARENA_MEMORY, CORES, FOLD, INGRESS)
AGAIN_S: Final = 5.0  # after an API server that was away

Annotations = dict[str, str | None]


def annotations_of(node: NodeHere) -> Annotations:
    """What is to stand there; None: nothing."""
    measured = {
        CORES: "cores", FOLD: "fold_bytes_s", INGRESS: "ingress_bytes_s",
    }  # fmt: skip
    return {
        GATEWAY: node.gateway or None,
        ARENA_MEMORY: str(node.budget_bytes) if node.budget_bytes else None,
        **{
            name: f"{node.capacity[key]:.0f}" if key in node.capacity else None
            for name, key in measured.items()
        },
    }


def patch(annotations: Mapping[str, str | None]) -> Object:
    return {"metadata": {"annotations": dict(annotations)}}


def path(node: str) -> str:
    """Of a Node's status at the API server."""
    return path_of("", "nodes", "", node, "status")


class Notes:
    """Writes them, whenever a node says something new.

    Args:
        nodes: of the desk, as they are at any time.
    """

    def __init__(self, api: Api, nodes: Mapping[str, NodeHere]) -> None:
        self._api, self._nodes = api, nodes
        self._written: dict[str, Annotations] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._woken.clear()
            left = False
            for node in list(self._nodes.values()):
                wanted = annotations_of(node)
                if self._written.get(node.name) != wanted:
                    left = not await self._write(node.name, wanted) or left
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), AGAIN_S if left else None)

    async def _write(self, node: str, wanted: Annotations) -> bool:
        """False: it is to be tried again."""
        try:
            await asyncio.to_thread(self._api.merge, path(node), patch(wanted))
        except Missing:
            pass  # a Node that is gone, whose agent is not yet
        except LiflError as error:
            log.warning("what node %s has is not written to it: %s", node, error)
            return False
        self._written[node] = wanted
        return True
