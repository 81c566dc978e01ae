"""Parts of a job that only a cluster has a use for: pods, functions, the way in from outside.

Owns their types.  What a template may hold is a closed set: an operator makes the pod, so whatever
could be said here would be done with the operator's rights.  It has no host path, no privilege, no
account of its own.  Called by `job`, whose fields they are.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lifl.api.part import NAME_MAX, AbsolutePath, Amount, DnsLabel, DnsName, Part


class KeyOf(Part):
    """One value of a Secret or a ConfigMap."""

    name: DnsName = Field(description="Name of the object, in the job's namespace.")
    key: str = Field(min_length=1, max_length=NAME_MAX, description="Key of the value in it.")


class ValueFrom(Part):
    """Where a variable's value comes from: exactly one of the two."""

    secret_key_ref: KeyOf | None = Field(default=None, description="A value of a Secret.")
    config_map_key_ref: KeyOf | None = Field(default=None, description="A value of a ConfigMap.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.secret_key_ref is None) == (self.config_map_key_ref is None):
            has = "neither" if self.secret_key_ref is None else "both"
            raise ValueError(
                f'must have one of "secretKeyRef" and "configMapKeyRef", and has {has}'
            )
        return self


class Variable(Part):
    """A variable of the environment."""

    name: str = Field(
        min_length=1,
        max_length=NAME_MAX,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Its name.  Those that begin with LIFL_ are LIFL's own.",
    )
    value: str | None = Field(default=None, max_length=32_768, description="Its value.")
    value_from: ValueFrom | None = Field(
        default=None, description="Where its value comes from, in place of value."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.name.startswith("LIFL_"):
            raise ValueError(f"{self.name} is LIFL's own: choose a name without LIFL_")
        if (self.value is None) == (self.value_from is None):
            has = "neither" if self.value is None else "both"
            raise ValueError(f'must have one of "value" and "valueFrom", and has {has}')
        return self


class ConfigMapSource(Part):
    """A ConfigMap as files."""

    name: DnsName = Field(description="Its name, in the job's namespace.")


class SecretSource(Part):
    """A Secret as files."""

    secret_name: DnsName = Field(description="Its name, in the job's namespace.")


class ClaimSource(Part):
    """A PersistentVolumeClaim."""

    claim_name: DnsName = Field(description="Its name, in the job's namespace.")


class EmptySource(Part):
    """An empty folder that ends with the pod."""

    medium: Literal["", "Memory"] = Field(
        default="", description="Memory: in memory, which counts as the pod's; else on disk."
    )
    size_limit: Amount | None = Field(
        default=None, description='Most that it may hold, for example "1Gi".'
    )


class Volume(Part):
    """Files from elsewhere, and where they appear in the pod."""

    name: DnsLabel = Field(description="Its name, unique in the template.")
    mount_path: AbsolutePath = Field(
        description="Where it appears; for the job's own modules the template's workingDir."
    )
    read_only: bool = Field(
        default=True, description="Whether the pod may only read it; an emptyDir is writable."
    )
    config_map: ConfigMapSource | None = Field(
        default=None, description="A ConfigMap, each of whose keys is a file."
    )
    secret: SecretSource | None = Field(
        default=None, description="A Secret, each of whose keys is a file."
    )
    persistent_volume_claim: ClaimSource | None = Field(
        default=None, description="A PersistentVolumeClaim, for data sets and models."
    )
    empty_dir: EmptySource | None = Field(
        default=None, description="An empty folder that ends with the pod."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        sources = (self.config_map, self.secret, self.persistent_volume_claim, self.empty_dir)
        if (has := sum(source is not None for source in sources)) != 1:
            raise ValueError(
                'must have one of "configMap", "secret", "persistentVolumeClaim" and "emptyDir", '
                f"and has {has}"
            )
        return self


class Toleration(Part):
    """A taint of nodes on which the pod may run all the same."""

    key: str | None = Field(
        default=None, max_length=NAME_MAX + 64, description="Of the taint; every taint without it."
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Whether the taint's value matters."
    )
    value: str | None = Field(default=None, max_length=63, description="Of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Of the taint; every effect without it."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, description="For how long, of NoExecute; for ever without it."
    )

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.key is None and self.operator == "Equal":
            raise ValueError("without key it must have operator: Exists")
        if self.operator == "Exists" and self.value:
            raise ValueError("operator: Exists takes no value: leave it out, or write Equal")
        return self


class Resources(Part):
    """What a pod is promised, and what it may use at most."""

    requests: dict[str, Amount] = Field(
        default_factory=dict,
        max_length=16,
        description='Promised by resource, for example {cpu: "500m", memory: "1Gi"}.',
    )
    limits: dict[str, Amount] = Field(
        default_factory=dict,
        max_length=16,
        description='Most by resource, for example {memory: "2Gi", nvidia.com/gpu: 1}.',
    )


class Template(Part):
    """A pod for the job's own code.

    It runs without privileges: not as root, without capabilities, with the default seccomp
    profile and without a token of the cluster.
    """

    image: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^\S+$",
        description="Image with Python, LIFL and whatever the job's modules import, for example "
        '"registry.example/digits:1.2".',
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the node fetches the image."
    )
    image_pull_secrets: tuple[DnsName, ...] = Field(
        default=(),
        strict=False,
        max_length=8,
        description="Names of Secrets of the job's namespace with which the image is fetched.",
    )
    working_dir: AbsolutePath = Field(
        default="/job",
        description="Folder of the job's modules in the pod.  It is to the job what the job "
        "file's folder is to `lifl run`: where modules are looked for, and relative paths start.",
    )
    env: tuple[Variable, ...] = Field(
        default=(), strict=False, max_length=64, description="Variables of the environment."
    )
    resources: Resources = Field(
        default_factory=Resources, description="Processors, memory, accelerators."
    )
    volumes: tuple[Volume, ...] = Field(
        default=(), strict=False, max_length=32, description="Files from elsewhere."
    )
    node_selector: dict[str, str] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels that a node must have for these pods.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), strict=False, max_length=32, description="Taints that these pods do not mind."
    )
    priority_class_name: DnsName | None = Field(
        default=None, description="A PriorityClass of the cluster."
    )
    runtime_class_name: DnsName | None = Field(
        default=None, description="A RuntimeClass of the cluster, for example for a sandbox."
    )
    run_as_user: int = Field(
        default=10001, ge=1, lt=2**31, description="User that the pod runs as; never root."
    )
    run_as_group: int = Field(default=10001, ge=1, lt=2**31, description="Its group.")
    fs_group: int | None = Field(
        default=None, ge=1, lt=2**31, description="Group that owns files of its volumes."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, names in (
            ("env", [one.name for one in self.env]),
            ("volumes", [one.name for one in self.volumes]),
        ):
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ValueError(f"{what} has {twice!r} twice: names must differ")
        return self


class Functions(Part):
    """How a cluster runs the job's aggregators."""

    runtime: Literal["knative", "deployment"] | None = Field(
        default=None,
        description="deployment: plain Deployments.  knative: Knative Services without "
        "queue-proxy, for which the cluster needs Knative and the chart webhook.enabled.  Both are "
        "scaled by LIFL to zero and from zero.  Unless given what the chart says.",
    )


class Expose(Part):
    """How clients from outside of the cluster reach the job."""

    type: Literal["none", "NodePort", "LoadBalancer"] = Field(
        default="none",
        description="none: not at all.  NodePort: at ports of the nodes.  LoadBalancer: at an "
        "address that the cluster's provider gives out.  Clients beyond the trainer's come from "
        "there: the addresses are in status.endpoint.outside, a file with a key for each of them "
        "is in the Secret status.endpoint.secret.",
    )
    annotations: dict[str, str] = Field(
        default_factory=dict,
        max_length=32,
        description="Of the Service, for the provider's load balancers.",
    )

    @model_validator(mode="after")
    def _has_a_service(self) -> Self:
        if self.type == "none" and self.annotations:
            raise ValueError("annotations need type: NodePort or LoadBalancer; none has no Service")
        return self
