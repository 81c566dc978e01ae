"""The objects of a job and of functions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from lifl.functions.wire import worker_and_number
from lifl.placement.cluster.keys import Record
from lifl.placement.cluster.names import functions
from lifl.placement.cluster.objects import (
    CORDONED,
    Gateway,
    Install,
    client_files,
    functions_deployment,
    member_files,
    member_job,
    member_secret,
)
from tests.unit.clusterjobs import UID, job

INSTALL = Install(namespace="lifl-system", image="lifl:1", operator="tcp://op:7700",
                  operator_key="key of the operator")  # fmt: skip
GATEWAYS = (Gateway("n1", "tcp://10.0.0.1:7710", "k1"), Gateway("n2", "tcp://10.0.0.2:7710", "k2"))


def test_every_client_is_in_one_pod() -> None:
    made = job()
    record = Record.new(made, UID)
    files = member_files(made, record, GATEWAYS, INSTALL)
    pods = [files[f"trainer-{pod}.json"] for pod in range(2)]
    assert [sorted(pod["clients"]) for pod in pods] == [
        ["client-0", "client-2"], ["client-1", "client-3"],
    ]  # fmt: skip
    secrets = [each["secret_key"] for pod in pods for each in pod["clients"].values()]
    assert sorted(secrets) == sorted(secret for _, secret in record.clients)
    assert {each["job"] for pod in pods for each in pod["clients"].values()} == {"team-a/toy"}


def test_a_pod_is_told_no_key_that_is_not_its_own() -> None:
    made = job(evaluator={"entrypoint": "toy:evaluate"})
    record = Record.new(made, UID)
    files = member_files(made, record, GATEWAYS, INSTALL)
    secrets = {
        "observer": record.observer[1], "initial": record.initial[1],
        "coordinator": record.coordinator[1],
        **{f"client-{n}": pair[1] for n, pair in enumerate(record.clients)},
    }  # fmt: skip
    known = {
        file: {who for who, secret in secrets.items() if secret in json.dumps(content)}
        for file, content in files.items()
    }
    assert known == {
        "initial.json": {"initial"}, "evaluator.json": {"observer"},
        "trainer-0.json": {"client-0", "client-2"}, "trainer-1.json": {"client-1", "client-3"},
    }  # fmt: skip


def test_clients_from_outside_have_files_of_their_own() -> None:
    made = job(clients={"max": 6})
    doors = {"n1": ("tcp://192.0.2.1:30001", 30002)}
    files = client_files(made, Record.new(made, UID), GATEWAYS, doors)
    assert [files[f"client-{n}.json"]["index"] for n in (4, 5)] == [4, 5]
    assert {file["endpoint"] for file in files.values()} == {doors["n1"][0], GATEWAYS[1].endpoint}


def test_who_is_revoked_has_none_any_more() -> None:
    made = job(clients={"max": 6, "revoked": ["client-4"]})
    assert list(client_files(made, Record.new(made, UID), GATEWAYS, {})) == ["client-5.json"]


def test_virtual_clients_belong_to_their_worker() -> None:
    made = job(trainer={"entrypoint": "toy:train", "clients": 5, "workers": 2})
    record = Record.new(made, UID)
    names = record.names(made)
    owners = [worker_and_number(key) for key in names]
    assert owners == [(record.workers[n % 2][0], n) for n in range(5)]
    files = member_files(made, record, GATEWAYS, INSTALL)
    assert [files[f"trainer-{n}.json"]["workers"] for n in range(2)] == [
        [list(pair)] for pair in record.workers
    ]


def test_before_there_are_gateways_only_the_initial_model_can_be_made() -> None:
    made = job()
    assert list(member_files(made, Record.new(made, UID), (), INSTALL)) == ["initial.json"]


def test_a_record_comes_back_as_it_was() -> None:
    record = Record.new(job(), UID).on({"n1": "k1"})
    assert Record.of(record.text()) == record
    assert record.number == 0x2A


def test_what_belongs_to_a_job_goes_with_it() -> None:
    made = job()
    record = Record.new(made, UID)
    objects: list[dict[str, Any]] = [
        member_secret(made, UID, record, GATEWAYS, INSTALL),
        *(member_job(made, UID, member) for member in ("initial", "trainer")),
    ]
    for each in objects:
        owner = each["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["uid"], each["metadata"]["namespace"]) == (
            "FLJob", UID, "team-a",
        )  # fmt: skip


def test_trainers_have_an_index_and_no_rights() -> None:
    made = member_job(job(), UID, "trainer")
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    pod = spec["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    container = pod["containers"][0]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["volumeMounts"][0]["subPathExpr"] == "trainer-$(LIFL_INDEX).json"
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_a_template_is_carried_over() -> None:
    template = {
        "image": "toy:2", "workingDir": "/code", "env": [{"name": "A", "value": "b"}],
        "resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": {"gpu": "true"},
        "volumes": [{"name": "code", "mountPath": "/code", "configMap": {"name": "toy"}}],
    }  # fmt: skip
    made = job(trainer={"entrypoint": "toy:train", "clients": 4, "template": template})
    pod = member_job(made, UID, "trainer")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert (container["image"], container["workingDir"]) == ("toy:2", "/code")
    assert {"name": "A", "value": "b"} in container["env"]
    assert container["resources"] == {"limits": {"memory": "1Gi"}}
    assert pod["nodeSelector"] == {"gpu": "true"}
    assert {"name": "code", "configMap": {"name": "toy"}} in pod["volumes"]
    assert member_job(made, UID, "initial")["spec"]["template"]["spec"]["containers"][0][
        "image"
    ] == "toy:1"


def test_functions_have_the_socket_and_no_rights() -> None:
    made = functions_deployment("team-a", "n1", 3, INSTALL)
    pod = made["spec"]["template"]["spec"]
    assert (made["spec"]["replicas"], pod["nodeSelector"]) == (3, {"kubernetes.io/hostname": "n1"})
    assert made["metadata"]["namespace"] == "lifl-functions"
    assert pod["tolerations"] == [CORDONED]
    gpu = {"key": "gpu", "operator": "Exists"}  # a taint that agents do not mind
    tolerant = replace(INSTALL, functions_tolerations=[gpu])
    spec = functions_deployment("team-a", "n1", 3, tolerant)["spec"]["template"]["spec"]
    assert spec["tolerations"] == [CORDONED, gpu]
    assert pod["automountServiceAccountToken"] is False
    container = pod["containers"][0]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["socket"]["readOnly"] is True
    host = next(volume for volume in pod["volumes"] if volume["name"] == "socket")["hostPath"]
    assert host["path"] == "/run/lifl/n1/socket"
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_names_of_functions_are_short_and_differ() -> None:
    long = functions("a" * 63, "node." * 40)
    assert len(long) <= 48
    assert long != functions("a" * 63, "node." * 39 + "other")
    assert functions("team-a", "n1") == "fn-team-a-n1"
