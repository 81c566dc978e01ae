"""Images: of the Go binaries, of Debian, and LIFL's from the repository's Dockerfile.

Owns `<cache>/images`, an archive for each image by its content, and buildah's storage.  Nothing is
pulled, unless LIFL_CLUSTER_BASE names an image to build LIFL's on; otherwise mmdebstrap makes that
base of Debian's packages.  How this machine reaches registries (apt's and pip's configuration,
certificates) is mounted while an image is built and is in none of them.  Called by `up` and by
`make cluster-image`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import unit
from .binaries import Binaries
from .layout import Cluster
from .node import PAUSE_IMAGE
from .shell import Failed, fresh, run, works

REPOSITORY: Final = Path(__file__).parents[3]
PAUSE_SOURCE: Final = Path(__file__).with_name("pause.c")
SUITE: Final = "bookworm"
BASE_OPTIONS: Final = (
    "--mode=root", "--variant=minbase", "--aptopt=APT::Install-Recommends false",
    *(
        f"--dpkgopt=path-exclude=/usr/share/{part}/*"
        for part in ("doc", "man", "locale", "info", "lintian")
    ),
)  # fmt: skip
KEPT: Final = 4  # archives of LIFL's image, the newest ones
CLIENT_CONFIGURATION: Final = (
    "/etc/apt/apt.conf.d", "/etc/apt/sources.list", "/etc/apt/sources.list.d",
    "/etc/apt/auth.conf.d", "/etc/apt/keyrings", "/usr/share/keyrings", "/etc/pip.conf",
    "/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
)  # fmt: skip
CLIENT_VARIABLES: Final = (
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
Say = Callable[[str], None]


@dataclass(frozen=True)
class Image:
    """A name, and the archive that holds it."""

    name: str
    archive: Path


def knative_name(command: str) -> str:
    return f"dev.local/knative/{command}:1"


def build_fixed(cluster: Cluster, binaries: Binaries) -> list[Image]:
    """Those that are the same whatever LIFL is: pause, CoreDNS and Knative."""
    wanted = {
        "dev.local/coredns:1": (binaries.path("coredns"), "/coredns", ""),
        **{
            knative_name(name): (binaries.folders["knative"] / name, f"/ko-app/{name}", "65532")
            for name in ("controller", "webhook", "autoscaler", "activator", "queue")
        },
    }
    images = [_pause(cluster)]
    for name, (binary, inside, user) in wanted.items():
        images.append(_static(cluster, name, binary, inside, user, key=binary.parent.name))
    return images


def _pause(cluster: Cluster) -> Image:
    key = hashlib.sha256(PAUSE_SOURCE.read_bytes()).hexdigest()[:12]
    with tempfile.TemporaryDirectory() as made:
        binary = Path(made) / "pause"
        run(["gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", binary, PAUSE_SOURCE])
        return _static(cluster, PAUSE_IMAGE, binary, "/pause", "65532", key=key)


def _static(
    cluster: Cluster, name: str, binary: Path, inside: str, user: str, *, key: str
) -> Image:
    """One static binary and nothing else."""
    lines = [
        "FROM scratch",
        f"COPY {binary.name} {inside}",
        *([f"USER {user}"] if user else []),
        f'ENTRYPOINT ["{inside}"]',
    ]
    kind = name.removeprefix("dev.local/").partition(":")[0].replace("/", "-")
    archive = cluster.cache / "images" / f"{kind}-{key}.tar"
    if not archive.exists():
        file = _scratch(cluster) / "Dockerfile"
        file.write_text("\n".join(lines))
        _bud(cluster, name, file, binary.parent, archive)
    return Image(name, archive)


def _scratch_path(cluster: Cluster) -> Path:
    return cluster.cache / "scratch-images"


def _scratch(cluster: Cluster) -> Path:
    return fresh(_scratch_path(cluster))


def _buildah(cluster: Cluster, *words: str | Path, cwd: Path | None = None) -> str:
    """In a mount namespace of its own, so that its mounts end with it however it ends."""
    storage = cluster.cache / "buildah"
    return run(
        [
            "unshare", "--mount", "--",
            "buildah", f"--root={storage}/root", f"--runroot={storage}/run",
            "--storage-driver=overlay", *words,
        ],
        cwd=cwd,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_scratch_path(cluster))},
    )  # fmt: skip


def _bud(
    cluster: Cluster,
    name: str,
    file: Path,
    context: Path,
    archive: Path,
    options: Iterable[str | Path] = (),
) -> None:
    """Build, and keep as an archive that appears in one step."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    _buildah(cluster, "build", "--layers", f"--tag={name}", f"--file={file}", *options, context)
    _buildah(cluster, "push", "--quiet", name, f"docker-archive:{partial}:{name}")
    partial.replace(archive)


# ---- LIFL's -----------------------------------------------------------------------------


def build_lifl(cluster: Cluster, name: str, *, say: Say) -> Image:
    """LIFL's image of this checkout, as it is now, committed or not."""
    key = _content()
    archive = cluster.cache / "images" / f"lifl-{key}-{name.partition(':')[2]}.tar"
    if archive.exists():
        os.utime(archive)
        return Image(name, archive)
    base = os.environ.get("LIFL_CLUSTER_BASE") or _base(cluster, say=say)
    say("building LIFL's image from the Dockerfile")
    options = [f"--build-arg=BASE={base}", *client_options()]
    context = _scratch(cluster) / "context"
    for file in _files():
        target = context / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / file, target, follow_symlinks=False)
    _bud(cluster, name, REPOSITORY / "Dockerfile", context, archive, options)
    _scratch(cluster)
    old = sorted(archive.parent.glob("lifl-*.tar"), key=lambda file: file.stat().st_mtime)
    for file in old[:-KEPT]:
        file.unlink()
    return Image(name, archive)


def client_options() -> list[str]:
    """How this machine reaches apt's and pip's registries, for `buildah build`.

    What a package writes there while it is installed goes into an overlay that is thrown away.
    """
    mounts = {
        path: "O" if Path(path).is_dir() else "ro"
        for path in CLIENT_CONFIGURATION
        if Path(path).exists()
    }
    return [
        "--network=host",
        *(f"--volume={path}:{path}:{how}" for path, how in mounts.items()),
        *(f"--build-arg={name}" for name in CLIENT_VARIABLES if name in os.environ),
    ]


def _files() -> list[Path]:
    """The Dockerfile, and what .dockerignore lets in of all that git knows or would add."""
    lines = (REPOSITORY / ".dockerignore").read_text().split()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--"]
    names = run([*words, "Dockerfile", *let_in], cwd=REPOSITORY).split("\0")
    return [Path(n) for n in sorted(filter(None, names)) if os.path.lexists(REPOSITORY / n)]


def _content() -> str:
    digest = hashlib.sha256((os.environ.get("LIFL_CLUSTER_BASE") or _base_name()).encode())
    for file in _files():
        path = REPOSITORY / file
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{file}\0{path.lstat().st_mode}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def _base_name() -> str:
    """By its recipe."""
    recipe = hashlib.sha256(repr((SUITE, BASE_OPTIONS)).encode()).hexdigest()[:12]
    return f"localhost/debian:{SUITE}-{recipe}"


def _base(cluster: Cluster, *, say: Say) -> str:
    """Debian as its official slim image has it, of its packages."""
    name = _base_name()
    scratch = _scratch(cluster)
    try:
        _buildah(cluster, "inspect", "--type=image", "--format={{.FromImageID}}", name)
        return name
    except Failed:
        say(f"making Debian {SUITE} of its packages, once")
    # This machine's list of Debian's archives, where it has one in the new format.
    listed = Path("/etc/apt/sources.list.d/debian.sources")
    sources = [listed] if listed.exists() else []
    env = {**os.environ, "TMPDIR": str(scratch)}
    run(["mmdebstrap", *BASE_OPTIONS, SUITE, scratch / "base.tar", *sources], env=env)
    (scratch / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    _buildah(cluster, "build", f"--tag={name}", f"--file={scratch}/Dockerfile", scratch)
    return name


# ---- into the nodes ---------------------------------------------------------------------


CTR: Final = ("ctr", "--namespace=k8s.io")


def takes_images(cluster: Cluster, node: str) -> bool:
    """Whether the node's containerd answers."""
    return bool(unit.first_process(cluster, node)) and works(
        [*unit.enter(cluster, node), *CTR, "version"]
    )


def load(cluster: Cluster, images: Iterable[Image]) -> None:
    """Into every node's containerd, the nodes at the same time."""

    def into(node: str, archives: list[Path]) -> None:
        for archive in archives:
            words = [*unit.enter(cluster, node), *CTR, "images", "import", "-"]
            with archive.open("rb") as file:
                done = subprocess.run(words, stdin=file, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"{node} does not take {archive.name}: {done.stderr.strip()}")

    archives = [image.archive for image in images]
    with ThreadPoolExecutor() as pool:
        for result in [pool.submit(into, node.name, archives) for node in cluster.nodes]:
            result.result()
