"""Test vectors of the bulk port, as docs/protocol.md describes it: prints docs/bulk-vectors.json.

    .venv/bin/python scripts/bulk_vectors.py > docs/bulk-vectors.json

A test compares the file with what this prints.  Whoever writes a client in another language
reproduces every line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from lifl.functions.sealing import (
    NO_TAG,
    Direction,
    Head,
    Kind,
    Mode,
    Ticket,
    about,
    message_chunk,
)
from lifl.functions.wire import encode

GATEWAY = "a:74^c2id{hxtiHJK%hYh0:pjpu[Y+?PV<Lw}BqO"
CLIENT = "HCH+Ym[JhC/1Bje+@qV$5!T}*([%)IEdky11JIX*"
JOB = "digits"
MESSAGES = {
    Direction.UP: {"t": "get", "job": JOB, "round": 2, "at": 0, "n": 17, "transfer": 8},
    Direction.DOWN: {"t": "ack", "job": JOB, "round": 3},
}


def vectors() -> dict[str, Any]:
    found: dict[str, Any] = {"gateway": GATEWAY, "client": CLIENT, "job": JOB}
    for mode in Mode:
        ticket = Ticket(
            bytes(range(16)), bytes(range(32, 64)), mode,
            about(mode, gateway=GATEWAY, client=CLIENT, job=JOB),
        )  # fmt: skip
        case: dict[str, Any] = {
            "ticket_id": ticket.id.hex(), "secret": ticket.secret.hex(),
            "about": ticket.about.hex(), "greeting": ticket.greeting().hex(),
            "answer": ticket.answer().hex(),
        }  # fmt: skip
        for direction, kind in ((Direction.UP, Kind.UPDATE), (Direction.DOWN, Kind.MODEL)):
            channel = ticket.channel(direction)
            chunks = []
            for number, payload in enumerate((b"first chunk", b"second")):
                head = Head(kind, len(payload), 3, 7, number * 11).pack()
                if channel is None:
                    wire = head + payload + NO_TAG
                else:
                    sealed = bytearray(len(payload))
                    seal = channel.seal(head)
                    seal.update_into(payload, sealed)
                    seal.finalize()
                    wire = head + sealed + seal.tag
                chunks.append({"payload": payload.hex(), "wire": wire.hex()})
            name, message = direction.name.lower(), encode(MESSAGES[direction])
            case[name] = chunks
            wire = message_chunk(channel, message)  # the third chunk of its direction
            case[f"{name}_message"] = {"payload": message.hex(), "wire": wire.hex()}
        found[mode.name.lower()] = case
    return found


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1)
    print()
