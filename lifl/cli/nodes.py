"""`lifl nodes`: nodes of a run that are to be left, and taken again.

    lifl nodes drain node-1          from the next round on nobody is there
    lifl nodes uncordon node-1       it takes clients again

Owns the flags and what is printed; what is written is placement/drains.py's.  In a cluster
`kubectl cordon` and `kubectl uncordon` say the same.
"""

from __future__ import annotations

from pathlib import Path

import click

from lifl.cli.plainly import plainly
from lifl.errors import InvalidJob

RUN = click.option(
    "--run", "run_dir", metavar="RUN", type=click.Path(path_type=Path), default=Path("runs/latest"),
    show_default=True, help="The run's folder.",
)  # fmt: skip


@click.group()
def nodes() -> None:
    """Nodes of a run: leave one, take it again."""


@nodes.command()
@click.argument("node")
@RUN
@plainly
def drain(node: str, run_dir: Path) -> None:
    """Leave NODE: it finishes the round under way, and from the next one on holds nothing."""
    _set(node, run_dir, is_draining=True)
    click.echo(f"{node} is left {_when(run_dir)}: lifl nodes uncordon {node} takes it again")


@nodes.command()
@click.argument("node")
@RUN
@plainly
def uncordon(node: str, run_dir: Path) -> None:
    """Take NODE again, from the next round on where there is need of it."""
    _set(node, run_dir, is_draining=False)
    click.echo(f"{node} takes clients again {_when(run_dir)}")


def _when(run_dir: Path) -> str:
    from lifl.placement.local import is_under_way

    if is_under_way(run_dir):
        return "with the next round"
    return f"once lifl run --resume {run_dir} goes on with this run, which is not under way"


def _set(node: str, run_dir: Path, *, is_draining: bool) -> None:
    from lifl.placement import drains
    from lifl.placement.resume import names_of_nodes

    there, draining = names_of_nodes(run_dir), drains.read(run_dir)
    if node not in there:
        raise InvalidJob(f"{node}: the nodes of {run_dir} are {', '.join(there)}")
    draining = draining | {node} if is_draining else draining - {node}
    if draining >= set(there):
        raise InvalidJob(f"{node} is the last node that takes clients: uncordon another first")
    drains.write(run_dir.resolve(), draining)
