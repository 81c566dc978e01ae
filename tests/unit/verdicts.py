"""Jobs, right and wrong, of which Python and an API server must think the same.

A case is what it changes of `JOB`, by dotted path; `GONE` takes a field out.
tests/unit/test_crd.py puts them to the types, tests/cluster/test_crd.py to a cluster.
"""

from __future__ import annotations

import copy
from typing import Any, Final

JOB: Final[dict[str, Any]] = {
    "apiVersion": "fl.lifl.dev/v1alpha1",
    "kind": "FLJob",
    "metadata": {"name": "digits"},
    "spec": {
        "model": {"initial": "digits:initial_model"},
        "template": {"image": "registry.example/digits:1"},
        "trainer": {"entrypoint": "digits:train", "clients": 16},
    },
}
GONE: Final = object()
Edits = dict[str, Any]

_TEMPLATE: Final = "spec.template"
_AGAIN: Final = [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]


def _volume(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "code", "mountPath": "/job"} | more]


RIGHT: Final[dict[str, Edits]] = {
    "as it is": {},
    "outside clients alone": {"spec.trainer": GONE, "spec.clients": {"min": 2, "max": 5}},
    "a file": {"spec.model": {"file": "start/a.safetensors"}},
    "a name of 52": {"metadata.name": "a" * 52},
    "template of the trainer alone": {
        _TEMPLATE: GONE, "spec.trainer.template": {"image": "a"},
    },
    "draws as many as it must": {
        "spec.clients": {"min": 10, "fraction": 0.5, "minUpdates": 5},
    },
    "0.07 of 100 is 7": {
        "spec.clients": {"min": 100, "fraction": 0.07, "minUpdates": 7},
        "spec.trainer.clients": 100,
    },
    "minPerRound makes up for the fraction": {
        "spec.clients": {"min": 10, "fraction": 0.1, "minPerRound": 4, "minUpdates": 4},
    },
    "workers": {"spec.trainer.clients": 100_000, "spec.trainer.workers": 1024},
    "replicas": {"spec.trainer.replicas": 16},
    "replicas of workers": {"spec.trainer.workers": 4, "spec.trainer.replicas": 4},
    "a schedule": {
        "spec.trainer.schedule": [{"fromRound": 1, "args": {}}, {"fromRound": 3, "args": {"a": 1}}]
    },
    "first of all jobs": {"spec.placement": {"priority": 1_000_000, "weight": 0.001}},
    "momentum 0 of fedavg": {"spec.aggregation": {"serverMomentum": 0}},
    "fedavgm": {
        "spec.aggregation": {
            "algorithm": "fedavgm", "serverMomentum": 0.5, "serverLearningRate": 0.1,
        },
    },
    "bytes as a number": {"spec.memory": {"arenaBytes": 1}},
    "bytes with decimals": {"spec.memory": {"arenaBytes": "1.5Gi"}},
    "bytes with a space": {"spec.memory": {"arenaBytes": "3 Ti"}},
    "half a Ki": {"spec.memory": {"arenaBytes": "0.5Ki"}},
    "no least rate": {"spec.memory": {"minUploadRate": 0}},
    "no least rate, as text": {"spec.memory": {"minUploadRate": "0"}},
    "letters of other alphabets": {"spec.evaluator": {"entrypoint": "größe.моя:évalue_2"}},
    "Deployments": {"spec.functions": {"runtime": "deployment"}},
    "nothing for those outside": {"spec.expose": {"type": "none"}},
    "a NodePort": {"spec.expose": {"type": "NodePort"}, "spec.clients": {"max": 17}},
    "a LoadBalancer": {
        "spec.trainer": GONE, "spec.clients": {"min": 2},
        "spec.expose": {"type": "LoadBalancer", "annotations": {"a/b": "c"}},
    },
    "a sink": {"spec.eventSink": "https://sink.example:8443/events?who=lifl"},
    "a sink at the last port": {"spec.eventSink": "http://a:65535/"},
    "a sink by address": {"spec.eventSink": "http://[fd00::1]:80"},
    "some who may not": {"spec.clients": {"revoked": ["client-0", "client-15"]}},
    "all of a template": {
        _TEMPLATE: {
            "image": "a",
            "imagePullPolicy": "Always",
            "imagePullSecrets": ["pull"],
            "workingDir": "/srv/..job",
            "env": [
                {"name": "A", "value": ""},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ],
            "resources": {"requests": {"cpu": "500m", "memory": "1.5Gi"}, "limits": {"cpu": 2}},
            "volumes": [
                {"name": "code", "mountPath": "/job", "configMap": {"name": "digits"}},
                {"name": "data", "mountPath": "/d", "persistentVolumeClaim": {"claimName": "d"}},
                {"name": "tmp", "mountPath": "/t", "emptyDir": {"sizeLimit": "1Gi"}},
            ],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}],
            "priorityClassName": "low",
            "runtimeClassName": "gvisor",
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
        }
    },
    "ends early": {"spec.stop": {"metric": "loss", "atMost": 0.1, "patience": 3}},
    "suspended": {"spec.suspend": True, "spec.ttlSecondsAfterFinished": 0},
}

WRONG: Final[dict[str, tuple[Edits, str]]] = {
    # what changes, and words that both must say about it; "" where each has its own
    "no rounds": ({"spec.rounds": 0}, ""),
    "rounds as text": ({"spec.rounds": "3"}, ""),
    "an unknown field": ({"spec.round": 3}, ""),
    "an unknown field in a template": ({f"{_TEMPLATE}.hostNetwork": True}, ""),
    "a host path": ({f"{_TEMPLATE}.volumes": _volume(hostPath={"path": "/"})}, ""),
    "no model": ({"spec.model": GONE}, ""),
    "an empty model": ({"spec.model": {}}, 'must have one of "initial" and "file"'),
    "two models": (
        {"spec.model.file": "a.safetensors"}, 'must have one of "initial" and "file"',
    ),
    "no entry point": ({"spec.model.initial": "digits.initial"}, ""),
    "an entry point with a space": ({"spec.trainer.entrypoint": "a b:c"}, ""),
    "an entry point that begins with a digit": ({"spec.trainer.entrypoint": "1a:c"}, ""),
    "another kind of file": ({"spec.model": {"file": "a.pt"}}, ""),
    "a file without a name": ({"spec.model": {"file": "a/.safetensors"}}, ""),
    "a name that is none": ({"metadata.name": "Digits"}, ""),
    "a name with a dot": ({"metadata.name": "a.b"}, ""),
    "a long name": ({"metadata.name": "a" * 53}, "metadata.name"),
    "insecure": ({"spec.insecure": True}, "insecure: true is for lifl run"),
    "nowhere to run": ({_TEMPLATE: GONE}, "template is missing"),
    "more than there are": (
        {"spec.clients": {"min": 17}},
        "clients.min is 17, but trainer.clients starts only 16: no round would begin",
    ),
    "max below min": (
        {"spec.trainer": GONE, "spec.clients": {"min": 4, "max": 3}},
        "clients.max is 3, below clients.min, 4: no round would begin",
    ),
    "max below the trainer's": (
        {"spec.clients": {"min": 4, "max": 8}},
        "clients.max is 8, below trainer.clients, 16",
    ),
    "max below min that is filled in": ({"spec.clients": {"max": 8}}, "clients.max is 8, below"),
    "minPerRound above min": (
        {"spec.clients": {"min": 4, "minPerRound": 5}},
        "clients.minPerRound is 5, above clients.min, 4: a round starts with fewer than it has",
    ),
    "minUpdates above what is drawn": (
        {"spec.clients": {"min": 10, "fraction": 0.5, "minUpdates": 6}},
        "clients.minUpdates is 6, but a round of 10 clients draws",
    ),
    "a fraction of nothing": ({"spec.clients": {"fraction": 0}}, ""),
    "a fraction above 1": ({"spec.clients": {"fraction": 1.5}}, ""),
    "processes without end": (
        {"spec.trainer.clients": 4097}, "a client is a process unless workers is given",
    ),
    "idle workers": (
        {"spec.trainer.workers": 17},
        "workers is 17, above clients, 16: some would have nobody",
    ),
    "idle replicas": ({"spec.trainer.replicas": 17}, "some would have nobody"),
    "idle replicas of workers": (
        {"spec.trainer.workers": 4, "spec.trainer.replicas": 5}, "some would have nobody",
    ),
    "a weight of nothing": ({"spec.placement.weight": 0}, ""),
    "a priority in halves": ({"spec.placement.priority": 0.5}, ""),
    "a schedule that goes back": (
        {
            "spec.trainer.schedule": [
                {"fromRound": 3, "args": {}}, {"fromRound": 2, "args": {}},
            ],
        },
        "each",
    ),
    "a schedule with a round twice": (
        {
            "spec.trainer.schedule": [
                {"fromRound": 3, "args": {}}, {"fromRound": 3, "args": {}},
            ],
        },
        "",
    ),
    "momentum of fedavg": (
        {"spec.aggregation": {"serverMomentum": 0.9}}, "serverMomentum needs algorithm: fedavgm",
    ),
    "a step of fedavg": (
        {"spec.aggregation": {"serverLearningRate": 0.5}},
        "serverLearningRate needs algorithm: fedavgm, with serverMomentum: 0 if momentum",
    ),
    "an unknown mode": ({"spec.aggregation": {"mode": "egaer"}}, ""),
    "an unknown policy": ({"spec.placement": {"policy": "best-fit"}}, ""),
    "bytes of another unit": ({"spec.memory": {"arenaBytes": "2GB"}}, ""),
    "no bytes": ({"spec.memory": {"arenaBytes": 0}}, ""),
    "no bytes as text": ({"spec.memory": {"arenaBytes": "0Gi"}}, ""),
    "part of a byte": ({"spec.memory": {"arenaBytes": "0.3Ki"}}, ""),
    "part of a byte without a unit": (
        {"spec.memory": {"arenaBytes": "1.5"}}, "",
    ),
    "a negative rate": ({"spec.memory": {"minUploadRate": -1}}, ""),
    "two goals": (
        {"spec.stop": {"metric": "loss", "atLeast": 1, "atMost": 1}},
        'must have one of "atLeast" and "atMost"',
    ),
    "no goal": ({"spec.stop": {"metric": "loss"}}, 'must have one of "atLeast" and "atMost"'),
    "no deadline at all": ({"spec.deadlineS": 0}, ""),
    "a way in for nobody": (
        {"spec.expose": {"type": "NodePort"}},
        "expose.type is NodePort: the trainer starts every client, so that nobody comes from",
    ),
    "no such client": (
        {"spec.clients": {"revoked": ["client-16"]}},
        "clients.revoked names a client that the job does not have: they are client-0 to "
        "client-15",
    ),
    "revoked by another name": ({"spec.clients": {"revoked": ["hospital-a"]}}, ""),
    "no sink": ({"spec.eventSink": "sink.example"}, ""),
    "a sink of files": ({"spec.eventSink": "file:///etc/passwd"}, ""),
    "a sink with a space": ({"spec.eventSink": "http://a/ b"}, ""),
    "a sink at no port": ({"spec.eventSink": "http://a:65536/"}, ""),
    "an unknown way in": ({"spec.expose": {"type": "Ingress"}}, ""),
    "annotations of nothing": (
        {"spec.expose": {"annotations": {"a": "b"}}},
        "annotations need type: NodePort or LoadBalancer",
    ),
    "an unknown runtime": ({"spec.functions": {"runtime": "docker"}}, ""),
    "no image": ({_TEMPLATE: {}}, ""),
    "root": ({f"{_TEMPLATE}.runAsUser": 0}, ""),
    "a folder elsewhere": ({f"{_TEMPLATE}.workingDir": "/job/../etc"}, ""),
    "a relative folder": ({f"{_TEMPLATE}.workingDir": "job"}, ""),
    "no amount": ({f"{_TEMPLATE}.resources": {"limits": {"cpu": "two"}}}, ""),
    "a variable twice": ({f"{_TEMPLATE}.env": _AGAIN}, ""),
    "a variable of LIFL's": (
        {f"{_TEMPLATE}.env": [{"name": "LIFL_KEY", "value": "a"}]}, "LIFL's own",
    ),
    "a variable without value": (
        {f"{_TEMPLATE}.env": [{"name": "A"}]}, 'must have one of "value" and "valueFrom"',
    ),
    "a value from nowhere": (
        {f"{_TEMPLATE}.env": [{"name": "A", "valueFrom": {}}]},
        'must have one of "secretKeyRef" and "configMapKeyRef"',
    ),
    "a volume of nothing": (
        {f"{_TEMPLATE}.volumes": _volume()},
        'must have one of "configMap", "secret", "persistentVolumeClaim" and "emptyDir"',
    ),
    "a volume of two": (
        {f"{_TEMPLATE}.volumes": _volume(emptyDir={}, configMap={"name": "a"})},
        'must have one of "configMap", "secret", "persistentVolumeClaim" and "emptyDir"',
    ),
    "a toleration of anything": (
        {f"{_TEMPLATE}.tolerations": [{"value": "a"}]}, "without key it must have operator: Exists",
    ),
    "a toleration with a value too many": (
        {f"{_TEMPLATE}.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "operator: Exists takes no value",
    ),
    "a negative time to live": ({"spec.ttlSecondsAfterFinished": -1}, ""),
}

Change = tuple[Edits, bool]  # what changes of JOB, and whether it may
CHANGES: Final[dict[str, Change]] = {
    "suspend": ({"spec.suspend": True}, True),
    "more rounds": ({"spec.rounds": 20}, True),
    "fewer rounds": ({"spec.rounds": 5}, False),
    "time to live": ({"spec.ttlSecondsAfterFinished": 60}, True),
    "deadline": ({"spec.deadlineS": 60}, True),
    "fraction": ({"spec.clients": {"fraction": 0.5}}, True),
    "minPerRound": ({"spec.clients": {"minPerRound": 2}}, True),
    "minUpdates": ({"spec.clients": {"minUpdates": 2}}, True),
    "grace": ({"spec.clients": {"graceS": 60}}, True),
    "stop": ({"spec.stop": {"metric": "loss", "atMost": 0.1}}, True),
    "sink": ({"spec.eventSink": "http://sink.example"}, False),
    "revoked": ({"spec.clients": {"revoked": ["client-3"]}}, True),
    "nothing": ({}, True),
    "what was the default": ({"spec.clients": {"fraction": 1, "lane": "fast"}}, True),
    "clients.min": ({"spec.clients": {"min": 8}}, False),
    "clients.max": ({"spec.clients": {"max": 20}}, False),
    "lane": ({"spec.clients": {"lane": "zmq"}}, False),
    "model": ({"spec.model": {"file": "a.safetensors"}}, False),
    "the trainer's clients": ({"spec.trainer.clients": 17}, False),
    "the trainer's args": ({"spec.trainer.args": {"rate": 0.2}}, False),
    "no trainer": ({"spec.trainer": GONE}, False),
    "evaluator": ({"spec.evaluator": {"entrypoint": "a:b"}}, False),
    "aggregation": ({"spec.aggregation": {"fanIn": 8}}, False),
    "memory": ({"spec.memory": {"inputSlots": 9}}, False),
    "placement": ({"spec.placement": {"policy": "worstfit"}}, False),
    "checkpoint": ({"spec.checkpoint": {"every": 2}}, False),
    "image": ({"spec.template.image": "registry.example/digits:2"}, False),
    "runtime": ({"spec.functions": {"runtime": "deployment"}}, False),
    "expose": ({"spec.expose": {"type": "NodePort"}}, False),
    "seed": ({"spec.seed": 1}, False),
    "nodes": ({"spec.nodes": 2}, False),
}

ENDED: Final[dict[str, Change]] = {  # the same for a job that is complete or has failed
    "time to live": ({"spec.ttlSecondsAfterFinished": 60}, True),
    "more rounds": ({"spec.rounds": 20}, False),
    "suspend": ({"spec.suspend": True}, False),
    "stop": ({"spec.stop": {"metric": "loss", "atMost": 0.1}}, False),
    "fraction": ({"spec.clients": {"fraction": 0.5}}, False),
}


def edited(edits: Edits) -> dict[str, Any]:
    """JOB with some fields changed."""
    job = copy.deepcopy(JOB)
    for path, value in edits.items():
        *parents, name = path.split(".")
        place = job
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is GONE:
            del place[name]
        else:
            place[name] = copy.deepcopy(value)
    return job
