"""The webhook: what makes the pods of LIFL's Knative Services functions.

    API server ─AdmissionReview─► Deployment of a Revision ─► patch, or a refusal

Takes queue-proxy and what only it needs out, and puts in what Knative's API does not take: the
folder of the agent's socket, the node, the priority.  Owns the patch, which is pure, and the
server; who is asked about is the chart's MutatingWebhookConfiguration, whose failurePolicy is Fail:
without an answer there is no Deployment, and so no pod with a queue-proxy.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from pathlib import Path
from typing import Any, Final

import aiohttp.web

from lifl.errors import InvalidUpdate, LiflError
from lifl.placement.cluster import names
from lifl.placement.cluster.api import Object
from lifl.placement.cluster.knative import SIDECAR
from lifl.placement.cluster.objects import Install, function_pod

log = logging.getLogger("lifl.operator")

PATH: Final = "/mutate-functions"
LOOK_S: Final = 10.0  # between two looks at the certificate
LARGEST_REVIEW: Final = 4 << 20


def functions_pod(deployment: Object, install: Install) -> Object:
    """The pod that a Revision's Deployment is to have.

    It has no readiness probe: Knative's is queue-proxy's to make, at a port that functions, which
    listen nowhere, do not have.  A pod is ready when its container runs.

    Raises:
        InvalidUpdate: it is none of LIFL's functions.
    """
    spec: Object = dict(deployment["spec"]["template"]["spec"])
    labels = deployment["metadata"].get("labels", {})
    missing = [name for name in (names.TENANT, names.NODE) if not labels.get(name)]
    found = [each for each in spec["containers"] if each["name"] != SIDECAR]
    if missing or len(found) != 1:
        raise InvalidUpdate(
            f"the Deployment has {'no label ' + missing[0] if missing else 'several containers'}: "
            "Knative Services of LIFL's functions are made by LIFL's operator alone"
        )
    wanted = function_pod(labels[names.TENANT], labels[names.NODE], install, "knative")["spec"]
    container = {name: value for name, value in found[0].items() if name != "lifecycle"}
    socket = [mount for mount in wanted["containers"][0]["volumeMounts"]
              if mount["name"] == "socket"]  # fmt: skip
    mounts = [mount for mount in container.get("volumeMounts", []) if mount["name"] != "socket"]
    container["volumeMounts"] = [*mounts, *socket]
    used = {mount["name"] for mount in mounts}
    spec |= {
        "containers": [container],
        "volumes": [
            *(each for each in spec.get("volumes", []) if each["name"] in used),
            *(each for each in wanted["volumes"] if each["name"] == "socket"),
        ],
        "affinity": spec.get("affinity", {}) | {"nodeAffinity": _on(labels[names.NODE])},
        "tolerations": wanted["tolerations"],
        "terminationGracePeriodSeconds": wanted["terminationGracePeriodSeconds"],
    }  # fmt: skip
    if "priorityClassName" in wanted:
        spec["priorityClassName"] = wanted["priorityClassName"]
    return spec


def _on(node: str) -> Object:
    chosen = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [chosen]}]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def answer(review: Object, install: Install) -> Object:
    """The answer to an AdmissionReview; what cannot be read is refused."""
    request = review.get("request", {})
    said: Object = {"uid": request.get("uid", "")}
    try:
        deployment = request["object"]
        pod = functions_pod(deployment, install)
        said["allowed"] = True
        if pod != deployment["spec"]["template"]["spec"]:
            patch = [{"op": "replace", "path": "/spec/template/spec", "value": pod}]
            said["patchType"] = "JSONPatch"
            said["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
    except LiflError as error:
        said |= {"allowed": False, "status": {"code": 422, "message": str(error)}}
    except (KeyError, TypeError, AttributeError) as error:
        why = f"this is no review of a Deployment: {error!r}"
        said |= {"allowed": False, "status": {"code": 400, "message": why}}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": said}


class Webhook:
    """The server, in the operator's loop.

    Args:
        port: 0: any; `port` says which.
        tls: folder with tls.crt and tls.key, looked at again every LOOK_S.
    """

    def __init__(self, install: Install, port: int, tls: Path) -> None:
        self._install, self.port, self._tls = install, port, tls
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._loaded: list[bytes] = []
        self._runner: aiohttp.web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError or ssl.SSLError where there is no certificate, or the port is taken."""
        self.load()
        app = aiohttp.web.Application(client_max_size=LARGEST_REVIEW)
        app.add_routes([aiohttp.web.post(PATH, self._post)])
        self._runner = aiohttp.web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = aiohttp.web.TCPSite(self._runner, "0.0.0.0", self.port, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def run(self) -> None:
        """Takes another certificate where there is one, for connections from then on."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.load()
            except (OSError, ssl.SSLError) as error:  # half of a pair, until the next look
                log.warning("the webhook keeps its certificate: %s", error)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def load(self) -> None:
        """The certificate that lies there, where it is another."""
        chain, key = (self._tls / name for name in ("tls.crt", "tls.key"))
        content = [chain.read_bytes(), key.read_bytes()]
        if content != self._loaded:
            self._context.load_cert_chain(chain, key)
            self._loaded = content

    async def _post(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        try:
            review: Any = await request.json()
        except ValueError:
            return aiohttp.web.Response(status=400, text="the body is no JSON\n")
        said = answer(review if isinstance(review, dict) else {}, self._install)
        if not said["response"]["allowed"]:
            log.warning("the webhook refuses: %s", said["response"]["status"]["message"])
        return aiohttp.web.json_response(said)
