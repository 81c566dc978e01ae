"""The webhook: what it makes of a Deployment, and that it answers at its port, by TLS."""

from __future__ import annotations

import asyncio
import base64
import copy
import datetime
import ipaddress
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lifl.errors import InvalidUpdate
from lifl.placement.cluster.admission import PATH, Webhook, answer, functions_pod
from lifl.placement.cluster.knative import functions_service
from lifl.placement.cluster.objects import Install, function_pod

pytestmark = pytest.mark.timeout(30)
INSTALL = Install(
    namespace="lifl-system", image="lifl:1", functions_priority_class="high",
    run_directory="/run/fl",
)  # fmt: skip


def deployment() -> dict[str, Any]:
    """As the Revision controller of Knative Serving 1.23 makes it of LIFL's Service."""
    template = functions_service("team-a", "n1", INSTALL)["spec"]["template"]
    spec = copy.deepcopy(template["spec"])
    del spec["timeoutSeconds"]
    spec["containers"][0] |= {
        "lifecycle": {"preStop": {"httpGet": {"port": 8022, "path": "/wait-for-drain"}}},
        "ports": [{"name": "user-port", "containerPort": 8080, "protocol": "TCP"}],
    }
    probe = json.dumps({"tcpSocket": {"port": 8080, "host": "127.0.0.1"}, "successThreshold": 1})
    spec["containers"].append({
        "name": "queue-proxy", "image": "queue", "env": [
            {"name": "SERVING_READINESS_PROBE", "value": probe},
        ],
        "volumeMounts": [{"name": "pod-info", "mountPath": "/etc/podinfo"}],
    })  # fmt: skip
    spec["volumes"].append({"name": "pod-info", "downwardAPI": {"items": []}})
    spread = {"preferredDuringSchedulingIgnoredDuringExecution": []}
    spec |= {"affinity": {"podAntiAffinity": spread}, "terminationGracePeriodSeconds": 5}
    labels = template["metadata"]["labels"] | {"serving.knative.dev/revision": "r"}
    return {
        "metadata": {"name": "r-deployment", "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": spec}},
    }


def test_the_pod_is_the_one_of_plain_deployments() -> None:
    """Without queue-proxy and what is only its; with folder, node and priority."""
    pod = functions_pod(deployment(), INSTALL)
    plain = function_pod("team-a", "n1", INSTALL)["spec"]
    (found,), (wanted,) = pod["containers"], plain["containers"]
    assert found["name"] == "function"
    assert not found.keys() & {"lifecycle", "readinessProbe"}
    for name in ("image", "command", "env", "resources", "imagePullPolicy"):
        assert found[name] == wanted[name]
    assert found["securityContext"] == plain["securityContext"] | wanted["securityContext"]
    by_name = {each["name"]: each for each in plain["volumes"]}
    assert {each["name"]: each for each in pod["volumes"]} == by_name
    assert by_name["socket"]["hostPath"]["path"] == "/run/fl/n1/socket"
    mounts = {each["name"]: each for each in found["volumeMounts"]}
    assert mounts == {each["name"]: each for each in wanted["volumeMounts"]}
    assert pod["priorityClassName"] == "high"
    assert pod["affinity"].keys() == {"podAntiAffinity", "nodeAffinity"}
    rule = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["nodeSelectorTerms"][0]["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
    ]


def test_a_second_time_nothing_changes() -> None:
    """The API server asks again about each update, and so does Knative of its own."""
    made = deployment()
    made["spec"]["template"]["spec"] = functions_pod(made, INSTALL)
    assert functions_pod(made, INSTALL) == made["spec"]["template"]["spec"]
    said = answer(review(made), INSTALL)["response"]
    assert (said["allowed"], "patch" in said) == (True, False)


def review(thing: Any) -> dict[str, Any]:
    return {"request": {"uid": "u", "operation": "CREATE", "object": thing}}


def test_what_is_no_function_is_refused() -> None:
    made = deployment()
    del made["metadata"]["labels"]["lifl.dev/node"]
    with pytest.raises(InvalidUpdate, match=r"no label lifl.dev/node"):
        functions_pod(made, INSTALL)
    two = deployment()
    two["spec"]["template"]["spec"]["containers"].append({"name": "miner"})
    said = answer(review(two), INSTALL)["response"]
    assert (said["uid"], said["allowed"], said["status"]["code"]) == ("u", False, 422)
    assert "several containers" in said["status"]["message"]


@pytest.mark.parametrize("wrong", [{}, review(None), review({"spec": 3}), review(["x"])])
def test_what_cannot_be_read_is_refused(wrong: dict[str, Any]) -> None:
    said = answer(wrong, INSTALL)["response"]
    assert said["allowed"] is False
    assert "no review of a Deployment" in said["status"]["message"]


# -- the server ----------------------------------------------------------------------------------
def certificate(folder: Path, serial: int) -> str:
    """A pair in `folder`, as the chart's Secret has it; what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lifl-operator")])
    now = datetime.datetime.now(datetime.UTC)
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    page = made.public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(page)
    (folder / "tls.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ))  # fmt: skip
    return page.decode()


def ask(port: int, trusts: str, body: bytes) -> dict[str, Any]:
    where = f"https://127.0.0.1:{port}{PATH}"
    request = urllib.request.Request(
        where, data=body, headers={"Content-Type": "application/json"}
    )
    context = ssl.create_default_context(cadata=trusts)
    with urllib.request.urlopen(request, timeout=10, context=context) as answered:
        found: dict[str, Any] = json.loads(answered.read())
    return found


def test_it_answers_and_takes_another_certificate(tmp_path: Path) -> None:
    first = certificate(tmp_path, 1)
    body = json.dumps(review(deployment())).encode()

    async def main() -> None:
        webhook = Webhook(INSTALL, 0, tmp_path)
        await webhook.start()
        try:
            said = await asyncio.to_thread(ask, webhook.port, first, body)
            response = said["response"]
            assert (response["uid"], response["allowed"]) == ("u", True)
            (change,) = json.loads(base64.b64decode(response["patch"]))
            assert change["path"] == "/spec/template/spec"
            assert [each["name"] for each in change["value"]["containers"]] == ["function"]

            second = certificate(tmp_path, 2)
            webhook.load()
            with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
                await asyncio.to_thread(ask, webhook.port, first, body)
            said = await asyncio.to_thread(ask, webhook.port, second, body)
            assert said["response"]["allowed"] is True
            with pytest.raises(urllib.error.HTTPError, match="400"):
                await asyncio.to_thread(ask, webhook.port, second, b"{")
        finally:
            await webhook.stop()

    asyncio.run(main())


def test_without_a_certificate_it_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(Webhook(INSTALL, 0, tmp_path).start())
