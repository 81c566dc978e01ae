"""The Kubernetes API server, as a pod with a service account reaches it.

Owns requests and their errors; knows no kind of object.  A thin shell over urllib3, since agents
and coordinators, of which there are many, need four verbs and not a 50 MB client.  Called by the
tokens' doorman, the operator and the store of a job; thread-safe.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlencode

from lifl.errors import LiflError, PermanentError, Refused, TransientError, Unreachable

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S: Final = 10.0
WATCH_S: Final = 300  # after which the server ends a watch
Object = dict[str, Any]
Verb = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Missing(PermanentError):
    """There is no such object."""


class Conflict(TransientError):
    """Somebody else has changed or made the object meanwhile."""


class Api:
    """One API server.

    Args:
        token: a file, read with each request, since it is renewed; None: TLS alone says who asks.
    """

    def __init__(self, server: str, tls: ssl.SSLContext, token: Path | None = None) -> None:
        import urllib3  # of the extra `cluster`: `lifl run` needs none of it

        self.server, self.token = server.rstrip("/"), token
        self._failed = urllib3.exceptions.HTTPError
        self._pool = urllib3.PoolManager(
            ssl_context=tls, maxsize=8, timeout=urllib3.Timeout(TIMEOUT_S),
            retries=urllib3.Retry(total=False),
        )  # fmt: skip

    @classmethod
    def of_pod(cls) -> Self:
        """As this pod's service account."""
        host, port = (os.environ[f"KUBERNETES_SERVICE_{what}"] for what in ("HOST", "PORT"))
        host = f"[{host}]" if ":" in host else host
        tls = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
        return cls(f"https://{host}:{port}", tls, ACCOUNT / "token")

    def request(
        self, verb: Verb, path: str, body: object = None, *, kind: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:  # fmt: skip
        """One request.

        Raises:
            Missing, Conflict, Refused: what the server says.
            Unreachable: it is away or too busy; the same request may succeed later.
        """
        headers = self._headers() | {"Content-Type": kind}
        where = self.server + path + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = self._pool.request(verb, where, body=data, headers=headers)
        except self._failed as error:
            raise Unreachable(f"the API server does not answer: {error}") from error
        try:
            found = json.loads(answer.data) if answer.data else {}
        except ValueError:
            found = {"message": answer.data[:200].decode(errors="replace")}
        if answer.status >= 300:
            raise _error(answer.status, f"{verb} {path}: {found.get('message', answer.reason)}")
        return found if isinstance(found, dict) else {"items": found}

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.read_text().strip()}"
        return headers

    def watch(self, path: str, version: str, labels: dict[str, str]) -> Iterator[Object]:
        """Events of a list since that version, as they come, until the server ends it.

        Raises:
            Unreachable: it is away, or says nothing for longer than it said it would.
            Conflict: what happened since that version is known no more; list again.
        """
        import urllib3

        query = {
            "watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S),
            "labelSelector": _selector(labels),
        }  # fmt: skip
        patience = urllib3.Timeout(connect=TIMEOUT_S, read=WATCH_S + TIMEOUT_S)
        try:
            answer = self._pool.request(
                "GET", f"{self.server}{path}?{urlencode(query)}", headers=self._headers(),
                preload_content=False, timeout=patience,
            )  # fmt: skip
            with contextlib.closing(answer):
                if answer.status >= 300:
                    raise _error(answer.status, f"watch {path}: {answer.reason}")
                yield from _events(answer, path)
        except (self._failed, OSError) as error:
            raise Unreachable(f"the API server does not answer: {error}") from error

    def get(self, path: str) -> Object:
        return self.request("GET", path)

    def find(self, path: str) -> Object | None:
        """The object; None where there is none."""
        try:
            return self.get(path)
        except Missing:
            return None

    def items(self, path: str, labels: dict[str, str] | None = None) -> list[Object]:
        found: list[Object] = self.listed(path, labels or {})["items"]
        return found

    def listed(self, path: str, labels: dict[str, str]) -> Object:
        """A list with its version, from which `watch` goes on."""
        return self.request("GET", path, query={"labelSelector": _selector(labels)})

    def create(self, path: str, body: Object) -> Object:
        return self.request("POST", path, body)

    def apply(self, path: str, body: Object) -> Object:
        """Server-side apply: the object is as it says, made where it was not there."""
        query = {"fieldManager": "lifl", "force": "true"}
        return self.request("PATCH", path, body, kind="application/apply-patch+yaml", query=query)

    def merge(self, path: str, body: Object) -> Object:
        """JSON merge patch; with metadata.resourceVersion in it only of that version."""
        return self.request("PATCH", path, body, kind="application/merge-patch+json")

    def delete(self, path: str, *, grace_s: int | None = None) -> None:
        """Also what hangs below it; what is not there is no error."""
        body: Object = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        with contextlib.suppress(Missing):
            self.request("DELETE", path, body)


def path_of(
    group: str, plural: str, namespace: str = "", name: str = "", part: str = ""
) -> str:
    """Of an object or a list: group "" is core v1, else "batch/v1"."""
    root = "/api/v1" if not group else f"/apis/{group}"
    space = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{space}/{plural}" + (f"/{quote(name)}" if name else "") + (
        f"/{part}" if part else ""
    )


def _selector(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _events(answer: Iterable[bytes], path: str) -> Iterator[Object]:
    """Lines of JSON; the pieces in which they come are the network's."""
    rest = b""
    for piece in answer:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            event: Object = json.loads(line)
            if event["type"] == "ERROR":
                raise Conflict(f"watch {path}: {event['object'].get('message', 'it has ended')}")
            yield event


def _error(status: int, sentence: str) -> LiflError:
    match status:
        case 404:
            return Missing(sentence)
        case 409:
            return Conflict(sentence)
        case 401 | 403:
            return Refused(sentence, code="not-allowed")
        case 429:
            return Unreachable(sentence)
        case _ if status >= 500:
            return Unreachable(sentence)
        case _:
            return PermanentError(sentence, code="api-refused")
