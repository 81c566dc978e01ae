"""`lifl nodes`: nodes of a run that are to be left, and taken again.

    lifl nodes drain node-1          from the next round on nobody is there
    lifl nodes uncordon node-1       it may take clients again

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
    show_default=True,
    help="The run's folder; of several jobs the folder of the one that leaves the node.",
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
    if _set(node, run_dir, is_draining=True):
        click.echo(f"{node} is left {_when(run_dir)}: lifl nodes uncordon {node} takes it again")
    else:
        click.echo(f"{node} is drained already: lifl nodes uncordon {node} takes it again")


@nodes.command()
@click.argument("node")
@RUN
@plainly
def uncordon(node: str, run_dir: Path) -> None:
    """Take NODE again: from the next round on it may have clients; nobody moves who need not."""
    if _set(node, run_dir, is_draining=False):
        click.echo(f"{node} may take clients again {_when(run_dir)}: nobody moves who need not")
    else:
        click.echo(f"{node} was not drained: nothing has changed")


def _when(run_dir: Path) -> str:
    from lifl.placement.local import is_under_way

    if is_under_way(run_dir):
        return "with the next round"
    return f"once lifl run --resume {run_dir} goes on with this run, which is not under way"


def _set(node: str, run_dir: Path, *, is_draining: bool) -> bool:
    """Write down that a node is to be left, or not; False where that was so already.

    Raises:
        InvalidJob: the run has several jobs, or no such node, or no other that takes clients.
    """
    from lifl.placement import drains
    from lifl.placement.local import is_under_way
    from lifl.placement.resume import is_complete, names_of_nodes, one_of

    run_dir = one_of(run_dir)
    if not is_under_way(run_dir) and is_complete(run_dir):
        raise InvalidJob(f"{run_dir} is complete: none of its nodes is used any more")
    there, before = names_of_nodes(run_dir), drains.read(run_dir)
    if node not in there:
        raise InvalidJob(f"{node}: the nodes of {run_dir} are {', '.join(there)}")
    draining = before | {node} if is_draining else before - {node}
    if draining == before:
        return False
    if draining >= set(there):
        raise InvalidJob(f"{node} is the last node that takes clients: uncordon another first")
    drains.write(run_dir.resolve(), draining)
    return True
