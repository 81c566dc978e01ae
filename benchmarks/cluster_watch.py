"""Runs in a pod of the cluster: says when a job's functions are wanted, are there, and have folded.

    python cluster_watch.py JOB AGENT_IP [URL REVISION NAMESPACE]

Reads the agent's metrics every 10 ms and prints JSON lines {"what", "at"}, `at` in seconds of the
wall clock: ready, roles (the job has roles on this node), asked (a request has been sent to URL),
joined (there is one more function than at the beginning), folded (an update of the job is in a
sum).  Ends with the last one, or after PATIENCE_S.  Sent there by cluster.py; needs nothing.
"""

import http.client
import json
import re
import sys
import threading
import time
import urllib.request

PATIENCE_S = 150.0
EVERY_S = 0.01


def say(what: str, **more: object) -> None:
    print(json.dumps({"what": what, "at": time.time(), **more}), flush=True)


def ask(url: str, revision: str, namespace: str) -> None:
    """As a request comes to a Revision that is at zero: through the activator."""
    names = {"Knative-Serving-Revision": revision, "Knative-Serving-Namespace": namespace}
    with urllib.request.urlopen(urllib.request.Request(url, headers=names), timeout=120) as answer:
        answer.read()


def main(job: str, agent: str, *request: str) -> None:
    connection = http.client.HTTPConnection(agent, 9400, timeout=10)
    patterns = {
        "roles": rf'^lifl_roles{{[^}}]*fljob="{job}"[^}}]*}} (\S+)',
        "folded": rf'^lifl_folds_total{{[^}}]*fljob="{job}"[^}}]*}} (\S+)',
        "joined": r'^lifl_processes{[^}]*kind="runtime"[^}]*} (\S+)',
    }

    def figures() -> dict[str, float]:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return {
            what: sum(map(float, re.findall(pattern, text, re.MULTILINE)))
            for what, pattern in patterns.items()
        }

    there = figures()["joined"]
    say("ready", functions=there)
    said: set[str] = set()
    deadline = time.monotonic() + PATIENCE_S
    while "folded" not in said and time.monotonic() < deadline:
        now = figures()
        now["joined"] -= there
        for what in ("roles", "joined", "folded"):
            if now[what] > 0 and what not in said:
                said.add(what)
                say(what)
                if what == "roles" and request:
                    threading.Thread(target=ask, args=request, daemon=True).start()
                    say("asked")
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
