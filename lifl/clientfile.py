"""LIFL_CLIENT and LIFL_KEY: what a program needs to take part in a job.

Owns reading the client's file, which placement/clientfiles.py has written, and what is said when it
is not there: most often the run has not begun yet.  Called by client.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifl.connection import Address
from lifl.errors import InvalidJob, Unreachable
from lifl.functions.orphaned import is_held
from lifl.functions.wire import Keys

log = logging.getLogger("lifl.client")

HINT = "set it to a client file of the run, for example runs/latest/clients/client-0.json"
_OF_A_RUN = "run.json"  # beside the folder of its client files
_OF_A_COMPLETE_RUN = "summary.json"


@dataclass(frozen=True)
class ClientFile:
    """Who a client is, and where it calls.

    Attributes:
        name: as it was enrolled, after which the file is called; for errors.
    """

    name: str
    address: Address
    job: str
    keys: Keys
    index: int
    count: int


def read_client_file(environment: Mapping[str, str]) -> ClientFile:
    """The file that LIFL_CLIENT names, with the key of LIFL_KEY where it holds none.

    Raises:
        Unreachable: the variable is not set, names no client file, or one of a complete run.
        InvalidJob: the key is needed and is not there, or is another client's.
    """
    name = environment.get("LIFL_CLIENT", "")
    if not name:
        raise Unreachable(f"LIFL_CLIENT is not set: {HINT}")
    path = Path(name)
    try:
        fields = json.loads(path.read_bytes())
        found = ClientFile(
            path.stem, Address(fields["endpoint"], fields["server_key"]), fields["job"],
            _keys(fields, environment), fields["index"], fields["count"],
        )  # fmt: skip
    except FileNotFoundError:
        raise Unreachable(f"LIFL_CLIENT is {name!r}, and {_missing(path)}") from None
    except OSError as error:
        raise Unreachable(
            f"LIFL_CLIENT is {name!r}, which cannot be read ({error.strerror}): {HINT}"
        ) from None
    except ValueError:
        raise Unreachable(f"LIFL_CLIENT is {name!r}, which is not JSON: {HINT}") from None
    except (KeyError, TypeError):
        raise Unreachable(
            f"LIFL_CLIENT is {name!r}, which is JSON but no client file: {HINT}"
        ) from None
    if (run := _ended_run(path)) is not None:
        new = "a new run has other client files, and is to be started before its clients"
        if (run / _OF_A_COMPLETE_RUN).exists():
            raise Unreachable(f"LIFL_CLIENT is {name!r}, and that run is complete: {new}")
        way = "this client waits for lifl run --resume"
        log.warning("the run of %s has ended: %s; %s", name, way, new)
    return found


def _missing(path: Path) -> str:
    """Why there is no such file, and what to do."""
    others = sorted((file.stem for file in path.parent.glob("*.json")), key=lambda n: (len(n), n))
    if others:
        few = ", ".join(others[:3]) + (f", … {others[-1]}" if len(others) > 3 else "")
        return f"the run has no client of that name; it has {few}"
    return (
        "there is no such file: start the run first, and its clients once it has said where their "
        'files are ("in other terminals: LIFL_CLIENT=...")'
    )


def _ended_run(path: Path) -> Path | None:
    """The run in whose directory it lies, where that is one of this machine that has ended."""
    run = path.resolve().parent.parent
    if not (run / _OF_A_RUN).exists():
        return None
    try:
        return None if is_held(run) else run
    except OSError:
        return None


def _keys(fields: Mapping[str, Any], environment: Mapping[str, str]) -> Keys:
    """The client's own keys: from its file, or from the one that the client has for itself."""
    if "secret_key" in fields:
        return Keys(fields["public_key"], fields["secret_key"])
    path = environment.get("LIFL_KEY", "")
    fix = "set it to the .key file that lifl keys new has made"
    if not path:
        raise InvalidJob(f"LIFL_KEY is not set, and the client file holds no secret: {fix}",
                         code="bad-keys")  # fmt: skip
    try:
        keys = Keys.load(Path(path))
    except OSError as error:
        raise InvalidJob(f"LIFL_KEY is {path!r}, which cannot be read ({error.strerror}): {fix}",
                         code="bad-keys") from error  # fmt: skip
    except ValueError as error:
        raise InvalidJob(f"LIFL_KEY is {path!r}, which is no key file: {fix}",
                         code="bad-keys") from error  # fmt: skip
    if keys.public != fields["public_key"]:
        raise InvalidJob(
            f"LIFL_KEY is {path!r}, whose public key is {keys.public}; the client file is for "
            f"{fields['public_key']}",
            code="bad-keys",
        )
    return keys
