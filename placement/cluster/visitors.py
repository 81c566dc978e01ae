"""Clients of one job that come from outside: their way in, their files, and who may come no more.

Owns what of that a keeper has made: Service, Secret, key directory.  What the first two look like
is outside.py's and objects.py's; that rights are gone at once is the running coordinator's matter,
who reads the directory again.  Called by keeper.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from lifl.api.job import FLJob
from lifl.errors import LiflError
from lifl.placement.cluster.api import Api
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.objects import Gateway, Install, client_secret
from lifl.placement.cluster.outside import Doors, Way
from lifl.placement.cluster.secrets import Secrets
from lifl.placement.keyring import Keyring
from lifl.placement.membership import Outside

log = logging.getLogger("lifl.operator")


class Visitors:
    """Those of one job.

    Args:
        keys: the job's key directory.

    Attributes:
        doors: where they find each node's gateway, also of those that are lost; empty until that is
            known, or where they call where nodes do.
    """

    def __init__(
        self, api: Api, install: Install, secrets: Secrets, namespace: str, name: str, keys: Path
    ) -> None:
        self._install, self._secrets, self._keys = install, secrets, keys
        self._way = Way(api, namespace, name)
        self.doors: Doors = {}

    async def open(
        self, job: FLJob, uid: str, record: Record, gateways: Sequence[Gateway]
    ) -> bool:
        """Have the way in lead to these gateways; False: nobody knows its address yet."""
        if job.spec.expose.type == "none":
            return True
        bulk_port = self._install.gateway_bulk_port
        self.doors = await asyncio.to_thread(
            self._way.open, job, uid, record.came, gateways, bulk_port
        )
        return bool(self.doors)

    async def close(self, job: FLJob) -> None:
        """The job has ended."""
        if job.spec.expose.type != "none":
            await asyncio.to_thread(self._way.close)
        self.doors = {}

    async def give_files(
        self, job: FLJob, uid: str, record: Record, gateways: Sequence[Gateway]
    ) -> str | None:
        """Name of the Secret with their files; None: nobody comes from outside."""
        if not record.outside(job):
            return None
        secret = client_secret(job, uid, record, gateways, self.doors)
        await asyncio.to_thread(self._secrets.keep, secret)
        return str(secret["metadata"]["name"])

    def outside(self, job: FLJob, record: Record) -> Outside:
        """What the coordinator is told of them."""
        return Outside(frozenset(record.outside(job)), self.doors)

    async def revoke(self, job: FLJob, record: Record) -> None:
        """Take rights away at once; the next coordinator reads who has none."""
        if not job.spec.clients.revoked:
            return
        keyring = self.keyring(job, record)
        try:
            await asyncio.to_thread(keyring.tell)
        except LiflError as error:
            log.warning("%s: %s", job.metadata.full_name, error)

    def keyring(self, job: FLJob, record: Record) -> Keyring:
        """The job's key directory, in which those stand who have lost their rights."""
        keyring = Keyring(self._keys)
        keyring.make()
        known = {entry.name for entry in keyring.entries}
        gone = {
            name: key for key, name in record.names(job).items()
            if name in job.spec.clients.revoked and name not in known
        }  # fmt: skip
        if gone:
            keyring.enroll(gone, own=True)
        for name in gone:
            keyring.revoke(name)
        return keyring
