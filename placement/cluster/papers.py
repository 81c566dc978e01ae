"""What lies of one FLJob at the API server: read at first, written as it changes.

Owns the record of the job's keys, a Secret; its status; and its Events.  Decides nothing: keeper.py
says what is written, and story.py in which words.
"""

from __future__ import annotations

import base64
import contextlib
import logging
from typing import Final

from lifl.api.job import FLJob
from lifl.api.status import Status
from lifl.errors import LiflError
from lifl.placement.cluster import names
from lifl.placement.cluster.api import Api, Missing, Object, path_of
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.store_cluster import unpacked
from lifl.placement.cluster.story import News
from lifl.placement.store import Saved

log = logging.getLogger("lifl.operator")

MESSAGE_MAX: Final = 1000  # characters of an Event


class Papers:
    """Of one FLJob.

    Args:
        home: namespace of LIFL itself, where records are.
        epoch: of the lease under which everything is written.
        identity: of this operator.
    """

    def __init__(self, api: Api, body: Object, *, home: str, epoch: int, identity: str) -> None:
        metadata = body["metadata"]
        self._api, self._home, self._epoch, self._identity = api, home, epoch, identity
        self._namespace, self._name, self._uid = (
            metadata[field] for field in ("namespace", "name", "uid")
        )
        self._status_path = f"{names.fljob(self._namespace, self._name)}/status"
        self._record_path = path_of("", "secrets", home, names.record(self._uid))
        self._written: Status | None = None

    # -- the record --------------------------------------------------------------------------
    def load_record(self, job: FLJob) -> Record:
        """As it is, or a new one."""
        found = self._api.find(self._record_path)
        if found is not None:
            return Record.of(base64.b64decode(found["data"]["record"]).decode())
        record = Record.new(job, self._uid)
        self.save_record(record)
        return record

    def save_record(self, record: Record) -> None:
        self._api.apply(self._record_path, {
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": names.record(self._uid), "namespace": self._home,
                "labels": names.OURS | {names.COMPONENT: "record"},
            },
            "stringData": {"record": record.text()},
        })  # fmt: skip

    def delete_record(self) -> None:
        self._api.delete(self._record_path)

    # -- what users see ----------------------------------------------------------------------
    def write(self, status: Status) -> bool:
        """The status, where it says something new; False: the FLJob is gone."""
        if status == self._written:
            return True
        wire = status.wire()
        wire.pop("store", None)  # the coordinator's
        wire["epoch"] = self._epoch
        before = self._written.wire() if self._written else {}
        for name in before.keys() - wire.keys() - {"store"}:
            wire[name] = None
        try:
            self._api.merge(self._status_path, {"status": wire})
        except Missing:
            return False
        self._written = status
        return True

    def say(self, said: News) -> None:
        """An Event; one that cannot be written is not worth a job."""
        stamp = names.now()
        body = {
            "apiVersion": "v1", "kind": "Event", "type": said.type, "reason": said.reason,
            "message": said.message[:MESSAGE_MAX], "count": 1,
            "firstTimestamp": stamp, "lastTimestamp": stamp,
            "metadata": {"generateName": f"{self._name}.", "namespace": self._namespace},
            "involvedObject": {
                "apiVersion": names.GROUP, "kind": "FLJob", "name": self._name,
                "namespace": self._namespace, "uid": self._uid,
            },
            "source": {"component": "lifl-operator"}, "reportingComponent": "lifl-operator",
            "reportingInstance": self._identity,
        }  # fmt: skip
        with contextlib.suppress(LiflError):
            self._api.create(path_of("", "events", self._namespace), body)


# -- what an FLJob says of itself --------------------------------------------------------------
def job_of(body: Object) -> FLJob:
    """The job of an object; pydantic's ValidationError is a ValueError."""
    fields = {name: body[name] for name in ("apiVersion", "kind", "metadata", "spec")}
    return FLJob.model_validate(fields, by_alias=True, by_name=False)


def status_of(body: Object) -> Status:
    try:
        return Status.model_validate(dict(body.get("status", {})), by_alias=True, by_name=False)
    except ValueError as error:
        log.warning("a status that cannot be read is written anew: %s", error)
        return Status()


def saved_of(body: Object) -> Saved | None:
    """What its coordinator has written down."""
    store = body.get("status", {}).get("store")
    return unpacked(store) if store and store.get("data") else None
