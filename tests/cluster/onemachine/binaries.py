"""Kubernetes, etcd, Helm, CoreDNS and Knative, built from their Go modules and kept by content.

Owns the folders `<cache>/<module>-<key>`.  A key is of the module's files, the linker's flags, the
manifests taken along and the compiler, so that whatever changes one builds that module again and
no other.  A folder appears in one step, complete.  Called by `up`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .shell import Failed, fresh, run

MODULES: Final = Path(__file__).parent.parent / "modules"
VERSION: Final = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Module:
    """One pinned Go module: which of its commands are built, and how.

    `manifests` are globs of YAML below other modules of its build list, kept beside the binaries:
    from then on nothing needs Go or its cache.
    """

    name: str
    commands: tuple[str, ...]
    flags: str = "-s -w"
    manifests: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        return MODULES / self.name


def version_of(module: str, name: str) -> str:
    """`v1.35.8` for k8s.io/kubernetes: go.mod is the one place that says it."""
    for line in (MODULES / name / "go.mod").read_text().splitlines():
        words = line.removeprefix("require ").split()
        if words[:1] == [module] and len(words) >= 2 and words[1].startswith("v"):
            return words[1]
    raise Failed(f"modules/{name}/go.mod does not require {module}")


def _kubernetes() -> Module:
    version = version_of("k8s.io/kubernetes", "kubernetes")
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    names = (
        "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
        "kubectl", "kubeadm",
    )  # fmt: skip
    return Module(
        "kubernetes",
        ("go.etcd.io/etcd/server/v3", *(f"k8s.io/kubernetes/cmd/{name}" for name in names)),
        " ".join(["-s -w", *(f"-X {VERSION}.{key}={value}" for key, value in stamps.items())]),
    )


def _knative() -> Module:
    core = "config/core"
    names = ("controller", "webhook", "autoscaler", "activator", "queue")
    serving = (
        "100-namespace.yaml", "200-serviceaccount.yaml", "200-roles/*.yaml",
        "300-resources/*.yaml", "300-knativecertificate.yaml", "configmaps/*.yaml",
        "webhooks/*.yaml", *(f"deployments/{name}.yaml" for name in names[:-1]),
    )  # fmt: skip
    return Module(
        "knative",
        tuple(f"knative.dev/serving/cmd/{name}" for name in names),
        manifests=(
            *(("knative.dev/serving", f"{core}/{glob}") for glob in serving[:5]),
            ("knative.dev/networking", "config/*.yaml"),
            ("knative.dev/caching", "config/*.yaml"),
            *(("knative.dev/serving", f"{core}/{glob}") for glob in serving[5:]),
        ),
    )


def modules() -> tuple[Module, ...]:
    """Every module, the longest build first."""
    return (
        _kubernetes(),
        _knative(),
        Module("coredns", ("github.com/coredns/coredns",)),
        Module("helm", ("helm.sh/helm/v4/cmd/helm",)),
    )


def binary_name(command: str) -> str:
    """As Go names it: the last part of the path that is not a version."""
    parts = [part for part in command.split("/") if not part.removeprefix("v").isdigit()]
    return {"server": "etcd"}.get(parts[-1], parts[-1])


def key(module: Module, toolchain: str) -> str:
    digest = hashlib.sha256(repr((module, toolchain)).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((module.folder / name).read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Binaries:
    """What is built: folder of each module by its name."""

    folders: dict[str, Path]

    def path(self, name: str) -> Path:
        """Of one binary, whichever module it came from."""
        for folder in self.folders.values():
            if (folder / name).exists():
                return folder / name
        raise Failed(f"no module builds {name}")

    @property
    def all(self) -> Iterator[Path]:
        for folder in self.folders.values():
            yield from (file for file in sorted(folder.iterdir()) if file.suffix != ".yaml")

    @property
    def knative_manifests(self) -> Path:
        return self.folders["knative"] / "manifests.yaml"


def build(cache: Path, *, say: Callable[[str], None]) -> Binaries:
    """Build what the cache lacks; the commands of one module share its compiled packages.

    Raises:
        Failed: Go is missing or a module does not build; the message has the compiler's words.
    """
    if shutil.which("go") is None:
        raise Failed("Go is missing: install 1.25 or newer (https://go.dev/dl)")
    toolchain = run(["go", "env", "GOVERSION", "GOARCH"], cwd=MODULES).strip()
    folders = {}
    for module in modules():
        folder = cache / f"{module.name}-{key(module, toolchain)}"
        if not folder.exists():
            say(f"building {module.name} from its Go module, once")
            _build(module, folder)
        folders[module.name] = folder
    return Binaries(folders)


def _build(module: Module, folder: Path) -> None:
    scratch = fresh(folder.parent / "scratch-binaries")
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    for command in module.commands:
        output = scratch / binary_name(command)
        run(
            ["go", "build", "-trimpath", "-ldflags", module.flags, "-o", str(output), command],
            cwd=module.folder,
            env=env,
        )
    if module.manifests:
        text = "".join(f"---\n{file.read_text()}\n" for file in _manifests(module))
        (scratch / "manifests.yaml").write_text(text)
    scratch.rename(folder)


def _manifests(module: Module) -> Iterator[Path]:
    roots: dict[str, Path] = {}
    for name, glob in module.manifests:
        if name not in roots:
            words = ["go", "list", "-m", "-f", "{{.Dir}}", name]
            roots[name] = Path(run(words, cwd=module.folder).strip())
        found = sorted(roots[name].glob(glob))
        if not found:
            raise Failed(f"{name} has no {glob}: its layout has changed")
        yield from found
