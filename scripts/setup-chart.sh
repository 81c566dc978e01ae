#!/bin/sh
# Finds or makes what the chart's tests need, and one of those on a cluster: helm, promtool and
# prometheus, in build/.
#
# helm is the one in PATH, the one that `make cluster-up` has built, or is built with Go.  promtool
# is in Debian's package prometheus, of which it and the server are taken: nothing is installed.

set -eu
umask 022
unset CDPATH
cd -- "$(dirname -- "$0")/.."

HELM=v4.2.0
CACHE=${LIFL_CLUSTER_CACHE:-$HOME/.cache/lifl/cluster}

say() { printf '%s\n' "setup-chart: $*"; }
die() { printf '%s\n' "setup-chart: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

mkdir -p build
if ! [ -x build/helm ]; then
    found=$(command -v helm || ls -t "$CACHE"/helm-*/helm "$CACHE"/helm-*/bin/helm 2>/dev/null | head -n 1 || true)
    if [ -n "$found" ]; then
        ln -sf "$found" build/helm
    else
        have go || die "helm is missing: install it, or Go, with which it is built here"
        say "building helm $HELM; this takes a few minutes, once"
        GOBIN=$PWD/build nice go install "helm.sh/helm/v4/cmd/helm@$HELM"
    fi
fi
if ! [ -x build/promtool ] || ! [ -x build/prometheus ]; then
    if have promtool && have prometheus; then
        ln -sf "$(command -v promtool)" build/promtool
        ln -sf "$(command -v prometheus)" build/prometheus
    else
        have apt-get || die "promtool is missing: it comes with Prometheus"
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        here=$PWD
        cd "$folder"
        apt-get download -qq prometheus >/dev/null 2>&1 \
            || { apt-get update -qq && apt-get download -qq prometheus >/dev/null; } \
            || die "apt-get download prometheus failed"
        dpkg -x prometheus_*.deb files
        mv files/usr/bin/promtool files/usr/bin/prometheus "$here/build/"
        cd "$here"
    fi
fi
say "helm $(build/helm version --template '{{.Version}}'), $(build/promtool --version 2>&1 | sed -n 's/.*version \([^ ]*\).*/promtool \1/p')"
