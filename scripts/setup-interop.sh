#!/bin/sh
# Builds the client in Go, examples/04-go-client, as build/go-client.
#
# Go is the user's: 1.19 or newer.  ZeroMQ's C library is Debian's; as root it is installed,
# otherwise what is missing is said.

set -eu
umask 022
unset CDPATH
cd -- "$(dirname -- "$0")/.."

say() { printf '%s\n' "setup-interop: $*"; }
die() { printf '%s\n' "setup-interop: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

needed() { # packages that are missing
    have gcc || printf '%s ' gcc libc6-dev
    have pkg-config || printf '%s ' pkg-config
    { have pkg-config && pkg-config --exists libzmq; } || printf '%s ' libzmq3-dev
}

have go || die "Go 1.19 or newer is missing: install it, on Debian the package golang-go"
missing=$(needed)
if [ -n "$missing" ]; then
    install="apt-get install --no-install-recommends $missing"
    [ "$(id -u)" = 0 ] && have apt-get || die "missing: $missing; as root: $install"
    say "installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "apt-get update failed; trying with the lists that are there"
    # shellcheck disable=SC2086  # a list of packages
    apt-get install -qq -y --no-install-recommends $missing >/dev/null || die "failed: $install"
fi

mkdir -p build
cd examples/04-go-client
go vet . || die "go vet found something"
go test . || die "the Go client's own tests failed"
go build -buildvcs=false -o ../../build/go-client . || die "go build failed; its last lines say why"
