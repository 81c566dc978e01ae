"""Who a process is that wants to join, by the token of its pod.

    token ─► TokenReview, audience lifl-agent ─► namespace, service account, pod ─► the pod's labels

Owns the questions to the API server and what follows from the answers, which is pure.  A thread
asks, so that an agent's loop never waits for an API server that is away.  Called by members.py
through `Doorman`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, Literal

from lifl.errors import LiflError, Refused, TransientError
from lifl.placement.cluster.api import Api, Object, path_of
from lifl.placement.cluster.names import TENANT

AUDIENCE: Final = "lifl-agent"
AGAIN_S: Final = 1.0

GuestKind = Literal["gateway", "runtime"]


@dataclass(frozen=True)
class Guest:
    """A pod that may join.

    Attributes:
        tenant: whose jobs a runtime works for: a namespace.
    """

    kind: GuestKind
    pod: str
    namespace: str
    tenant: str = ""


@dataclass(frozen=True)
class Rule:
    """Whose pods may join as what: those of one service account."""

    kind: GuestKind
    namespace: str
    account: str

    @classmethod
    def of(cls, text: str) -> Rule:
        """From KIND=NAMESPACE:ACCOUNT."""
        kind, _, account = text.partition("=")
        namespace, _, name = account.partition(":")
        if kind not in ("gateway", "runtime") or not namespace or not name:
            raise ValueError(f"{text!r} is not gateway=NAMESPACE:ACCOUNT or runtime=...")
        return cls(kind, namespace, name)  # type: ignore[arg-type]


def pod_of(review: Object) -> tuple[str, str, str, str]:
    """(namespace, service account, pod, its uid) that a TokenReview's status names.

    Raises:
        Refused: no token of ours, or one that is bound to no pod.
    """
    status = review.get("status", {})
    if not status.get("authenticated") or AUDIENCE not in status.get("audiences", ()):
        raise Refused(
            f"the token is none for {AUDIENCE}: {status.get('error', 'not authenticated')}",
            code="bad-token",
        )
    user = status["user"]
    extra = {name.rpartition("/")[2]: each[0] for name, each in user.get("extra", {}).items()}
    kind, _, account = user["username"].partition("system:serviceaccount:")
    namespace, _, name = account.partition(":")
    if kind or not name or "pod-name" not in extra or "pod-uid" not in extra:
        raise Refused(f"the token of {user['username']} is bound to no pod", code="bad-token")
    return namespace, name, extra["pod-name"], extra["pod-uid"]


def guest_of(
    review: Object, pod: Object | None, rules: tuple[Rule, ...], *, node: str
) -> Guest:
    """Who a pod is to the agent of `node`.

    Raises:
        Refused: nobody who may join here.
    """
    namespace, account, name, uid = pod_of(review)
    where = f"pod {namespace}/{name}"
    kind = next((r.kind for r in rules if (r.namespace, r.account) == (namespace, account)), None)
    if kind is None:
        raise Refused(f"{where} of service account {account} may not join", code="not-allowed")
    if pod is None or pod["metadata"]["uid"] != uid:
        raise Refused(f"{where} is gone; the token is of one before it", code="bad-token")
    if pod["spec"].get("nodeName") != node:
        raise Refused(f"{where} is not on node {node}", code="not-allowed")
    tenant = pod["metadata"].get("labels", {}).get(TENANT, "")
    if kind == "runtime" and not tenant:
        raise Refused(f"{where} has no label {TENANT}", code="not-allowed")
    return Guest(kind, name, namespace, tenant if kind == "runtime" else "")


class Doorman:
    """Asks who somebody is.

    Args:
        rules: whose pods may join.
        node: on which they must be.
    """

    def __init__(self, api: Api, rules: tuple[Rule, ...], node: str) -> None:
        self._api, self._rules, self._node = api, rules, node
        self._asked: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, Guest | LiflError]] = queue.SimpleQueue()
        self._answered = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._ask, name="doorman", daemon=True).start()

    def fileno(self) -> int:
        """Readable when there are answers."""
        return self._answered

    def ask(self, about: Any, token: str) -> None:
        """`about` comes back with the answer."""
        self._asked.put((about, token))

    def answers(self) -> list[tuple[Any, Guest | LiflError]]:
        os.eventfd_read(self._answered)
        found = []
        while not self._answers.empty():
            found.append(self._answers.get())
        return found

    def _ask(self) -> None:
        while True:
            about, token = self._asked.get()
            self._answers.put((about, self._who(token)))
            os.eventfd_write(self._answered, 1)

    def _who(self, token: str) -> Guest | LiflError:
        """Asks until there is an answer: an API server that is away refuses nobody."""
        if not token:
            return Refused("it shows no token of a pod", code="bad-token")
        while True:
            try:
                review = review_of(self._api, token, AUDIENCE)
                namespace, _, name, _ = pod_of(review)
                known = any(rule.namespace == namespace for rule in self._rules)
                path = path_of("", "pods", namespace, name)
                pod = self._api.find(path) if known else None
                return guest_of(review, pod, self._rules, node=self._node)
            except TransientError:
                time.sleep(AGAIN_S)
            except LiflError as error:
                return error
            except (KeyError, TypeError, ValueError, OSError) as error:
                return Refused(f"the token cannot be looked at: {error!r}", code="bad-token")


def review_of(api: Api, token: str, audience: str) -> Object:
    return api.create("/apis/authentication.k8s.io/v1/tokenreviews", {
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    })  # fmt: skip
