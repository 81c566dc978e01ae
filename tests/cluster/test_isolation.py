"""What a pod of another tenant cannot do, tried from one with that tenant's own tokens and keys.

docs/operator.md has the list, and which of these the kernel or the API server refuses, so that no
process of LIFL could count it.  Tenant B has a job, and from its Secret the file of a client that
takes part in nothing: the intruder speaks with its key.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.installation import (
    PATIENCE_S,
    Installation,
    Job,
    Run,
    digits,
    fljob,
    until,
)
from tests.cluster.kubectl import Ended, Kubectl, Pods

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATH = """
import sys
sys.path.insert(0, "/opt/lifl/lib/python3.11/site-packages")
"""
USER = {"runAsNonRoot": True, "runAsUser": 10001}
ROOT = {"runAsNonRoot": False, "runAsUser": 0}


def counted(lifl: Installation, metric: str) -> dict[str, int]:
    """By code.  What gateways count comes with their answer to the ping of an earlier scrape."""
    found: dict[str, int] = {}
    for labels, value in lifl.figures(metric).items():
        found[labels.partition('"')[2].partition('"')[0]] = int(value)
    return found


def more(lifl: Installation, metric: str, before: dict[str, int], wanted: dict[str, int]) -> None:
    """See that these were counted, at least as often, since `before`."""

    def there() -> bool:
        now = counted(lifl, metric)
        return all(now.get(code, 0) - before.get(code, 0) >= n for code, n in wanted.items())

    until(there, f"{metric} has {wanted} more than {before}")


# -- the agent's socket -------------------------------------------------------------------------
JOIN = (
    PATH
    + """
import json, socket
from lifl.proxy_ebpf.control import Control
from pathlib import Path
what = sys.argv[1]
control = Control.connect(Path("/run/lifl/agent.sock"))
if what == "garbage":
    control.socket.send(b"\\xc1 no msgpack")
else:
    token = open("/token/token").read() if what != "nothing" else ""
    control.send({"t": what, "endpoint": "x", "job": 1, "token": token})
print(json.dumps(control.receive()[0]))
"""
)


@pytest.fixture
def intruder(lifl: Installation, pods: Pods, nodes: list[str]) -> Any:
    def run(what: str) -> Ended:
        """A pod with the agent's socket, which takes a host path, and its own token for agents."""
        token = {"audience": "lifl-agent", "path": "token"}
        return pods.run(
            "intruder", ["python", "-c", JOIN, what], node=nodes[0], security=USER,
            mounts=[{"name": "socket", "mountPath": "/run/lifl", "readOnly": True},
                    {"name": "token", "mountPath": "/token"}],
            volumes=[
                {"name": "socket", "hostPath": {"path": f"/run/{lifl.name}/{nodes[0]}/socket"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            ],
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("what", "code"),
    [("runtime", "not-allowed"), ("gateway", "not-allowed"), ("keys", "not-allowed"),
     ("held-job", "not-allowed"), ("nothing", "bad-token"), ("garbage", "malformed")],
)  # fmt: skip
def test_a_pod_of_a_tenant_does_not_join(
    lifl: Installation, intruder: Any, what: str, code: str
) -> None:
    before = counted(lifl, "lifl_joins_refused_total")
    ended = intruder(what)
    assert ended.status == 0, ended
    said = json.loads(ended.log)
    assert (said["t"], said["code"]) == ("refused", code)
    after = counted(lifl, "lifl_joins_refused_total")
    assert after[code] == before.get(code, 0) + 1


# -- the node -------------------------------------------------------------------------------------
NODE = (
    PATH
    + """
import errno, os
from pathlib import Path
from lifl.proxy_ebpf import libbpf

def refused(do):
    try:
        return f"did it: {do()!r}"
    except OSError as error:
        return errno.errorcode[error.errno]

def memory():
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd/*"):
        target = refused(lambda: os.readlink(folder))
        found += [target] if "memfd" in target else []
    return found

print("state", refused(lambda: os.listdir("/node/state")))
print("memory", memory())
pins = Path("/host/bpf") / f"{sys.argv[1]}-{sys.argv[2]}"
home = next(pins.iterdir()) if os.getuid() == 0 else pins / "hidden"
print("routes", refused(lambda: libbpf.pinned(home / "lifl_next_hop")))
"""
)


@pytest.mark.parametrize("user", [USER, ROOT], ids=["user", "root"])
def test_a_pod_of_a_tenant_reaches_no_memory_and_no_route(
    lifl: Installation, run: Run, pods: Pods, nodes: list[str], user: dict[str, Any]
) -> None:
    """Also with folders of the node, which PodSecurity keeps from tenants."""
    job = run(small(400))
    job.wait("condition=Running")
    node = job.status["tree"]["nodes"][0]["name"]
    ended = pods.run(
        "intruder", ["python", "-c", NODE, lifl.name, node], node=node, security=user,
        mounts=[{"name": "node", "mountPath": "/node", "readOnly": True},
                {"name": "bpf", "mountPath": "/host/bpf", "readOnly": True}],
        volumes=[{"name": "node", "hostPath": {"path": f"/run/{lifl.name}/{node}"}},
                 {"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}}],
    )  # fmt: skip
    assert ended.status == 0, ended
    said = dict(line.split(" ", 1) for line in ended.log.splitlines())
    assert said["memory"] == "[]"
    assert said["routes"] in ("EPERM", "EACCES"), said
    if user is USER:
        assert said["state"] == "EACCES", said


# -- the gateway --------------------------------------------------------------------------------
def small(rounds: int, **spec: Any) -> dict[str, Any]:
    """A job of four clients in one pod."""
    base = digits(rounds)
    trainer = base["trainer"] | {"clients": 4, "replicas": 1}
    return base | {
        "trainer": trainer, "clients": {"min": 4, "max": 6}, "placement": {"policy": "worstfit"},
    } | spec  # fmt: skip


ATTACK = (
    PATH
    + """
import json, os, secrets, socket
import zmq
from lifl.functions.bulk_client import Broken, BulkConnection, connect
from lifl.functions.sealing import Head, Kind, Mode, Ticket, about
from lifl.functions.wire import Keys, dealer, decode, encode, host_of

mine, neighbour = (json.load(open(f"/files/client-{n}.json")) for n in (4, 5))
endpoint, server_key, theirs = sys.argv[1:]
context = zmq.Context()
keys = Keys(mine["public_key"], mine["secret_key"])


class Line:
    def __init__(self, keys):
        self.socket = dealer(context, keys, endpoint, server_key)
        self.socket.linger = 0

    def ask(self, message, payload=None):
        frames = [encode(message)]
        self.socket.send_multipart(frames if payload is None else [*frames, payload])
        while self.socket.poll(5000):
            answer = decode(self.socket.recv_multipart()[0])
            if answer["t"] != "here":
                return answer
        return {"t": "silence", "code": "silence"}


def say(what, answer):
    print(json.dumps([what, answer.get("code", answer["t"])]), flush=True)


line = Line(keys)
for what, message in {
    "hello": {"t": "hello"},
    "fetch": {"t": "get", "round": 1, "at": 0, "n": 1024},
    "fetch by bulk": {"t": "get", "round": 1, "at": 0, "n": 1024, "transfer": 1},
    "send": {"t": "put", "round": 1, "kind": "update", "weight": 1.0, "digest": "0" * 16},
    "overwrite": {"t": "chunk", "round": 1, "at": 0},
    "replace the model": {"t": "put", "kind": "model", "round": 1},
    "send a sum": {"t": "put", "kind": "sum", "round": 1, "weight": 1.0, "clients": b"\\1"},
    "report": {"t": "report", "round": 1, "weight": 1.0, "metrics": {}},
    "ticket": {"t": "ticket", "n": 1},
    "as a virtual client": {"t": "put", "round": 1, "as": 0},
}.items():
    say(what, line.ask(message | {"job": theirs}, b"x" * 8 if "chunk" in message["t"] else None))
for what, message in {
    "own job, not drawn": {"t": "put", "round": 1, "kind": "update", "weight": 1.0, "digest": ""},
    "own job, its model": {"t": "put", "kind": "model", "round": 1},
    "own job, a sum": {"t": "put", "kind": "sum", "round": 1, "weight": 1.0, "clients": b"\\1"},
}.items():
    say(what, line.ask(message | {"job": mine["job"]}))
say("a key that nobody enrolled", Line(Keys.new()).ask({"t": "hello", "job": theirs}))
other = Keys(neighbour["public_key"], mine["secret_key"])
say("another client's name", Line(other).ask({"t": "hello", "job": mine["job"]}))


def bulk(what, data):
    with socket.create_connection((host_of(endpoint), ticket["port"]), timeout=10) as sock:
        sock.sendall(data)
        try:
            got = sock.recv(64)
        except ConnectionError:
            got = b""
    print(json.dumps([f"bulk: {what}", "closed" if not got else "answered"]), flush=True)


def greeting(id, secret, client=keys.public, job=mine["job"]):
    what = about(Mode.SEALED, gateway=server_key, client=client, job=job)
    return Ticket(id, secret, Mode.SEALED, what).greeting()


ticket = line.ask({"t": "ticket", "job": mine["job"], "n": 1})
assert ticket["t"] == "ticket", ticket
id, secret = ticket["id"], ticket["secret"]
bulk("random bytes", secrets.token_bytes(4096))
bulk("a ticket that nobody gave", greeting(secrets.token_bytes(16), secret))
bulk("a ticket seen on the wire", greeting(id, secrets.token_bytes(32)))
bulk("own ticket for another job", greeting(id, secret, job=theirs))
bulk("own ticket as another client", greeting(id, secret, client=neighbour["public_key"]))
connection = connect(ticket, keys, endpoint=endpoint, gateway=server_key, job=mine["job"])
bulk("a ticket again", greeting(id, secret))
head = Head(Kind.UPDATE, 64, 1, 99, 0).pack()
connection._sock.sendall(head + bytes(64 + 16))
how = "answered" if connection._sock.recv(1) else "closed"
print(json.dumps(["bulk: a slot that nobody gave", how]))
"""
)


@dataclass(frozen=True)
class Tenant:
    """Another namespace, with a job of its own."""

    kubectl: Kubectl
    job: Job


@pytest.fixture
def other(cluster: Kubectl, lifl: Installation) -> Iterator[Tenant]:
    kubectl = Kubectl(f"other-{secrets.token_hex(4)}")
    cluster("create", "namespace", kubectl.namespace)
    kubectl.apply(fljob("own", small(2000)))
    job = Job(kubectl, "own", lifl)
    job.wait("condition=Running")
    yield Tenant(kubectl, job)
    kubectl("delete", "fljob/own", "--wait=true", f"--timeout={PATIENCE_S}s")
    cluster("delete", "namespace", kubectl.namespace, "--wait=true", f"--timeout={PATIENCE_S}s")


def test_another_tenants_client_gets_nothing_from_a_gateway(
    lifl: Installation, run: Run, other: Tenant
) -> None:
    job = run(small(2000))
    job.wait("condition=Running")
    until(lambda: job.status.get("round", 0) >= 1, "the first round")
    before = counted(lifl, "lifl_rejections_total")
    files = other.kubectl.get("secret/own-lifl")["data"]
    evaluator = json.loads(base64.b64decode(files["evaluator.json"]))
    node = job.status["tree"]["nodes"][0]["name"]
    full_name = f"{job.kubectl.namespace}/{job.name}"
    ended = Pods(other.kubectl).run(
        "intruder", ["python", "-c", ATTACK, *evaluator["gateways"][node], full_name],
        security=USER,
        mounts=[{"name": "files", "mountPath": "/files", "readOnly": True}],
        volumes=[{"name": "files", "secret": {"secretName": "own-clients"}}],
    )  # fmt: skip
    assert ended.status == 0, ended
    said = dict(json.loads(line) for line in ended.log.splitlines())
    own = {what: code for what, code in said.items() if what.startswith("own job")}
    bulk = {what: how for what, how in said.items() if what.startswith("bulk")}
    strangers = {"a key that nobody enrolled", "another client's name"}
    rest = {what: said[what] for what in said.keys() - own.keys() - bulk.keys() - strangers}
    assert len(rest) == 10
    assert set(rest.values()) == {"not-enrolled"}, rest
    assert set(own.values()) <= {"not-selected", "not-allowed", "late", "malformed"}, own
    assert {said[who] for who in strangers} == {"silence"}
    assert len(bulk) == 7
    assert set(bulk.values()) == {"closed"}, bulk
    more(lifl, "lifl_rejections_total", before, {
        "not-enrolled": 10, "unknown-key": 1, "bad-handshake": 1, "bulk: not a greeting": 1,
        "bulk: unknown": 1, "bulk: stolen": 3, "bulk: replayed": 1, "bulk: not granted": 1,
    })  # fmt: skip
    for each in (job, other.job):  # and rounds go on, of both
        at = each.status["round"]
        until(lambda each=each, at=at: each.status["round"] >= at + 2, "two more rounds")  # type: ignore[misc]
        assert each.status["phase"] == "Running"


# -- a function of another tenant -----------------------------------------------------------------
CLAIM = (
    PATH
    + """
import json, os, socket
from pathlib import Path
from lifl.proxy_ebpf.control import Control
from lifl.proxy_ebpf.port import make_pair
number, endpoint = map(int, sys.argv[1:])
control = Control.connect(Path("/run/lifl/agent.sock"))
pair, memory = make_pair("ebpf"), [os.memfd_create("arena") for _ in range(3)]
fds = [*(end.fileno() for end in pair), *memory]
token = open("/token/token").read()
control.send({"t": "runtime", "job": number, "endpoint": endpoint, "token": token}, fds)
control.send({"t": "join", "job": number, "endpoint": endpoint}, fds[:2])
control.send({"t": "left", "job": number, "endpoint": endpoint})
control.send({"t": "failed", "job": number, "error": "made up"})
control.socket.settimeout(3)
print(json.dumps([m[0]["t"] for m in iter(control.receive, None)]))
"""
)


def test_a_function_of_another_tenant_gets_no_role_of_this_one(
    lifl: Installation, run: Run, nodes: list[str]
) -> None:
    """A pod as only LIFL makes them, with a function's account and another tenant's label."""
    job = run(small(400))
    job.wait("condition=Running")
    before = counted(lifl, "lifl_joins_refused_total")
    node = job.status["tree"]["nodes"][0]["name"]
    uid = job.get()["metadata"]["uid"]
    number = int(uid.replace("-", "")[:8], 16)
    real = next(p for p in lifl.pods("function") if p["spec"]["nodeName"] == node)
    spec = real["spec"]
    container = spec["containers"][0]
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "claim", "labels": {"lifl.dev/tenant": "somebody-else"}},
        "spec": {
            "serviceAccountName": spec["serviceAccountName"], "nodeName": node,
            "automountServiceAccountToken": False, "restartPolicy": "Never",
            "securityContext": spec["securityContext"],
            "containers": [{
                "name": "main", "image": container["image"],
                "imagePullPolicy": container["imagePullPolicy"],
                "command": ["python", "-c", CLAIM, str(number), "1"],
                "securityContext": container["securityContext"],
                "resources": container["resources"],
                "volumeMounts": [m | {"mountPath": "/token"} if m["name"] == "token" else m
                                 for m in container["volumeMounts"]],
            }],
            "volumes": spec["volumes"],
        },
    }  # fmt: skip
    lifl.functions.apply(pod)
    try:
        ended = Pods(lifl.functions).end("claim")
    finally:
        lifl.functions("delete", "pod/claim", "--wait=true")
    assert ended.status == 0, ended
    assert "joined" not in json.loads(ended.log)
    more(lifl, "lifl_joins_refused_total", before, {"other-tenant": 1, "not-its-role": 3})
    at = job.status["round"]
    until(lambda: job.status["round"] >= at + 2, "two more rounds")
