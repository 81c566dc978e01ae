"""The test cluster's pure parts: names and addresses, manifests in order, keys of what is built."""

from __future__ import annotations

import dataclasses

import pytest
from onemachine import addons, binaries, layout
from onemachine.shell import Failed


def test_two_clusters_have_nothing_in_common() -> None:
    one, other = (
        layout.from_environment({"LIFL_CLUSTER_NAME": name, "LIFL_CLUSTER_NODES": "3"})
        for name in ("one", "other")
    )
    assert {one.home, one.cgroup, one.outside, one.control} & {
        other.home, other.cgroup, other.outside, other.control
    } == set()  # fmt: skip
    assert not {node.netns for node in one.nodes} & {node.netns for node in other.nodes}
    assert len({node.address for node in one.nodes} | {node.pods for node in one.nodes}) == 6


@pytest.mark.parametrize(
    "variables",
    [
        {"LIFL_CLUSTER_NAME": "../etc"},
        {"LIFL_CLUSTER_NAME": "a-b"},  # its namespaces would be found as those of `a`
        {"LIFL_CLUSTER_NODES": "0"},
        {"LIFL_CLUSTER_NODES": "two"},
    ],
)
def test_a_value_that_cannot_be_is_named(variables: dict[str, str]) -> None:
    (name, value), *_ = variables.items()
    with pytest.raises(Failed, match=name) as refused:
        layout.from_environment(variables)
    assert value in str(refused.value)


def test_hooks_come_last_and_definitions_first() -> None:
    text = "\n---\n".join(
        f"kind: {kind}\nmetadata: {{name: {kind.lower()}}}"
        for kind in ("ValidatingWebhookConfiguration", "ConfigMap", "CustomResourceDefinition")
    )
    first, second, third = addons.split(text)
    assert "customresourcedefinition" in first
    assert "configmap" in second
    assert "validatingwebhookconfiguration" in third


def test_knatives_images_are_those_that_are_built() -> None:
    _, objects, _ = addons.split("kind: Deployment\nimage: ko://knative.dev/serving/cmd/activator")
    assert objects.endswith("image: dev.local/knative/activator:1")


def test_what_changes_a_binary_changes_its_key() -> None:
    module, *_ = binaries.modules()
    same = binaries.key(module, "go1.26 amd64")
    assert binaries.key(module, "go1.26 amd64") == same
    assert binaries.key(module, "go1.27 amd64") != same
    assert binaries.key(dataclasses.replace(module, flags=""), "go1.26 amd64") != same


def test_the_version_in_gomod_is_the_one_that_is_linked_in() -> None:
    version = binaries.version_of("k8s.io/kubernetes", "kubernetes")
    kubernetes, *_ = binaries.modules()
    assert f"gitVersion={version} " in kubernetes.flags
    assert "gitMajor=1 " in kubernetes.flags
    with pytest.raises(Failed, match="example/none"):
        binaries.version_of("example/none", "kubernetes")


def test_every_binary_has_a_name_of_its_own() -> None:
    names = [binaries.binary_name(c) for module in binaries.modules() for c in module.commands]
    assert len(names) == len(set(names))
    assert {"etcd", "kubelet", "helm", "coredns", "activator"} <= set(names)
