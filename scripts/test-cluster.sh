#!/bin/sh
# Runs the tests marked `cluster`, on the cluster that KUBECONFIG names or on one of its own.
#
# A cluster that was up before stays up; one made here goes when the tests end, however they end,
# unless KEEP=1.  What follows the script's name goes to pytest.

set -eu
cd -- "$(dirname -- "$0")/.."
python=.venv/bin/python
cluster() { PYTHONPATH=tests/cluster "$python" -m onemachine "$@"; }

if [ -z "${KUBECONFIG:-}" ]; then
    sh scripts/setup-cluster.sh
    if ! cluster status >/dev/null 2>&1 && [ "${KEEP:-}" != 1 ]; then
        trap 'cluster down' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
    fi
    cluster up
    exports=$(cluster env)
    eval "$exports"
fi
sh scripts/setup-chart.sh # for Prometheus
"$python" -m pytest -m cluster "${@:-tests/cluster}"
