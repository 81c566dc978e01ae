"""What a client needs to take part, as a file: RUN/clients/NAME.json, mode 0600.

Owns the fields of those files, and which number a client from outside has.  Who is enrolled is
keyring.py's.  Called by the engine, when gateways are known, and by `lifl keys enroll`.

A client's number must stay what it is while others come and go: the run's own clients have the
first ones, then come those of the key directory in the order of their enrolment, revoked ones
included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifl.placement.keyring import Entry, write_private

Where = Sequence[str]  # endpoint and key of a gateway


def write(
    folder: Path, name: str, *, job: str, where: Where, public_key: str, secret_key: str | None,
    index: int, count: int,
) -> Path:  # fmt: skip
    """One client's file; without `secret_key` it has one of its own, elsewhere."""
    path = folder / f"{name}.json"
    secret = {} if secret_key is None else {"secret_key": secret_key}
    write_private(path, json.dumps({
        "job": job, "endpoint": where[0], "server_key": where[1], "public_key": public_key,
        **secret, "index": index, "count": count,
    }))  # fmt: skip
    return path


def write_outside(
    folder: Path, entries: Sequence[Entry], *, job: str, gateways: Mapping[str, Where], own: int
) -> dict[str, Path]:
    """The files of all clients from outside that may take part, by name.

    Args:
        entries: of the key directory.
        own: clients whose keys the run made itself.

    All of them are written again, since everybody's `count` changes with the newest.
    """
    outside = [entry for entry in entries if not entry.is_own]
    nodes = sorted(gateways)
    return {
        entry.name: write(
            folder, entry.name, job=job, where=gateways[nodes[place % len(nodes)]],
            public_key=entry.public_key, secret_key=None, index=own + place,
            count=own + len(outside),
        )
        for place, entry in enumerate(outside)
        if entry.revoked_at is None
    }  # fmt: skip
