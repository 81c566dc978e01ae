"""The objects of one kind in one namespace, as they are now.

    list ─► watch from its version ─► watch ... ─► (what happened is known no more) list

Owns a thread that lists and watches, for kinds that only one part of the operator asks for, in a
namespace of LIFL's own: what kopf watches it watches in every namespace.  Whoever made it hears of
each change, in that thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from lifl.errors import LiflError
from lifl.placement.cluster.api import Api, Conflict, Object

log = logging.getLogger("lifl.operator")

AGAIN_S: Final = 1.0


class Watched:
    """One kind in one namespace.

    Args:
        path: of the list.
        labels: that objects must have.
        on_change: an object is new, has changed or is gone; called in this one's thread.
    """

    def __init__(
        self, api: Api, path: str, labels: dict[str, str], on_change: Callable[[Object], None]
    ) -> None:
        self._api, self._path, self._labels, self._on_change = api, path, labels, on_change
        self._objects: dict[str, Object] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"watch {self._path}", daemon=True).start()

    def find(self, name: str) -> Object | None:
        return self._objects.get(name)

    def all(self) -> list[Object]:
        return list(self._objects.values())

    def _run(self) -> None:
        said = ""
        while True:
            try:
                self.follow()
                said = ""
            except LiflError as error:
                if str(error) != said:  # a kind that is not there is not there every second
                    log.warning("%s", said := str(error))
            time.sleep(AGAIN_S)

    def follow(self) -> None:
        """List, then watch until what happened is known no more, or the API server is away."""
        version = self._list()
        while True:
            try:
                for event in self._api.watch(self._path, version, self._labels):
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._take(event["type"], event["object"])
            except Conflict:
                return

    def _list(self) -> str:
        listed = self._api.listed(self._path, self._labels)
        there = {each["metadata"]["name"]: each for each in listed["items"]}
        before, self._objects = self._objects, there
        for gone in before.keys() - there.keys():
            self._on_change(before[gone])
        for each in there.values():
            self._on_change(each)
        return str(listed["metadata"]["resourceVersion"])

    def _take(self, what: str, thing: Object) -> None:
        name = thing["metadata"]["name"]
        if what == "DELETED":
            self._objects.pop(name, None)
        elif what in ("ADDED", "MODIFIED"):
            self._objects[name] = thing
        else:
            return
        self._on_change(thing)
