"""`lifl keys`: keys of clients that a run does not start itself.

    lifl keys new hospital-a                                   at the hospital
    lifl keys enroll hospital-a.pub --name hospital-a --run runs/latest     where the run is

Owns the flags and what is printed; a secret is never among it unless asked for.  The key directory
is placement/keyring.py's.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lifl.cli.plainly import plainly
from lifl.errors import InvalidJob

if TYPE_CHECKING:
    from lifl.placement.keyring import Keyring

RUN = click.option(
    "--run", "run_dir", metavar="RUN", type=click.Path(path_type=Path), default=Path("runs/latest"),
    show_default=True,
    help="The run's folder; RUN/keys is its key directory, or its --keys was another.",
)  # fmt: skip
KEYS = click.option(
    "--keys", "directory", metavar="DIR", type=click.Path(path_type=Path),
    help="A key directory, instead of a run's: what lifl run --keys DIR goes by.",
)  # fmt: skip


@click.group()
def keys() -> None:
    """Keys of clients that come from outside."""


@keys.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path(),
    help="Where the files are made; this folder unless given.",
)  # fmt: skip
@click.option("--show-secret", is_flag=True, help="Print the secret key, too.")
@plainly
def new(name: str, out: Path, show_secret: bool) -> None:
    """Make a key pair: NAME.key, which stays with the client, and NAME.pub, to be enrolled."""
    from lifl.functions.wire import Keys
    from lifl.placement.keyring import check_name

    check_name(name)
    pair = Keys.new()
    secret, public = out / f"{name}.key", out / f"{name}.pub"
    for path in (secret, public):
        if path.exists():
            raise InvalidJob(f"{path} exists: choose another name", code="bad-keys")
    try:
        pair.save(secret)
        public.write_text(pair.public + "\n")
    except OSError as error:
        raise InvalidJob(f"{error.filename}: {error.strerror}", code="bad-keys") from error
    click.echo(f"public key: {pair.public}")
    if show_secret:
        click.echo(f"secret key: {pair.secret}")
    click.echo(f"{secret} stays with the client; hand {public} to whoever runs the job")


@keys.command()
@click.argument("key")
@click.option("--name", required=True, help="What the client is called.")
@RUN
@KEYS
@plainly
def enroll(key: str, name: str, run_dir: Path, directory: Path | None) -> None:
    """Let a client take part: KEY is its public key, or a file with it.

    A run that is under way takes it in at once, a later one at its start.  What the client needs
    beside its key is written to RUN/clients/NAME.json.
    """
    from lifl.placement.keyring import Keyring

    ring = Keyring(_directory(run_dir, directory, make=True))
    _not_over(ring.directory)
    ring.enroll({name: _public(key)})
    answers = ring.tell()
    click.echo(f"{name} is enrolled in {ring.directory}")
    for answer in answers:
        click.echo(f"job {answer['job']} knows it; " + _handed_out(name, ring, answer))
    if not answers:
        click.echo(
            f"no job that goes by it is under way; {_later(ring.directory)} knows it from its "
            f"start, and writes what its client needs to RUN/clients/{name}.json"
        )


@keys.command()
@click.argument("client")
@RUN
@KEYS
@plainly
def revoke(client: str, run_dir: Path, directory: Path | None) -> None:
    """Take a client's rights away, by its name or public key.

    A run that is under way refuses it from now on.  Updates that were accepted stay.
    """
    from lifl.placement.keyring import Keyring

    ring = Keyring(_directory(run_dir, directory))
    entry = ring.revoke(client)
    click.echo(f"{entry.name} is revoked in {ring.directory}")
    answers = ring.tell()
    for answer in answers:
        click.echo(f"job {answer['job']} refuses it from now on")
    if not answers:
        click.echo("no job that goes by it is under way")


@keys.command("list")
@RUN
@KEYS
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@plainly
def list_(run_dir: Path, directory: Path | None, as_json: bool) -> None:
    """List clients, with their public keys."""
    from lifl.placement.keyring import Keyring

    entries = Keyring(_directory(run_dir, directory)).entries
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    if not entries:
        click.echo("nobody is enrolled there")
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        state = f"revoked {entry.revoked_at}" if entry.revoked_at else f"since {entry.enrolled_at}"
        click.echo(f"{entry.name:<{width}}  {entry.public_key}  {state}")


def _directory(run_dir: Path, directory: Path | None, *, make: bool = False) -> Path:
    """Where the keys are: as named, or those of a run.

    Raises:
        InvalidJob: there are none.
    """
    if directory is not None:
        if make:
            from lifl.placement.keyring import Keyring

            Keyring(directory).make()
        found = directory
    else:
        found = _of_run(run_dir)
    if not found.is_dir():
        raise InvalidJob(
            f"{found} is no key directory: name a run's folder with --run, or a key directory "
            "with --keys",
            code="bad-keys",
        )
    return found


def _of_run(run_dir: Path) -> Path:
    """A run's own key directory, or the one that its --keys named."""
    from lifl.placement.resume import RUN, one_of

    own = one_of(run_dir) / "keys"
    if not own.is_dir():
        with contextlib.suppress(OSError, ValueError, KeyError):
            return Path(json.loads((run_dir / RUN).read_text())["keyring"])
    return own


def _public(key: str) -> str:
    """A public key as given, or the first line of a file that has it."""
    from lifl.placement.keyring import is_key

    if is_key(key):
        return key
    path = Path(key)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    if _are_a_pair(lines[:2]):
        raise InvalidJob(
            f"{key} holds a secret key, which stays with the client: enroll the public one, "
            f"{path.with_suffix('.pub')}",
            code="bad-keys",
        )
    if not lines or not is_key(lines[0]):
        raise InvalidJob(
            f"{key!r} is neither a public key of 40 characters nor a file that begins with one: "
            "take what lifl keys new has made",
            code="bad-keys",
        )
    return lines[0]


def _are_a_pair(lines: list[str]) -> bool:
    """A public key and its secret one, as `lifl keys new` writes NAME.key."""
    import zmq

    from lifl.placement.keyring import is_key

    if len(lines) < 2 or not all(map(is_key, lines)):
        return False
    return zmq.curve_public(lines[1].encode()) == lines[0].encode()


def _not_over(directory: Path) -> None:
    """Nobody can take part in a run that is complete.

    Raises:
        InvalidJob: these are the keys of one.
    """
    if _is_a_runs(directory) and (directory.parent / "summary.json").exists():
        raise InvalidJob(
            f"the run in {directory.parent.resolve()} is complete, and nobody can take part in it "
            "any more: name a run that is under way with --run, or a key directory for those to "
            "come with --keys",
            code="bad-keys",
        )


def _is_a_runs(directory: Path) -> bool:
    from lifl.placement.resume import RUN

    return (directory.parent / RUN).exists()


def _later(directory: Path) -> str:
    """What makes a job that goes by a key directory."""
    if _is_a_runs(directory):
        return f"lifl run --resume {directory.parent}"
    return f"lifl run JOB.yaml --keys {directory}"


def _handed_out(name: str, ring: Keyring, answer: dict[str, Any]) -> str:
    """Write what the client needs; what is to be done with it."""
    from lifl.placement.clientfiles import write_outside

    folder = Path(answer["run_dir"]) / "clients"
    if not answer["gateways"]:  # its nodes have only begun to start
        return f"{folder / name}.json will be there when its nodes are"
    paths = write_outside(
        folder, ring.entries, job=answer["job"], gateways=answer["gateways"], own=answer["own"]
    )
    return (
        f"its client needs {paths[name]} and its own .key: "
        f"LIFL_CLIENT={name}.json LIFL_KEY={name}.key"
    )
