"""What has to be gone before LIFL is: run once, by the chart, when it is uninstalled.

Jobs have a finalizer that the operator takes off when everything of them is cleared away, so they
end while it still runs.  Owns nothing but the order; a job that does not end is said by name.

    python -m lifl.placement.cluster.uninstall --jobs delete --functions-namespace NAME
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

import click

from lifl.errors import Busy, LiflError
from lifl.placement.cluster import nodes
from lifl.placement.cluster.api import Api, Missing, Object, path_of
from lifl.placement.cluster.knative import SERVING
from lifl.placement.cluster.names import COMPONENT, GROUP

LOOK_S: Final = 1.0  # between two looks
NAMED: Final = 10  # jobs that a sentence names


def clear(
    api: Api,
    *,
    jobs: Literal["delete", "refuse"],
    functions_namespace: str,
    knative: bool,
    timeout_s: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """End all jobs, then what their functions were and what Nodes say; the number of jobs.

    Args:
        knative: functions may be Knative Services, too, and these can be asked for.

    Raises:
        Busy: there are jobs and they are not to be ended, or they have not ended in time.
    """
    there = _jobs(api)
    if there and jobs == "refuse":
        raise Busy(
            f"{_named(there)}: delete them first (kubectl delete fljobs --all --all-namespaces), "
            "or set uninstall.deleteJobs: true"
        )
    until = now() + timeout_s
    for job in there:
        about = job["metadata"]
        api.delete(path_of(GROUP, "fljobs", about["namespace"], about["name"]))
    while left := _jobs(api):
        if now() >= until:
            raise Busy(
                f"{_named(left)} after {timeout_s:g} s: is the operator running?  kubectl describe "
                "fljob says what is waited for"
            )
        sleep(LOOK_S)
    for group, plural in ((SERVING, "services"), ("apps/v1", "deployments")):
        path = path_of(group, plural, functions_namespace)
        if group == SERVING and not knative:
            continue
        with contextlib.suppress(Missing):  # Knative has gone before
            for function in api.items(path, {COMPONENT: "function"}):
                api.delete(f"{path}/{function['metadata']['name']}")
    for node in api.items(path_of("", "nodes")):
        name, about = node["metadata"]["name"], node["metadata"].get("annotations", {})
        if not set(nodes.ALL).isdisjoint(about):
            api.merge(nodes.path(name), nodes.patch(dict.fromkeys(nodes.ALL)))
    return len(there)


def _jobs(api: Api) -> list[Object]:
    try:
        return api.items(path_of(GROUP, "fljobs"))
    except Missing:  # their definition is gone, and so are they
        return []


def _named(jobs: list[Object]) -> str:
    names = [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in jobs]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} FLJobs are still there: {', '.join(names[:NAMED])}{more}"


@click.command()
@click.option("--jobs", type=click.Choice(["delete", "refuse"]), required=True)
@click.option("--functions-namespace", required=True)
@click.option("--knative", is_flag=True, help="functions may be Knative Services, too")
@click.option("--timeout-s", default=120.0)
def main(
    jobs: Literal["delete", "refuse"], functions_namespace: str, knative: bool, timeout_s: float
) -> None:
    """Clear away what must not outlive LIFL."""
    try:
        count = clear(
            Api.of_pod(), jobs=jobs, functions_namespace=functions_namespace, knative=knative,
            timeout_s=timeout_s,
        )  # fmt: skip
    except LiflError as error:
        sys.exit(f"error: {error}")
    print(f"{count} FLJobs ended and are gone")


if __name__ == "__main__":
    main()
