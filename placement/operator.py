"""The operator: what a cluster runs in the place of `lifl run`.

    FLJobs, Jobs ─kopf─► keepers ─► coordinators (children)      agents ─ZeroMQ─► desk ─► scaling

Owns the process: the Lease, kopf's watches, the desk of the agents' lines, the endpoint for probes
and metrics, and that all of it ends together.  Decides nothing: cluster/decide.py does.  Started as
a Deployment's container:

    python -m lifl.placement.operator --namespace NS --identity POD --address IP --lease NAME ...
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp.web
import click
import kopf

from lifl.errors import LiflError
from lifl.functions.wire import Keys
from lifl.metrics import Figures
from lifl.placement.arbiter import Arbiter, Share
from lifl.placement.cluster import names, services
from lifl.placement.cluster.admission import Webhook
from lifl.placement.cluster.api import Api, Missing, Object, path_of
from lifl.placement.cluster.decide import ENDED
from lifl.placement.cluster.deployments import Deployments
from lifl.placement.cluster.desk import AUDIENCE, Desk, NodeHere, agent_rule
from lifl.placement.cluster.draining import Drains
from lifl.placement.cluster.gather import fetched, together
from lifl.placement.cluster.keeper import Keeper
from lifl.placement.cluster.lease import wait_until_elected
from lifl.placement.cluster.nodes import Notes
from lifl.placement.cluster.objects import FunctionsRuntime, Install
from lifl.placement.cluster.scaling import Runtime, Scaler
from lifl.placement.cluster.tokens import review_of
from lifl.placement.sink import OUTCOMES, Counts

log = logging.getLogger("lifl.operator")

LEVELS: Final = {
    "debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
    "error": logging.ERROR,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The process's own.

    Attributes:
        tls: folder with the webhook's certificate; None: this operator has no webhook.
    """

    identity: str
    address: str
    lease: str
    port: int
    metrics_port: int
    directory: Path
    agent_account: str
    functions_idle_s: float
    webhook_port: int = 9443
    tls: Path | None = None


@dataclass
class Operator:
    """The active one."""

    api: Api
    install: Install
    settings: Settings
    epoch: int
    desk: Desk | None = None  # until it has started
    keepers: dict[str, Keeper] = field(default_factory=dict)
    scalers: dict[FunctionsRuntime, Scaler] = field(default_factory=dict)
    webhook: Webhook | None = None
    services: services.Services | None = None  # with a webhook alone
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    events: Counts = field(default_factory=Counts)  # of all jobs' sinks

    def __post_init__(self) -> None:
        self.arbiter = Arbiter(self._tell_share)

    def _tell_share(self, full_name: str, share: Share) -> None:
        for keeper in self.keepers.values():
            if keeper.full_name == full_name:
                keeper.tell_share(share)

    async def start(self, keys: Keys) -> None:
        """In kopf's loop, before it watches anything."""
        there = await asyncio.to_thread(self.api.items, names.fljob("", ""))
        self.desk = desk = Desk(
            keys, f"tcp://0.0.0.0:{self.settings.port}", who=self._see_agent,
            on_nodes=self._on_nodes, on_demand=self._on_demand, on_evict=self._evict,
            on_initial=self._wake,
        )  # fmt: skip
        self._scale_by("deployment", Deployments(self.api, self.install))
        self.notes = Notes(self.api, desk.nodes)
        works = [desk.run(), self.notes.run()]
        if self.settings.tls is not None:
            self.webhook = webhook = Webhook(
                self.install, self.settings.webhook_port, self.settings.tls
            )
            await webhook.start()
            self.services = services.Services(self.api, self.install, desk.gateway_of)
            self._scale_by("knative", self.services)
            works += [webhook.run(), self.services.run()]
        for body in there:
            if body.get("status", {}).get("phase") in ("Placed", "Running"):
                desk.unclaimed.add(_full_name(body))
        works += [scaler.run() for scaler in self.scalers.values()]
        self.tasks += [asyncio.create_task(work) for work in works]
        for task in self.tasks:
            task.add_done_callback(_must_not_end)

    def _scale_by(self, name: FunctionsRuntime, runtime: Runtime) -> None:
        self.scalers[name] = Scaler(
            runtime, self.settings.functions_idle_s, Drains(self._tell_drained)
        )

    # -- what kopf says ----------------------------------------------------------------------
    def fljob(self, body: Object) -> None:
        """An FLJob is there, or has changed."""
        uid = body["metadata"]["uid"]
        if body["metadata"].get("deletionTimestamp"):
            return  # `deleted` sees to it
        keeper = self.keepers.get(uid)
        if keeper is not None:
            if keeper.body["metadata"].get("generation") != body["metadata"].get("generation"):
                keeper.body = body
                keeper.wake()
            return
        settings = self.settings
        assert self.desk is not None
        keeper = self.keepers[uid] = Keeper(
            self.api, self.desk, self.install, body, epoch=self.epoch,
            identity=settings.identity, address=settings.address, directory=settings.directory,
            arbiter=self.arbiter,
            events=self.events,
        )  # fmt: skip
        keeper.start().add_done_callback(_must_not_fail)
        for node in self.desk.nodes.values():  # it may have been said before this job was known
            self._on_demand(node)

    async def deleted(self, body: Object) -> None:
        """An FLJob is to go; its finalizer waits for this."""
        metadata = body["metadata"]
        keeper = self.keepers.get(metadata["uid"])
        if keeper is None:  # deleted before this operator saw it
            self.fljob(body | {"metadata": {**metadata, "deletionTimestamp": None}})
            keeper = self.keepers[metadata["uid"]]
        await keeper.end()
        self.keepers.pop(metadata["uid"], None)
        tenant = metadata["namespace"]
        left = {each.runtime for each in self.keepers.values() if each.namespace == tenant}
        for name, scaler in self.scalers.items():
            if name not in left:
                await scaler.forget(tenant)

    def member(self, body: Object) -> None:
        """A batch Job of a member has changed."""
        for owner in body["metadata"].get("ownerReferences", []):
            if (keeper := self.keepers.get(owner["uid"])) is not None:
                keeper.member_says(body)

    def node(self, body: Object, *, is_gone: bool) -> None:
        """A node of the cluster has changed."""
        assert self.desk is not None
        name, before = body["metadata"]["name"], set(self.desk.cordoned)
        if is_gone or not body.get("spec", {}).get("unschedulable"):
            self.desk.cordoned.discard(name)
        else:
            self.desk.cordoned.add(name)
        if self.desk.cordoned != before:
            self._wake_all()

    # -- what agents say ---------------------------------------------------------------------
    def _see_agent(self, token: str, node: str) -> None:
        review = review_of(self.api, token, AUDIENCE)
        extra = review.get("status", {}).get("user", {}).get("extra", {})
        pod_name = extra.get("authentication.kubernetes.io/pod-name", [""])[0]
        namespace = self.install.namespace
        pod = self.api.find(path_of("", "pods", namespace, pod_name)) if pod_name else None
        agent_rule(
            review, pod, namespace=namespace, account=self.settings.agent_account, node=node
        )

    def _on_nodes(self) -> None:
        self.notes.wake()
        if self.services is not None:
            self.services.gateways_changed()
        self._wake_all()

    def _wake_all(self) -> None:
        for keeper in self.keepers.values():
            keeper.wake()

    def _wake(self, full_name: str) -> None:
        for keeper in self.keepers.values():
            if keeper.full_name == full_name:
                keeper.wake()

    def _on_demand(self, node: NodeHere) -> None:
        """A node's roles are its jobs', and each job says what its functions run as."""
        wanted: dict[FunctionsRuntime, Counter[str]] = {name: Counter() for name in self.scalers}
        for keeper in self.keepers.values():
            if keeper.runtime in wanted and (number := node.demand.get(keeper.full_name, 0)):
                wanted[keeper.runtime][keeper.namespace] += number
        asked = set()
        for name, scaler in self.scalers.items():
            scaler.drains.hear(node.name, node.busy, node.draining)
            scaler.want(node.name, wanted[name])
            asked |= scaler.drains.asked_of(node.name)
        if asked - {*node.busy, *node.draining}:  # an agent that began anew knows of none
            self._tell_drained(node.name)

    def _tell_drained(self, node: str) -> None:
        pods = {pod for each in self.scalers.values() for pod in each.drains.asked_of(node)}
        if self.desk is not None:
            self.desk.drain(node, sorted(pods))

    def _evict(self, pod: str) -> None:
        """Its process holds a role and does not answer; who waits for the role cannot kill it."""
        path = path_of("", "pods", self.install.functions_namespace, pod)
        log.warning("pod %s does not answer: deleted", pod)
        asyncio.get_running_loop().run_in_executor(None, lambda: self.api.delete(path, grace_s=0))

    def figures(self) -> tuple[dict[str, str], Figures]:
        """Where coordinators' figures are, and the operator's own; called from another thread."""
        keepers = list(self.keepers.values())
        urls = {each.full_name: each.metrics_at for each in keepers if each.metrics_at}
        phases = [each.status.phase for each in keepers]
        figures = own_figures(leads=True)
        figures.set("lifl_operator_nodes", len(self.desk.nodes) if self.desk is not None else 0)
        figures.set("lifl_operator_fljobs", sum(phase not in ENDED for phase in phases))
        for outcome in OUTCOMES:
            figures.add("lifl_sink_events", self.events[outcome], outcome=outcome)
        figures.add("lifl_sink_retries", self.events["retries"])
        sinks = [each.sink for each in keepers if each.sink is not None]
        figures.set("lifl_sink_waiting", sum(map(len, sinks)))
        return urls, figures

    async def stop(self) -> None:
        await asyncio.gather(*(keeper.leave() for keeper in self.keepers.values()))
        if self.webhook is not None:
            await self.webhook.stop()


def own_figures(*, leads: bool) -> Figures:
    figures = Figures("operator")
    figures.set("lifl_operator_leads", leads)
    return figures


def _full_name(body: Object) -> str:
    return names.full(body["metadata"]["namespace"], body["metadata"]["name"])


def _must_not_end(task: asyncio.Task[None]) -> None:
    """The operator is not an operator without it: another process takes over."""
    if not task.cancelled():
        log.error("a part of the operator has ended: %r", task.exception())
        os._exit(1)


def _must_not_fail(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _must_not_end(task)


# -- what an installation has once -------------------------------------------------------------
def own_keys(api: Api, namespace: str, lease: str) -> Keys:
    """The operator's keys, made by the first one; agents read the public half in a ConfigMap."""
    owners = _owners(api, namespace, lease)
    path = path_of("", "secrets", namespace)
    found = api.find(f"{path}/{lease}-keys")
    if found is None:
        keys = Keys.new()
        found = api.create(path, {
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": f"{lease}-keys", "labels": names.OURS, **owners},
            "stringData": {"public": keys.public, "secret": keys.secret},
        })  # fmt: skip
    public, secret = (base64.b64decode(found["data"][each]).decode()
                      for each in ("public", "secret"))  # fmt: skip
    api.apply(path_of("", "configmaps", namespace, f"{lease}-key"), {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": f"{lease}-key", "labels": names.OURS, **owners},
        "data": {"public": public},
    })  # fmt: skip
    api.merge(
        path_of("coordination.k8s.io/v1", "leases", namespace, lease), {"metadata": owners}
    )
    return Keys(public, secret)


def _owners(api: Api, namespace: str, deployment: str) -> dict[str, Any]:
    """What the operator makes for itself goes with its Deployment."""
    found = api.find(path_of("apps/v1", "deployments", namespace, deployment))
    if found is None:
        return {}
    return {"ownerReferences": [{
        "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment,
        "uid": found["metadata"]["uid"],
    }]}  # fmt: skip


class Probe:
    """GET /healthz, /readyz and /metrics, from the process's start on, in a thread of its own.

    Attributes:
        ask: where the coordinators' figures are, by job, and the operator's own.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.ask: Callable[[], tuple[dict[str, str], Figures]] = (
            lambda: ({}, own_figures(leads=False))
        )
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        async def well(_: aiohttp.web.Request) -> aiohttp.web.Response:
            return aiohttp.web.Response(text="ok\n")

        async def metrics(_: aiohttp.web.Request) -> aiohttp.web.Response:
            urls, own = self.ask()
            said = await asyncio.to_thread(lambda: together(fetched(urls), own))
            return aiohttp.web.Response(text=said)

        app = aiohttp.web.Application()
        app.add_routes([aiohttp.web.get("/metrics", metrics)])
        app.add_routes([aiohttp.web.get(path, well) for path in ("/healthz", "/readyz")])
        runner = aiohttp.web.AppRunner(app, access_log=None)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "0.0.0.0", self._port).start()
        await asyncio.Event().wait()


def watch(operator: Operator, keys: Keys) -> kopf.OperatorRegistry:
    """kopf's handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.persistence.finalizer = "fl.lifl.dev/operator"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="lifl.dev")
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="lifl.dev")
        settings.posting.enabled = False
        settings.networking.error_backoffs = [0.5, 1, 2, 4, 4, 4, 4, 4, 4, 4]
        while True:
            try:
                await operator.start(keys)
                return
            except LiflError as error:  # the definition of FLJob may come later than the operator
                log.warning("%s", error)
                await asyncio.sleep(1.0)

    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs)

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        await operator.stop()

    @kopf.on.event("fl.lifl.dev", "v1alpha1", "fljobs", registry=registry)
    async def fljob(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002
        if type != "DELETED":
            operator.fljob(_plain(body))

    @kopf.on.delete("fl.lifl.dev", "v1alpha1", "fljobs", registry=registry)
    async def deleted(body: kopf.Body, **_: Any) -> None:
        try:
            await operator.deleted(_plain(body))
        except LiflError as error:
            raise kopf.TemporaryError(str(error), delay=1) from error

    @kopf.on.event("batch", "v1", "jobs", labels={names.JOB: kopf.PRESENT}, registry=registry)
    async def member(body: kopf.Body, **_: Any) -> None:
        operator.member(_plain(body))

    @kopf.on.event("", "v1", "nodes", registry=registry)
    async def node(body: kopf.Body, type: str | None, **_: Any) -> None:  # noqa: A002
        operator.node(_plain(body), is_gone=type == "DELETED")

    return registry


def _plain(body: kopf.Body) -> Object:
    return json.loads(json.dumps(dict(body), default=dict))  # type: ignore[no-any-return]


def say_from(level: str) -> None:
    """Log from a level on; what libraries say of every event and lease is one level lower."""
    logging.basicConfig(format="%(name)s: %(message)s", level=LEVELS[level])
    for library in ("kopf", "leaderelection", "aiohttp", "urllib3"):
        logging.getLogger(library).setLevel(max(LEVELS[level] + 10, logging.INFO))


@click.command()
@click.option("--namespace", required=True, help="LIFL's own")
@click.option("--identity", required=True, help="name of this pod")
@click.option("--address", required=True, help="of this pod")
@click.option("--lease", required=True, help="name of the Lease, and of the Deployment")
@click.option("--service", help="where agents find the operator; the Lease's name unless given")
@click.option("--image", required=True)
@click.option("--image-pull-policy", default="IfNotPresent")
@click.option("--functions-namespace", required=True)
@click.option("--functions-service-account", required=True)
@click.option("--functions-resources", default="{}", help="JSON")
@click.option("--functions-priority-class", default="")
@click.option("--functions-tolerations", default="[]", help="JSON: the agents'")
@click.option("--functions-runtime", type=click.Choice(["deployment", "knative"]),
              default="deployment", help="of jobs that do not say")  # fmt: skip
@click.option("--functions-idle-s", default=30.0, help="for how long an idle function stays")
@click.option("--agent-service-account", required=True)
@click.option("--run-directory", default="/run/lifl")
@click.option("--gateway-bulk-port", default=7711, help="of every node")
@click.option("--log-level", default="info", type=click.Choice([*LEVELS]))
@click.option("--port", default=7700)
@click.option("--metrics-port", default=8080)
@click.option("--webhook-port", default=9443)
@click.option("--tls", type=click.Path(path_type=Path), help="folder of the webhook's certificate")
@click.option("--directory", type=click.Path(path_type=Path), default=Path("/var/lib/lifl"))
def main(
    namespace: str, identity: str, address: str, lease: str, service: str | None, image: str,
    image_pull_policy: str, functions_namespace: str, functions_service_account: str,
    functions_resources: str, functions_priority_class: str, functions_tolerations: str,
    functions_runtime: FunctionsRuntime, functions_idle_s: float, agent_service_account: str,
    run_directory: str, gateway_bulk_port: int, log_level: str, port: int, metrics_port: int,
    webhook_port: int, tls: Path | None, directory: Path,
) -> None:  # fmt: skip
    """Run the operator; it waits until it holds the Lease."""
    say_from(log_level)
    probe = Probe(metrics_port)
    api = Api.of_pod()
    epoch = wait_until_elected(
        name=lease, namespace=namespace, identity=identity, lost=lambda: os._exit(1)
    )
    log.info("%s leads, epoch %d", identity, epoch)
    try:
        keys = own_keys(api, namespace, lease)
        _lead(api, namespace, identity)
    except LiflError as error:
        raise SystemExit(f"the operator cannot begin: {error}") from error
    install = Install(
        namespace=namespace, image=image, image_pull_policy=image_pull_policy,
        functions_namespace=functions_namespace, functions_account=functions_service_account,
        functions_resources=json.loads(functions_resources),
        functions_priority_class=functions_priority_class,
        functions_tolerations=json.loads(functions_tolerations), run_directory=run_directory,
        gateway_bulk_port=gateway_bulk_port,
        functions_runtime=functions_runtime, has_webhook=tls is not None,
        operator=f"tcp://{service or lease}.{namespace}.svc:{port}", operator_key=keys.public,
    )  # fmt: skip
    settings = Settings(
        identity=identity, address=address, lease=lease, port=port, metrics_port=metrics_port,
        directory=directory, agent_account=agent_service_account,
        functions_idle_s=functions_idle_s, webhook_port=webhook_port, tls=tls,
    )  # fmt: skip
    operator = Operator(api, install, settings, epoch)
    probe.ask = operator.figures
    kopf.run(registry=watch(operator, keys), clusterwide=True, standalone=True)


def _lead(api: Api, namespace: str, identity: str) -> None:
    """The Service is this pod's from now on; a label that others had is theirs no more."""
    path = path_of("", "pods", namespace)
    for pod in api.items(path, {names.LEADER: "true"}):
        if pod["metadata"]["name"] != identity:
            with contextlib.suppress(Missing):
                api.merge(f"{path}/{pod['metadata']['name']}", _labelled(None))
    api.merge(f"{path}/{identity}", _labelled("true"))


def _labelled(leads: str | None) -> Object:
    return {"metadata": {"labels": {names.LEADER: leads}}}


if __name__ == "__main__":
    main()
