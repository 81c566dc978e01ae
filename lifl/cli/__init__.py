"""The command `lifl`.

Owns flags, exit codes and the wording of failures: 0 done, 1 failed, 2 a wrong job or wrong
flags, 130 interrupted.  What a command needs is imported when it runs, so that `lifl --help`
is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from lifl.cli.keys import keys
from lifl.cli.nodes import nodes as nodes_of_a_run
from lifl.cli.plainly import plainly as _plainly
from lifl.cli.plainly import showing

if TYPE_CHECKING:
    from lifl.api.job import FLJob

JOB = click.argument("job_file", metavar="JOB.yaml", type=click.Path(path_type=Path))
JOBS_OR_RUN = click.argument(
    "job_files", metavar="JOB.yaml...", type=click.Path(path_type=Path), nargs=-1
)

LEAST_ARENA: Final = 32 << 10  # a page for each slot of the smallest tree


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import lifl

        click.echo(f"lifl {lifl.__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_print_version, help="Print the version.")  # fmt: skip
def main() -> None:
    """Aggregation for federated learning, over shared memory and eBPF."""


main.add_command(keys)
main.add_command(nodes_of_a_run)


@main.command()
@JOBS_OR_RUN
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go on with a run that was killed, from its last checkpoint: its directory, for example "
    "runs/latest, instead of a job file.",
)
@click.option(
    "--nodes", type=click.IntRange(1, 64), help="Nodes to start, instead of the job's spec.nodes."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Where the run's directory is made.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    help="Where gateways listen and client files say that they do: an IPv4 address of this machine "
    "that clients elsewhere can reach.  127.0.0.1 unless given: clients of this machine alone.",
)
@click.option(
    "--network",
    type=click.Choice(["loopback", "netns"]),
    help="netns: a network namespace for each node, behind a link of its own; needs root.  "
    "loopback unless given: nodes share this machine's.",
)
@click.option(
    "--link-rate",
    metavar="RATE",
    help="Of each node's link with --network netns, each way: 200Mbit, 2.5Gbit.  1Gbit unless "
    "given.",
)
@click.option(
    "--link-delay",
    metavar="TIME",
    help="Of each node's link with --network netns, each way: 20ms, 500us.  None unless given.",
)
@click.option(
    "--plain", is_flag=True, help="Lines instead of a live view, as several jobs have anyway."
)
@click.option(
    "--proxy",
    type=click.Choice(["auto", "ebpf", "unix"]),
    help="What moves descriptors, instead of the job's spec.aggregation.proxy.",
)
@click.option(
    "--kernels",
    type=click.Choice(["auto", "native", "reference"]),
    help="What does the arithmetic, instead of the job's spec.aggregation.kernels.",
)
@click.option(
    "--liveness",
    "liveness_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="A process that holds a role and does not answer for so long is replaced.",
)
@click.option(
    "--metrics-port",
    metavar="PORT",
    type=click.IntRange(0, 65000),
    default=0,
    show_default=True,
    help="Of the coordinator's Prometheus metrics; nodes have the ports after it.  0: any free.",
)
@click.option(
    "--arena-memory",
    metavar="SIZE",
    help="Most shared memory of all jobs on a node: 512Mi, 2G.  No limit unless given.",
)
@click.option(
    "--keys",
    "keys_dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Key directory with clients from outside (see lifl keys); RUN/keys unless given.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Events as JSON, one a line: no view, and no PNGs."
)
@_plainly
def run(
    job_files: tuple[Path, ...],
    resume: Path | None,
    nodes: int | None,
    out: Path,
    host: str | None,
    network: str | None,
    link_rate: str | None,
    link_delay: str | None,
    plain: bool,
    proxy: str | None,
    kernels: str | None,
    liveness_s: float,
    metrics_port: int,
    arena_memory: str | None,
    keys_dir: Path | None,
    as_json: bool,
) -> None:
    """Run a job on this machine, from its first round to its last, or several on the same nodes.

    Every node is a set of processes of its own, and so is every client that the job's trainer
    asks for.  The model, a row for every round, a summary and a report (see `lifl report`) are
    left in the run's directory, to which DIR/latest points; of several jobs each has a folder in
    there, and spec.placement's priority and weight say how they share the nodes.  Several jobs are
    told in lines, with the job's name before each: the live view is for one.
    """
    if plain and as_json:
        raise click.UsageError("--plain and --json exclude one another: lines, or events as JSON")
    if bool(job_files) == (resume is not None):
        raise click.UsageError("name either job files, JOB.yaml, or a run with --resume RUN")
    link_bit_s, link_delay_s = _link(network, link_rate, link_delay, host)
    from lifl.api.cluster import refused_by_run, unused_by_run
    from lifl.api.load import load_job
    from lifl.cli.report.write import after_run
    from lifl.cli.several import Views
    from lifl.cli.view import View, way_on
    from lifl.errors import InvalidJob
    from lifl.events import emit
    from lifl.placement import local

    resumed: list[dict[str, Any]] = []
    if resume is not None:
        if nodes is not None:
            raise click.UsageError("--nodes does not go with --resume: a run keeps its nodes")
        if keys_dir is not None:
            raise click.UsageError("--keys does not go with --resume: a run keeps its keys")
        if not network == link_rate == link_delay is None:
            raise click.UsageError("--network does not go with --resume: a run keeps its network")
        from lifl.placement.resume import find_all

        found = find_all(resume)
        resumed = [config for _, config in found]
        jobs = [(job, Path(config["job"])) for job, config in found]
    else:
        jobs = [(load_job(path), path) for path in job_files]
    for job, path in jobs:
        if refused := refused_by_run(job):
            raise InvalidJob(f"{path}: {'; '.join(refused)}")
    is_one = len(jobs) == 1
    places: dict[str, Path] = {}
    done: set[str] = set()

    def following(handle: Callable[[Mapping[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """Note on the way where each job's files are, and which jobs are done."""

        def take(event: dict[str, Any]) -> None:
            if event["event"] == "starting":
                places[event.get("job", "")] = Path(event["run_dir"])
            if event["event"] == "done":
                done.add(event.get("job", ""))
            handle(event)

        return take

    def view_of(job: FLJob) -> View:
        spec, who = job.spec, job.metadata.name if is_one else job.metadata.full_name
        return View(
            who, spec.rounds, plain or not is_one, clients=spec.clients.min,
            there=spec.client_count, evaluated=spec.evaluator is not None,
            goal=spec.stop.metric if spec.stop else "", prefix="" if is_one else f"{who}: ",
        )  # fmt: skip

    views = [] if as_json else [view_of(job) for job, _ in jobs]
    view = Views(views)

    def handle(event: Mapping[str, Any]) -> None:
        with showing():
            if as_json:
                emit(**event)
            else:
                view.handle(event)

    for job, path in jobs:
        if unused := unused_by_run(job):
            text = f"of use to a cluster alone: {', '.join(unused)}"
            handle({"event": "warning", "text": text if is_one else f"{path}: {text}"})
    try:
        code = local.run(
            jobs, handle=following(handle), nodes=nodes, out=out, proxy=proxy, kernels=kernels,
            liveness_s=liveness_s, metrics_port=metrics_port, keys_dir=keys_dir, host=host,
            link_bit_s=link_bit_s, link_delay_s=link_delay_s, arena_bytes=_size(arena_memory),
            resumed=resumed,
        )  # fmt: skip
    finally:
        with showing():
            view.close()
    for each, (_, path) in zip(views, jobs, strict=bool(views)):
        if (failure := each.story.error) is not None:
            click.secho(f"error: {each.prefix}{failure}", fg="red", err=True)
            code = code or 1
            way = way_on(each.story.run_dir)
            if not each.story.has_results:  # and a job that is changed by then could not go on
                way = f"lifl run {path} starts anew: no round was done"
            if code == 1 and "--resume" not in failure and way:
                click.echo(f"once that is mended, {way}", err=True)
    for who, run_dir in places.items():

        def named(event: Mapping[str, Any], who: str = who) -> None:
            handle(event if is_one else {**event, "job": who})

        if code == 0 or (who in done and code == 1):
            after_run(run_dir, named, plots=not as_json)
        elif who in done:
            named({"event": "warning", "text": f"no report; lifl report {run_dir} writes it"})
    sys.exit(code)


def _size(text: str | None) -> int:
    """Bytes of --arena-memory; 0: no limit."""
    from lifl.api.quantity import parse_bytes

    if text is None:
        return 0
    try:
        size_bytes = parse_bytes(text)
    except ValueError as error:
        raise click.UsageError(f"--arena-memory {text}: {error}") from error
    if size_bytes < LEAST_ARENA:
        raise click.UsageError(
            f"--arena-memory {text} is {size_bytes} bytes, and no job has room in less than "
            f"{LEAST_ARENA >> 10}Ki: write it with a unit, like 512Mi or 2G"
        )
    return size_bytes


def _link(
    network: str | None, link_rate: str | None, link_delay: str | None, host: str | None
) -> tuple[int, float]:
    """Bits a second and seconds of a link between namespaces; 0 and 0: there are none."""
    from lifl.placement.fabric import parse_delay, parse_rate

    if network != "netns":
        for name, given in (("--link-rate", link_rate), ("--link-delay", link_delay)):
            if given is not None:
                raise click.UsageError(f"{name} goes with --network netns alone")
        return 0, 0.0
    if host is not None:
        raise click.UsageError("--host does not go with --network netns: it has its own addresses")
    option = "--link-rate"
    try:
        bit_s = parse_rate(link_rate or "1Gbit")
        option = "--link-delay"
        return bit_s, parse_delay(link_delay) if link_delay is not None else 0.0
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error


@main.command()
@JOB
@click.option("--no-import", is_flag=True, help="Neither import nor call what the job names.")
@_plainly
def validate(job_file: Path, no_import: bool) -> None:
    """Check a job file, and that what it names is there and can be used.

    The trainer is imported; the initial model is made, and the evaluator is called with it.
    """
    from lifl.api.cluster import refused_by_run
    from lifl.api.load import load_job
    from lifl.cli.figures import of_which

    job = load_job(job_file)
    notes: list[str] = []
    if not no_import:
        from lifl.placement.trial import try_out

        notes = try_out(job, job_file)
    spec = job.spec
    needed = of_which(spec.client_count, spec.clients.min)
    click.echo(
        f"{job_file} is valid: job {job.metadata.name}, rounds {spec.rounds}, "
        f"clients {spec.client_count}{needed}, nodes {spec.nodes}"
    )
    for note in notes:
        click.secho(f"warning: {note}", fg="yellow", err=True)
    for sentence in refused_by_run(job):
        click.echo(f"for a cluster, not for lifl run: {sentence}")


@main.command()
def version() -> None:
    """Print the version."""
    import lifl

    click.echo(f"lifl {lifl.__version__}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--clean", is_flag=True, help="Remove what ended runs have left; living ones stay.")
@_plainly
def doctor(as_json: bool, clean: bool) -> None:
    """Say what this machine has and lacks for LIFL, what each lack costs, and its fix.

    Ends with 1 when something is lacking or was left by an ended run.
    """
    from lifl.cli.doctor import doctor as examine

    sys.exit(examine(as_json=as_json, clean=clean))


@main.command()
@click.argument(
    "directory",
    metavar="[RUN]",
    required=False,
    default=Path("runs/latest"),
    type=click.Path(path_type=Path),
)
@click.option("--no-plots", is_flag=True, help="report.html alone, no PNGs.")
@_plainly
def report(directory: Path, no_plots: bool) -> None:
    """Write a run's report.html, which needs no network, and PNGs of its charts.

    RUN is the run's directory, runs/latest unless given; of several jobs each gets its own.
    """
    from lifl.cli.report.write import can_plot, write_page, write_plots
    from lifl.placement.resume import jobs_of

    folders = [path for path in jobs_of(directory) if (path / "rounds.jsonl").exists()]
    folders = folders or [directory]
    for folder in folders:
        click.echo(write_page(folder))
    if no_plots:
        return
    if not can_plot():
        click.echo("no PNGs: matplotlib is not installed (pip install 'lifl[report]')", err=True)
        return
    for folder in folders:
        for path in write_plots(folder):
            click.echo(path)


@main.command()
@click.argument(
    "directory",
    metavar="[RUN]",
    required=False,
    default=Path("runs/latest"),
    type=click.Path(path_type=Path),
)
@click.option(
    "--interval",
    "interval_s",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Between two looks.",
)
@_plainly
def top(directory: Path, interval_s: float) -> None:
    """Watch a running job: rounds, phases, and what each node does.

    RUN is the run's directory, runs/latest unless given.  Ctrl-C ends the view, not the job.
    docs/metrics.md says what the columns are.
    """
    from lifl.cli.top import top as watch
    from lifl.placement.resume import one_of

    watch(one_of(directory), interval_s)


@main.command()
@click.argument("scenario", metavar="SCENARIO.yaml", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Every round of every policy, as JSON.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "exact", "fast"]),
    default="auto",
    show_default=True,
    help="exact: event by event.  fast: over arrays.  auto: exact up to 100,000 clients.",
)
@click.option(
    "--plots",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw each figure by round as a PNG there; needs matplotlib.",
)
@_plainly
def simulate(scenario: Path, as_json: bool, engine: str, plots: Path | None) -> None:
    """Play rounds on nodes that do not exist, planned by the planner of `lifl run`.

    The scenario says how many clients and nodes there are, when updates come, and which placement
    policies are to be compared; docs/scenario.md has every field.
    """
    from typing import cast

    from lifl.cli.simulate import run as play
    from lifl.placement.simulator.rounds import Engine

    play(scenario, as_json=as_json, engine=cast(Engine, engine), plots=plots)


@main.group()
def shm() -> None:
    """Shared memory of jobs on this machine."""


@shm.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_plainly
def ls(as_json: bool) -> None:
    """List it: its size, the pages that exist, slots by phase, and who holds it.

    A SEALED slot may have been released: it stays so until it is written again.
    """
    import json
    from dataclasses import asdict

    from lifl.cli.figures import amount
    from lifl.cli.memory import find

    found = find()
    if as_json:
        click.echo(json.dumps([asdict(memory) for memory in found], indent=2))
        return
    if not found:
        click.echo("no job has shared memory here that you may see")
        return
    columns = ("FREE", "WRITING", "OPEN", "SEALED")
    rows: list[tuple[str, ...]] = [("JOB", "PART", "SIZE", "RESIDENT", *columns, "PROCESSES")]
    for m in found:
        slots = [str(m.slots[name]) if m.slots else "-" for name in columns]
        sizes = (amount(m.size_bytes), amount(m.resident_bytes))
        rows.append((m.job, m.part, *sizes, *slots, " ".join(map(str, m.pids))))
    widths = [max(len(row[column]) for row in rows) for column in range(8)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[8]]).rstrip())
